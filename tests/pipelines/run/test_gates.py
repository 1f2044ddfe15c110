"""What a message names of the rows that were dropped."""

import json
from dataclasses import asdict

import pytest

from pipelines.run.config import Config
from pipelines.run.directory import Run
from pipelines.run.gates import barren, places_of
from pipelines.run.receipts import Receipt, Side
from pipelines.run.runner import passes_gate
from pipelines.stages import STAGES
from workers.base.storage import write_json


def write(folder, **rows):
    samples = {"pages": {"damaged_file": rows, "not_html": {"x": {"source": "other"}}}}
    (folder / f"{len(rows)}.json").write_text(json.dumps(samples))


def test_the_places_of_dropped_rows(tmp_path):
    assert places_of("damaged_file", tmp_path) == str(tmp_path), "there is none"
    write(tmp_path, a={"source": "a.warc@7"}, b={"error": "odd"})
    assert places_of("damaged_file", tmp_path) == "a.warc@7, b"
    write(tmp_path, c={"source": "c.warc"})
    assert places_of("damaged_file", tmp_path) == "c.warc, a.warc@7, b"
    write(tmp_path, d={}, e={}, f={})
    assert places_of("damaged_file", tmp_path) == f"c.warc, a.warc@7, b, and others ({tmp_path})"


@pytest.mark.parametrize("content", [b"", b"[]", b'{"pages": 1}', b"\xff"])
def test_samples_that_somebody_has_changed(tmp_path, content):
    write(tmp_path, a={"source": "a.warc@7"})
    (tmp_path / "0.json").write_bytes(content)
    assert places_of("damaged_file", tmp_path) == "a.warc@7"


def receipt(shard, kept, **failed):
    rows = {"in": kept + sum(failed.values()), "kept": kept, "rejected": {}, "failed": failed}
    return Receipt(shard, "key", {"images": rows}, (), 1.0)


def test_a_shard_of_which_every_row_failed_is_named_whatever_the_others_kept(tmp_path):
    some = [receipt("a", 5, broken=1), receipt("b", 0), receipt("c", 7)]
    assert barren("embeddings", some, tmp_path) == ""
    bad = [receipt(name, 0, not_finite=2, broken=1) for name in "vwxyz"]
    line = barren("embeddings", [*some, *bad], tmp_path)
    assert "of 5 of 8 shards" in line
    assert "(v, w, x, ...): broken 5, not_finite 10;" in line


@pytest.mark.parametrize(
    ("stage", "kept", "gates", "passes"),
    [
        ("embeddings", 3, {}, True),
        ("embeddings", 0, {}, False),
        ("embeddings", 0, {"embeddings": {"min_kept": 0}}, True),
        ("selection", 0, {}, True),  # of a shard it may keep nothing
    ],
)
def test_a_stage_passes_only_if_no_shard_of_embeddings_is_barren(
    stage, kept, gates, passes, tmp_path, caplog
):
    """The other shard is good, so the sum alone would reach the gate."""
    run = Run.open(Config.model_validate({"name": "test", "queries": {}, "gates": gates}), tmp_path)
    for each in (receipt("good", 5), receipt("bad", kept, not_finite=2)):
        write_json(asdict(each), Side.RECEIPTS.of(tmp_path / stage) / f"{each.shard}.json")
    assert len(run.receipts(stage).all()) == 2
    assert passes_gate(STAGES[stage](run)) is passes
    assert ("1 of 2 shards not a row was kept (bad): not_finite 2" in caplog.text) is not passes
