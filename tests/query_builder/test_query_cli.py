"""``python -m query_builder`` as a user starts it: output, refusals and exit codes."""

import gzip
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from query_builder import progress
from query_builder.__main__ import main
from query_builder.dump import read_pages
from query_builder.inputs import SYNSET_FILES
from query_builder.part_counts import Counting, count_part
from query_builder.settings import BigramSettings, QuerySettings, ShareSettings
from query_builder.sources import Part
from tests.object_store import objects_below, refuse
from workers.base.tally import Tally

COMMAND = [sys.executable, "-m", "query_builder"]


def test_writes_the_list_and_says_what_was_dropped(enwiki, tmp_path):
    command = [*COMMAND, str(enwiki), "--out", str(tmp_path / "out"), "--min-count", "50"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "damaged" not in done.stderr  # on a slow machine it holds lines of progress
    assert "99 rejected: redirect" in done.stdout
    queries = pq.read_table(tmp_path / "out" / "00000.parquet")
    assert f"wrote {len(queries):,} queries" in done.stdout


def test_into_a_bucket_goes_the_whole_list_or_nothing(enwiki, store, tmp_path, capsys):
    url = f"{store.new_bucket()}/queries"
    options = [str(enwiki), "--min-count", "50", "--titles", "none"]
    assert main([*options, "--out", str(tmp_path / "out")]) == 0
    sent = iter(range(2))

    def cut_off(environ, start, _application):
        is_list = environ["REQUEST_METHOD"] == "PUT" and "00000" in environ["PATH_INFO"]
        return refuse("403 Forbidden", start) if is_list and next(sent, None) == 0 else None

    store.fault = cut_off
    with pytest.raises(PermissionError, match="00000.parquet"):
        main([*options, "--out", url])
    store.fault = None
    assert objects_below(url) == {}
    capsys.readouterr()
    assert main([*options, "--out", url]) == 0
    assert f"queries to {url}" in capsys.readouterr().out
    content = (tmp_path / "out/00000.parquet").read_bytes()
    assert objects_below(url) == {"00000.parquet": content}
    assert main([*options, "--out", url]) == 2
    assert f"{url} has objects already" in capsys.readouterr().err


def test_truncated_dump_exits_3_and_names_the_file(enwiki, tmp_path, capsys):
    cut = tmp_path / "cut.bz2"
    cut.write_bytes(enwiki.read_bytes()[:800_000])
    assert main([str(cut), "--out", str(tmp_path / "out"), "--titles", "none"]) == 3
    output = capsys.readouterr()
    assert "1 failed: damaged_dump" in output.out
    assert f"{cut}: truncated" in output.err
    assert len(pq.read_table(tmp_path / "out" / "00000.parquet")) > 50


def test_an_empty_list_is_no_success(write_dump, tmp_path, capsys):
    dump = write_dump([("Fern", "one fern")])
    assert main([str(dump), "--out", str(tmp_path / "out"), "--titles", "none"]) == 4
    output = capsys.readouterr()
    assert "wrote 0 queries" in output.out
    assert "the list is empty: is --min-count too high?" in output.err


def test_a_stub_dump_is_refused_before_any_work(write_dump, tmp_path, capsys):
    path = write_dump([("Fern", "")])
    path.write_text(path.read_text().replace("<text></text>", '<text bytes="9" id="1" />'))
    assert main([str(path), "--out", str(tmp_path / "out")]) == 2
    assert f"dumps: {path} is a stub dump" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_dumps_without_an_article_are_no_success_with_other_sources(write_dump, tmp_path, capsys):
    wordnet = tmp_path / "dict"
    wordnet.mkdir()
    for name in SYNSET_FILES:
        (wordnet / name).write_text("00001740 03 n 01 fern 0 000 | a fern  \n")
    options = ["--wordnet", str(wordnet), "--out", str(tmp_path / "out")]
    assert main([str(write_dump([("Fern", "")])), *options]) == 3
    assert "no page of the dumps is an article with a text" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--min-count", "0"], "greater than or equal to 1"),
        (["--titles", "some"], "'all' or 'none'"),
        (["missing.bz2"], "there is no file missing.bz2"),
        (["--out", "ftp://host/out"], "ftp://host/out: only a local or mounted path"),
        (["--out", "s3://u:p@bucket/out"], "s3://bucket/out: a URL with a user"),
        (["http://u:p@127.0.0.1:9/x?token=t"], "there is no file http://127.0.0.1:9/x\n"),
        (["--views", "no.gz"], "views: there is no file no.gz"),
        (["--view-projects", "english"], "write 'english' as en.wikipedia"),
        (["--wordnet", "."], "has no data.noun"),
        (["--share-word", "0.6"], "add up to 1.1, and 1 is all of the list"),
        (["--bigram-measure", "chi2"], "'pmi' or 'npmi'"),
        (["--beam=--runner=Nosuch"], "--beam: Unexpected pipeline runner: Nosuch"),
        (["--beam=runner=Nosuch"], "--beam: 'runner=Nosuch' is no option"),
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


def test_views_and_wordnet_give_titles_and_synsets(write_dump, tmp_path, capsys):
    dump = write_dump([("Fern", "one fern"), ("Moss (plant)", "one moss"), ("Unseen", "none")])
    month, hour = tmp_path / "pageviews-202610-user", tmp_path / "pageviews-20261001-000000"
    month.write_text("en.wikipedia Moss_(plant) 2 desktop 60 A60\nen.wikipedia Fern x\n")
    hour.write_text("en.m Moss_(plant) 10 0\nen Fern 70 0\n")
    wordnet = tmp_path / "dict"
    wordnet.mkdir()
    for name in SYNSET_FILES:
        (wordnet / name).write_text("00001740 03 n 02 one 0 tree_fern 0 000 | not a tree  \n")
    lists = []
    for out, views in (("a", [month, hour]), ("b", [hour, month])):
        sources = ["--views", *map(str, views), "--wordnet", str(wordnet)]
        options = ["--min-count", "2", "--out", str(tmp_path / out)]
        assert main([str(dump), *sources, *options]) == 0
        lists.append((tmp_path / out / "00000.parquet").read_bytes())
    assert lists[0] == lists[1]
    rows = pq.read_table(tmp_path / "a" / "00000.parquet").to_pylist()
    assert [(row["query"], row["kind"], row["count"], row["views"]) for row in rows] == [
        ("fern", "title", None, 70),
        ("moss", "title", None, 70),
        ("one", "word", 2, None),
        ("tree fern", "synset", None, None),
    ]
    output = capsys.readouterr()
    assert "views: 4 in, 3 kept\n             1 failed: malformed_line" in output.out
    assert "synsets: 4 in, 4 kept" in output.out
    assert "1 rejected: synset_already_word" in output.out
    assert "1 rejected: title_below_min_views" in output.out
    assert not output.err


@pytest.mark.parametrize("cut", [0, 40])
def test_the_names_of_all_files_may_be_any_bytes(write_dump, tmp_path, capsys, cut):
    name = os.fsdecode("caf\u00e9".encode("latin-1"))
    whole = write_dump([("Fern", "one fern"), ("Moss", "one moss")]).read_bytes()
    (tmp_path / f"{name}.xml").write_bytes(whole[: len(whole) - cut])
    (tmp_path / f"{name}-views").write_text("en Fern 70 0\n")
    (tmp_path / name).mkdir()
    for file in SYNSET_FILES:
        line = "no synset" if cut else "00001740 03 n 02 one 0 fern 0 000 | a fern  "
        (tmp_path / name / file).write_text(f"{line}\n")
    sources = ["--views", str(tmp_path / f"{name}-views"), "--wordnet", str(tmp_path / name)]
    options = ["--min-count", "2", "--out", str(tmp_path / "out")]
    assert main([str(tmp_path / f"{name}.xml"), *sources, *options]) == (3 if cut else 0)
    told = capsys.readouterr().err.encode(errors="backslashreplace").decode()
    assert "fern" in pq.read_table(tmp_path / "out" / "00000.parquet")["query"].to_pylist()
    assert ("caf\\udce9.xml" in told, "caf\\udce9/data.adj" in told) == (bool(cut),) * 2


def test_an_out_that_is_no_utf8_is_refused(write_dump, tmp_path, capsys):
    name = os.fsdecode("caf\u00e9".encode("latin-1"))
    assert main([str(write_dump([])), "--out", str(tmp_path / name)]) == 2
    assert "caf\\xe9: a name that is no UTF-8" in capsys.readouterr().err


def test_input_that_cannot_be_used_exits_3_and_is_told(write_dump, tmp_path, capsys):
    wordnet = tmp_path / "dict"
    wordnet.mkdir()
    for name in SYNSET_FILES:
        (wordnet / name).write_text("  1 licence\nno synset\n")
    views = tmp_path / "views.gz"
    views.write_bytes(gzip.compress(b"de Fern 70 0\n" * 50)[:-12])
    sources = ["--views", str(views), "--wordnet", str(wordnet)]
    options = [*sources, "--min-count", "1", "--out", str(tmp_path / "out")]
    assert main([str(write_dump([("Fern", "one fern")])), *options]) == 3
    errors = capsys.readouterr().err
    assert f"{views}: truncated" in errors
    assert f"{wordnet / 'data.adj'}, line 2: no offset" in errors
    assert "is --view-projects right" in errors


def test_help_explains_every_setting(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")  # no line breaks at hyphens
    with pytest.raises(SystemExit) as exit_code:
        main(["--help"])
    assert exit_code.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for settings in (QuerySettings, BigramSettings, ShareSettings):
        for name, field in settings.model_fields.items():
            assert name in ("bigrams", "list", "shares") or str(field.description) in shown


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
        for _ in read_pages(Part(str(enwiki)), Tally()):
            pass
    lines = stream.getvalue().splitlines()
    assert lines[-1].startswith("reading: 100% of 2 MB after")
    assert "\r" not in stream.getvalue()


def test_progress_on_a_terminal_is_a_bar(enwiki, monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    with progress.shown(enwiki.stat().st_size, stream):
        for _ in read_pages(Part(str(enwiki)), Tally()):
            pass
    assert "reading: 100%|" in stream.getvalue()


def test_progress_counts_the_parts_that_others_have_read(tmp_path, write_dump, monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    monkeypatch.setattr(progress, "LOOK_SECONDS", 0.05)
    dump = write_dump([("Fern", "one fern")])
    part, counting = Part(str(dump)), Counting(lower_case=True, partitions=4)
    kept = Path(count_part(part, counting, str(tmp_path / "kept")))
    os.utime(kept, (0, 0))  # another command's
    stream, size = io.StringIO(), dump.stat().st_size
    with progress.shown(4 * size, stream), progress.of_parts(str(tmp_path / "kept")):
        time.sleep(0.3)
        assert not stream.getvalue()
        count_part(part, counting, str(tmp_path / "kept"))  # which this one needs as well
        (tmp_path / f"kept/other-{2 * size}.counts").touch()
        deadline = time.monotonic() + 60
        while "75%" not in stream.getvalue():
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert stream.getvalue().splitlines()[-1].startswith("reading: 75% of")


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
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "interrupted" in errors
    assert not (tmp_path / "out" / "00000.parquet").exists()
