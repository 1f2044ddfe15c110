"""Candidates and pairs in shards: on every engine the same bytes, and nothing done twice."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.run.config import Config
from pipelines.run.directory import Run
from pipelines.run.engines import in_process
from pipelines.run.runner import Plan, run_stages
from pipelines.stages import STAGES
from tests.workers.pairs.local_build import build_pairs
from workers.base.exit_codes import ExitCode
from workers.extract.inputs import find_inputs
from workers.pairs.settings import PairSettings

NAMES = ("queries", "pages", "candidates", "pairs")
WORDS = ["cat", "dog", "red", "tree", "house", "blue bird", "fish"]
BALANCING = {"pairs_per_query": 40, "shards": 3, "max_rows_per_file": 20}


def write_lists(folder: Path, lists: int = 5, rows: int = 120, group: int = 50) -> Path:
    """Pair lists of one seed, in which pairs, URLs and captions come back."""
    folder.mkdir(exist_ok=True)
    draw = np.random.default_rng(0)
    for number in range(lists):
        captions = [" ".join(words) for words in draw.choice([*WORDS, "a", "the"], (rows, 3))]
        urls = [f"http://a.example/{n}.jpg" for n in draw.integers(rows * 3, size=rows)]
        table = pa.table({"url": urls, "caption": captions})
        pq.write_table(table, folder / f"list{number}.parquet", row_group_size=group)
    (folder / "terms.txt").write_text("".join(f"{word}\n" for word in WORDS))
    return folder


@pytest.fixture
def lists(tmp_path):
    return write_lists(tmp_path / "lists")


@pytest.fixture
def in_this_process(monkeypatch):
    """No engine is started."""

    def engine(work, shards, folder, config):
        return in_process(work, shards, folder)

    for stage in ("candidates", "pairs"):
        monkeypatch.setattr(f"pipelines.stages.{stage}.on_text_engine", engine)


def run_of(folder: Path, lists: Path, text=None, beam=(), *, matched=True, **pairs) -> Run:
    settings = {
        "name": "test",
        "seed": 3,
        "queries": {"list": str(lists / "terms.txt")} if matched else "none",
        "pairs": {"inputs": [str(lists / "*.parquet")], **BALANCING, **pairs},
        "text": {"bytes_per_shard": 1, **(text or {})},
        "beam": {"options": beam},
    }
    return Run.open(Config.model_validate(settings), folder)


def built(run: Run, code: ExitCode = ExitCode.COMPLETE) -> Run:
    with run.lock():
        try:
            assert run_stages(run, NAMES).code is code
        finally:
            run.save()
    return Run(run.config, run.directory)


def hashes(run: Run, *stages: str) -> dict[str, str]:
    paths = [path for stage in stages for path in (run.directory / stage).glob("*.parquet")]
    paths += (run.directory / "_tables/pairs").glob("*.parquet")
    return {
        str(path.relative_to(run.directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
    }


def ended(run: Run, stage: str) -> dict[str, float]:
    return {receipt.shard: receipt.ended for receipt in run.receipts(stage).all()}


@pytest.mark.parametrize(
    "more",
    [{}, {"balance": "metaclip"}, {"max_captions_per_url": 1, "max_urls_per_caption": 3}],
)
def test_the_pairs_are_those_of_all_inputs_in_one_piece(tmp_path, lists, in_this_process, more):
    run = built(run_of(tmp_path / "run", lists, **more))
    assert len(run.receipts("candidates").all()) > 3
    settings = PairSettings.model_validate(BALANCING | more)
    out = tmp_path / "pairs"
    inputs, queries = find_inputs([str(lists / "*.parquet")]), run.outputs("queries")
    tallies = build_pairs(inputs, queries, out, settings, 3)
    made = {path.name: path.read_bytes() for path in run.outputs("pairs")}
    assert made == {path.name: path.read_bytes() for path in sorted(out.glob("*.parquet"))}
    assert len(made) > 3
    kept = sum(receipt.rows["pairs"]["kept"] for receipt in run.receipts("pairs").all())
    assert kept == tallies["pairs"].kept > 0
    assert not [*(run.directory / "_passes").rglob("*.parquet")], "passes go when all is made"


def test_engines_make_the_same_bytes(tmp_path):
    """Ray's tasks and Beam's elements; inputs in groups and alone."""
    lists = write_lists(tmp_path / "lists", lists=3)
    ray = built(run_of(tmp_path / "ray", lists, {"bytes_per_shard": 4_000}))
    beam = built(run_of(tmp_path / "beam", lists, {"engine": "beam"}))
    assert hashes(ray, "pairs") == hashes(beam, "pairs")
    assert len(ray.outputs("candidates")) < len(beam.outputs("candidates"))


def test_beam_with_workers_in_processes_of_their_own_makes_the_same_bytes(tmp_path):
    lists = write_lists(tmp_path / "lists", lists=2)
    here = built(run_of(tmp_path / "here", lists, {"engine": "beam"}, matched=False))
    options = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
    apart = built(run_of(tmp_path / "apart", lists, {"engine": "beam"}, options, matched=False))
    stages = ("candidates", "pairs")
    assert hashes(here, *stages) == hashes(apart, *stages)
    assert len(hashes(here, *stages)) > 5


def test_a_new_input_does_only_itself_and_the_ranges(tmp_path, lists, in_this_process):
    run = built(run_of(tmp_path / "run", lists))
    before = ended(run, "candidates")
    table = pa.table({"url": ["http://b.example/1.jpg"], "caption": ["a red cat"]})
    pq.write_table(table, lists / "list2a.parquet")
    plan = Plan.of(STAGES["candidates"](Run(run.config, run.directory)))
    assert len(plan.todo) == 1
    assert len(plan.done) >= len(before) - 1
    run = built(Run(run.config, run.directory))
    after = ended(run, "candidates")
    assert sum(after.get(name) == when for name, when in before.items()) >= len(before) - 1
    urls = pa.concat_tables(map(pq.read_table, run.outputs("pairs")))["url"].to_pylist()
    assert "http://b.example/1.jpg" in urls
    fresh = built(run_of(tmp_path / "fresh", lists))
    assert hashes(run, "candidates", "pairs") == hashes(fresh, "candidates", "pairs")


def test_json_lines_in_several_shards_make_the_pairs_of_the_whole(tmp_path, in_this_process):
    lists = write_lists(tmp_path / "lists", lists=1, rows=400)
    (parquet,) = lists.glob("*.parquet")
    rows = pq.read_table(parquet).to_pylist()
    (lists / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    inputs = [str(lists / "rows.jsonl")]
    cut = built(run_of(tmp_path / "cut", lists, {"bytes_per_shard": 5_000}, inputs=inputs))
    whole = built(run_of(tmp_path / "whole", lists, {"bytes_per_shard": 10**6}, inputs=inputs))
    assert len(cut.outputs("candidates")) > 4
    assert len(whole.outputs("candidates")) == 1
    of_cut, of_whole = (
        pa.concat_tables(map(pq.read_table, run.outputs("pairs"))) for run in (cut, whole)
    )
    assert of_cut.drop_columns("source").equals(of_whole.drop_columns("source"))
    before = ended(cut, "candidates")
    again = run_of(tmp_path / "cut", lists, {"bytes_per_shard": 7_000}, inputs=inputs)
    assert not before.items() & ended(built(again), "candidates").items(), "other lines"


def test_another_cap_redoes_no_candidates(tmp_path, lists, in_this_process):
    before = ended(built(run_of(tmp_path / "run", lists)), "candidates")
    run = built(run_of(tmp_path / "run", lists, pairs_per_query=5))
    assert ended(run, "candidates") == before
    assert hashes(run, "pairs") == hashes(
        built(run_of(tmp_path / "fresh", lists, pairs_per_query=5)), "pairs"
    )


def test_an_input_that_cannot_be_opened_fails_its_shard_alone(
    tmp_path, lists, in_this_process, monkeypatch
):
    from workers.base.file_systems import open_file as opened
    from workers.extract import pair_lists

    def open_file(url):
        if url.endswith("list3.parquet"):
            raise RuntimeError("the disk is bad here")
        return opened(url)

    monkeypatch.setattr(pair_lists, "open_file", open_file)
    run = run_of(tmp_path / "run", lists, {"bytes_per_shard": 1})
    shards = STAGES["candidates"](run).plan
    built(run, ExitCode.PARTIAL)
    done = ended(run, "candidates")
    assert not run.outputs("pairs")
    monkeypatch.setattr(pair_lists, "open_file", opened)
    run = built(Run(run.config, run.directory))
    assert done.items() <= ended(run, "candidates").items()
    assert 0 < len(done) < len(shards())


def test_a_pass_that_fails_is_told_with_every_shard_and_is_gone_on_with(
    tmp_path, lists, in_this_process, monkeypatch, caplog
):
    from workers.pairs import query_limits

    def fails(*_arguments):
        raise ValueError("no draws today")

    fresh = built(run_of(tmp_path / "fresh", lists))
    with monkeypatch.context() as broken:
        broken.setattr(query_limits, "write_draws", fails)
        run = built(run_of(tmp_path / "run", lists), ExitCode.PARTIAL)
    assert caplog.text.count("pairs_draws, which comes before it, failed") == 4
    assert "no draws today" in caplog.text
    counted = {path: path.stat().st_mtime_ns for path in _counts(run)}
    assert counted
    monkeypatch.setattr(query_limits, "count_queries", fails)  # what is done is not done again
    run = built(Run(run.config, run.directory))
    assert hashes(run, "pairs") == hashes(fresh, "pairs")


def _counts(run: Run) -> list[Path]:
    return [*(run.directory / "_passes" / "pairs_counts").glob("*.parquet")]
