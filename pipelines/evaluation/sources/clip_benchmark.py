"""Data sets as CLIP_benchmark and DataComp lay them out: webdataset tars and a few text files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from clip_model.templates import SLOT
from pipelines.evaluation.sources.base import SPLITS, SourceError, check_content, existing
from pipelines.evaluation.sources.shards import ShardSettings, TarSource
from workers.base.settings import FileName, Settings, read_text
from workers.embedding.samples import Sample

#: What the rows hold, by what dataset_type.txt says.
_CONTENT = {
    "classification": {"label": "cls"},
    "multilabel": {"label": "npy"},
    "retrieval": {"caption": "txt"},
}
_COUNT = "nshards.txt"


class ClipBenchmarkSettings(Settings):
    """A data set as CLIP_benchmark writes it (`clip_benchmark_export_wds`)."""

    path: FileName = Field(description="the folder with classnames.txt and a folder for each split")


class ClipBenchmarkSource(TarSource):
    """`SPLIT/nshards.txt` says how many of `SPLIT/0.tar`, `1.tar`, ... there are, and
    `dataset_type.txt` what is in them. A retrieval set's `.txt` has a caption a line.

    Layout: `build_wds_dataset` of https://github.com/LAION-AI/CLIP_benchmark.
    """

    settings_type: ClassVar[type[Settings]] = ClipBenchmarkSettings
    settings: ClipBenchmarkSettings

    def _open(self) -> None:
        root = existing(self.settings.path, "folder")
        there = _counted_splits(root)
        if self.split not in there:
            raise SourceError(
                f"{root} has no split {self.split!r} with an nshards.txt in its folder: "
                + (f"it has {', '.join(there)}" if there else "it is not CLIP_benchmark's layout")
            )
        kind = (_lines(root / "dataset_type.txt") or ["classification"])[0].lower()
        if kind not in _CONTENT:
            raise SourceError(
                f"{root}/dataset_type.txt says {kind!r}: there are {', '.join(_CONTENT)}"
            )
        names = _lines(root / "classnames.txt")
        content = ShardSettings(path=str(root), **_CONTENT[kind])
        self.classes = self.classes or tuple(names) or None
        self._open_tars(_counted(root / self.split), content)
        self.templates = _templates(root / "zeroshot_classification_templates.txt")

    def _captions(self, sample: Sample) -> tuple[str, ...]:
        return tuple(line for line in (sample.text or "").splitlines() if line.strip())

    @classmethod
    def splits(cls, settings_of: Callable[[str], ClipBenchmarkSettings]) -> tuple[str, ...]:
        there = _counted_splits(existing(settings_of(SPLITS[0]).path, "folder"))
        return tuple(name for name in SPLITS if name in there) or there


def _counted_splits(root: Path) -> tuple[str, ...]:
    return tuple(sorted(path.parent.name for path in root.glob(f"*/{_COUNT}")))


def _counted(folder: Path) -> list[Path]:
    """The tars of a split. Raises SourceError where one is not there."""
    (line, *_) = _lines(folder / _COUNT) or [""]
    if not (line.isascii() and line.isdigit() and int(line)):
        raise SourceError(f"{folder / _COUNT} must hold the number of tars, and holds {line!r}")
    files = [folder / f"{number}.tar" for number in range(int(line))]
    if missing := [path.name for path in files if not path.is_file()]:
        raise SourceError(
            f"{folder} lacks {len(missing)} of the {line} tars that {_COUNT} counts, the first is "
            f"{missing[0]}: copy the data set again"
        )
    check_content(files)
    return files


def _lines(path: Path) -> list[str]:
    """The lines of a text, without the spaces around them; none where there is no such file."""
    if not path.is_file():
        return []
    check_content([path])
    try:
        lines = [line.strip() for line in read_text(path).strip().splitlines()]
    except (OSError, ValueError) as error:
        raise SourceError(f"{path} cannot be read: {error}") from error
    if "" in lines:
        raise SourceError(f"{path}: line {lines.index('') + 1} is empty: each holds an entry")
    return lines


def _templates(path: Path) -> tuple[str, ...] | None:
    """Sentences with {} for a class's name, where CLIP_benchmark has {c}."""
    lines = _lines(path)
    for number, line in enumerate(lines, 1):
        if "{c}" not in line:
            raise SourceError(f"{path}: line {number} has no {{c}} for the class's name: {line!r}")
    return tuple(line.replace("{c}", SLOT) for line in lines) or None
