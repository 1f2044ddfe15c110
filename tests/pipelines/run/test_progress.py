import io
import json
import logging
import os
import re
import sys
import time

import pytest

from pipelines.run import log as logs
from pipelines.run import progress
from pipelines.run.progress import SILENCE, Progress, Reporter, activity_of
from pipelines.run.receipts import Outcome, Receipt
from workers.embedding.meter import Activity


@pytest.fixture
def outcome():
    counts = {"in": 5, "kept": 4, "rejected": {"x": 1}, "failed": {}}
    return Outcome("00000", Receipt("00000", "key", {"images": counts}, (), 1.0))


def test_off_a_terminal_lines_say_how_far_it_is(outcome, caplog, monkeypatch):
    monkeypatch.setattr(progress, "LINE_INTERVAL", 0.01)
    with caplog.at_level(logging.INFO), Progress("images", 4, 1) as shown:
        shown.advance(outcome)
        deadline = time.monotonic() + 10
        while "4 rows" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.01)
    assert re.match(r"images: 2 of 4 shards, \d+ s, 4 rows, ", caplog.messages[-1])


@pytest.mark.parametrize(
    ("activities", "told"),
    [
        ([], "4 rows, 0.1 rows/s, about 120 s left"),
        (
            [Activity(under_way=0.25, rows=9), Activity(note="epoch 2", under_way=0.25)],
            "9 rows, 0.1 rows/s, about 60 s left, epoch 2",
        ),
    ],
)
def test_the_time_left_counts_what_is_done_of_the_open_shards(outcome, activities, told, tmp_path):
    for number, activity in enumerate(activities):
        report(activity, tmp_path / "images", str(number))
    with Progress("images", 4, 1, tmp_path / "images") as shown:
        shown.started -= 60
        shown.advance(outcome)
        assert shown.line() == f"images: 2 of 4 shards, 60 s, {told}"
    assert activity_of(tmp_path / "images") == Activity(), "the reports go with the work"


def report(activity, folder, worker):
    with Reporter(lambda: activity, folder, worker):
        pass
    return folder.parent / "_work" / folder.name / f"{worker}.json"


def test_what_a_worker_that_is_gone_had_open_is_begun_anew(tmp_path):
    file = report(Activity(rows=5, under_way=0.5), tmp_path / "images", "a")
    assert activity_of(tmp_path / "images") == Activity(rows=5, under_way=0.5)
    os.utime(file, (time.time() - SILENCE - 1,) * 2)
    assert activity_of(tmp_path / "images") == Activity(rows=5)
    file.write_bytes(file.read_bytes()[:9])
    assert activity_of(tmp_path / "images") == Activity()


def test_a_worker_says_how_far_it_is_while_it_works(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "REPORT_INTERVAL", 0.01)
    with Reporter(lambda: Activity(rows=7), tmp_path / "images", "a"):
        deadline = time.monotonic() + 10
        while activity_of(tmp_path / "images").rows != 7 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert activity_of(tmp_path / "images").rows == 7


def test_a_worker_that_cannot_say_it_goes_on(tmp_path):
    (tmp_path / "_work").touch()
    with Reporter(Activity, tmp_path / "images", "a"):
        pass


def test_on_a_terminal_there_is_a_bar_and_no_line(outcome, caplog, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with caplog.at_level(logging.INFO), Progress("images", 2, 0) as shown:
        shown.advance(outcome)
    assert "images" in terminal.getvalue()
    assert "1/2" in terminal.getvalue()
    assert not caplog.messages


def test_the_log_file_holds_json_lines(tmp_path):
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    try:
        logs.configure(tmp_path)
        logging.getLogger("pipelines.test").info("done", extra={"fields": {"stage": "images"}})
        logging.getLogger("some.library").info("chatter")
    finally:
        root.handlers, root.level = handlers, level
    (line,) = (tmp_path / "logs" / "run.jsonl").read_text().splitlines()
    entry = json.loads(line)
    assert (entry["message"], entry["level"], entry["stage"]) == ("done", "INFO", "images")
