"""What a command does whose output nobody reads, or that was started without any."""

import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = """
import os, sys
from contextlib import suppress
from pathlib import Path
from workers.base.output import say
from workers.base.supervisor import supervised

def command():
    file = Path(sys.argv[1]).open("w")  # takes the descriptor that is free
    with suppress(OSError):
        os.write(2, b"message")
    say("answer \\u00e9")
    say("more")
    return 0

sys.exit(supervised(command))
"""


def run(tmp_path, line):
    """A line of shell, in which `$@` is a command that opens a file; what it has printed."""
    file = tmp_path / "file"
    command = ["bash", "-c", line, "bash", sys.executable, "-c", COMMAND, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert file.read_text() == "", "what is printed goes into no file"
    return done


@pytest.mark.parametrize(
    "line",
    [
        '"$@" | true; exit ${PIPESTATUS[0]}',
        '"$@" 2>&1 | true; exit ${PIPESTATUS[0]}',
        '"$@" >&-',
        '"$@" 2>&-',
        '"$@" <&- >&- 2>&-',
    ],
)
def test_output_that_nobody_reads_ends_no_command(tmp_path, line):
    done = run(tmp_path, line)
    assert done.returncode == 0, done.stderr
    assert "Error" not in done.stderr


def test_a_full_disk_for_the_output_is_said(tmp_path):
    done = run(tmp_path, '"$@" > /dev/full')
    assert done.returncode == 3
    assert "No space left on device" in done.stderr


def test_what_the_output_cannot_show_is_escaped(tmp_path):
    done = run(tmp_path, 'PYTHONIOENCODING=ascii "$@"')
    assert done.stdout == "answer \\xe9\nmore\n"
