"""``python -m pipelines.calibrate``: what thresholds and steps are worth, by planted noise."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from clip_model.metrics import roc_auc
from pipelines.cli import open_run, parser, run_command, start
from pipelines.run.config import ConfigError
from pipelines.run.directory import Run
from pipelines.run.precision import said_by
from pipelines.run.runner import is_complete
from pipelines.stages.selection import Selection, embedded_shards, known_selection
from workers.base.arrays import Bools, Float32s
from workers.base.exit_codes import ExitCode
from workers.base.output import say
from workers.selection.planted_noise import plant_noise
from workers.selection.select import EmbeddedShard, select

#: Thresholds of similarity that the table has, from one that keeps most wrong pairs to one that
#: keeps few right ones: a model's similarities have a scale of their own.
THRESHOLDS = 16
MOST, FEW = 0.75, 0.02
DIGITS = 4

DESCRIPTION = """\
Exchange the captions of a known share of a run's embedded pairs and say, for thresholds of
similarity and for each step of `selection`, how many right and wrong pairs it keeps. A threshold
for the run's model is proposed. Nothing of the run is changed. Pairs that are wrong by nature count
as right here, so true precision is lower and true recall higher.
"""


def main(argv: Sequence[str] | None = None) -> ExitCode:
    """Parse the arguments and run the command; returns its exit code."""
    options = parser("calibrate", DESCRIPTION)
    options.add_argument(
        "--noise", type=float, default=0.3, metavar="SHARE", help="of the pairs (default: 0.3)"
    )
    options.add_argument(
        "--precision",
        type=float,
        metavar="SHARE",
        help="propose the lowest threshold of which so many of the kept pairs are right, of those "
        "given; else the one with the largest F1, at this share of noise",
    )
    arguments = options.parse_args(argv)
    return run_command(lambda: calibrate(arguments))


def calibrate(arguments: argparse.Namespace) -> ExitCode:
    """Print the tables."""
    if not 0 < arguments.noise < 1:
        raise ConfigError(f"--noise {arguments.noise}: a share between 0 and 1, such as 0.3")
    if arguments.precision is not None and not 0 < arguments.precision <= 1:
        raise ConfigError(f"--precision {arguments.precision}: a share above 0, such as 0.95")
    run = open_run(arguments)
    Selection(run).check()
    shards = []
    if is_complete(run, "labels", {}):
        run.check_outputs(*Selection.reads, drop=False)
        shards = embedded_shards({stage: tuple(run.outputs(stage)) for stage in Selection.reads})
    if not any(len(shard.verdicts) for shard in shards):
        raise ConfigError(
            f"{run.directory} has no pairs embedded in full with this configuration; run "
            "pipelines.build_dataset first"
        )
    with tempfile.TemporaryDirectory(prefix="noise-") as folder:
        noisy, wrong = plant_noise(shards, arguments.noise, run.config.seed, Path(folder))
        is_wrong = np.concatenate(wrong)
        if is_wrong.all() or not is_wrong.any():
            raise ConfigError(
                f"of {len(is_wrong)} pairs {is_wrong.sum()} have another pair's caption: that says "
                "nothing of thresholds; embed more pairs, or choose another --noise"
            )
        say(f"{is_wrong.sum():,} of {len(is_wrong):,} pairs have another pair's caption.\n")
        similarity = np.concatenate([shard.read(["similarity"])["similarity"] for shard in noisy])
        say("\n".join(_threshold_table(similarity, is_wrong)))
        say("\n".join(_proposal(run, similarity, is_wrong, arguments.precision)))
        select(noisy, Path(folder) / "selection", known_selection(run.config), run.config.seed)
        say("\n".join(_step_table(run, noisy, is_wrong)))
    return ExitCode.COMPLETE


def _threshold_table(similarity: Float32s, is_wrong: Bools) -> Iterator[str]:
    lowest = np.quantile(similarity[is_wrong], 1 - MOST)
    highest = np.quantile(similarity[~is_wrong], 1 - FEW)
    yield from _head("similarity")
    for threshold in np.linspace(min(lowest, highest), highest, THRESHOLDS).round(DIGITS):
        yield _line(f"{threshold:.{DIGITS}f}", similarity >= threshold, is_wrong)
    yield ""


def _proposal(
    run: Run, similarity: Float32s, is_wrong: Bools, precision: float | None
) -> Iterator[str]:
    """The step for this model, as it stands in a configuration."""
    auc = roc_auc(similarity[~is_wrong], similarity[is_wrong])
    model = said_by(run.outputs("embeddings"), "model")
    yield f"Cosines by {model}: area under the ROC curve, right against wrong, {auc:.4f}."
    found = best_threshold(similarity, is_wrong, precision)
    if found is None:
        yield f"No threshold keeps right pairs alone to a share of {precision}."
    else:
        yield f"Proposed, for {'the largest F1' if precision is None else 'that precision'}:"
        yield ""
        yield from _head("similarity")
        yield _line(f"{found:.{DIGITS}f}", similarity >= found, is_wrong)
        yield ""
        yield f"    - {{filter: similarity, min: {found:.{DIGITS}f}, model: {model}}}"
    yield ""


def best_threshold(similarity: Float32s, is_wrong: Bools, precision: float | None) -> float | None:
    """The threshold, of ``DIGITS`` digits, with the largest F1; of equals, the lowest.

    Args:
        precision: if given, the lowest that reaches it instead; None where none does.
    """
    scaled = np.floor(similarity.astype(np.float64) * 10**DIGITS)
    thresholds, place = np.unique(scaled, return_inverse=True)
    right = np.bincount(place, ~is_wrong)[::-1].cumsum()[::-1]  # kept at each threshold
    kept = np.bincount(place)[::-1].cumsum()[::-1]
    if precision is None:
        best = int((2 * right / (kept + (~is_wrong).sum())).argmax())
    else:
        reached = np.flatnonzero(right / kept >= precision)
        if not len(reached):
            return None
        best = int(reached[0])
    return float(thresholds[best] / 10**DIGITS)


def _step_table(run: Run, shards: Sequence[EmbeddedShard], is_wrong: Bools) -> Iterator[str]:
    verdicts = np.concatenate([shard.verdicts for shard in shards])
    yield from _head("after step")
    for number, step in enumerate(run.config.selection.steps, start=1):
        is_kept = (verdicts == 0) | (verdicts > number)
        yield _line(f"{number} {step.name or step.filter}", is_kept, is_wrong)


def _head(first: str) -> Iterator[str]:
    yield f"| {first} | kept | right kept | wrong kept | precision | recall |"
    yield "|---|--:|--:|--:|--:|--:|"


def _line(name: str, is_kept: Bools, is_wrong: Bools) -> str:
    kept, right = int(is_kept.sum()), int((is_kept & ~is_wrong).sum())
    precision, recall = right / max(1, kept), right / max(1, int((~is_wrong).sum()))
    return f"| {name} | {kept:,} | {right:,} | {kept - right:,} | {precision:.4f} | {recall:.4f} |"


if __name__ == "__main__":
    start(main)
