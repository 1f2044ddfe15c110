"""The paper's figure 2: how many pairs each objective has to see for the same zero-shot accuracy.

    python -m examples.starter_model --only prepare
    python -m examples.starter_model.pairs runs/emoji --concepts 400
    python -m benchmarks.objectives runs/emoji --out runs/efficiency

trains the contrastive objective and the two baselines on the same pairs, in the same batches, with
the same towers and settings, and judges each on its way, by what it says of the classes' names
(`Objective.zero_shot`). A seed is of weights and order, the same for all objectives. It prints a
table and, as its last line, the same as JSON, and draws `figures/efficiency.svg` with its data
beside it.

An objective that is faster than another needs so many times fewer pairs for the same accuracy: the
highest that both reach, seed by seed. The interval is Student's t over the seeds' logarithms.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

from benchmarks.zero_shot_curves import (
    Curve,
    add_options,
    config_of,
    curves_of,
    data_of,
    estimate_of,
    over_seeds,
    seen_at,
    settings_of,
    steps_of,
)
from clip_model.flops import image_flops
from pipelines.evaluation.differences import Difference
from pipelines.evaluation.intervals import wilson
from pipelines.evaluation.report import charts
from pipelines.evaluation.report.estimates import percent
from pipelines.evaluation.report.figures import ERROR_BARS, Figure, write_figures
from pipelines.evaluation.report.markdown import counted
from pipelines.evaluation.report.rows import numbers

#: From the fastest of the paper to its slowest.
OBJECTIVES = ("contrastive", "bag_of_words", "caption")
ARCHITECTURE = Path(__file__).parents[1] / "examples" / "scale" / "rn-2.json"
#: Sixteenths of a training after which it is judged: close together where the curves rise.
PARTS = (1, 2, 3, 4, 6, 8, 12, 16)

#: By seed.
Curves = Mapping[int, Curve]


def ratio(slow: Curves, fast: Curves, pictures: int) -> Difference | None:
    """How many times more pairs `slow` has to see, for the highest accuracy that both reach.

    Seed by seed, the mean of the logarithms. None where that accuracy cannot be told from chance.
    """
    logs = {}
    for seed in slow:
        level = min(max(slow[seed].values()), max(fast[seed].values()))
        if wilson(level * pictures, pictures)[0] <= 1 / pictures:
            return None
        many, few = (seen_at(curves[seed], level, 1 / pictures) for curves in (slow, fast))
        assert many is not None
        assert few is not None  # both reach it
        logs[seed] = math.log(many / few)
    found = over_seeds(logs)
    return found and Difference(*map(math.exp, (found.value, found.low, found.high)))


def mean_curve(curves: Curves) -> Curve:
    """Of all seeds."""
    points = next(iter(curves.values()))
    return {seen: sum(one[seen] for one in curves.values()) / len(curves) for seen in points}


def needed(all_curves: Mapping[str, Curves], pictures: int) -> dict[str, dict[str, float | None]]:
    """For what each objective ends with: pairs that each has to see, None where it never does.

    Nothing of one that ends with no more than chance.
    """
    means = {name: mean_curve(curves) for name, curves in all_curves.items()}
    levels = {name: mean[max(mean)] for name, mean in means.items()}
    return {
        of: {name: seen_at(mean, level, 1 / pictures) for name, mean in means.items()}
        for of, level in levels.items()
        if level > 1 / pictures
    }


def efficiency_figure(all_curves: Mapping[str, Curves], pictures: int, about: str) -> Figure:
    """Accuracy against pairs seen, a line an objective."""
    names, kind = (
        list(all_curves),
        f"zero-shot, {counted(pictures, 'class')}es".replace("ses", "es"),
    )
    rows = [
        {
            "model": name,
            "kind": kind,
            "x": float(seen),
            **numbers(estimate_of({seed: one[seen] for seed, one in curves.items()}, pictures)),
        }
        for name, curves in all_curves.items()
        for seen in next(iter(curves.values()))
    ]
    chart = charts.by_compute(rows, names, [kind], "pairs seen", "accuracy (%)", joined=True)
    return Figure("Zero-shot accuracy by objective", f"{about} {ERROR_BARS}", rows, chart)


def table(all_curves: Mapping[str, Curves], pictures: int) -> Iterator[str]:
    """A line for each number of pairs seen, then the ratios, then what it takes to get where."""
    names = list(all_curves)
    yield f"{'pairs seen':>12}" + "".join(f"{name:>22}" for name in names)
    for seen in next(iter(next(iter(all_curves.values())).values())):
        cells = (
            percent(estimate_of({seed: one[seen] for seed, one in curves.items()}, pictures))
            for curves in all_curves.values()
        )
        yield f"{seen:12,}" + "".join(f"{cell:>22}" for cell in cells)
    yield f"{'chance':>12}" + "".join(f"{percent_of(1 / pictures):>22}" for _ in names)
    yield ""
    for fast, slow in combinations(names, 2):
        found = ratio(all_curves[slow], all_curves[fast], pictures)
        said = (
            f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"
            if found
            else "no ratio: one cannot be told from chance, or there is one seed"
        )
        yield f"pairs that {slow} sees for each of {fast}: {said}"
    yield ""
    for of, by_name in needed(all_curves, pictures).items():
        cells = (f"{seen:,.0f}" if seen else "not reached" for seen in by_name.values())
        yield f"{f'as {of}':>16}" + "".join(f"{cell:>22}" for cell in cells)


def percent_of(share: float) -> str:
    return f"{100 * share:.1f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is not trained yet, judge, print and draw."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.objectives", description=__doc__.splitlines()[0]
    )
    add_options(parser, pairs=40_000, classes=150)
    add = parser.add_argument
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of weights and order")
    add("--objectives", nargs="+", default=OBJECTIVES, choices=OBJECTIVES)
    add("--architecture", default=str(ARCHITECTURE), help="a file as of examples/scale, or a name")
    options = parser.parse_args(arguments)
    data = data_of(options)
    by_name = {
        name: settings_of(options.architecture, name, options) for name in options.objectives
    }
    all_curves = curves_of(by_name, options.seeds, data, PARTS, options.out)
    pictures = data.classes
    gflops = image_flops(config_of(by_name[options.objectives[0]])) / 1e9
    seen = steps_of(options) * options.batch_size
    about = (
        f"{pictures} pictures of Twemoji, each a class; {counted(len(options.seeds), 'seed')}, "
        f"{seen:,} pairs each, the same towers ({gflops:.3f} GFLOP an image)."
    )
    figure = efficiency_figure(all_curves, pictures, about)
    write_figures({"efficiency": figure}, options.out / "figures")
    sys.stdout.write("".join(f"{line}\n" for line in [about, "", *table(all_curves, pictures)]))
    sys.stdout.write(json.dumps(as_json(all_curves, pictures)) + "\n")
    return 0


def as_json(all_curves: Mapping[str, Curves], pictures: int) -> dict[str, Any]:
    """All of it, ratios by `SLOW/FAST`."""
    ratios = {
        f"{slow}/{fast}": found and asdict(found)
        for fast, slow in combinations(all_curves, 2)
        for found in [ratio(all_curves[slow], all_curves[fast], pictures)]
    }
    return {"curves": all_curves, "ratios": ratios, "needed": needed(all_curves, pictures)}


if __name__ == "__main__":
    sys.exit(main())
