"""``python -m pipelines.embed``: CLIP over anybody's shards of images and captions."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.cli import EXIT_CODES, add_overrides, at_work, place_of, run_command, start
from pipelines.embed_job import EmbedFiles, EmbedRun, shard_files
from pipelines.report import history_text
from pipelines.run.config import ConfigError, RaySettings, build_settings, folder_of, read_tree
from pipelines.run.runner import run_stage
from workers.base.exit_codes import ExitCode
from workers.base.output import say
from workers.base.settings import ShellText, read_text
from workers.embedding.settings import ATTRIBUTES, EmbedSettings, InputSettings

DESCRIPTION = """\
Embed shards of images and captions with any CLIP that clip_model loads: webdataset tars and
Parquet, img2dataset's own or anybody's. One Parquet file a shard, with embeddings, similarity,
labels and scores; docs/embedding.md says how to open them. The same command resumes, and what is
done already is not done again.
"""


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    result = argparse.ArgumentParser(
        prog="python -m pipelines.embed",
        description=DESCRIPTION,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = result.add_argument
    help_text = "files, folders of them, or globs in quotes; in a bucket, too (s3://, gs://, az://)"
    add("shards", nargs="+", metavar="SHARDS", help=help_text)
    add(
        "--out",
        required=True,
        metavar="DIR",
        help="where the embeddings go: a folder, or a bucket's s3://, gs:// or az:// "
        "(docs/buckets.md)",
    )
    add("--model", metavar="NAME_OR_PATH", help="a known model or a checkpoint (default: starter)")
    add("--parts", choices=("both", "images", "texts"), default="both", help="towers that work")
    for part in ("id", "image", "text"):
        help_text = f"column (in a tar: ending) of the {part}, where its name is not a known one"
        add(f"--{part}-column", metavar="NAME", help=help_text)
    add(
        "--labels",
        action="append",
        nargs="?",
        const="ImageNet",
        default=[],
        metavar="NAME_OR_FILE",
        help="label the images with the classes of a data set of the paper's (ImageNet if "
        "nothing follows) or of a text file, one a line; may be given many times",
    )
    add("--top-k", type=int, default=5, metavar="K", help="labels of each image (default: 5)")
    add(
        "--attributes",
        nargs="+",
        default=[],
        choices=ATTRIBUTES,
        help="score the images for these by prompts",
    )
    add("--config", type=Path, metavar="FILE.yaml", help="more of the section `embeddings`")
    text = "a key of the section `embeddings` of docs/configuration.md, VALUE in YAML"
    add_overrides(result, text)
    add_ray_options(result)
    add("--history", action="store_true", help="print what each command on DIR has done, no more")
    return result


def add_ray_options(to: argparse._ActionsContainer) -> None:
    """The options that ``ray_settings`` reads."""
    add = to.add_argument
    add("--actors", type=int, metavar="N", help="Ray actors (default: none, or one for each GPU)")
    add("--gpus-per-actor", type=float, metavar="SHARE", help="of Ray actors; may be a fraction")
    add("--ray-address", metavar="ADDRESS", help="a running Ray cluster to work on")


def main(argv: Sequence[str] | None = None) -> ExitCode:
    """Parse the arguments and run the command; returns its exit code."""
    arguments = parser().parse_args(argv)
    return run_command(lambda: embed(arguments))


def embed(arguments: argparse.Namespace) -> ExitCode:
    """Do the shards without a valid receipt."""
    settings = embed_settings(arguments)
    run = EmbedRun.of(settings, input_settings(arguments), place_of("--out", arguments.out))
    if arguments.history:
        say(history_text(run))
        return ExitCode.COMPLETE
    stage = EmbedFiles(run, shard_files(arguments.shards), ray_settings(arguments))
    stage.check()
    with at_work(stage.run, "embed") as journal:
        journal.code = run_stage(stage, journal).code
        say(stage.summary())
    return journal.code


def embed_settings(arguments: argparse.Namespace) -> EmbedSettings:
    """The section ``embeddings`` of the file, the options and the overrides. Raises ConfigError."""
    tree = read_tree(arguments.config) if arguments.config else {}
    if arguments.model:
        tree["model"] = ShellText(arguments.model)
    for labels in arguments.labels:
        name, label_set = _label_set(labels, arguments.top_k)
        tree.setdefault("label_sets", {})[name] = label_set
    for name in arguments.attributes:
        tree.setdefault("attributes", {})[name] = {}
    folder = folder_of(arguments.config) if arguments.config else None
    source = "the settings of the model"
    return build_settings(EmbedSettings, tree, arguments.overrides, source, folder)


def _label_set(name_or_file: str, top_k: int) -> tuple[str, dict[str, Any]]:
    """A label set's name, and it: of a data set's name or of a file with a class a line."""
    path = Path(name_or_file)
    if not path.is_file():
        return name_or_file, {"classes": name_or_file, "top_k": top_k}
    try:
        lines = read_text(path).splitlines()
    except (OSError, ValueError) as error:
        raise ConfigError(f"--labels: cannot read {path}: {error}") from error
    classes = [line.strip() for line in lines if line.strip()]
    return path.stem, {"classes": classes, "top_k": top_k}


def input_settings(arguments: argparse.Namespace) -> InputSettings:
    """Which columns are read, and which towers work."""
    return InputSettings(
        parts=arguments.parts,
        id_column=arguments.id_column,
        image_column=arguments.image_column,
        text_column=arguments.text_column,
    )


def ray_settings(arguments: argparse.Namespace) -> RaySettings | None:
    """Where Ray runs; None where one process can use the whole machine by itself."""
    import torch

    tree = {
        "actors": arguments.actors,
        "address": arguments.ray_address,
        "gpus_per_actor": arguments.gpus_per_actor,
    }
    is_asked = any(value is not None for value in tree.values())
    if not is_asked and torch.cuda.device_count() < 2:
        return None
    return build_settings(RaySettings, tree, (), "the options for Ray")


if __name__ == "__main__":
    start(main)
