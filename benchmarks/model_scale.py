"""The paper's figure 9 for small models: zero-shot accuracy against compute, ResNets and ViTs.

    python -m examples.starter_model --only prepare
    python -m examples.starter_model.pairs runs/emoji --concepts 400
    python -m benchmarks.model_scale runs/emoji --out runs/scale

trains the architectures of examples/scale (or of `--architectures`), from the smallest to the
largest, on the same pairs in the same batches with the same settings, and judges each on Twemoji.
It prints a table and, as its last line, the same as JSON, and draws
`figures/accuracy_by_compute.svg` with its data beside it. A file's name is FAMILY-SIZE.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.zero_shot_curves import (
    PARTS,
    Training,
    add_options,
    curve,
    data_of,
    estimate_of,
    settings_of,
    steps_of,
)
from clip_model.flops import image_flops
from pipelines.evaluation.report import charts
from pipelines.evaluation.report.estimates import percent
from pipelines.evaluation.report.figures import ERROR_BARS, Figure, write_figures
from pipelines.evaluation.report.markdown import counted
from pipelines.evaluation.report.rows import numbers

FILES = Path(__file__).parents[1] / "examples" / "scale"

#: Accuracy by seed.
Scores = Mapping[int, float]


def family(name: str) -> str:
    """What is joined in the figure."""
    return name.rpartition("-")[0]


def scale_figure(
    scores: Mapping[str, Scores], gflops: Mapping[str, float], pictures: int, about: str
) -> Figure:
    """Accuracy against the operations an image, a line a family."""
    kind = f"zero-shot, {pictures:,} classes"
    rows = [
        {
            "model": family(name),
            "kind": kind,
            "x": gflops[name],
            **numbers(estimate_of(of_seeds, pictures)),
            "note": name,
        }
        for name, of_seeds in scores.items()
    ]
    families = list(dict.fromkeys(map(family, scores)))
    chart = charts.by_compute(rows, families, [kind], "GFLOP an image", "accuracy (%)", joined=True)
    return Figure("Zero-shot accuracy against compute", f"{about} {ERROR_BARS}", rows, chart)


def table(
    scores: Mapping[str, Scores], gflops: Mapping[str, float], pictures: int
) -> Iterator[str]:
    """A line a model."""
    yield f"{'model':12}{'MFLOP an image':>16}{'accuracy, %':>22}"
    for name, of_seeds in scores.items():
        score = percent(estimate_of(of_seeds, pictures))
        yield f"{name:12}{1000 * gflops[name]:16.1f}{score:>22}"
    yield f"{'chance':12}{'':16}{100 / pictures:>22.2f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is not trained yet, judge, print and draw."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.model_scale", description=__doc__.splitlines()[0]
    )
    add_options(parser, pairs=40_000, classes=10_000)
    add = parser.add_argument
    add("--seeds", type=int, nargs="+", default=[0], help="of weights and order (default: 0)")
    files = sorted(FILES.glob("*.json"))
    add("--architectures", type=Path, nargs="+", default=files, metavar="FILE.json")
    options = parser.parse_args(arguments)
    data = data_of(options)
    scores: dict[str, dict[int, float]] = {}
    gflops: dict[str, float] = {}
    for seed in options.seeds:
        for file in options.architectures:
            training = Training(file.stem, settings_of(str(file), "contrastive", options), seed)
            gflops[file.stem] = image_flops(training.config) / 1e9
            (share,) = curve(training, data, [PARTS], options.out).values()
            scores.setdefault(file.stem, {})[seed] = share
    pictures, seen = data.classes, steps_of(options) * options.batch_size
    over = "over seeds" if len(options.seeds) > 1 else "over pictures"
    about = (
        f"{pictures:,} pictures of Twemoji, each a class; "
        f"{counted(len(options.seeds), 'seed')}, {seen:,} pairs each; intervals {over}."
    )
    figure = scale_figure(scores, gflops, pictures, about)
    write_figures({"accuracy_by_compute": figure}, options.out / "figures")
    lines = [about, "", *table(scores, gflops, pictures)]
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    found: dict[str, Any] = {"scores": scores, "gflops": gflops, "pictures": pictures}
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
