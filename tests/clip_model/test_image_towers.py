"""Networks of timm and torchvision: their own features and preprocessing, clear refusals."""

from __future__ import annotations

import io
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from clip_model import _torchvision  # noqa: F401 - before timm and torchvision

# isort: split
import timm
from torchvision import models

from clip_model.image_files import decode_image
from clip_model.image_towers import Backbone, counted_flops, load_backbone
from clip_model.inert_pickle import UnsafeCheckpointError
from clip_model.preprocess import (
    Preprocessing,
    image_bytes_transform,
    reference_bytes_transform,
)
from clip_model.registry import BackboneName
from clip_model.templates import class_set
from clip_model.tensor_files import write_safetensors
from tests.image_samples import encoded

WEIGHTS = Path("runs/evaluation_sets/weights/efficientnet_lite0.safetensors")


def pictures() -> list[Image.Image]:
    """Wide, tall and square ones, of slopes and noise; the last has a palette."""
    generator = np.random.default_rng(0)
    found = []
    for width, height in ((301, 200), (180, 333), (97, 97)):
        slope = np.linspace(0, 200, width)[None, :, None] * np.linspace(0, 1, height)[:, None, None]
        noise = generator.integers(0, 56, (height, width, 3))
        found.append(Image.fromarray((slope + noise).astype(np.uint8)))
    return [*found, found[0].convert("P", palette=Image.Palette.ADAPTIVE)]


def of_timm(tmp_path: Path, name: str) -> tuple[Any, Backbone]:
    """timm's own model of random weights and statistics, and what is made of its file here."""
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, num_classes=7).eval()
    spread_statistics(model)
    write_safetensors(model.state_dict(), tmp_path / "w.safetensors")
    which = BackboneName("timm", name, str(tmp_path / "w.safetensors"))
    return model, load_backbone(which)


def spread_statistics(model: nn.Module) -> None:
    """Those of a trained model are not all 0 and 1."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)


def features(backbone: Backbone, files: list[bytes]) -> Tensor:
    levels = torch.stack([image_bytes_transform(backbone.preprocessing)(file) for file in files])
    with torch.inference_mode():
        return backbone.encode_image(levels)


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> bool:
    assert found.shape == expected.shape
    return bool((found - expected).abs().max() <= tolerance * max(1.0, float(expected.abs().max())))


@pytest.mark.parametrize(
    "name",
    ["test_resnet", "test_vit", "test_convnext", "test_efficientnet", "mobilenetv3_small_050"],
)
def test_features_are_timms_own_on_its_own_preprocessing(name, tmp_path):
    model, backbone = of_timm(tmp_path, name)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    files = [encoded(picture, "PNG") for picture in pictures()]
    images = torch.stack([transform(picture.convert("RGB")) for picture in pictures()])
    with torch.inference_mode():
        expected = model.forward_head(model.forward_features(images), pre_logits=True)
    found = features(backbone, files)
    assert close(found, expected)
    assert backbone.embed_dim == expected.shape[1]
    assert (found[0] - found[1]).abs().max() > 1e-3  # not the same for every picture


@pytest.mark.parametrize(
    ("name", "classifier"), [("resnet18", "fc"), ("mobilenet_v3_small", "classifier.3")]
)
def test_features_are_torchvisions_own_on_its_own_preprocessing(name, classifier, tmp_path):
    torch.manual_seed(0)
    model = models.get_model(name, weights=None).eval()
    spread_statistics(model)
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, tmp_path / "w.pth")
    backbone = load_backbone(BackboneName("torchvision", name, str(tmp_path / "w.pth")))
    transform = models.get_model_weights(name).DEFAULT.transforms()
    files = [encoded(picture, "PNG") for picture in pictures()]
    images = torch.stack([transform(picture.convert("RGB")) for picture in pictures()])
    seen: list[Tensor] = []
    model.get_submodule(classifier).register_forward_hook(
        lambda _m, given, _o: seen.append(given[0])
    )
    with torch.inference_mode():
        model(images)
    assert close(features(backbone, files), seen[0])


def test_a_jpeg_takes_the_fast_path_and_is_near_pillows(tmp_path):
    how = of_timm(tmp_path, "test_resnet")[1].preprocessing
    assert (how.interpolation, how.shorter) == ("bilinear", int(160 / 0.95))
    for picture in pictures()[:3]:
        file = encoded(picture, "JPEG", quality=92)
        fast, slow = image_bytes_transform(how)(file), reference_bytes_transform(how)(file)
        assert fast.shape == slow.shape == (3, 160, 160)
        assert (fast.int() - slow.int()).abs().max() <= 2


def test_other_ways_to_make_the_square():
    """Squashed, with the whole picture in it; and an interpolation that only Pillow has."""
    picture = pictures()[0]
    squashed = Preprocessing(64, squash=True, colours_first=True)
    expected = np.asarray(picture.resize((64, 64), Image.Resampling.BICUBIC))
    found = reference_bytes_transform(squashed)(encoded(picture, "PNG"))
    assert np.array_equal(found.permute(1, 2, 0).numpy(), expected)
    jpeg = encoded(picture, "JPEG")
    near = (
        image_bytes_transform(squashed)(jpeg).int()
        - reference_bytes_transform(squashed)(jpeg).int()
    )
    assert near.abs().max() <= 2
    lanczos = Preprocessing(64, interpolation="lanczos", squash=True, colours_first=True)
    slow = np.asarray(decode_image(jpeg).resize((64, 64), Image.Resampling.LANCZOS))
    assert np.array_equal(image_bytes_transform(lanczos)(jpeg).permute(1, 2, 0).numpy(), slow)


def test_half_precision_is_near(tmp_path):
    _, backbone = of_timm(tmp_path, "test_vit")
    files = [encoded(picture, "PNG") for picture in pictures()]
    expected = features(backbone, files)
    backbone.half_type = torch.bfloat16
    found = features(backbone, files)
    assert found.dtype == torch.float32
    assert not torch.equal(found, expected)
    assert torch.cosine_similarity(found, expected).min() > 0.999


def test_arithmetic_is_counted(tmp_path):
    """Of a residual network, by hand: each convolution's outputs times what each costs."""
    model, backbone = of_timm(tmp_path, "test_resnet")
    total = 0

    def count(module: nn.Module, _given: object, out: Tensor) -> None:
        nonlocal total
        assert isinstance(module, nn.Conv2d)
        total += 2 * out.numel() * module.weight[0].numel()

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    with torch.inference_mode():
        model.forward_features(torch.zeros(1, 3, 160, 160))
    assert counted_flops(backbone) == total


def test_weights_without_a_classifier_are_whole(tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", pretrained=False, num_classes=0).eval()
    write_safetensors(model.state_dict(), tmp_path / "w.safetensors")
    backbone = load_backbone(BackboneName("timm", "test_resnet", str(tmp_path / "w.safetensors")))
    with torch.inference_mode():
        images = torch.randn(2, 3, 160, 160)
        assert close(backbone.network(images), model(images))


def test_the_weights_name_or_their_files_name_says_the_preprocessing(tmp_path):
    """torchvision's first weights of MobileNet-V2 were judged on 256 pixels, its second on 232."""
    entries = models.MobileNet_V2_Weights
    with torch.device("meta"):
        shapes = models.mobilenet_v2().state_dict()
    tensors = {key: torch.ones(value.shape, dtype=value.dtype) for key, value in shapes.items()}
    first = tmp_path / entries.IMAGENET1K_V1.url.rpartition("/")[2]
    write_safetensors(tensors, first)
    other = tmp_path / "w.safetensors"
    other.hardlink_to(first)
    sides = {}
    named = ("mobilenet_v2", first), ("mobilenet_v2", other), ("mobilenet_v2.IMAGENET1K_V1", other)
    for name, path in named:
        sides[name, path.name] = load_backbone(
            BackboneName("torchvision", name, str(path))
        ).preprocessing.shorter
    assert list(sides.values()) == [256, 232, 256]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("timm:test_resnet=absent.pth", "there is no file absent.pth"),
        ("timm:test_resne=w.safetensors", "there is no model test_resne; near are test_resnet"),
        ("timm:test_resnet.nosuch=w.safetensors", "Invalid pretrained tag"),
        ("timm:test_vit=w.safetensors", "the weights are not those of test_vit: without 'blocks"),
        ("torchvision:resnet18=w.safetensors", "the weights are not those of resnet18"),
        ("torchvision:resnet18.V9=w.safetensors", "no weights V9; there are IMAGENET1K_V1"),
        ("torchvision:squeezenet1_1=w.safetensors", "no linear classifier"),
        ("timm:test_resnet=nan.safetensors", "not finite"),
        ("timm:test_resnet=text.pth", "not a safetensors file"),
    ],
)
def test_what_is_no_such_network_is_refused_in_a_line(text, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    of_timm(tmp_path, "test_resnet")
    tensors = timm.create_model("test_resnet", pretrained=False).state_dict()
    tensors["conv1.0.weight"][0] = torch.nan
    write_safetensors(tensors, tmp_path / "nan.safetensors")
    (tmp_path / "text.pth").write_text("no model")
    which = BackboneName.of(text)
    assert which
    with pytest.raises(RuntimeError) as error:
        load_backbone(which)
    assert said in str(error.value)
    assert str(error.value).startswith(f"{text}: ")


def test_a_file_that_would_run_something_is_not_run(tmp_path):
    class Hostile:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    buffer = io.BytesIO()
    torch.save({"conv1.weight": Hostile()}, buffer, pickle_module=pickle)
    (tmp_path / "w.pth").write_bytes(buffer.getvalue())
    with pytest.raises(UnsafeCheckpointError):
        load_backbone(BackboneName("timm", "test_resnet", str(tmp_path / "w.pth")))
    assert not (tmp_path / "ran").exists()


def test_without_timm_it_says_what_to_install(tmp_path, monkeypatch):
    write_safetensors({"a": torch.zeros(1)}, tmp_path / "w.safetensors")
    for name in [name for name in sys.modules if name.split(".")[0] == "timm"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(RuntimeError, match="pip install timm"):
        load_backbone(BackboneName("timm", "test_resnet", str(tmp_path / "w.safetensors")))


@pytest.mark.parametrize(
    "text", ["timm:", "timm:resnet50", "timm:a/b=w", "torchvision:=w", "timm:x="]
)
def test_half_a_name_says_how_it_is_written(text):
    with pytest.raises(ValueError, match="NAME=WEIGHTS"):
        BackboneName.of(text)


def test_other_names_are_none():
    for text in ("starter", "ViT-B/32", "timm", "a=timm:x", "/models/timm:x=y", "hf:x/y"):
        assert BackboneName.of(text) is None
    which = BackboneName.of("timm:resnet50.a1_in1k=folder/w=1.pth")
    assert which == BackboneName("timm", "resnet50.a1_in1k", "folder/w=1.pth")
    assert str(which) == "timm:resnet50.a1_in1k=folder/w=1.pth"


@pytest.mark.skipif(
    not WEIGHTS.is_file(), reason="python -m examples.evaluation_sets --only weights"
)
def test_the_laid_out_weights_know_photographs():
    from skimage import data

    backbone = load_backbone(BackboneName("timm", "tf_efficientnet_lite0", str(WEIGHTS)))
    names = class_set("ImageNet")
    said = {}
    for name in ("chelsea", "coffee", "camera"):
        picture = Image.fromarray(getattr(data, name)()).convert("RGB")
        file = encoded(picture, "PNG")
        with torch.inference_mode():
            pooled = features(backbone, [file])
            model = backbone.network.model
            assert isinstance(model, nn.Module)
            classifier = model.get_submodule("classifier")
            said[name] = names[int(classifier(pooled).argmax())]
    assert said == {"chelsea": "tiger cat", "coffee": "espresso", "camera": "tripod"}
