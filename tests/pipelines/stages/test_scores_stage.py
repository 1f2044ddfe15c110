"""The trained model and the one it started from on a suite, beside the held-out pairs."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pipelines.cli import run_locked
from pipelines.evaluate import main
from pipelines.evaluation.report.trained import trained_table
from pipelines.run.attempts import perform
from pipelines.run.config import ConfigError, ScoreSettings
from pipelines.run.runner import check
from pipelines.stages import DATASET_STAGES
from pipelines.stages.model import Model
from pipelines.stages.scores import Scores
from pipelines.training import CHECKPOINT
from pipelines.training.settings import TrainSettings
from pipelines.verify import main as verify
from tests.pipelines.conftest import flip_a_byte
from tests.pipelines.synthetic_run import make_run
from tests.shards import images, jpeg, save_tiny_model
from workers.base.tally import Tally

COLOURS = {"red": (200, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 200)}
PROTOCOLS = {"prompts": ["bare"], "shots": [1, 2], "seeds": [0], "probe": False}


def write_pictures(folder):
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for number in range(6):
            shade = tuple(min(255, level + 9 * number) for level in colour)
            (folder / name / f"{number}.jpg").write_bytes(jpeg(shade))


def write_suite(folder, **more):
    """Pictures of classes, and pictures with captions."""
    columns = {"path": "captions.parquet", "image": "image", "caption": "caption"}
    captions = {"format": "parquet", "task": "retrieval", "test": columns}
    colours = {"format": "folder", "test": {"path": "colours"}}
    tree = {"sets": {"colours": colours, "captions": captions}, "protocols": PROTOCOLS} | more
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run whose model is trained, and the folder of a suite."""
    folder = tmp_path_factory.mktemp("trained")
    run = make_run(folder / "run")
    write_pictures(folder / "colours")
    rows = [{"image": jpg, "caption": caption} for caption, jpg in images(12)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "captions.parquet")
    start = save_tiny_model(folder / "start.safetensors", 0)
    changed = {
        "model": TrainSettings(start_from=start, held_out=0.5, precision="fp32"),
        "scores": ScoreSettings(suite=str(write_suite(folder))),
    }
    run = replace(run, config=run.config.model_copy(update=changed))
    model = Model(run)
    (shard,) = model.plan()

    def train(_shard, out):
        save_tiny_model(out / CHECKPOINT, 1)
        tally = Tally()
        tally.keep(8)
        return {"pairs": tally}

    perform(train, shard, model.folder)
    return run, folder


def evaluated(run):
    return run_locked(run, ["scores"], "evaluate")


def written(run):
    """By the stage's shards, when they ended."""
    return {receipt.shard: receipt.ended for receipt in Scores(run).receipts.all()}


def test_both_models_stand_beside_the_held_out_pairs_set_by_set(made, capsys):
    run, folder = made
    assert evaluated(run) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    table = lines[lines.index(next(one for one in lines if one.startswith("| set | score"))) + 1 :]
    assert [line.split(" | ")[0] for line in table] == [
        "| held-out pairs",
        "| colours",
        "| captions",
    ]
    models = [f"start={run.config.model.start_from}", f"trained={run.directory}/model/{CHECKPOINT}"]
    suite = ["--suite", str(folder / "suite.yaml"), "--out", str(folder / "out")]
    assert main(["--model", *models, *suite]) == 0
    of_command = json.loads((folder / "out" / "results.json").read_text())["results"]
    of_run = json.loads((run.directory / "evaluation" / "results.json").read_text())["results"]
    assert of_run == of_command
    colours, captions = json.loads((run.directory / "scores" / "suite.json").read_text())["sets"]
    before, after = (one["zero_shot"]["bare"] for one in of_command if one["set"] == "colours")
    assert colours["start"]["interval"] == before["interval"]
    assert colours["trained"]["value"] == after["value"]
    assert colours["difference"]["value"] == pytest.approx(after["value"] - before["value"])
    ways = [one for one in of_command if one["set"] == "captions" and one["model"] == "trained"]
    both = [ways[0][way]["1"]["value"] for way in ("image_to_text", "text_to_image")]
    assert captions["trained"]["value"] == pytest.approx(sum(both) / 2)
    # All pictures are of the receipts, and the gate stays that of the held-out pairs.
    (receipt,) = (one for one in Scores(run).receipts.all() if one.shard == "suite")
    assert receipt.rows["pictures"]["kept"] == 18 + 12
    assert [*receipt.rows][-1] == "pairs"


def test_the_difference_is_paired(made):
    """Over the same draws, so that it is narrower than two independent scores would have it."""
    run, _ = made
    evaluated(run)
    colours, _ = json.loads((run.directory / "scores" / "suite.json").read_text())["sets"]
    folder = run.directory / "evaluation" / "results"
    draws = [
        pq.read_table(folder / f"{model}.colours.draws.parquet")["value"].to_numpy()
        for model in ("start", "trained")
    ]
    rights = []
    for model in ("start", "trained"):
        table = pq.read_table(folder / f"{model}.colours.parquet")
        labels = [some[0] for some in table["labels"].to_pylist()]
        rights.append(table["bare"].to_numpy() == labels)
    for right, values in zip(rights, draws, strict=True):
        assert values.mean() == pytest.approx(right.mean(), abs=0.02)
    better, worse = (rights[1] & ~rights[0]).sum(), (rights[0] & ~rights[1]).sum()
    assert better + worse >= 10  # else the interval is in closed form
    expected = np.quantile(draws[1] - draws[0], [0.025, 0.975])
    assert colours["difference"]["interval"] == pytest.approx(expected)
    assert colours["difference"]["value"] == pytest.approx((better - worse) / 18)


def test_a_changed_suite_or_data_set_makes_its_scores_again_and_nothing_else(made):
    run, folder = made
    evaluated(run)
    before, model = written(run), run.receipts("model").all()
    assert evaluated(run) == 0
    assert written(run) == before
    changes = [
        lambda: write_suite(folder, protocols={**PROTOCOLS, "prompts": ["bare", "one"]}),
        lambda: (folder / "colours" / "red" / "0.jpg").write_bytes(jpeg((90, 90, 90))),
    ]
    for change in changes:
        change()
        assert evaluated(run) == 0
        after = written(run)
        assert after["all"] == before["all"]
        assert after["suite"] != before["suite"]
        before = after
    assert run.receipts("model").all() == model
    without = replace(run, config=run.config.model_copy(update={"scores": ScoreSettings()}))
    assert evaluated(without) == 0
    assert [*written(without)] == ["all"]
    assert not (run.directory / "scores" / "suite.json").exists()
    write_suite(folder)


@pytest.mark.parametrize(
    ("suite", "message"),
    [
        (None, r"scores.suite: cannot read the configuration .*suite.yaml"),
        ({"sets": {}}, r"(?s)scores.suite: .*sets: must be"),
        ({"sets": {"a": {"format": "nosuch", "test": "x"}}}, "(?s)scores.suite: .*nosuch"),
        ({"sets": {"a": {"format": "folder", "test": {"path": "absent"}}}},
         r"scores.suite: sets\.a\.test: .*absent"),
    ],
)  # fmt: skip
def test_a_suite_that_is_missing_or_wrong_is_refused_before_the_first_stage(
    made, tmp_path, suite, message
):
    run, _ = made
    path = tmp_path / "suite.yaml"
    if suite is not None:
        path.write_text(yaml.safe_dump(suite))
    scores = ScoreSettings(suite=str(path))
    wrong = replace(run, config=run.config.model_copy(update={"scores": scores}))
    with pytest.raises(ConfigError, match=message):
        check(wrong, DATASET_STAGES)


def estimate(value, low, high):
    return {"value": value, "interval": [low, high]}


def test_a_set_that_got_worse_by_more_than_its_interval_is_said():
    held_out = {
        **{"images": 601, "chance": 0.002},
        "zero_shot": {
            "start: starter": estimate(0.43, 0.39, 0.47),
            "trained": estimate(0.54, 0.50, 0.58),
            "difference": estimate(0.11, 0.08, 0.14),
        },
    }
    row = {"measure": "top1", "pictures": 2000, "chance": 0.25}
    score = estimate(0.2, 0.1, 0.3)
    sets = [
        row | {"set": name, "start": score, "trained": score, "difference": difference}
        for name, difference in (
            ("animals", estimate(-0.14, -0.16, -0.12)),
            ("icons", estimate(-0.01, -0.03, 0.01)),
        )
    ]
    lines = list(trained_table(held_out, sets))
    assert "| held-out pairs | top-1 accuracy | 601 | 0.2 | 43.0 [39.0, 47.0] |" in " ".join(lines)
    assert [line for line in lines if line.startswith("- ")] == [
        "- **animals** got worse: -14.0 [-16.0, -12.0] points"
    ]
    alone = {**held_out, "zero_shot": {"trained": score}}
    none = [one | {"start": None, "difference": None} for one in sets]
    assert not [line for line in trained_table(alone, none) if line.startswith("- ")]


def verified(directory, capsys, *options):
    code = verify([str(directory), *options])
    return code, capsys.readouterr().out


def test_what_the_models_were_judged_on_is_verified_and_mended(made, capsys):
    run, _ = made
    assert evaluated(run) == 0
    code, said = verified(run.directory, capsys)
    rows = {line.split(" | ")[0]: line for line in said.splitlines() if "evaluation/" in line}
    assert "| evaluation/sets | 2 | 30 | 0 |" in rows.values()
    assert "| evaluation/features/trained | 2 | 30 | 0 |" in rows.values()
    assert "| evaluation/results | 4 | 60 | 0 |" in rows.values()
    assert "evaluation" not in said.partition("| inputs")[2]
    flip_a_byte(
        run.directory / "evaluation" / "features" / "trained" / "colours.test-00000.parquet"
    )
    code, said = verified(run.directory, capsys, "--mend")
    assert code == 3
    assert "evaluation/features/trained: colours.test-00000.parquet: its sha256 is not" in said
    assert "python -m pipelines.evaluate" in said
    assert evaluated(run) == 0
    assert "evaluation/features/trained: " not in verified(run.directory, capsys)[1]


def test_the_folder_of_an_evaluation_is_verified(made, capsys):
    run, folder = made
    out = folder / "alone"
    suite = ["--suite", str(folder / "suite.yaml"), "--out", str(out)]
    assert main(["--model", f"m={run.config.model.start_from}", *suite]) == 0
    capsys.readouterr()
    assert verified(out, capsys)[0] == 0
    flip_a_byte(out / "results" / "m.colours.json")
    code, said = verified(out, capsys, "--mend")
    assert code == 3
    assert "results: m.colours.json: its sha256 is not that of its receipt" in said
    assert "the command that made it, given as before" in said
    assert main(["--model", f"m={run.config.model.start_from}", *suite]) == 0
    capsys.readouterr()
    assert verified(out, capsys)[0] == 0
