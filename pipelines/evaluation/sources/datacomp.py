"""DataComp's 38 data sets: their names, and what counts of each.

Facts of `tasklist.yml` in https://github.com/mlfoundations/datacomp (commit 4a8df19): its keys,
titles and `main_metric` (accuracy where it names none). Of its 40 tasks FairFace and UTKFace have
no main metric; `aggregate_scores.py` averages the 38 others, each with the same weight.
"""

from __future__ import annotations

from typing import NamedTuple

_CLASS_RECALL, _RECALL = "mean_per_class_recall", "mean_recall@1"


class DataCompSet(NamedTuple):
    """A task of DataComp's."""

    title: str
    metric: str = "acc1"  # DataComp's word

    @property
    def our_metric(self) -> str | None:
        """Our word for the same number; None where it needs more than labels and captions, such
        as the region of a picture."""
        return _OURS.get(self.metric)


_OURS = {"acc1": "top1", _CLASS_RECALL: "mean_per_class", _RECALL: "recall@1"}

#: By DataComp's name.
DATACOMP = {
    "vtab/caltech101": DataCompSet("Caltech-101", _CLASS_RECALL),
    "cifar10": DataCompSet("CIFAR-10"),
    "vtab/cifar100": DataCompSet("CIFAR-100"),
    "vtab/clevr_count_all": DataCompSet("CLEVR Counts"),
    "vtab/clevr_closest_object_distance": DataCompSet("CLEVR Distance"),
    "country211": DataCompSet("Country211"),
    "vtab/dtd": DataCompSet("Describable Textures"),
    "vtab/eurosat": DataCompSet("EuroSAT"),
    "fgvc_aircraft": DataCompSet("FGVC Aircraft", _CLASS_RECALL),
    "food101": DataCompSet("Food-101"),
    "gtsrb": DataCompSet("GTSRB"),
    "imagenet1k": DataCompSet("ImageNet 1k"),
    "imagenet_sketch": DataCompSet("ImageNet Sketch"),
    "imagenetv2": DataCompSet("ImageNet v2"),
    "imagenet-a": DataCompSet("ImageNet-A"),
    "imagenet-o": DataCompSet("ImageNet-O"),
    "imagenet-r": DataCompSet("ImageNet-R"),
    "vtab/kitti_closest_vehicle_distance": DataCompSet("KITTI Vehicle Distance"),
    "mnist": DataCompSet("MNIST"),
    "objectnet": DataCompSet("ObjectNet"),
    "vtab/flowers": DataCompSet("Oxford Flowers-102", _CLASS_RECALL),
    "vtab/pets": DataCompSet("Oxford-IIIT Pet", _CLASS_RECALL),
    "voc2007": DataCompSet("Pascal VOC 2007"),
    "vtab/pcam": DataCompSet("PatchCamelyon"),
    "renderedsst2": DataCompSet("Rendered SST2"),
    "vtab/resisc45": DataCompSet("RESISC45"),
    "cars": DataCompSet("Stanford Cars"),
    "stl10": DataCompSet("STL-10"),
    "sun397": DataCompSet("SUN397"),
    "vtab/svhn": DataCompSet("SVHN"),
    "retrieval/flickr30k": DataCompSet("Flickr", _RECALL),
    "retrieval/mscoco_2014_5k_test_image_text_retrieval": DataCompSet("MSCOCO", _RECALL),
    "misc/winogavil": DataCompSet("WinoGAViL", "jaccard_score_10-12"),
    "wilds/iwildcam": DataCompSet("iWildCam", "F1-macro_all"),
    "wilds/camelyon17": DataCompSet("Camelyon17"),
    "wilds/fmow": DataCompSet("FMoW", "acc_worst_region"),
    "fairness/dollar_street": DataCompSet("Dollar Street", "acc_top5_wg"),
    "fairness/geode": DataCompSet("GeoDE", "acc_wg"),
}


def datacomp_name(folder: str) -> str | None:
    """DataComp's name of a data set by that of its folder, None for what is none of the 38.

    Its `download_evalsets.py` calls the folders `wds_NAME_test`, with - for /, and without what
    `fairness/` begins with; the retrieval sets have none there, and are taken by the last part.
    """
    bare = folder.removeprefix("wds_").removesuffix("_test")
    return _BY_FOLDER.get(bare)


def _folder(name: str) -> str:
    group, _, last = name.rpartition("/")
    return last if group in ("fairness", "retrieval", "misc") else name.replace("/", "-")


_BY_FOLDER = {_folder(name): name for name in DATACOMP} | {
    name.replace("/", "-"): name for name in DATACOMP
}
