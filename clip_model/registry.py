"""Models by name: the one that this repository ships, and OpenAI's nine where they are published;
and how models of other libraries are named.

Addresses and checksums are those of openai-clip 1.0.1 (`clip/clip.py`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

LIBRARIES = ("timm", "torchvision")  # whose networks are backbones
DUAL_LIBRARIES = ("open_clip", "hf")  # whose dual encoders are run through them

SHIPPED = {"starter": Path(__file__).parent / "starter" / "model.safetensors"}
CACHE = Path("~/.cache/clip")  # openai/CLIP's own, so what it has downloaded is found
SERVER = "https://openaipublic.azureedge.net/clip/models"


@dataclass(frozen=True)
class Published:
    """A file on OpenAI's server, whose address contains the checksum."""

    filename: str
    sha256: str

    @property
    def url(self) -> str:
        return f"{SERVER}/{self.sha256}/{self.filename}"


PUBLISHED = {
    "RN50": Published(
        "RN50.pt", "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762"
    ),
    "RN101": Published(
        "RN101.pt", "8fa8567bab74a42d41c5915025a8e4538c3bdbe8804a470a72f30b0d94fab599"
    ),
    "RN50x4": Published(
        "RN50x4.pt", "7e526bd135e493cef0776de27d5f42653e6b4c8bf9e0f653bb11773263205fdd"
    ),
    "RN50x16": Published(
        "RN50x16.pt", "52378b407f34354e150460fe41077663dd5b39c54cd0bfd2b27167a4a06ec9aa"
    ),
    "RN50x64": Published(
        "RN50x64.pt", "be1cfb55d75a9666199fb2206c106743da0f6468c9d327f3e0d0a543a9919d9c"
    ),
    "ViT-B/32": Published(
        "ViT-B-32.pt", "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"
    ),
    "ViT-B/16": Published(
        "ViT-B-16.pt", "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f"
    ),
    "ViT-L/14": Published(
        "ViT-L-14.pt", "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836"
    ),
    "ViT-L/14@336px": Published(
        "ViT-L-14-336px.pt", "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02"
    ),
}


def available_models() -> list[str]:
    """Names that `load` takes."""
    return [*SHIPPED, *PUBLISHED]


@dataclass(frozen=True)
class BackboneName:
    """A network of another library and the file of its weights: LIBRARY:NAME=WEIGHTS.

    The name may go on with a tag, as in timm (resnet50.a1_in1k) and torchvision
    (resnet50.IMAGENET1K_V1): by it the libraries know the preprocessing of the weights.
    """

    library: str
    name: str
    weights: str

    @classmethod
    def of(cls, text: str) -> BackboneName | None:
        """None where the text names something else.

        Raises:
            ValueError: it is no such name whole.
        """
        library, colon, rest = text.partition(":")
        if library not in LIBRARIES or not colon:
            return None
        name, _, weights = rest.partition("=")
        if not re.fullmatch(r"[\w.-]+", name) or not weights:
            raise ValueError(
                f"{text}: write {library}:NAME=WEIGHTS, a model's name and a local file of its "
                "weights (safetensors, or torch.save's); none are downloaded"
            )
        return cls(library, name, weights)

    def at(self, weights: str) -> BackboneName:
        """The same with its weights elsewhere."""
        return replace(self, weights=weights)

    @property
    def architecture(self) -> str:
        return f"{self.library}:{self.name}"

    def __str__(self) -> str:
        return f"{self.architecture}={self.weights}"


@dataclass(frozen=True)
class DualEncoderName:
    """A model of another library.

    ``open_clip:NAME/TAG`` is a published one; ``open_clip:NAME=FILE`` has its weights from a file,
    ``open_clip:NAME/TAG=FILE`` says whose preprocessing, where the model's tags differ in it;
    ``open_clip:FOLDER`` is one that open_clip has saved; ``hf:FOLDER`` is one of transformers', and
    ``hf:OWNER/NAME@REVISION`` one from its hub.
    """

    library: str  # "open_clip" or "hf"
    name: str  # open_clip's name; else a folder, or a name on its hub
    tag: str = ""  # of open_clip's published weights; a revision on the hub
    weights: str = ""  # a file

    @classmethod
    def of(cls, text: str) -> DualEncoderName | None:
        """None where the text names something else.

        Raises:
            ValueError: it is no such name whole.
        """
        library, colon, rest = text.partition(":")
        if library not in DUAL_LIBRARIES or not colon:
            return None
        if rest and Path(rest).is_dir():
            return cls(library, rest)
        if library == "hf":
            name, _, revision = rest.partition("@")
            if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
                raise ValueError(
                    f"{text}: there is no such folder; write hf:FOLDER, or hf:OWNER/NAME@REVISION"
                )
            return cls(library, name, revision)
        model, _, weights = rest.partition("=")
        name, _, tag = model.partition("/")
        if not re.fullmatch(r"[\w.-]+", name) or not (tag or weights) or "/" in tag:
            raise ValueError(
                f"{text}: write open_clip:NAME/TAG for published weights, open_clip:NAME=FILE for "
                "weights of your own, or open_clip:FOLDER"
            )
        return cls(library, name, tag, weights)

    def at(self, place: str) -> DualEncoderName:
        """The same with its file or folder elsewhere."""
        return replace(self, weights=place) if self.weights else replace(self, name=place)

    @property
    def place(self) -> str:
        """The file or folder that it is read from; "" of a published model."""
        return self.weights or (self.name if Path(self.name).is_dir() else "")

    @property
    def kind(self) -> str:
        """What it is, wherever its files lie."""
        is_folder = self.place and not self.weights
        return self.library if is_folder else str(replace(self, weights=""))

    @property
    def files(self) -> list[Path]:
        """The local files that it is read from; none of a published model."""
        if self.weights:
            return [Path(self.weights)]
        inside = Path(self.place).rglob("*") if self.place else []
        return sorted(path for path in inside if path.is_file())

    def __str__(self) -> str:
        mark = "@" if self.library == "hf" else "/"
        tag, weights = self.tag and mark + self.tag, self.weights and f"={self.weights}"
        return f"{self.library}:{self.name}{tag}{weights}"
