"""What each command did, whatever became of it, and what one does that is at work."""

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.cli import at_work, ending
from pipelines.report import history_text, status_text
from pipelines.run import history
from pipelines.run.attempts import perform
from pipelines.run.config import Config, ConfigError
from pipelines.run.directory import HISTORY, Run
from pipelines.run.history import STATE, Journal, read_history, read_state
from pipelines.run.progress import Progress
from pipelines.run.receipts import Outcome, Shard
from workers.base.exit_codes import ExitCode
from workers.base.tally import Tally


def opened(directory):
    return Run.open(Config.model_validate({"name": "test", "queries": "none"}), directory)


@pytest.fixture
def run(tmp_path):
    return opened(tmp_path)


@pytest.fixture
def logs_as_they_were(monkeypatch):
    monkeypatch.setattr("pipelines.cli.logs.configure", lambda _: None)


def work(run, name, stage="images", failed=0):
    """Do a shard of one kept row."""

    def do(shard, out):
        (out / f"{shard.name}.txt").write_text("abc")
        tally = Tally(rows_in=1 + failed, kept=1)
        tally.failed.update(["timeout"] * failed)
        return {"images": tally}

    return Outcome(name, perform(do, Shard(name, "key"), run.directory / stage))


def command(run, name="build_dataset", code=ExitCode.COMPLETE, shards=()):
    journal = Journal(run, name)
    journal.begin()
    if shards:
        with journal.work_on("images", lambda _: {}) as outcomes:
            outcomes += [work(run, shard) for shard in shards]
    journal.note_state(None)
    journal.end(code)


def begun(entry):
    assert entry.start
    return entry.start


def lines(run):
    return (run.directory / HISTORY).read_bytes().splitlines(keepends=True)


def test_a_command_that_does_nothing_adds_two_lines(run):
    command(run)
    assert len(lines(run)) == 2
    (entry,) = read_history(run.directory)
    assert (begun(entry).command, entry.exit_code, entry.stages) == ("build_dataset", 0, {})
    assert begun(entry).configuration_hash == run.configuration_hash
    assert not (run.directory / STATE).exists()


def test_what_a_command_adds_is_told_by_stage(run):
    command(run, shards=["a", "b"])
    command(run, "train", ExitCode.PARTIAL)
    first, second = read_history(run.directory)
    did = first.stages["images"]
    assert (did.shards, did.bytes, did.rows["images"]["kept"]) == (2, 6, 2)
    assert second.exit_code == 3
    text = history_text(run)
    assert "images: 2 images in, 2 kept, rejected 0, failed 0; 6 bytes in 2 shards" in text
    assert "train: exit code 3" in text


def test_what_ends_a_stage_in_the_middle_is_no_reason_to_forget_what_was_done(run):
    journal = Journal(run, "build_dataset")
    journal.begin()
    outcomes = [work(run, "a"), Outcome("b", error="no")]

    def interrupted():
        yield from outcomes
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), journal.work_on("images", lambda _: {}) as done:
        done.extend(interrupted())
    (entry,) = read_history(run.directory)
    assert (entry.stages["images"].shards, entry.stages["images"].failed_shards) == (1, 1)


@pytest.mark.parametrize(
    ("error", "code"),
    [(KeyboardInterrupt(), 130), (ConfigError("no"), 2), (OSError(28, "No space left"), 3)],
)
def test_a_command_that_an_error_ends_has_its_exit_code(run, logs_as_they_were, error, code):
    assert ending(error)[0] == code
    with pytest.raises(type(error)), at_work(run, "train"):
        raise error
    (entry,) = read_history(run.directory)
    assert entry.exit_code == code


KILLED = """
import sys
from pathlib import Path
from pipelines.run.config import Config
from pipelines.run.directory import Run
from pipelines.run.history import Journal
from pipelines.run.progress import Progress
from pipelines.run.receipts import Outcome
run = Run.open(Config.model_validate({"name": "test", "queries": "none"}), Path(sys.argv[1]))
journal = Journal(run, "build_dataset")
journal.begin()
folder = run.directory / "images"
with journal.work_on("images", lambda _: {}), Progress("images", 3, 0, folder) as progress:
    progress.advance(Outcome("a"))
    for lost in ("a-12345678", "b-12345678"):  # one that has ended since, elsewhere
        (run.directory / "_work/images" / lost).mkdir(parents=True)
    journal.note_state(progress.snapshot())
    print("at work", flush=True)
    sys.stdin.read()
"""


def test_a_command_at_work_says_what_it_does_and_a_killed_one_is_known_for_it(run):
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(run.directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    )
    assert process.stdin
    assert process.stdout
    assert process.stdout.readline() == b"at work\n"
    work(run, "a")
    text = status_text(run)
    assert "at work: build_dataset since 20" in text
    assert f"process {process.pid} on {os.uname().nodename}" in text
    assert "images: 1 of 3 shards" in text
    assert "images/b is worked on since 20" in text
    assert "images/a" not in text
    assert "s left" in text
    assert "at work" in history_text(run)

    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()
    text = status_text(run)
    assert "ended without a word" in text
    assert "at work" not in text
    assert "ended without a word" in history_text(run)
    # The next command says what that one could not, by the receipts that it has left.
    command(run)
    killed, last = read_history(run.directory)
    assert (killed.end, killed.stages["images"].rows["images"]["kept"]) == (None, 1)
    assert last.stages == {}
    assert "ended without a word" in history_text(run)
    assert "ended without a word" not in status_text(run)


def test_of_another_host_its_last_word_is_told(run, monkeypatch):
    journal = Journal(run, "build_dataset")
    journal.begin()
    journal.note_state(None)
    monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
    assert re.search(r"it has last said something \d+ s ago", status_text(run))
    assert "at work on another host, or ended" in history_text(run)
    command(run)
    assert "ended without a word" in history_text(run)


def test_a_process_number_may_be_anothers_by_now(run):
    journal = Journal(run, "build_dataset")
    assert journal.start.is_alive()
    assert not replace(journal.start, process_start=1.0).is_alive()


def test_the_state_is_written_while_a_stage_goes_on(run, monkeypatch):
    monkeypatch.setattr("pipelines.run.progress.BAR_INTERVAL", 0.01)
    journal = Journal(run, "build_dataset")
    with Progress("images", 3, 0, run.directory / "images", journal.note_state):
        deadline = time.monotonic() + 20
        while read_state(run.directory) is None and time.monotonic() < deadline:
            time.sleep(0.01)
    state = read_state(run.directory)
    assert state
    assert state.stage
    assert state.stage.stage == "images"


def test_a_status_of_another_configuration_than_the_one_at_work_says_so(run):
    Journal(run, "build_dataset").begin()
    assert "another configuration" not in status_text(run)
    other = Run(run.config.model_copy(update={"seed": 7}), run.directory)
    assert "it works with another configuration" in status_text(other)


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """A run, its history of three commands, and the journal of a fourth."""
    run = opened(tmp_path_factory.mktemp("run"))
    for name in ("one", "two", "three"):
        command(run, name)
    return run, b"".join(lines(run)), Journal(run, "four")


@settings(deadline=None)
@given(data=st.data())
def test_damage_costs_the_lines_that_it_is_in(three, data):
    run, content, fourth = three
    start = data.draw(st.integers(0, len(content) - 1))
    end = data.draw(st.integers(start, min(len(content), start + 40)))
    broken = content[:start] + data.draw(st.binary(max_size=40)) + content[end:]
    (run.directory / HISTORY).write_bytes(broken)
    found = {entry.id: entry for entry in read_history(run.directory)}
    for number, line in enumerate(content.splitlines()):
        if not _touches(content, number, start, end):
            told = json.loads(line)
            assert found[told["id"]].start or "start" not in told
            assert found[told["id"]].end or "end" not in told
    fourth.begin()
    assert begun(read_history(run.directory)[-1]).command == "four"
    history_text(run)


def _touches(content, number, start, end):
    """Whether a line, or the line's end before it, is among the bytes that are replaced."""
    places = [0, *(at + 1 for at, byte in enumerate(content) if byte == 10)]
    return start < places[number + 1] and end >= places[number]


def test_a_torn_last_line_does_not_take_the_next_with_it(run):
    command(run, "one")
    path = run.directory / HISTORY
    path.write_bytes(path.read_bytes()[:-5])
    command(run, "two")
    one, two = read_history(run.directory)
    assert (one.end, begun(two).command, two.exit_code) == (None, "two", 0)


def test_a_history_that_has_become_long_loses_its_older_half(run, monkeypatch):
    for number in range(8):
        command(run, str(number))
    monkeypatch.setattr(history, "LONGEST", 100)
    command(run, "last")
    names = [begun(entry).command for entry in read_history(run.directory)]
    assert names == ["4", "5", "6", "7", "last"]


def test_what_is_recent_is_read_alone(run, monkeypatch):
    for number in range(8):
        command(run, str(number))
    two, cut = sum(map(len, lines(run)[-4:])), len(lines(run)[-5]) + 10
    monkeypatch.setattr(history, "RECENT", two + cut)
    recent = read_history(run.directory, recent=True)
    assert recent[-2:] == read_history(run.directory)[-2:]
    assert len(recent) == 3


def test_a_full_disk_costs_a_line_and_ends_nothing(run, caplog, monkeypatch):
    journal = Journal(run, "build_dataset")
    journal.begin()
    # Nothing may read that file: it has no end.
    monkeypatch.setattr(history, "HISTORY", os.path.relpath("/dev/full", run.directory))
    journal.end(ExitCode.COMPLETE)
    assert caplog.text.count("the history of the run lacks a line") == 1
    monkeypatch.undo()
    (entry,) = read_history(run.directory)
    assert not entry.end
