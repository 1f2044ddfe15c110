"""The experiments of objectives and of scale: what is made of curves, and a tiny one of each."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from benchmarks import distillation, model_scale, objectives, zero_shot_curves
from benchmarks.objectives import efficiency_figure, needed, ratio, table
from benchmarks.zero_shot_curves import estimate_of, seen_at
from examples.starter_model.pairs import PAIRS, TEST
from pipelines.evaluation.intervals import wilson
from pipelines.training.loop import train
from pipelines.training.settings import TrainSettings
from tests.shards import save_tiny_model

#: Of 100 pictures.
FAST = {0: {100: 0.2, 200: 0.4, 400: 0.8}, 1: {100: 0.2, 200: 0.4, 400: 0.6}}
SLOW = {0: {100: 0.1, 200: 0.2, 400: 0.4}, 1: {100: 0.1, 200: 0.1, 400: 0.2}}
CHANCE = {seed: dict.fromkeys((100, 200, 400), 0.01) for seed in (0, 1)}


@pytest.mark.parametrize(
    ("level", "seen"),
    [(0.2, 100), (0.3, 150), (0.7, 350), (0.8, 400), (0.81, None), (0.105, 50)],
)
def test_pairs_seen_are_read_off_the_line_between_two_points(level: float, seen: int) -> None:
    assert seen_at(FAST[0], level, 0.01) == (None if seen is None else pytest.approx(seen))


def test_a_curve_that_falls_again_has_reached_what_it_reached() -> None:
    assert seen_at({100: 0.3, 200: 0.1, 400: 0.5}, 0.3, 0.01) == 100


def test_the_ratio_is_at_the_highest_accuracy_that_both_reach() -> None:
    """400 pairs against 200 of seed 0, 400 against 100 of seed 1: in logarithms, 2 and 4."""
    found = ratio(SLOW, FAST, 100)
    assert found is not None
    assert found.value == pytest.approx(math.sqrt(8))
    half = 12.706 * math.log(2) / 2  # Student's t of two: the deviation over the root of 2
    assert found.low == pytest.approx(math.sqrt(8) / math.exp(half))
    assert found.high == pytest.approx(math.sqrt(8) * math.exp(half))
    other_way = ratio(FAST, SLOW, 100)
    assert other_way is not None
    assert other_way.value == pytest.approx(1 / math.sqrt(8))


def test_there_is_no_ratio_of_what_has_learnt_nothing_or_of_one_seed() -> None:
    assert ratio(CHANCE, FAST, 100) is None
    assert ratio({0: SLOW[0]}, {0: FAST[0]}, 100) is None


def test_what_is_not_reached_is_said() -> None:
    found = needed({"fast": FAST, "slow": SLOW, "none": CHANCE}, 100)
    assert found["fast"] == {"fast": pytest.approx(400), "slow": None, "none": None}
    assert found["slow"] == {"fast": pytest.approx(150), "slow": pytest.approx(400), "none": None}
    assert "none" not in found
    lines = list(table({"fast": FAST, "slow": SLOW}, 100))
    assert any("as fast" in line and "not reached" in line for line in lines)
    assert any("pairs that slow sees for each of fast: 2.83 [" in line for line in lines)


def test_intervals_are_over_seeds_or_over_the_pictures_of_one() -> None:
    assert estimate_of({0: 0.25}, 100).interval == wilson(25, 100)
    both = estimate_of({0: 0.2, 1: 0.4}, 100)
    assert both.value == pytest.approx(0.3)
    assert both.interval == pytest.approx((0.3 - 12.706 * 0.1, 0.3 + 12.706 * 0.1))


def test_the_figure_has_a_line_an_objective() -> None:
    figure = efficiency_figure({"fast": FAST, "slow": SLOW}, 100, "Made up.")
    assert [(row["model"], row["x"], row["value"]) for row in figure.rows[::3]] == [
        ("fast", 100.0, 20.0),
        ("slow", 100.0, 10.0),
    ]
    assert '"line"' in figure.chart.to_json()


@pytest.fixture
def laid_out(tmp_path: Path) -> Path:
    """Twelve pairs of four colours, and a picture of each."""
    colours = ("red", "green", "blue", "yellow")

    def jpeg(colour: str, side: int) -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", (side, 48), colour).save(buffer, "JPEG")
        return buffer.getvalue()

    rows = [(f"{colour}{n}", jpeg(colour, 40 + n), colour) for colour in colours for n in range(3)]
    ids, images, names = (list(column) for column in zip(*rows, strict=True))
    pairs = pa.table({"pair_id": ids, "jpg": images, "caption": [[name] for name in names]})
    pq.write_table(pairs, tmp_path / PAIRS)
    pictures = [jpeg(colour, 60) for colour in colours]
    pq.write_table(pa.table({"image": pictures, "name": colours}), tmp_path / TEST)
    return tmp_path


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    fields = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
        "text_cfg": {"width": 8, "heads": 1, "layers": 1},
    }
    path = tmp_path / "tiny-1.json"
    path.write_text(json.dumps(fields))
    return path


def options(laid_out: Path, out: Path) -> list[str]:
    return [str(laid_out), "--out", str(out), "--pairs", "8", "--batch-size", "4"]


def no_training(*_: object) -> None:
    raise AssertionError


def test_a_tiny_experiment_of_objectives(
    laid_out: Path,
    tiny: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(zero_shot_curves, "PARTS", 2)
    monkeypatch.setattr(objectives, "PARTS", (1, 2))
    out = tmp_path / "out"
    arguments = [*options(laid_out, out), "--architecture", str(tiny), "--seeds", "0", "1"]
    assert objectives.main(arguments) == 0
    printed = capsys.readouterr().out
    found = json.loads(printed.splitlines()[-1])
    assert found["curves"].keys() == {"contrastive", "bag_of_words", "caption"}
    for curves in found["curves"].values():
        assert {seed: list(curve) for seed, curve in curves.items()} == {
            seed: ["4", "8"] for seed in "01"
        }
        assert all(4 * share == int(4 * share) for c in curves.values() for share in c.values())
    assert found["ratios"].keys() == {
        "bag_of_words/contrastive",
        "caption/contrastive",
        "caption/bag_of_words",
    }
    assert {path.suffix for path in (out / "figures").iterdir()} == {
        ".svg",
        ".png",
        ".md",
        ".parquet",
    }
    assert len(polars.read_parquet(out / "figures" / "efficiency.parquet")) == 6
    assert not list(out.glob("trainings/*/state"))
    # What is done is not done again.
    monkeypatch.setattr(zero_shot_curves, "train", no_training)
    assert objectives.main(arguments) == 0
    assert capsys.readouterr().out == printed
    with pytest.raises(AssertionError):
        objectives.main([*arguments, "--learning-rate", "1e-4"])


def test_a_tiny_experiment_of_scale(
    laid_out: Path,
    tiny: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (zero_shot_curves, model_scale):
        monkeypatch.setattr(module, "PARTS", 2)
    out, larger = tmp_path / "out", tmp_path / "tiny-2.json"
    fields = json.loads(tiny.read_text())
    fields["vision_cfg"]["layers"] = 2
    larger.write_text(json.dumps(fields))
    arguments = [*options(laid_out, out), "--architectures", str(tiny), str(larger)]
    assert model_scale.main(arguments) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["pictures"] == 4
    assert found["gflops"]["tiny-1"] < found["gflops"]["tiny-2"]
    rows = polars.read_parquet(out / "figures" / "accuracy_by_compute.parquet")
    assert rows["note"].to_list() == ["tiny-1", "tiny-2"]
    assert rows["model"].to_list() == ["tiny", "tiny"]


def test_a_tiny_experiment_of_distillation(
    laid_out: Path,
    tiny: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(zero_shot_curves, "PARTS", 2)
    monkeypatch.setattr(distillation, "PARTS", (1, 2))
    taught = []

    def noted(shards: Any, settings: TrainSettings, *more: Any) -> Any:
        taught.append(settings.distillation)
        return train(shards, settings, *more)

    monkeypatch.setattr(zero_shot_curves, "train", noted)
    teacher = save_tiny_model(tmp_path / "teacher.safetensors")
    arguments = [*options(laid_out, tmp_path / "out"), "--architecture", str(tiny)]
    arguments += ["--teacher", teacher, "--weight", "2", "--seeds", "0", "1"]
    assert distillation.main(arguments) == 0
    printed = capsys.readouterr().out.splitlines()
    found = json.loads(printed[-1])
    assert found["curves"].keys() == {"distilled", "alone"}
    assert found["ratios"].keys() == {"alone/distilled"}
    assert all(list(curve) == ["4", "8"] for curve in found["curves"]["alone"].values())
    weights = [one and (one.weight, round(1 / one.temperature)) for one in taught]
    assert weights == [(2.0, 14), None] * 2
    # What is done is not done again, and the teacher embeds once.
    monkeypatch.setattr(zero_shot_curves, "train", no_training)
    embedded = next((tmp_path / "out" / "teacher" / "embeddings").iterdir()).stat().st_mtime_ns
    assert distillation.main(arguments) == 0
    assert capsys.readouterr().out.splitlines()[-1] == printed[-1]
    (file,) = (tmp_path / "out" / "teacher" / "embeddings").iterdir()
    assert file.stat().st_mtime_ns == embedded


def test_data_that_are_not_laid_out_end_the_command_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"python -m examples\.starter_model\.pairs lays it out"):
        objectives.main(options(tmp_path, tmp_path))
