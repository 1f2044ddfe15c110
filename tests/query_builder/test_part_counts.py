"""The counts of parts, in files that serve more than one list."""

import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest

from query_builder import build, part_counts, sources
from query_builder.__main__ import main
from query_builder.build import build_queries
from query_builder.dump import dump_parts
from query_builder.part_counts import Counting, PartCounts, count_part, total, write_counts
from query_builder.settings import BigramSettings, QuerySettings
from query_builder.sources import Part
from tests.query_builder.conftest import multistream
from workers.base.file_systems import size_of

SMALL = QuerySettings(min_count=2, bigrams=BigramSettings(min_count=2, min_pmi=0))


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(sources, "PART_BYTES", 300)


@pytest.fixture
def counted(monkeypatch):
    """The parts that are counted while a test goes on."""
    parts = []

    def count(part, counting, file):
        parts.append(part)
        write_counts(part, counting, file)

    monkeypatch.setattr(part_counts, "write_counts", count)
    return parts


def bytes_of(dumps, out, **options):
    build_queries(dumps, out, SMALL, [], **options)
    return (out / "00000.parquet").read_bytes()


def test_a_part_that_has_been_counted_is_not_counted_again(tmp_path, small_parts, counted):
    first, kept = multistream(tmp_path), str(tmp_path / "kept")
    alone = bytes_of([first], tmp_path / "alone", counts=kept)
    number = len(counted)
    assert number > 4
    counted.clear()
    assert bytes_of([first], tmp_path / "again", counts=kept) == alone
    assert counted == []

    second = multistream(tmp_path, wiki="yy")
    both = bytes_of([first, second], tmp_path / "both", counts=kept)
    assert {part.file for part in counted} == {str(second)}
    assert len(counted) == number
    assert bytes_of([first, second], tmp_path / "fresh") == both != alone

    counted.clear()
    first.write_bytes(first.read_bytes())  # another time: it may be another dump
    bytes_of([first, second], tmp_path / "changed", counts=kept)
    assert {part.file for part in counted} == {str(first)}


@pytest.mark.parametrize("left", [0, 5, 200])
def test_a_file_that_is_cut_off_is_written_again(tmp_path, small_parts, counted, left):
    dump, kept = multistream(tmp_path), tmp_path / "kept"
    whole = bytes_of([dump], tmp_path / "first", counts=str(kept))
    damaged = sorted(kept.glob("*.counts"))[1]
    damaged.write_bytes(damaged.read_bytes()[:left])
    counted.clear()
    assert bytes_of([dump], tmp_path / "second", counts=str(kept)) == whole
    assert len(counted) == 1


def test_other_words_are_counted_anew(tmp_path, counted, write_dump):
    dump, kept = write_dump([("A", "Fern fern")]), str(tmp_path / "kept")
    for lower_case in (True, False, True):
        settings = SMALL.model_copy(update={"lower_case": lower_case})
        build_queries([dump], tmp_path / "out", settings, [], counts=kept)
    assert len(counted) == 2


def test_without_a_folder_of_their_own_they_go_with_the_list(tmp_path, write_dump):
    bytes_of([write_dump([("A", "fern fern")])], tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["00000.parquet"]


def test_a_file_serves_fewer_partitions_than_it_has(tmp_path, write_dump):
    dump = write_dump([("A", " ".join(f"w{n} v{n % 7}" for n in range(500)))])
    file = count_part(Part(str(dump)), Counting(lower_case=True, partitions=16), str(tmp_path))
    counts = PartCounts.open(file)
    assert counts.index.partitions == 16
    of_two = [total(p for own, p in counts.pieces(2) if own == part) for part in (0, 1)]
    words = [
        {w for w, n in zip(some.words.to_pylist(), some.word_counts, strict=True) if n}
        for some in of_two
    ]
    assert not words[0] & words[1]
    assert len(words[0] | words[1]) == 507
    assert sum(some.bigram_counts.sum() for some in of_two) == 999


def test_the_name_of_a_file_has_the_bytes_of_its_part(tmp_path, small_parts):
    dump = multistream(tmp_path)
    files = [
        count_part(part, Counting(lower_case=True, partitions=4), str(tmp_path / "kept"))
        for part in dump_parts(str(dump))
    ]
    sizes = [int(file.rpartition("-")[2].removesuffix(".counts")) for file in files]
    assert sum(sizes) == size_of(str(dump))


def test_processes_of_their_own_give_the_same_bytes(enwiki, bgwiki, tmp_path, monkeypatch):
    """Which speak Beam's protocol, as those on other machines do."""
    one = bytes_of([enwiki, bgwiki], tmp_path / "one")
    monkeypatch.setattr(build, "BYTES_FOR_PROCESSES", 0)
    monkeypatch.setattr("workers.base.beam_pipeline.usable_cores", lambda: 2)
    started = []
    popen = subprocess.Popen

    def noted(command, *args, **options):
        started.append(command)
        return popen(command, *args, **options)

    monkeypatch.setattr(subprocess, "Popen", noted)
    assert bytes_of([enwiki, bgwiki], tmp_path / "two") == one
    assert len([command for command in started if "sdk_worker_main" in str(command)]) == 2


def test_a_killed_command_goes_on_where_it_was(enwiki, tmp_path):
    dumps = [tmp_path / f"{n}.bz2" for n in range(6)]
    for dump in dumps:
        dump.write_bytes(enwiki.read_bytes())
    out = tmp_path / "out"
    options = [*map(str, dumps), "--min-count", "50", "--titles", "none", "--out"]
    command = [sys.executable, "-m", "query_builder", *options, str(out)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)
    kept = out / ".tmp-counts"
    deadline = time.monotonic() + 240
    while len(list(kept.glob("[!.]*.counts"))) < 2:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (out / "00000.parquet").exists()
    before = {path.name: path.stat().st_ino for path in kept.glob("[!.]*.counts")}
    assert 2 <= len(before) < len(dumps)

    (seen,) = [watched(main, [*options, str(out)], kept)]
    assert before.items() <= seen.items(), "these were not written again"
    assert [path.name for path in out.iterdir()] == ["00000.parquet"]
    assert main([*options, str(tmp_path / "alone")]) == 0
    assert (out / "00000.parquet").read_bytes() == (tmp_path / "alone/00000.parquet").read_bytes()
    assert len(pq.read_table(out / "00000.parquet")) > 50


def watched(command, options, folder):
    """The files of a folder, by name, as they are when a command removes it."""
    found = {}
    remove = part_counts.remove

    def look(url):
        found.update({path.name: path.stat().st_ino for path in folder.glob("[!.]*.counts")})
        remove(url)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(part_counts, "remove", look)
        assert command(options) == 0
    return found
