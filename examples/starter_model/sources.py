"""Which of the starter's sources help: each by itself beside the emoji, three seeds.

    python -m examples.starter_model
    python -m examples.starter_model.pairs runs/emoji
    python -m examples.evaluation_sets
    python -m examples.starter_model.sources --out runs/sources

trains a short `align` for each of MIXES and each seed, from the text tower that the recipe has
left, judges all of them on `sources.yaml`, and prints how far each is from the first mix, set by
set. What is trained is not trained again.
"""

from __future__ import annotations

import argparse
import copy
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

import clip_model
from examples.starter_model.data import EMOJI_SETS, FLAG_SETS, ICON_SETS, Concept
from examples.starter_model.train import TrainConfig, align, taught
from pipelines.cli import at_work, run_command, start
from pipelines.evaluation.candidates import Candidate
from pipelines.evaluation.command import judged
from pipelines.evaluation.proxy_report import (
    Answers,
    answers_of,
    difference_table,
    differences_from,
    mean_cells,
    scores_of,
)
from pipelines.evaluation.report.markdown import table
from pipelines.evaluation.stages import EvaluationRun
from pipelines.evaluation.suite import read_suite
from workers.base.exit_codes import ExitCode
from workers.base.output import say
from workers.embedding.settings import EmbedSettings

logger = logging.getLogger(__name__)

SUITE = Path(__file__).with_name("sources.yaml")
EMOJI = (*EMOJI_SETS, "noto-png")


@dataclass(frozen=True)
class Mix:
    """What a training sees besides texts."""

    drawings: tuple[str, ...] = EMOJI
    classes: bool = True  # of ImageNet, among the pairs
    photographs: bool = True  # that keep their classes' directions


#: By name; the others are compared with the first.
MIXES = {
    "emoji": Mix(),
    "and-flags": Mix((*EMOJI, *FLAG_SETS)),
    "and-icons": Mix((*EMOJI, *ICON_SETS)),
    "and-clip-art": Mix((*EMOJI, "openclipart")),
    "no-classes": Mix(classes=False),
    "no-photographs": Mix(photographs=False),
    "all": Mix((*EMOJI, *FLAG_SETS, *ICON_SETS, "openclipart")),
}


def of_sources(concepts: Sequence[Concept], sources: Sequence[str]) -> list[Concept]:
    """The concepts that these sources have drawn, with their drawings alone."""
    found = []
    for concept in concepts:
        drawn = zip(concept.rows, concept.sources, strict=True)
        if kept := [(row, source) for row, source in drawn if source in sources]:
            rows, names = map(list, zip(*kept, strict=True))
            found.append(replace(concept, rows=rows, sources=names))
    return found


def train_all(options: argparse.Namespace) -> dict[str, Path]:
    """The models' files, by MIX.SEED; trains those that are not there."""
    options.out.mkdir(parents=True, exist_ok=True)
    files = {
        f"{mix}.{seed}": options.out / f"{mix}.{seed}.{options.steps}.safetensors"
        for mix in MIXES
        for seed in options.seeds
    }
    if all(file.exists() for file in files.values()):
        return files
    model, pairs = taught(options.cache, TrainConfig())
    for name, file in files.items():
        if file.exists():
            continue
        logger.info("training %s", name)
        mix, seed = MIXES[name.partition(".")[0]], int(name.rpartition(".")[2])
        usual = TrainConfig(seed=seed, steps=options.steps, warmup=options.steps // 7)
        config = replace(
            usual,
            classes=usual.classes if mix.classes else 0,
            photographs=usual.photographs if mix.photographs else 0.0,
        )
        mixed = replace(pairs, concepts=of_sources(pairs.concepts, mix.drawings))
        one = copy.deepcopy(model)
        torch.manual_seed(seed)
        align(one, mixed, config, file.with_suffix(".pt"))
        clip_model.save(one.eval(), file)
        file.with_suffix(".pt").unlink()
    return files


def compare(options: argparse.Namespace) -> ExitCode:
    """Train, judge and say what came of it."""
    torch.set_num_threads(options.processes)
    candidates = [
        Candidate(name, EmbedSettings(model=str(file), precision="fp32"))
        for name, file in train_all(options).items()
    ]
    run = EvaluationRun.of(read_suite(SUITE, ()), options.out, None)
    with at_work(run, "sources") as journal:
        journal.code, results = judged(run, candidates, journal)
        if results is not None:
            answers = answers_of(results, run.directory / "results")
            say("\n".join(lines(answers, len(options.seeds))))
    return journal.code


def lines(answers: Answers, seeds: int) -> Iterator[str]:
    """What each mix scores, and how far the others are from the first."""
    first, scores = next(iter(MIXES)), scores_of(answers)
    yield from table(
        ["mix", *scores[first]],
        ([f"`{name}`", *mean_cells(by_set)] for name, by_set in scores.items()),
    )
    yield from difference_table(first, differences_from(first, answers), seeds)


def main(arguments: Sequence[str] | None = None) -> ExitCode:
    """Parse the command line and run; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.starter_model.sources",
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, default=Path("runs/sources"), help="folder of models and judgements")
    cache = Path.home() / ".cache" / "starter_model"
    add("--cache", type=Path, default=cache, help="what `examples.starter_model` has left")
    add("--steps", type=int, default=100, help="of each training")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of each mix's trainings")
    add("--processes", type=int, default=2, help="cores that train")
    options = parser.parse_args(arguments)
    return run_command(lambda: compare(options))


if __name__ == "__main__":
    start(main)
