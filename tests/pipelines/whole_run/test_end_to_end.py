"""The main job on a small sample site, through every stage and engine, for real."""

import json
import re
import shutil
import signal

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from pipelines.run.history import read_history
from pipelines.run.receipts import Receipts, Side
from pipelines.run.totals import StageTotals
from pipelines.stages import DATASET_STAGES, STAGES
from pipelines.verify import check_all
from tests.pipelines.conftest import flip_a_byte, wait_for
from tests.pipelines.whole_run.damage import FINDINGS, edit
from tests.tools import rows_by_tool
from workers.base.contracts import DATASET, IMAGES, PAIRS, QUERIES
from workers.base.pair_ids import make_pair_id
from workers.pairs.clean_text import clean_caption

BUILD = "pipelines.build_dataset"


def read(run_dir, stage):
    return pa.dataset.dataset(run_dir / stage, format="parquet").to_table()


def shard_hashes(run_dir, stages=DATASET_STAGES):
    """The sha256 of every output; of a WARC without its dates, of answers without their times."""
    return {
        f"{stage}/{output.file}": answers(run_dir / stage / output.file)
        if "_tables/images/" in output.file
        else output.content or output.sha256
        for stage in stages
        for receipt in Receipts(run_dir / stage).all()
        for output in receipt.outputs
    }


def answers(path):
    """What came of each pair that was asked for, but for when."""
    return pq.read_table(path).drop_columns(["ended_at"]).to_pylist()


def receipt_times(run_dir, stage):
    return {
        path.name: path.stat().st_mtime_ns
        for path in Side.RECEIPTS.of(run_dir / stage).glob("*.json")
    }


def shard_names(run_dir, stage):
    """The names of a stage's shards, in their order."""
    return [receipt.shard for receipt in Receipts(run_dir / stage).all()]


def test_every_stage_leaves_its_contract_and_receipts(finished):
    assert read(finished, "queries").schema.equals(QUERIES)
    assert read(finished, "candidates").schema.equals(PAIRS)
    assert read(finished, "pairs").schema.equals(PAIRS)
    assert read(finished, "images").schema.equals(IMAGES)
    assert read(finished, "dataset").schema.equals(DATASET)
    for stage in STAGES:
        receipts = Receipts(finished / stage).all()
        assert receipts, stage
        for receipt in receipts:
            for rows in receipt.rows.values():
                dropped = sum(rows["rejected"].values()) + sum(rows["failed"].values())
                assert rows["in"] == rows["kept"] + dropped


def test_rows_flow_from_stage_to_stage_without_a_gap(finished):
    record = json.loads((finished / "run.json").read_text())
    rows = {name: stage["rows"] for name, stage in record["stages"].items()}
    assert rows["queries"]["terms"]["kept"] == read(finished, "queries").num_rows
    assert rows["pages"]["pages"]["kept"] == rows["candidates"]["pages"]["kept"]
    assert rows["candidates"]["images"]["kept"] == rows["candidates"]["pairs"]["in"]
    assert rows["candidates"]["pairs"]["kept"] == rows["pairs"]["pairs"]["in"]
    assert rows["pairs"]["pairs"]["kept"] == rows["requests"]["pairs"]["kept"]
    assert rows["requests"]["pairs"]["kept"] == rows["images"]["images"]["in"]
    assert rows["images"]["images"]["kept"] == rows["embeddings"]["images"]["in"]
    assert rows["embeddings"]["images"]["kept"] == rows["labels"]["images"]["in"]
    assert rows["labels"]["images"]["kept"] == rows["selection"]["pairs"]["in"]
    assert rows["selection"]["pairs"]["kept"] == rows["dataset"]["pairs"]["kept"]
    assert rows["dataset"]["pairs"]["kept"] == rows["model"]["pairs"]["in"]
    assert rows["dataset"]["pairs"]["kept"] == rows["scores"]["pairs"]["in"]
    assert rows["scores"]["pairs"]["kept"] == rows["model"]["pairs"]["rejected"]["held_out"]


def test_every_pair_of_the_data_set_joins_with_every_stage(finished):
    dataset = read(finished, "dataset")
    ids = set(dataset["pair_id"].to_pylist())
    assert len(ids) == dataset.num_rows > 0
    for stage in ("pairs", "images", "embeddings"):
        assert ids <= set(read(finished, stage)["pair_id"].to_pylist())
    for row in dataset.select(["pair_id", "url", "caption"]).to_pylist():
        assert row["pair_id"] == make_pair_id(row["url"], row["caption"])
    query_ids = set(read(finished, "queries")["query_id"].to_pylist())
    assert {i for ids in dataset["query_ids"].to_pylist() for i in ids} <= query_ids
    assert min(dataset["similarity"].to_pylist()) >= 0.13
    assert all(labels[0]["set"] == "subject" for labels in dataset["labels"].to_pylist())


@pytest.mark.parametrize(
    "stage",
    ["queries", "pairs", "requests", "images", "embeddings", "labels", "selection", "dataset"],
)
def test_the_folder_of_a_stage_opens_in_every_tool(finished, tmp_path, stage):
    rows = sum(
        pq.read_metadata(file).num_rows
        for file in Receipts(finished / stage).outputs()
        if file.parent == finished / stage
    )
    assert set(rows_by_tool(finished / stage, tmp_path).values()) == {rows}


def test_the_noise_of_the_web_is_counted_by_reason(finished):
    record = json.loads((finished / "run.json").read_text())
    rows = {name: stage["rows"] for name, stage in record["stages"].items()}
    assert rows["pages"]["pages"]["rejected"]["robots_txt"] > 0
    assert rows["candidates"]["images"]["rejected"]["no_alt"] > 0
    assert rows["candidates"]["pairs"]["rejected"]["file_name"] > 0
    assert rows["images"]["images"]["failed"]["http_404"] > 0
    assert rows["images"]["images"]["failed"]["not_an_image"] > 0


def test_nothing_disallowed_and_nothing_broken_reaches_the_data_set(finished):
    truth = pq.read_table(finished / "truth.parquet").to_pylist()
    kind = {make_pair_id(row["url"], clean_caption(row["caption"])): row["kind"] for row in truth}
    kinds = {kind[pair_id] for pair_id in read(finished, "images")["pair_id"].to_pylist()}
    bad = ("not_found", "truncated", "short_body", "redirect_loop", "opted_out")
    assert "clean" in kinds
    assert not kinds.intersection(bad)
    assert not [name for name in kinds if name.startswith("broken")]


def test_the_report_says_what_came_out(finished):
    report = (finished / "report.md").read_text()
    decisions = json.loads((finished / "run.json").read_text())["decisions"]
    precision = pq.read_schema(next((finished / "embeddings").iterdir())).metadata[b"precision"]
    # On one machine both are what it computes in.
    assert decisions == dict.fromkeys(
        ("embeddings.precision", "model.precision"), precision.decode()
    )
    assert f"Embedded by starter in {precision.decode()};" in report
    for phrase in ("robots_txt", "Area under the ROC curve", "zero-shot top-1", "Peak memory"):
        assert phrase in report


def test_the_trained_model_loads_and_was_scored_beside_its_start(finished):
    import clip_model

    model, _ = clip_model.load(str(finished / "model" / "model.safetensors"))
    assert model.config.image_resolution > 0
    scores = json.loads((finished / "scores" / "scores.json").read_text())
    assert set(scores["models"]) == {"start: starter", "trained"}
    for values in scores["models"].values():
        assert all(0 <= value <= 1 for value in values.values())


def test_planted_noise_says_what_each_threshold_is_worth(finished, commands):
    result = commands.run("pipelines.calibrate", finished)
    assert result.returncode == 0, result.stderr
    table, proposal = result.stdout.split("Cosines by starter")
    rows = [line.split("|")[1:-1] for line in table.splitlines() if line.startswith(("| 0", "| -"))]
    kept = [int(row[1].replace(",", "")) for row in rows]
    precision = [float(row[4]) for row in rows]
    assert len(kept) == 16
    assert kept == sorted(kept, reverse=True)
    assert 0.7 < precision[0] < precision[-5]
    assert precision[-5] > 0.85
    assert "| 1 similarity |" in proposal
    assert re.search(r"- {filter: similarity, min: 0.\d{4}, model: starter}", proposal)


def test_a_second_run_does_nothing_and_says_so(finished, commands):
    before = {stage: receipt_times(finished, stage) for stage in STAGES}
    record, history = (finished / "run.json").read_bytes(), read_history(finished)
    for module in (BUILD, "pipelines.train", "pipelines.evaluate"):
        result = commands.run(module, finished)
        assert result.returncode == 0, result.stderr
        assert "nothing to do" in result.stderr
    assert {stage: receipt_times(finished, stage) for stage in STAGES} == before
    assert (finished / "run.json").read_bytes() == record
    added = read_history(finished)[len(history) :]
    assert [(entry.exit_code, entry.stages) for entry in added] == [(0, {})] * 3


def test_the_history_says_what_each_command_has_done(finished):
    stages = [list(entry.stages) for entry in read_history(finished)[:3]]
    assert stages == [list(DATASET_STAGES), ["model"], ["scores"]]
    build, *_ = read_history(finished)
    for stage, work in build.stages.items():
        receipts = Receipts(finished / stage).all()
        totals = StageTotals.of(receipts)
        assert (work.rows, work.bytes) == (totals.rows, totals.bytes)
    assert len(build.stages["pages"].sources) == 3
    assert sum(kept for kept, _ in build.stages["images"].sources.values()) > 0


@pytest.fixture
def copy(finished, tmp_path):
    """A finished run that a test may change."""
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy"


def test_a_changed_threshold_redoes_the_selection_and_nothing_else(copy, commands):
    before = {stage: receipt_times(copy, stage) for stage in DATASET_STAGES}
    kept = read(copy, "dataset").num_rows
    result = commands.run(BUILD, copy, "--set", "selection.steps=[]")
    assert result.returncode == 0, result.stderr
    after = {stage: receipt_times(copy, stage) for stage in DATASET_STAGES}
    changed = [stage for stage in DATASET_STAGES if before[stage] != after[stage]]
    assert changed == ["selection", "dataset"]
    assert "| selection | pairs |" in result.stdout
    assert "| model |" not in result.stdout, "it was trained on another data set"
    assert "model: shards that are not counted: 1" in result.stdout
    assert read(copy, "dataset").num_rows == read(copy, "embeddings").num_rows > kept


def test_a_lost_shard_is_made_again_alone_with_the_same_bytes(copy, commands):
    hashes = shard_hashes(copy)
    before = receipt_times(copy, "images")
    lost = shard_names(copy, "images")[1]
    (copy / "images" / f"{lost}.parquet").unlink()
    assert commands.run(BUILD, copy).returncode == 0
    changed = {name for name, time in receipt_times(copy, "images").items() if time != before[name]}
    assert changed == {f"{lost}.json"}
    assert shard_hashes(copy) == hashes


def test_a_flipped_byte_is_found_before_it_is_read_and_mended_by_the_next_run(copy, commands):
    hashes = shard_hashes(copy)
    command = (BUILD, copy, "--set", "embeddings.batch_size=32")
    names = shard_names(copy, "images")
    flip_a_byte(copy / "images" / f"{names[1]}.parquet")
    result = commands.run(*command)
    assert result.returncode == 3, result.stderr
    assert f"embeddings: shard {names[1]} failed" in result.stderr
    assert f"images/{names[1]}.parquet is damaged" in result.stderr
    assert "Traceback" not in result.stderr
    done = {receipt.shard for receipt in Receipts(copy / "embeddings").all()}
    assert done == {names[0], names[2]}
    assert commands.run(*command).returncode == 0
    assert commands.run(BUILD, copy).returncode == 0
    assert shard_hashes(copy) == hashes


def test_after_an_outage_a_rerun_asks_for_what_is_missing_and_the_bytes_are_the_same(
    copy, finished, commands
):
    kept, *lost = shard_names(copy, "images")
    first = receipt_times(copy, "images")[f"{kept}.json"]
    for name in lost:
        (copy / "_receipts/images" / f"{name}.json").unlink()
    gate = ["--set", "gates.images={}"]  # one that is missed would have all tried again
    no_site = ["--set", "services={}"]  # as if it had been ended after the first shard
    outage = commands.run(BUILD, copy, *gate, *no_site)
    assert outage.returncode == 3, outage.stderr
    assert "in 2 shards could not be reached (connection " in outage.stderr
    rerun = commands.run(BUILD, copy, *gate)
    assert rerun.returncode == 0, rerun.stderr
    assert receipt_times(copy, "images")[f"{kept}.json"] == first, (
        "what has come is not asked again"
    )
    assert "2 of them" not in rerun.stderr
    ids = [read(run, "images")["pair_id"].to_pylist() for run in (copy, finished)]
    assert sorted(ids[0]) == sorted(ids[1])
    again, before = (read(run, "dataset") for run in (copy, finished))
    of_floats = ["similarity", "labels"]
    assert again.drop_columns(of_floats).equals(before.drop_columns(of_floats))
    # Images that were embedded beside others: sums of floats in another order.
    assert np.allclose(again["similarity"], before["similarity"], rtol=0, atol=1e-3)


def test_a_missed_gate_is_exit_code_4(copy, commands):
    result = commands.run(BUILD, copy, "--set", "gates.dataset.min_kept=100000")
    assert result.returncode == 4
    assert "the gate is not met" in result.stderr


def test_terminated_is_143_and_a_locked_run_is_75(commands, tmp_path):
    process = commands.start(BUILD, tmp_path)
    wait_for(tmp_path, "_work/pages", process)
    second = commands.run(BUILD, tmp_path)
    assert second.returncode == 75
    assert "another process" in second.stderr
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143


@pytest.mark.parametrize(("damage", "stage", "what"), FINDINGS)
def test_verification_finds(copy, damage, stage, what):
    damage(copy)
    found = [f"{row.stage}: {f.what}" for row in check_all(copy) for f in row.findings]
    assert any(text.startswith(stage) and what in text for text in found), found


def test_verification_finds_nothing_in_a_finished_run(finished):
    rows = list(check_all(finished))
    assert [row.stage for row in rows] == [*STAGES, "inputs"]
    assert [finding for row in rows for finding in row.findings] == []


def test_what_verification_has_found_is_mended_by_the_command_it_names(copy, commands):
    hashes = shard_hashes(copy, STAGES)
    edit("selection", lambda table: table[1:])(copy)
    result = commands.run("pipelines.verify", copy)
    assert result.returncode == 3, result.stderr
    assert re.search(r"^\| selection \| 1 \| \d+ \| [12] \|$", result.stdout, re.MULTILINE)
    assert "selection: 00001.parquet: its pairs are not those of pairs/" in result.stdout
    assert f"python -m {BUILD}" in result.stdout
    assert Receipts(copy / "selection").get("all")
    assert commands.run("pipelines.verify", copy, "--mend").returncode == 3
    assert not Receipts(copy / "selection").get("all")
    assert commands.run(BUILD, copy).returncode == 0
    assert not any(row.findings for row in check_all(copy))
    assert shard_hashes(copy, STAGES) == hashes
