"""Queries of dumps: the parts are counted on every engine, and each once."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.run.config import Config
from pipelines.run.directory import Run
from pipelines.run.engines import in_process
from pipelines.run.runner import run_stages
from query_builder import part_counts, sources
from query_builder.build import build_queries
from query_builder.sources import Part
from tests.query_builder.conftest import BGWIKI, ENWIKI, multistream
from workers.base.exit_codes import ExitCode
from workers.base.settings import resolve_path


@pytest.fixture
def in_this_process(monkeypatch):
    """No engine is started."""

    def engine(work, shards, folder, config):
        return in_process(work, shards, folder)

    monkeypatch.setattr("pipelines.stages.queries.on_text_engine", engine)
    monkeypatch.setattr(sources, "PART_BYTES", 300)


def run_of(folder: Path, *dumps: Path, engine: str = "ray", **queries) -> Run:
    settings = {
        "name": "test",
        "queries": {"dumps": list(map(str, dumps)), "min_count": 2, **queries},
        "pairs": {"inputs": ["none.csv"]},
        "text": {"engine": engine},
    }
    return Run.open(Config.model_validate(settings), folder)


def built(run: Run, code: ExitCode = ExitCode.COMPLETE) -> bytes:
    """The list that a command makes."""
    with run.lock():
        try:
            assert run_stages(run, ["queries"]).code is code
        finally:
            run.save()
    lists = Run(run.config, run.directory).outputs("queries")
    return b"".join(path.read_bytes() for path in lists)


def counts_of(run: Run) -> dict[str, int]:
    """The files of counts, and when each was written."""
    folder = run.directory / "_passes/queries_counts"
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.counts")}


def test_engines_and_the_builder_alone_make_the_same_list(tmp_path):
    dumps = [resolve_path(ENWIKI), resolve_path(BGWIKI)]
    first, second = (run_of(tmp_path / name, *dumps, engine=name) for name in ("ray", "beam"))
    list_of_ray, list_of_beam = built(first), built(second)
    settings = first.config.queries
    assert settings != "none"
    build_queries(dumps, tmp_path / "alone", settings, [])
    assert list_of_ray == list_of_beam == (tmp_path / "alone/00000.parquet").read_bytes()
    assert counts_of(first).keys() == counts_of(second).keys()
    assert len(counts_of(first)) == 2


def test_a_new_dump_counts_itself_alone(tmp_path, in_this_process):
    first = multistream(tmp_path)
    run = run_of(tmp_path / "run", first)
    built(run)
    before = counts_of(run)
    assert len(before) > 4
    second = multistream(tmp_path, wiki="aa")
    both = built(run_of(tmp_path / "run", second, first))
    after = counts_of(run)
    assert before.items() <= after.items()
    assert len(after) == 2 * len(before)
    assert both == built(run_of(tmp_path / "fresh", first, second))
    built(run_of(tmp_path / "run", second))
    assert counts_of(run).keys() == after.keys() - before.keys(), "of what is read no more, none"


def test_another_number_of_queries_counts_nothing(tmp_path, in_this_process):
    dump = multistream(tmp_path)
    run = run_of(tmp_path / "run", dump)
    built(run)
    before = counts_of(run)
    built(run_of(tmp_path / "run", dump, max_queries=3))
    assert counts_of(run) == before


def test_counting_that_was_cut_off_is_gone_on_with(tmp_path, in_this_process, monkeypatch, caplog):
    dump, done = multistream(tmp_path), list[Part]()

    def fails(part, counting, file):
        if len(done) == 2:
            raise RuntimeError("no more today")
        done.append(part)
        write_counts(part, counting, file)

    write_counts = part_counts.write_counts
    run = run_of(tmp_path / "run", dump)
    with monkeypatch.context() as broken:
        broken.setattr(part_counts, "write_counts", fails)
        assert built(run, ExitCode.PARTIAL) == b""
    assert "queries_counts, which comes before it, failed" in caplog.text
    assert "no more today" in caplog.text
    before = counts_of(run)
    assert len(before) == 2
    whole = built(Run(run.config, run.directory))
    assert before.items() <= counts_of(run).items()
    assert whole == built(run_of(tmp_path / "fresh", dump))


def test_counts_that_are_damaged_are_made_again(tmp_path, in_this_process):
    dump = multistream(tmp_path)
    run = run_of(tmp_path / "run", dump)
    whole = built(run)
    damaged = sorted((run.directory / "_passes/queries_counts").glob("*.counts"))[1]
    content = bytearray(damaged.read_bytes())
    content[len(content) // 3] ^= 1
    damaged.write_bytes(content)
    other = run_of(tmp_path / "run", dump, max_queries=3)
    built(other, ExitCode.PARTIAL)  # it says so, and takes the receipt away
    assert built(Run(run.config, run.directory)) == whole


def test_other_words_are_counted_anew(tmp_path, in_this_process):
    dump = multistream(tmp_path)
    lower = built(run_of(tmp_path / "run", dump))
    kept = run_of(tmp_path / "run", dump, lower_case=False)
    assert built(kept) == built(run_of(tmp_path / "fresh", dump, lower_case=False)) != lower
