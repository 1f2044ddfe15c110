"""A run with a list of queries of one's own, and one whose captions are matched with nothing."""

import pyarrow.dataset as ds
import pytest

from pipelines.report import plan_text, status_text
from pipelines.run.config import ConfigError, load_config
from pipelines.run.directory import Run
from pipelines.run.runner import check, run_stages
from pipelines.stages import STAGES
from pipelines.verify import check_all
from workers.base.exit_codes import ExitCode

CAPTIONS = ["A zebra crossing", "Nothing of the kind", "Two dogs"]
TOP = "selection.steps=[{filter: top_per_query, pairs: 1}]"


@pytest.fixture
def opened(tmp_path):
    rows = [f"https://a.example/{number}.jpg,{text}" for number, text in enumerate(CAPTIONS)]
    (tmp_path / "list.csv").write_text("\n".join(["url,caption", *rows]))
    (tmp_path / "queries.txt").write_text("Zebra\ndogs\n")

    def _opened(queries, *overrides):
        config = tmp_path / "run.yaml"
        config.write_text(f"name: test\nqueries: {queries}\npairs: {{inputs: [list.csv]}}\n")
        return Run.open(load_config(config, overrides), tmp_path / "run")

    return _opened


@pytest.mark.parametrize(
    ("queries", "captions", "skipped"),
    [
        ("none", CAPTIONS, "queries: captions are matched with nothing, and all are kept"),
        ("{list: queries.txt}", [CAPTIONS[0], CAPTIONS[2]], ""),
    ],
)
def test_pairs_of_ones_own_queries_and_of_none(opened, queries, captions, skipped):
    run = opened(queries)
    stages = ["queries", "pages", "candidates", "pairs"]
    check(run, stages)
    with run.lock():
        assert run_stages(run, stages).code is ExitCode.COMPLETE
        run.save()
        assert not run_stages(run, stages).worked
    rows = ds.dataset(str(run.directory / "pairs"), format="parquet").to_table().to_pylist()
    assert sorted(row["caption"] for row in rows) == captions
    assert all(bool(row["query_ids"]) == (not skipped) for row in rows)
    assert skipped in status_text(run)
    assert ("matched with nothing" in plan_text(run, stages)) == bool(skipped)
    assert [finding for row in check_all(run.directory) for finding in row.findings] == []


def test_a_list_is_known_by_its_content_and_what_matters_to_it(opened, tmp_path):
    def key(*overrides):
        (shard,) = STAGES["queries"](opened("{list: queries.txt}", *overrides)).plan()
        return shard.key

    before = key()
    (tmp_path / "same.txt").write_bytes((tmp_path / "queries.txt").read_bytes())
    assert key(f"queries.list={tmp_path}/same.txt", "queries.min_count=7") == before
    assert key("queries.lower_case=false") != before
    (tmp_path / "queries.txt").write_text("Zebra\n")
    assert key() != before


@pytest.mark.parametrize(
    ("queries", "overrides", "message"),
    [
        ("{list: absent.txt}", [], "queries.list: there is no file /.*absent.txt"),
        ("{list: list.csv}", [], "queries.list: .*list.csv: there is no column 'query'"),
        ("{}", [], "queries.dumps: there is nothing to read; name a dump"),
        ("none", [TOP], "selection.steps.0.filter: top_per_query would keep nothing"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(opened, queries, overrides, message):
    with pytest.raises(ConfigError, match=message):
        check(opened(queries, *overrides), ["queries", "pages", "candidates", "pairs", "selection"])
