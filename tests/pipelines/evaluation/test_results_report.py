"""The report of an evaluation: its tables, what it warns of, and the whole of it as JSON."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from pipelines.evaluation.report.estimates import Estimate, Results, percent, points
from pipelines.evaluation.report.figures import make_figures
from pipelines.evaluation.report.markdown import clean, escape
from pipelines.evaluation.report.write import report_lines, write_report
from tests.pipelines.evaluation import judged

MODELS = ("starter", "sample")
MARKDOWN = MarkdownIt("commonmark").enable("table")


def report(results, models=None, averages=None):
    shown = Results(results, models or {})
    gflops = {model: about["gflops"] for model, about in (models or {}).items()}
    figures = make_figures(shown, gflops)
    return "\n".join(report_lines(shown, models or {}, averages or {}, figures))


def sections(text):
    """The text of each section by its heading."""
    parts = text.split("\n## ")[1:]
    return dict(part.split("\n", 1) for part in parts)


def rows(text):
    """The cells of the tables' rows, without their headers."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [line.strip("| ").split(" | ") for line in lines]


@pytest.fixture(scope="module")
def whole():
    return sections(report(judged.results(MODELS), judged.info(MODELS)["models"]))


def test_a_table_a_question(whole):
    assert list(whole) == [
        "Models",
        "Sets",
        "Averages",
        "Zero-shot, by prompts",
        "Linear probe",
        "Few-shot",
        "Retrieval",
    ]


def test_models_stand_beside_each_other_with_their_intervals(whole):
    cells = rows(whole["Zero-shot, by prompts"])
    assert cells[0] == [
        "set", "model", "chance", "bare names", "one template", "the set's own", "ensemble",
    ]  # fmt: skip
    assert cells[1][:4] == ["fashion", "starter", "10.0", "55.0 [54.0, 56.0]"]
    assert cells[2][:4] == ["fashion", "sample", "10.0", "61.0 [60.0, 62.0]"]
    gains = rows(whole["Zero-shot, by prompts"].split("What prompts add")[1])
    assert gains[0] == ["set", "model", "one template", "the set's own", "ensemble"]
    given = judged.results(MODELS)[0]["gains"]["one"]
    assert gains[1][2] == points(Estimate.of(given))
    assert rows(whole["Linear probe"])[1] == [
        "fashion", "starter", "59.5 [58.5, 60.5]", "87.5 [86.7, 88.3]", "-28.0 [-29.0, -27.0]",
        "60,000", "10,000", "3.16",
    ]  # fmt: skip
    assert rows(whole["Few-shot"])[0][2:] == [
        "zero-shot",
        "1",
        "2",
        "4",
        "8",
        "16",
        "equal to zero-shot",
    ]
    assert rows(whole["Few-shot"])[1][-1] == "6.4 [4.8, 10.4]"
    assert rows(whole["Retrieval"])[1][:5] == [
        "captions", "starter", "1,000", "5,000", "28.0 [25.0, 31.0]",
    ]  # fmt: skip


def test_models_stand_in_the_order_asked_for():
    text = report(judged.results(MODELS), {"sample": {"gflops": 1}, "starter": {"gflops": 2}})
    assert [row[1] for row in rows(sections(text)["Linear probe"])[1:3]] == ["sample", "starter"]


def test_averages_are_of_the_sets_that_all_have(whole):
    assert rows(whole["Averages"])[0] == [
        "model", "zero-shot, 8 sets", "linear probe, 8 sets", "retrieval R@1, 2 sets",
    ]  # fmt: skip
    less = [
        one for one in judged.results(MODELS) if one["set"] != "pets" or one["model"] != "sample"
    ]
    assert rows(sections(report(less))["Averages"])[0][1:3] == [
        "zero-shot, 7 sets",
        "linear probe, 7 sets",
    ]


def test_an_average_of_named_sets_is_printed_where_all_are_there():
    averages = {"DataComp": ["fashion", "captions"], "VTAB": ["pets", "cars"]}
    less = [
        one
        for one in judged.results(MODELS)
        if one["set"] != "captions" or one["model"] != "sample"
    ]
    cells = rows(sections(report(less, averages=averages))["Averages"])
    at = cells.index(["model", "DataComp, 2 sets"])
    assert len(cells) == at + 2
    assert cells[at + 1][0] == "starter"
    assert cells[at + 1][1].startswith(f"{(59.5 + 28.0) / 2:.1f} [")
    assert not any("VTAB" in cell for row in cells for cell in row)


def test_warnings_stand_once_below_the_table_they_are_about():
    results = [judged.results([model])[0] for model in MODELS]
    for one in results:
        one["warnings"] = [
            "a class is empty",
            "no probe for nobody",
            "few-shot without 16, no probe",
        ]
    results[1]["warnings"].append("zero-shot (ensemble): 57 pictures")
    parts = sections(report(results))
    expected = {
        "Zero-shot, by prompts": [
            "- **fashion** (starter, sample): a class is empty",
            "- **fashion** (sample): zero-shot (ensemble): 57 pictures",
        ],
        "Linear probe": ["- **fashion** (starter, sample): no probe for nobody"],
        "Few-shot": ["- **fashion** (starter, sample): few-shot without 16, no probe"],
    }
    for name, part in parts.items():
        bullets = [line for line in part.splitlines() if line.startswith("- **")]
        assert bullets == expected.get(name, []), name


def test_a_warning_is_shown_without_its_table():
    result = {"set": "a", "model": "b", "task": "classification", "pictures": 5}
    text = report([{**result, "warnings": ["no probe: it is off", "few-shot: none", "odd"]}])
    assert text.count("no probe: it is off") == text.count("few-shot: none") == 1
    assert text.count("- **a** (b): odd") == 1


def test_chance_is_told_of():
    one = judged.classification("hard", "starter", 57, 10, 0.1, 0.5)
    assert "zero-shot cannot be told from chance (prompts: ensemble)" in report([one])
    one = judged.classification("easy", "starter", 5000, 10, 0.6, 0.5)
    assert "cannot be told from chance" not in report([one])


def test_what_is_absent_is_a_dash_or_no_table():
    bare = judged.results(["starter"])[0]
    bare = {
        **bare,
        "zero_shot": {"bare": {**bare["zero_shot"]["bare"], "interval": [None, None]}},
        "gains": {},
        "probe": None,
        "few_shot": {},
        "equal_shots": {"value": None, "interval": [None, None], "reason": "the probe is off"},
        "chance": None,
    }
    parts = sections(report([bare, judged.results(["sample"])[0]]))
    assert rows(parts["Zero-shot, by prompts"])[1] == [
        "fashion", "starter", "–", "55.0", "–", "–", "–",
    ]  # fmt: skip
    assert [row[1] for row in rows(parts["Linear probe"])[1:]] == ["sample"]
    alone = sections(report([bare]))
    assert list(alone) == ["Sets", "Averages", "Zero-shot, by prompts", "Figures left out"]
    assert "What prompts add to bare class names: no set" in alone["Figures left out"]


def test_examples_that_no_number_equals():
    one = judged.results(["starter"])[0]
    one["equal_shots"] = {
        "value": None,
        "interval": [12.0, None],
        "reason": "up to 6,000 stay below",
    }
    part = sections(report([one]))["Few-shot"]
    assert rows(part)[1][-1] == "never"
    assert "- **fashion** (starter): examples that equal zero-shot: up to 6,000 stay below" in part
    one["equal_shots"] = {"value": 14.0, "interval": [12.0, None]}
    assert rows(sections(report([one]))["Few-shot"])[1][-1] == "14.0 [12.0, ∞)"


def test_robustness_is_a_table():
    side = {"pictures": 100, "interval": [0.4, 0.6]}
    result = {
        "task": "robustness",
        "model": "starter",
        "metric": "top1",
        "classes": 10,
        "one": {"set": "icons", "value": 0.5, **side},
        "other": {"set": "sketches_of|it", "value": 0.45, **side},
        "difference": {"value": 0.05, "interval": [-0.02, 0.12]},
    }
    part = sections(report([judged.results(["starter"])[0], result]))["Robustness"]
    assert "| icons | sketches_of\\|it | starter | 50.0 [40.0, 60.0] |" in part
    assert "| +5.0 [-2.0, +12.0] |" in part


def test_numbers_have_one_decimal_and_no_negative_zero():
    assert percent(Estimate(0.56249, (0.541, 0.583))) == "56.2 [54.1, 58.3]"
    assert points(Estimate(-0.0001, (-0.0204, 0.0004))) == "+0.0 [-2.0, +0.0]"
    assert percent(None) == "–"
    assert Estimate.of({"value": math.nan, "interval": [0, 1]}) is None


@given(
    st.text(alphabet=st.characters(codec="utf-8"), min_size=1) | st.text("\\`*_[]<>|~&$!#-+ 1.)ab")
)
def test_a_name_means_nothing_but_itself(name):
    if not clean(name):
        return
    tokens = MARKDOWN.parse(f"| a |\n|---|\n| {escape(name)} |\n")
    cells = [token for token in tokens if token.type == "inline"]
    assert len(cells) == 2
    (shown,) = [cells[1].children] if cells[1].children else [[]]
    assert {token.type for token in shown} <= {"text", "text_special"}
    assert "".join(token.content for token in shown) == clean(name)


def test_the_whole_stands_in_json_and_the_report_names_its_figures(tmp_path):
    one = judged.results(["starter"])[0]
    one["zero_shot"]["bare"]["top5"] = math.nan
    info = judged.info(["starter"])
    write_report([one], tmp_path, info)
    read = json.loads((tmp_path / "results.json").read_text())
    assert read["info"] == info
    assert read["results"][0]["zero_shot"]["bare"]["top5"] is None
    one["zero_shot"]["bare"]["top5"] = None
    assert read["results"] == [one]
    text = (tmp_path / "report.md").read_text()
    for name in ("prompts_gain", "zero_shot_minus_probe", "few_shot_by_set", "examples_needed"):
        assert f"](figures/{name}.svg)" in text
        assert (tmp_path / f"figures/{name}.svg").is_file()
    assert text.count(".svg)") == len(list((tmp_path / "figures").glob("*.svg")))


def test_nothing_and_two_of_one_are_refused(tmp_path):
    with pytest.raises(ValueError, match="nothing to report"):
        write_report([], tmp_path, {})
    one = judged.results(["starter"])[0]
    with pytest.raises(ValueError, match="two results of 'starter' on 'fashion'"):
        write_report([one, one], tmp_path, {})
    assert not list(tmp_path.iterdir())
