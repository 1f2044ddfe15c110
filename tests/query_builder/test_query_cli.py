"""``python -m query_builder`` as a user starts it: output, refusals and exit codes."""

import io
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest

from query_builder import progress
from query_builder.__main__ import main
from query_builder.dump import read_pages
from query_builder.settings import BigramSettings, QuerySettings
from workers.tally import Tally

COMMAND = [sys.executable, "-m", "query_builder"]


def test_writes_the_list_and_says_what_was_dropped(enwiki, tmp_path):
    command = [*COMMAND, str(enwiki), "--out", str(tmp_path / "out"), "--min-count", "50"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert "99 rejected: redirect" in done.stdout
    queries = pq.read_table(tmp_path / "out" / "00000.parquet")
    assert f"wrote {len(queries):,} queries" in done.stdout


def test_truncated_dump_exits_3_and_names_the_file(enwiki, tmp_path, capsys):
    cut = tmp_path / "cut.bz2"
    cut.write_bytes(enwiki.read_bytes()[:800_000])
    assert main([str(cut), "--out", str(tmp_path / "out"), "--titles", "none"]) == 3
    output = capsys.readouterr()
    assert "1 failed: damaged_dump" in output.out
    assert f"{cut}: truncated" in output.err
    assert len(pq.read_table(tmp_path / "out" / "00000.parquet")) > 50


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--min-count", "0"], "greater than or equal to 1"),
        (["--titles", "some"], "'all' or 'none'"),
        (["missing.bz2"], "there is no file missing.bz2"),
    ],
)
def test_wrong_options_exit_2_and_write_nothing(write_dump, tmp_path, capsys, extra, message):
    out = tmp_path / "out"
    assert main([str(write_dump([])), "--out", str(out), *extra]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_directory_with_files_is_refused(write_dump, tmp_path, capsys):
    dump = write_dump([])
    assert main([str(dump), "--out", str(tmp_path)]) == 2
    assert "not an empty directory" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [dump]


def test_help_explains_every_setting(capsys):
    with pytest.raises(SystemExit) as exit_code:
        main(["--help"])
    assert exit_code.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for settings in (QuerySettings, BigramSettings):
        for name, field in settings.model_fields.items():
            assert name in ("bigrams", "lower_case") or str(field.description) in shown


def test_settings_import_neither_beam_nor_lxml():
    code = (
        "import sys, query_builder.settings, query_builder.__main__;"
        "sys.exit(bool({'apache_beam', 'lxml', 'pyarrow'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_progress_off_a_terminal_is_whole_lines(enwiki, tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    stream = io.StringIO()
    with progress.shown(enwiki.stat().st_size, stream):
        for _ in read_pages(enwiki, Tally()):
            pass
    lines = stream.getvalue().splitlines()
    assert lines[-1].startswith("reading: 100% of 2 MB after")
    assert "\r" not in stream.getvalue()


def test_progress_on_a_terminal_is_a_bar(enwiki, monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    with progress.shown(enwiki.stat().st_size, stream):
        for _ in read_pages(enwiki, Tally()):
            pass
    assert "reading: 100%|" in stream.getvalue()


def test_interrupt_exits_130(enwiki, tmp_path):
    dumps = [tmp_path / f"{i}.bz2" for i in range(40)]
    for dump in dumps:
        dump.write_bytes(enwiki.read_bytes())
    command = [*COMMAND, *map(str, dumps), "--out", str(tmp_path / "out")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "out").exists():
        time.sleep(0.1)
    time.sleep(1)  # in the midst of reading
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted" in errors
    assert not (tmp_path / "out" / "00000.parquet").exists()
