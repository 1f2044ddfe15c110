"""The linear probe beside scikit-learn's, on the same features, and the few-shot curve.

``python -m benchmarks.probe --images IMAGES --labels LABELS`` prints tables and, as its last line,
the same as JSON. The two are idx files of labelled pictures, such as those of Fashion-MNIST, which
``python -m examples.evaluation_sets`` lays out. Features are the starter model's, of unit length.
The other side is scikit-learn's `LogisticRegression` with its defaults for as many iterations; both
take turns and the medians count. It ends far from the optimum, so it runs once more in float64 with
the first tolerance that brings its loss as near as ours must be. A loss is the mean cross-entropy
with its penalty, in float64; the optimum is that of scikit-learn's Newton solver.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from clip_model.probe import few_shot_curve, fit_probe
from pipelines.evaluation.candidates import Candidate
from pipelines.evaluation.judge import read_pictures
from pipelines.evaluation.stages import EvaluationRun, Features, Sets
from pipelines.evaluation.suite import Suite
from pipelines.run.history import Journal
from pipelines.run.runner import run_stage
from workers.base.cores import usable_cores
from workers.embedding.settings import EmbedSettings

L2 = {"the paper's README": 1 / 0.316, "weaker": 0.0316}
TEST_SHARE = 0.2
NEAR = 1e-6  # a loss is as good as the optimum's
TOLERANCES = (1e-5, 1e-6, 1e-7, 1e-8)


def features_of(model: str, images: Path, labels: Path) -> tuple[Tensor, Tensor]:
    """Of all pictures: [N, D] and [N]."""
    tree = {
        "sets": {
            "it": {
                "format": "idx",
                "test": {"images": str(images.absolute()), "labels": str(labels.absolute())},
            }
        }
    }
    candidate = Candidate("it", EmbedSettings(model=model, precision="fp32"))
    with tempfile.TemporaryDirectory() as out:
        run = EvaluationRun.of(Suite.model_validate(tree), Path(out) / "out", None)
        sets, features = Sets(run), Features(run, candidate)
        with run.lock():
            for stage in (sets, features):
                run_stage(stage, Journal(run, "benchmark"))
        files = sets.files("it", "test")
        pictures, _ = read_pictures(files, [features.folder / file.name for file in files])
    return pictures.features, torch.tensor([label for (label,) in pictures.labels])


def loss_at(weight: Any, bias: Any, x: Tensor, targets: Tensor, l2: float) -> float:
    """The mean of the cross-entropies and the penalty, in float64."""
    weights, intercepts = (torch.as_tensor(np.asarray(one)).double() for one in (weight, bias))
    loss = F.cross_entropy(x.double() @ weights.t() + intercepts, targets)
    return (loss + l2 / 2 * weights.square().sum() / len(x)).item()


def compared(name: str, l2: float, x: Tensor, targets: Tensor, rounds: int) -> dict[str, Any]:
    """Times and losses of both."""
    from sklearn.linear_model import LogisticRegression

    def theirs(dtype: Any = np.float32, **settings: Any) -> Any:
        solver = LogisticRegression(C=1 / l2, **{"max_iter": 1000} | settings)
        return solver.fit(x.numpy().astype(dtype), targets.numpy())

    best = theirs(np.float64, solver="newton-cholesky", tol=1e-10)
    optimum = loss_at(best.coef_, best.intercept_, x, targets, l2)
    works: dict[str, Callable[[], Any]] = {
        "ours": lambda: fit_probe(x, targets, l2),
        "theirs": theirs,
    }
    times: dict[str, list[float]] = {side: [] for side in works}
    found: dict[str, Any] = {}
    for _ in range(rounds):
        for side, work in works.items():
            start = time.perf_counter()
            found[side] = work()
            times[side].append(time.perf_counter() - start)
    ours, fitted = found["ours"], found["theirs"]
    taken = {side: median(some) for side, some in times.items()}
    for tolerance in TOLERANCES:
        start = time.perf_counter()
        near = theirs(np.float64, tol=tolerance, max_iter=10_000)
        as_near = time.perf_counter() - start
        near_above = loss_at(near.coef_, near.intercept_, x, targets, l2) - optimum
        if near_above <= NEAR:
            break
    return {
        "l2": l2,
        "name": name,
        "ours_seconds": taken["ours"],
        "theirs_seconds": taken["theirs"],
        "ratio": taken["theirs"] / taken["ours"],
        "optimum": optimum,
        "ours_above": loss_at(ours.weight, ours.bias, x, targets, l2) - optimum,
        "theirs_above": loss_at(fitted.coef_, fitted.intercept_, x, targets, l2) - optimum,
        "near_tolerance": tolerance,
        "near_seconds": as_near,
        "near_above": near_above,
        "near_ratio": as_near / taken["ours"],
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.probe", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--images", type=Path, required=True, help="an idx file, gzip or not")
    parser.add_argument("--labels", type=Path, required=True, help="likewise")
    parser.add_argument("--model", default="starter", help="a known model or a checkpoint")
    parser.add_argument("--rounds", type=int, default=3, help="of each side; the median counts")
    options = parser.parse_args()
    features, labels = features_of(options.model, options.images, options.labels)
    kept = len(features) - round(TEST_SHARE * len(features))
    train = features[:kept], labels[:kept]
    rows = [compared(name, l2, *train, options.rounds) for name, l2 in L2.items()]
    curve = few_shot_curve(train, (features[kept:], labels[kept:]), l2=L2["weaker"])

    write = sys.stdout.write
    shape = f"{kept:,} x {features.shape[1]}"
    write(f"{shape}, {usable_cores()} cores\n")
    write(f"{'L2':>8}{'':18}{'seconds':>9}{'ratio':>7}{'loss above the optimum':>24}\n")
    for row in rows:
        of = {
            "ours": (row["ours_seconds"], 1.0, row["ours_above"]),
            "scikit-learn": (row["theirs_seconds"], row["ratio"], row["theirs_above"]),
            f"  tol={row['near_tolerance']:.0e}": (
                row["near_seconds"],
                row["near_ratio"],
                row["near_above"],
            ),
        }
        for side, (seconds, ratio, above) in of.items():
            write(f"{row['l2']:8.4f}  {side:16}{seconds:9.2f}{ratio:7.2f}{above:24.1e}\n")
    for shots, values in curve.items():
        write(f"{shots:3} labelled examples a class: {fmean(values):.1%}\n")
    result = {"rows": rows, "train": kept, "dim": features.shape[1], "few_shot": curve}
    write(json.dumps(result) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
