"""The figures of an evaluation: what they show, on what they stand, and their files."""

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import altair as alt
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.evaluation.report import charts
from pipelines.evaluation.report.charts import label_boxes
from pipelines.evaluation.report.estimates import Estimate, Results, common_means, zero_shot
from pipelines.evaluation.report.figures import FIGURES, LeftOut, make_figures, write_figures
from tests.pipelines.evaluation import judged

ROOT = Path(__file__).parents[3]
MODELS = ("starter", "sample")
GFLOPS = {"starter": 1.5, "sample": 3.75}

POINT = re.compile(
    r'<path aria-label="([^"]*)"[^>]* aria-roledescription="point" '
    r'transform="translate\(([-\d.e]+),([-\d.e]+)\)"'
)
RULE = re.compile(r'<line transform="translate\(([-\d.e]+),([-\d.e]+)\)" x2="([-\d.e]+)"')

WRITE = """
from tests.pipelines.evaluation import judged, test_figures as figures
import pathlib, sys
figures.write(pathlib.Path(sys.argv[1]))
"""


def figures_of(results, gflops=GFLOPS):
    return make_figures(Results(results), gflops)


def write(folder):
    write_figures(figures_of(judged.results(MODELS)), folder)


def write_one(figures, name, folder):
    write_figures({name: figures[name]}, folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures")
    write(folder)
    return folder


def svg_of(folder, name):
    return (folder / f"{name}.svg").read_text()


def text_of(svg):
    texts = ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    return " ".join(line for text in texts for line in text.itertext())


def without_network():
    """What a command begins with that is to have no network, where the system can do that."""
    if not shutil.which("unshare"):
        return []
    words = ["unshare", "--user", "--map-root-user", "--net"]
    works = subprocess.run([*words, "true"], capture_output=True, check=False).returncode == 0
    return words if works else []


def test_another_process_without_a_network_writes_the_same_bytes(folder, tmp_path):
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT)}
    command = [*without_network(), sys.executable, "-c", WRITE, tmp_path]
    subprocess.run(command, env=environment, cwd=ROOT, check=True)
    files = sorted(path.name for path in folder.iterdir())
    endings = ("md", "parquet", "png", "svg")
    assert files == sorted(f"{name}.{ending}" for name in FIGURES for ending in endings)
    assert sorted(path.name for path in tmp_path.iterdir()) == files
    for name in files:
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_svg_that_loads_nothing_and_a_picture(folder, name):
    svg = svg_of(folder, name)
    assert not re.search(r"href=|url\((?!#)|@import|<script|<image|<foreignObject", svg)
    assert set(re.findall(r'https?://[^"]*', svg)) == {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG\r\n")


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_says_on_what_it_stands(folder, name):
    text = text_of(svg_of(folder, name))
    assert "8 sets of 57 to 10,000 pictures (29,575 in all)." in text
    assert "Error bars are 95% intervals." in text
    seeds = name in ("few_shot", "few_shot_by_set", "examples_needed")
    assert ("3 seeds" in text) == seeds
    trained = name in ("zero_shot_minus_probe", "zero_shot_and_probe", "accuracy_by_compute")
    assert ("Probes trained on 342 to 60,000 pictures." in text) == trained


@pytest.mark.parametrize("name", FIGURES)
def test_the_numbers_of_a_figure_are_those_of_its_data(folder, name):
    rows = pq.read_table(folder / f"{name}.parquet").to_pylist()
    drawn = [label for label, _, _ in POINT.findall(svg_of(folder, name))]
    shown = [row for row in rows if row["value"] is not None]
    assert len(drawn) == len(shown) > 0
    assert sorted(map(numbers_said, drawn)) == sorted(
        sorted(row[key] for key in ("shots", "x", "value") if key in row) for row in shown
    )
    table = (folder / f"{name}.md").read_text().splitlines()
    cells = [line.split(" | ") for line in table if line.startswith("| ")][1:]
    at = list(rows[0]).index("value")
    assert [row[at] for row in cells] == [
        "" if row["value"] is None else f"{row['value']:z.2f}" for row in rows
    ]


def test_the_data_is_that_of_the_results_in_percent(folder):
    results = {(one["set"], one["model"]): one for one in judged.results(MODELS)}
    expected = {
        "zero_shot_minus_probe": lambda one, row: one["probe"]["difference"],
        "zero_shot_and_probe": lambda one, row: one["probe"]["zero_shot"],
        "few_shot_by_set": lambda one, row: (
            one["few_shot"][str(row["shots"])] if row["shots"] else one["probe"]["zero_shot"]
        ),
    }
    for name, entry_of in expected.items():
        for row in pq.read_table(folder / f"{name}.parquet").to_pylist():
            entry = entry_of(results[row["set"], row["model"]], row)
            numbers = [100 * number for number in (entry["value"], *entry["interval"])]
            assert [row["value"], row["low"], row["high"]] == pytest.approx(numbers, abs=1e-4)


def numbers_said(label):
    """Of the text that a screen reader reads: numbers after colons, but of no name."""
    label = re.sub(r"(set|model|kind): [^;]*", "", label).replace("−", "-")
    return sorted(float(number) for number in re.findall(r": (-?[\d.]+)", label))


def test_points_and_intervals_lie_where_the_data_says(tmp_path):
    write_one(figures_of(judged.results(["starter"])), "prompts_gain", tmp_path)
    svg = svg_of(tmp_path, "prompts_gain")
    rows = pq.read_table(tmp_path / "prompts_gain.parquet").to_pylist()
    points = [float(x) for _, x, _ in POINT.findall(svg)]
    values = [row["value"] for row in rows]
    least, most = values.index(min(values)), values.index(max(values))
    scale = (points[most] - points[least]) / (max(values) - min(values))

    def pixel(value):
        return points[least] + (value - min(values)) * scale

    assert points == pytest.approx([pixel(value) for value in values], abs=0.01)
    drawn = {(round(left, 1), round(right, 1)) for left, right in rules_of(svg)}
    assert drawn >= {(round(pixel(row["low"]), 1), round(pixel(row["high"]), 1)) for row in rows}


def rules_of(svg):
    """Both ends of each level line, in pixels."""
    ends = [(float(x), float(x) + float(length)) for x, _, length in RULE.findall(svg)]
    return [(min(both), max(both)) for both in ends]


def test_an_address_is_refused_before_it_is_asked():
    """Where nobody listens, so that asking fails in other words."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}/data.json"
        chart = alt.Chart(alt.UrlData(url)).mark_point().encode(x="a:Q")
        with pytest.raises(ValueError, match="External data url not allowed"):
            charts.draw(chart, "Title", "Caption.")


def test_what_shows_too_little_is_left_out_with_its_files(tmp_path):
    stale = tmp_path / "zero_shot_and_probe.png"
    stale.write_bytes(b"of a run before")
    only = {"fashion": judged.SETS["fashion"]}
    figures = figures_of(judged.results(["starter"], only))
    del figures["few_shot_by_set"], figures["examples_needed"]
    write_figures(figures, tmp_path)
    left = {name: figure.reason for name, figure in figures.items() if isinstance(figure, LeftOut)}
    assert left == {
        "few_shot": "fewer than two sets have all few-shot probes of all models",
        "zero_shot_and_probe": "fewer than two sets have a linear probe",
        "accuracy_by_compute": "fewer than two models of known compute were judged on the same "
        "sets",
    }
    assert {path.stem for path in tmp_path.iterdir()} == figures.keys() - left.keys()


def test_results_without_any_of_it_give_no_figure():
    bare = {"set": "a", "model": "b", "task": "classification", "pictures": 5, "probe": None}
    bare |= {"gains": {}, "few_shot": {}, "equal_shots": {"value": None, "reason": "off"}}
    assert all(isinstance(figure, LeftOut) for figure in figures_of([bare]).values())


def test_names_of_any_letters_are_drawn(tmp_path):
    name = 'a<b> & "c" | \x00\ud800 été 猫'
    one = judged.results(["starter"])[0]
    write_one(figures_of([{**one, "set": name, "model": name}]), "prompts_gain", tmp_path)
    expected = 'a<b> & "c" | \ufffd\ufffd été 猫'
    assert expected in text_of(svg_of(tmp_path, "prompts_gain"))
    assert pq.read_table(tmp_path / "prompts_gain.parquet")["set"][0].as_py() == expected


def test_an_interval_without_an_end_goes_to_the_frame(tmp_path):
    (one,) = judged.results(["starter"], {"pets": judged.SETS["pets"]})[:1]
    one["equal_shots"] = {"value": 3.5, "interval": [2.0, None]}
    write_one(figures_of([one]), "examples_needed", tmp_path)
    (row,) = pq.read_table(tmp_path / "examples_needed.parquet").to_pylist()
    assert (row["value"], row["low"], row["high"]) == (3.5, 2.0, None)
    # From 1 to 16 are the 230 pixels of the frame.
    assert (57.5, 230.0) in rules_of(svg_of(tmp_path, "examples_needed"))


def test_a_mean_stands_on_the_sets_that_all_have():
    results = [
        one for one in judged.results(MODELS) if (one["set"], one["model"]) != ("pets", "sample")
    ]
    sets, means = common_means(Results(results), MODELS, zero_shot)
    assert sets == [name for name in judged.SETS if name != "pets"]
    scores = [
        one["zero_shot"]["ensemble"]["value"]
        for one in results
        if one["model"] == "starter" and one["set"] in sets
    ]
    assert means["starter"].value == pytest.approx(sum(scores) / 7)
    few_shot = figures_of(results)["few_shot"]
    assert "7 sets" in few_shot.caption
    assert "1 set with fewer shots left out." in few_shot.caption


def test_the_interval_of_a_mean_adds_squares():
    one, other = Estimate(0.5, (0.47, 0.53)), Estimate(0.7, (0.66, 0.78))
    mean = Estimate.mean([one, other])
    assert mean.value == pytest.approx(0.6)
    assert mean.interval == pytest.approx((0.6 - 0.05 / 2, 0.6 + (0.03**2 + 0.08**2) ** 0.5 / 2))
    assert Estimate.mean([one, Estimate(0.7)]) == Estimate(0.6)
    assert Estimate.mean([one]).interval == pytest.approx(one.interval)


PLACES = st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=1, max_size=40)


@given(PLACES)
def test_no_name_lies_on_a_point_or_on_another_name(places):
    rows = [
        {"set": f"set {at}", "x": x, "value": y, "x_low": x, "x_high": x, "low": y, "high": y}
        for at, (x, y) in enumerate(places)
    ]
    boxes = [box for box in label_boxes(rows, [0.0, 100.0], 280) if box]
    for at, (left, bottom, width, height) in enumerate(boxes):
        assert left >= 0
        assert left + width <= 100
        assert not any(left < x < left + width and bottom < y < bottom + height for x, y in places)
        for other in boxes[:at]:
            apart = other[0] >= left + width or left >= other[0] + other[2]
            assert apart or other[1] >= bottom + height or bottom >= other[1] + other[3]
