"""A run over somebody else's crawl obeys the rules that were written for that crawler, if asked."""

from datetime import UTC, datetime

import pyarrow.dataset as ds

from pipelines.run.config import Config
from pipelines.run.directory import Run
from pipelines.run.runner import check, run_stages
from workers.base.exit_codes import ExitCode
from workers.crawl.warc_writer import response_record

NOW = datetime(2026, 11, 22, tzinfo=UTC)
STAGES = ["queries", "pages", "candidates", "pairs"]
SAID = {"open": "all", "ours": "birds-research: noai", "theirs": "CCBot: noai"}


def kept(directory, files, *obeyed):
    """The pages whose images are pairs, and whether the stage had anything to do."""
    pages = {"user_agent": "birds-research", "obey_agents": obeyed}
    tree = {"name": "test", "queries": "none", "pages": pages, "pairs": {"inputs": files}}
    run = Run.open(Config.model_validate(tree), directory)
    check(run, STAGES)
    with run.lock():
        result = run_stages(run, STAGES)
        run.save()
    assert result.code is ExitCode.COMPLETE
    rows = ds.dataset(str(directory / "pairs"), format="parquet").to_table().to_pylist()
    return sorted(row["page_url"].rpartition("/")[2] for row in rows), bool(result.worked)


def test_pairs_are_made_anew_by_the_rules_for_the_crawlers_that_are_named(tmp_path):
    (tmp_path / "a.warc").write_bytes(
        b"".join(
            response_record(
                f"http://a.example/{name}",
                200,
                {"Content-Type": "text/html", "X-Robots-Tag": said},
                f"<img src={name}.png alt='a red cat, {name}'>".encode(),
                NOW,
            )
            for name, said in SAID.items()
        )
    )
    files = [str(tmp_path / "a.warc")]
    assert kept(tmp_path / "run", files) == (["open", "theirs"], True)
    assert kept(tmp_path / "run", files) == (["open", "theirs"], False)
    assert kept(tmp_path / "run", files, "CCBot") == (["open"], True)
