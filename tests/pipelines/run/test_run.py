import errno
import fcntl
import json
import os
import stat
from datetime import UTC, datetime

import pytest

from pipelines.report import status_text, write_report
from pipelines.run.attempts import DamagedError, perform
from pipelines.run.config import Config, ConfigError
from pipelines.run.directory import Run
from pipelines.run.lock import LockedError
from pipelines.run.receipts import Shard
from pipelines.run.runner import Plan, check
from pipelines.run.totals import StageTotals
from pipelines.stages import STAGES
from query_builder.inputs import SYNSET_FILES
from query_builder.settings import QuerySettings
from workers.base.tally import Tally
from workers.crawl.warc_writer import response_record


@pytest.fixture
def dump(tmp_path):
    path = tmp_path / "dump.xml"
    path.write_text("<mediawiki/>")
    return path


@pytest.fixture
def run(tmp_path, dump):
    config = Config.model_validate({"name": "test", "queries": {"dumps": [str(dump)]}})
    return Run.open(config, tmp_path / "run")


def key(run):
    (shard,) = Plan.of(STAGES["queries"](run)).todo
    return shard.key


def test_a_key_covers_the_input_and_its_own_settings_and_nothing_else(run, dump, tmp_path):
    before = key(run)
    dump.write_text("<mediawiki> </mediawiki>")
    assert key(run) != before
    dump.write_text("<mediawiki/>")
    assert key(run) == before

    def changed(**update):
        return Run(run.config.model_copy(update=update), run.directory)

    assert key(changed(queries=run.config.queries.model_copy(update={"min_count": 7}))) != before
    assert key(changed(selection=run.config.selection.model_copy(update={"steps": ()}))) == before


def crawl(run, body, day):
    """A finished stage of pages, in its smallest form."""

    def fetch(shard, out):
        record = response_record("http://a/", 200, {}, body, datetime(2026, 11, day, tzinfo=UTC))
        (out / "a.warc").write_bytes(record)
        return {}

    perform(fetch, Shard("a", "key"), run.directory / "pages")


def test_the_key_of_candidates_covers_the_pages_and_not_the_day_of_the_crawl(run):
    def candidates_key():
        (shard,) = STAGES["candidates"](run).plan()
        return shard.key

    crawl(run, b"a page", day=1)
    before = candidates_key()
    first = (run.directory / "pages/a.warc").read_bytes()
    crawl(run, b"a page", day=2)
    assert (run.directory / "pages/a.warc").read_bytes() != first
    assert candidates_key() == before
    crawl(run, b"a Page", day=2)
    assert candidates_key() != before


def test_a_key_of_queries_covers_views_and_wordnet_by_content_and_kind(run, dump, tmp_path):
    wordnet = tmp_path / "dict"
    wordnet.mkdir()
    for name in SYNSET_FILES:
        (wordnet / name).touch()
    views = tmp_path / "views"
    views.write_text("en Cat 1 0\n")

    def changed(**update):
        return Run(
            run.config.model_copy(update={"queries": QuerySettings(**update)}), run.directory
        )

    both = changed(dumps=(str(dump),), views=(str(views),), wordnet=str(wordnet))
    keys = [
        key(run),
        key(changed(dumps=(str(dump), str(views)))),
        key(changed(dumps=(str(dump),), views=(str(views),))),
        key(both),
    ]
    views.write_text("en Cat 2 0\n")
    keys.append(key(both))
    (wordnet / "data.adv").write_text("  1 licence\n")
    keys.append(key(both))
    assert len(set(keys)) == len(keys)
    views.rename(tmp_path / "moved")
    moved = changed(dumps=(str(dump),), views=(str(tmp_path / "moved"),), wordnet=str(wordnet))
    assert key(moved) == keys[-1]


def test_an_input_is_read_again_only_when_its_size_or_time_changed(run, dump):
    first = key(run)
    status = dump.stat()
    dump.write_text("<mediawikI/>")
    os.utime(dump, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert key(run) == first
    os.utime(dump)
    assert key(run) != first


def test_the_record_says_what_the_run_depends_on(run, dump):
    key(run)
    run.directory.mkdir()
    run.save()
    record = json.loads((run.directory / "run.json").read_text())
    assert set(record["inputs"]["queries"]) == {str(dump)}
    assert record["configuration"]["queries"]["dumps"] == [str(dump)]
    assert len(record["configuration_hash"]) == 64
    assert {"name", "seed", "code", "stages"} <= set(record)


def test_a_run_is_locked_for_one_process(run):
    other = Run(run.config, run.directory)
    with run.lock(), pytest.raises(LockedError, match="another process"), other.lock():
        pass
    with run.lock():
        pass


RECORDS = {
    "empty": b"",
    "half": b'{"name": "test", "inpu',
    "null": b"null",
    "a list": b"[]",
    "not UTF-8": b'{"name": "\xff"}',
    "inputs that are none": b'{"inputs": {"queries": [1]}}',
    "a sum that is none": b'{"inputs": {"queries": {"d": {"sha256": 1, "bytes": 1}}}}',
    "stages that are none": b'{"stages": {"queries": {"wall_seconds": "long"}}}',
}


@pytest.mark.parametrize("kind", [*RECORDS, "a folder"])
def test_a_record_that_cannot_be_read_is_said_and_made_again(run, kind, caplog):
    path = run.directory / "run.json"
    path.mkdir(parents=True)
    if kind in RECORDS:
        path.rmdir()
        path.write_bytes(RECORDS[kind])
    before = key(run)
    assert caplog.text.count("cannot be read") == 1
    assert "Cat" not in status_text(run)
    with run.lock():
        assert key(run) == before
        run.save()
    assert Run(run.config, run.directory).record == json.loads(path.read_text())


def test_what_another_process_recorded_before_the_lock_was_taken_stays_on_record(run):
    other = Run(run.config, run.directory)
    assert other.record == {}
    with run.lock():
        run.note_stage("queries", StageTotals(shards=3))
        run.save()
    with other.lock():
        other.save()
    assert Run(run.config, run.directory).record["stages"]["queries"]["shards"] == 3


def test_foreign_data_is_refused_before_any_stage_has_started(run):
    (run.directory / "dataset").mkdir(parents=True)
    (run.directory / "dataset" / "extra.parquet").touch()
    check(run, ["queries"])
    with pytest.raises(ConfigError, match="extra.parquet is not the run's"):
        check(run, ["queries", "dataset"])


def three_terms(shard, out):
    return {"terms": Tally(rows_in=3, kept=3)}


@pytest.mark.parametrize("text_of", [status_text, write_report])
def test_status_and_report_count_nothing_of_an_older_configuration(run, dump, text_of):
    (shard,) = STAGES["queries"](run).plan()
    perform(three_terms, shard, run.directory / "queries")
    perform(three_terms, Shard("all", "k"), run.directory / "selection")
    assert "| queries | terms | 3 | 3 |" in text_of(run)
    why = "they are of an older configuration"
    assert f"selection: shards that are not counted: 1; {why}" in text_of(run)

    queries = run.config.queries.model_copy(update={"min_count": 7})
    changed = Run(run.config.model_copy(update={"queries": queries}), run.directory)
    assert "| queries |" not in text_of(changed)
    assert f"queries: shards that are not counted: 1; {why}" in text_of(changed)
    why = "whether they are its own can be told once labels, embeddings, images, pairs is complete"
    assert f"selection: shards that are not counted: 1; {why}" in text_of(changed)

    dump.unlink()
    text = text_of(Run(run.config, run.directory))
    assert "| queries |" not in text
    assert f"the stage cannot be planned: queries.dumps: there is no file {dump}" in text


def test_a_report_says_nothing_of_a_stage_with_files_of_two_configurations(run):
    (shard,) = STAGES["queries"](run).plan()
    perform(three_terms, shard, run.directory / "queries")
    run.note_stage("queries", StageTotals(), wall_seconds=5.0)
    assert "Seconds at the last work" in write_report(run)
    perform(three_terms, Shard("old", "k"), run.directory / "queries")
    text = write_report(run)
    assert "| queries | terms | 3 | 3 |" in text
    assert "queries: shards that are not counted: 1" in text
    assert "Seconds at the last work" not in text


def test_a_report_of_another_configuration_is_known_for_it(run):
    write_report(run)
    assert "another configuration" not in status_text(run)
    other = Run(run.config.model_copy(update={"seed": 7}), run.directory)
    assert "report.md is of another configuration" in status_text(other)


def test_a_dump_without_texts_is_refused_before_any_work(run, dump):
    STAGES["queries"](run).check()
    dump.write_text('<mediawiki><page><revision><text bytes="9" /></revision></page></mediawiki>')
    with pytest.raises(ConfigError, match=r"queries\.dumps: .* is a stub dump"):
        STAGES["queries"](run).check()


def test_who_reads_without_the_lock_removes_no_receipt(run):
    perform(one_file, Shard("all", "k"), run.directory / "scores")
    run.check_outputs("scores", "model", drop=False)
    (run.directory / "scores" / "scores.json").write_text("[]")
    receipts = run.receipts("scores")
    with pytest.raises(DamagedError, match="pipelines.verify --mend"):
        run.check_outputs("scores", drop=False)
    assert receipts.all()
    with pytest.raises(DamagedError, match="pipelines.evaluate makes it again"):
        run.check_outputs("scores", drop=True)
    assert not receipts.all()


def one_file(shard, out):
    (out / "scores.json").write_text("{}")
    return {"pairs": Tally()}


def test_a_lock_holds_whatever_is_deleted_in_the_folder(run):
    other = Run.open(run.config, run.directory)
    with run.lock():
        for path in run.directory.iterdir():
            path.unlink()
        with pytest.raises(LockedError), other.lock():
            pass


@pytest.mark.parametrize(("error", "refused"), [(errno.ENOLCK, True), (errno.EBADF, False)])
def test_a_file_system_without_locks_is_said_and_nfs_locks_files(run, monkeypatch, error, refused):
    """No such file system can be had in a test; NFS answers EBADF for what is only read."""
    flock = fcntl.flock

    def refuse_folders(descriptor, operation):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(error, os.strerror(error))
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", refuse_folders)
    if refused:
        with pytest.raises(ConfigError, match="has no locks"), run.lock():
            pass
        return
    with run.lock(), pytest.raises(LockedError), Run.open(run.config, run.directory).lock():
        pass
