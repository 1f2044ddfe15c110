"""Which files a model is: by its name or path, without reading any of its weights.

Nothing here takes torch.
"""

from __future__ import annotations

from pathlib import Path

from clip_model.json_file import read_json
from clip_model.registry import CACHE, PUBLISHED, SHIPPED, available_models

HUGGING_FACE_CONFIG, OPEN_CLIP_CONFIG = "config.json", "open_clip_config.json"
HUGGING_FACE_WEIGHTS, OPEN_CLIP_WEIGHTS = "model.safetensors", "open_clip_model.safetensors"
#: In the order of preference.
WEIGHTS_IN_FOLDER = (
    HUGGING_FACE_WEIGHTS,
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    OPEN_CLIP_WEIGHTS,
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
)
PROCESSORS = ("preprocessor_config.json", "processor_config.json")  # the second since 5.0
CONFIGURATIONS = (HUGGING_FACE_CONFIG, *PROCESSORS, OPEN_CLIP_CONFIG)


def checkpoint_path(name_or_path: str | Path, download_root: str | Path | None = None) -> Path:
    """The file of a known model, downloaded if need be, or of a path; a folder's weights.

    Args:
        name_or_path: one of `available_models()`, a file, or a folder of Hugging Face's or
            open_clip's.
        download_root: where downloaded files are kept; openai/CLIP's cache if None.

    Raises:
        RuntimeError: there is no such name or file.
        DownloadError: a known model cannot be downloaded, or its file is not the published one.
    """
    name = str(name_or_path)
    if name in PUBLISHED:
        from clip_model.download import download  # here, for it needs tqdm, and nothing else does

        published = PUBLISHED[name]
        folder = Path(download_root or CACHE).expanduser()
        return download(published.url, published.sha256, folder / published.filename)
    path = SHIPPED.get(name, Path(name_or_path))
    if path.is_dir():
        return _weights_in_folder(path)
    if not path.is_file():
        raise RuntimeError(
            f"Model {name_or_path} not found; available models = {available_models()}"
        )
    return path


def checkpoint_files(name_or_path: str | Path) -> list[Path]:
    """Every file that a checkpoint's meaning depends on: weights, shards, configurations beside.

    Raises:
        RuntimeError, DownloadError: as in `checkpoint_path`; or an index of shards is broken.
    """
    path = checkpoint_path(name_or_path)
    shards = shard_paths(path) if path.name.endswith(".index.json") else []
    configs = [path.with_name(name) for name in CONFIGURATIONS]
    return [path, *shards, *(config for config in configs if config.is_file())]


def shard_paths(index: Path) -> list[Path]:
    """The files that Hugging Face's index names, sorted.

    Raises:
        RuntimeError: it is no index, names a file elsewhere, or a shard is missing.
    """
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict):
        raise RuntimeError(f"{index} names no files: it has no 'weight_map'")
    if not all(isinstance(name, str) for name in names.values()):
        raise RuntimeError(f"{index}: the 'weight_map' must say a file's name for each tensor")
    shards = sorted(set(names.values()))
    for shard in shards:
        if Path(shard).name != shard or not _is_file(index.parent / shard):
            raise RuntimeError(f"{index} names {shard[:200]!r}, which is no file beside it")
    return [index.parent / shard for shard in shards]


def _weights_in_folder(folder: Path) -> Path:
    for name in WEIGHTS_IN_FOLDER:
        if (folder / name).is_file():
            return folder / name
    raise RuntimeError(f"the folder {folder} holds none of {', '.join(WEIGHTS_IN_FOLDER)}")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or has a byte that no name has
        return False
