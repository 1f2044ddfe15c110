import io
import json
import logging
import re
import sys
import time

import pytest

from pipelines.run import log as logs
from pipelines.run import progress
from pipelines.run.progress import Progress, Status
from pipelines.run.receipts import Outcome, Receipt


@pytest.fixture
def outcome():
    counts = {"in": 5, "kept": 4, "rejected": {"x": 1}, "failed": {}}
    return Outcome("00000", Receipt("00000", "key", {"images": counts}, (), 1.0))


def test_off_a_terminal_lines_say_how_far_it_is(outcome, caplog, monkeypatch):
    monkeypatch.setattr(progress, "LINE_INTERVAL", 0.01)
    with caplog.at_level(logging.INFO), Progress("images", 4, 1) as shown:
        shown.advance(outcome)
        deadline = time.monotonic() + 10
        while not caplog.messages and time.monotonic() < deadline:
            time.sleep(0.01)
    assert re.match(r"images: 2 of 4 shards, \d+ s, 4 rows, ", caplog.messages[0])


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (Status(), "4 rows, 0.1 rows/s, about 120 s left"),
        (Status("epoch 2", under_way=0.5, rows=9), "9 rows, 0.1 rows/s, about 60 s left, epoch 2"),
    ],
)
def test_the_time_left_counts_what_is_done_of_the_open_shards(outcome, status, told):
    with Progress("images", 4, 1, lambda: status) as shown:
        shown.started -= 60
        shown.advance(outcome)
        assert shown.line() == f"images: 2 of 4 shards, 60 s, {told}"


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
