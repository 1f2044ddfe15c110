"""Damaged WARC files: what is whole is read, and the damage is told with its place."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from datetime import UTC, datetime
from io import BytesIO
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workers.packing import zstd
from workers.crawl.warc_writer import response_record
from workers.extract.warc_records import Damage, RawRecord, read_records

NOW = datetime(2026, 11, 22, tzinfo=UTC)
COUNT = 7


def body(number: int) -> bytes:
    return Random(number).randbytes(500 + 37 * number).hex().encode()


RECORDS = [
    response_record(f"http://a.example/{n}", 200, {"Content-Type": "text/html"}, body(n), NOW)
    for n in range(COUNT)
]


PACK: dict[str, Callable[[bytes], bytes]] = {"plain": bytes, "gzip": gzip.compress, "zstd": zstd}


def read(content: bytes) -> tuple[list[int], list[Damage], list[RawRecord]]:
    found = list(read_records(BytesIO(content)))
    records = [record for record in found if isinstance(record, RawRecord)]
    numbers = [int(record.url.rpartition("/")[2]) for record in records]
    for number, record in zip(numbers, records, strict=True):
        assert record.block.endswith(body(number)), "a record holds its own page, whole"
    return numbers, [item for item in found if isinstance(item, Damage)], records


def lying(record: bytes, change: int) -> bytes:
    return re.sub(
        rb"Content-Length: (\d+)",
        lambda found: b"Content-Length: %d" % (int(found[1]) + change),
        record,
        count=1,
    )


BREAKS: dict[str, Callable[[bytes], bytes]] = {
    "length too small": lambda record: lying(record, -50),
    "length too large": lambda record: lying(record, 50),
    "length beyond the file": lambda record: lying(record, 100_000),
    "length too large to hold": lambda record: lying(record, 100 << 20),
    "length negative": lambda record: record.replace(b"Content-Length: ", b"Content-Length: -", 1),
    "no length": lambda record: record.replace(b"Content-Length", b"Contend-Length", 1),
    "no version": lambda record: record.replace(b"WARC/1.1", b"WXRC/1.1"),
    "no header end": lambda record: record.replace(b"\r\n\r\n", b"\r\n", 1),
    "other bytes": lambda record: b"\0\xff" * 300,
}


@pytest.mark.parametrize("pack", PACK)
@pytest.mark.parametrize("place", [0, 3, COUNT - 1])
@pytest.mark.parametrize("change", BREAKS)
def test_a_malformed_record_is_the_only_one_lost(pack, place, change):
    broken = [*RECORDS]
    broken[place] = BREAKS[change](RECORDS[place])
    packed = [PACK[pack](record) for record in broken]
    numbers, damage, _ = read(b"".join(packed))
    assert numbers == [n for n in range(COUNT) if n != place]
    assert [item.offset for item in damage] == [len(b"".join(packed[:place]))]


@pytest.mark.parametrize("place", [0, 3, COUNT - 1])
@pytest.mark.parametrize("change", ["bytes", "checksum", "cut"])
def test_a_damaged_gzip_member_is_the_only_one_lost(place, change):
    packed = [gzip.compress(record) for record in RECORDS]
    member = bytearray(packed[place])
    if change == "bytes":
        member[200:230] = b"x" * 30
    elif change == "checksum":
        member[-6] ^= 1
    else:
        del member[250:]
    packed[place] = bytes(member)
    numbers, damage, _ = read(b"".join(packed))
    assert numbers == [n for n in range(COUNT) if n != place]
    assert [item.offset for item in damage] == [len(b"".join(packed[:place]))]


def test_two_damaged_members_in_a_row():
    packed = [gzip.compress(record) for record in RECORDS]
    packed[2] = packed[2][:200]
    packed[3] = packed[3][:300]
    numbers, damage, _ = read(b"".join(packed))
    assert numbers == [0, 1, 4, 5, 6]
    assert [item.offset for item in damage] == [len(b"".join(packed[:n])) for n in (2, 3)]


@pytest.mark.parametrize("pack", [gzip.compress, zstd])
@pytest.mark.parametrize("place", [0, 3, COUNT])
@pytest.mark.parametrize(("between", "damaged"), [(b"", 0), (b"\r\n" * 99, 0), (b"no record", 1)])
def test_what_is_packed_and_is_no_record_costs_none(pack, place, between, damaged):
    """An empty member is what bgzip, for one, ends a file with."""
    packed = [pack(record) for record in RECORDS]
    packed.insert(place, pack(between) * 2)
    numbers, damage, _ = read(b"".join(packed))
    assert numbers == list(range(COUNT))
    assert len(damage) == damaged
    assert all(item.offset == len(b"".join(packed[:place])) for item in damage)


@pytest.mark.parametrize("pack", PACK)
@pytest.mark.parametrize("begun", range(1, 12))
def test_the_first_bytes_of_a_record_that_is_cut_off_cost_no_other(pack, begun):
    packed = [PACK[pack](record) for record in RECORDS]
    for whole in range(1, COUNT):
        assert read(b"".join(packed[:whole]) + packed[whole][:begun])[0] == list(range(whole))


@pytest.mark.parametrize("pack", PACK)
@settings(deadline=None, max_examples=60)
@given(cut=st.integers(1, 10_000))
def test_a_cut_file_gives_the_whole_records_before_the_cut(pack, cut):
    packed = [PACK[pack](record) for record in RECORDS]
    content = b"".join(packed)
    left = max(len(content) - cut, 0)
    numbers, damage, _ = read(content[:left])
    ends = [len(b"".join(packed[: n + 1])) for n in range(COUNT)]
    # Without the checksum or the empty lines at its end, a record is still there.
    least, most = (sum(end - slack <= left for end in ends) for slack in (0, 12))
    assert numbers in [list(range(least)), list(range(most))]
    assert len(damage) <= 1
    assert damage or least < most or not left or left in ends or pack == "plain"


@pytest.mark.parametrize("pack", PACK)
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_any_damage_ends_and_costs_at_most_two_records(pack, data):
    content = bytearray(b"".join(PACK[pack](record) for record in RECORDS))
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    records = list(read_records(BytesIO(bytes(content))))
    assert len([item for item in records if isinstance(item, RawRecord)]) >= COUNT - 2


def test_the_offset_is_where_the_record_is_also_after_damage():
    packed = [gzip.compress(record) for record in RECORDS]
    packed[1] = packed[1][:200]
    content = b"".join(packed)
    _, _, records = read(content)
    for record in records:
        number = int(record.url.rpartition("/")[2])
        assert content[record.offset :].startswith(packed[number])


def test_one_gzip_member_for_the_whole_file():
    assert read(gzip.compress(b"".join(RECORDS)))[0] == list(range(COUNT))


@pytest.mark.parametrize("version", [b"0.17", b"0.18", b"1.0", b"1.1"])
@pytest.mark.parametrize("pack", PACK)
def test_versions(pack, version):
    packed = [PACK[pack](record.replace(b"WARC/1.1", b"WARC/" + version)) for record in RECORDS]
    assert read(b"".join(packed))[0] == list(range(COUNT))
    packed[3] = b"\0" * 20
    assert read(b"".join(packed))[0] == [0, 1, 2, 4, 5, 6]


def in_lower_case(record: bytes) -> bytes:
    head, end, block = record.partition(b"\r\n\r\n")
    version, line_end, fields = head.partition(b"\r\n")
    names = re.sub(rb"(?m)^[A-Za-z-]+:", lambda name: name[0].lower(), fields)
    return version + line_end + names + end + block


def with_line_feeds(record: bytes) -> bytes:
    head, _, block = record.partition(b"\r\n\r\n")
    block = block.removesuffix(b"\r\n\r\n")
    return head.replace(b"\r\n", b"\n") + b"\n\n" + block + b"\n\n"


UNUSUAL: dict[str, Callable[[bytes], bytes]] = {
    "lower case": in_lower_case,
    "upper case": lambda record: record.replace(b"Content-Length", b"CONTENT-LENGTH", 1),
    "odd types": lambda record: record.replace(b"response\r\n", b"Response \r\n", 1),
    "line feeds": with_line_feeds,
    "spaces": lambda record: record.replace(b"Content-Length:", b"Content-Length \t:", 1),
    "other order": lambda record: re.sub(
        rb"(WARC/1.1\r\n)((?:.+\r\n)+?)(Content-Length: \d+\r\n)", rb"\1\3\2", record, count=1
    ),
}


@pytest.mark.parametrize("pack", PACK)
@pytest.mark.parametrize("places", [[0], [3], [COUNT - 1], range(COUNT)])
@pytest.mark.parametrize("change", UNUSUAL)
def test_a_record_that_is_only_unusual_is_read(pack, places, change):
    unusual = [UNUSUAL[change](r) if n in places else r for n, r in enumerate(RECORDS)]
    numbers, damage, records = read(b"".join(PACK[pack](record) for record in unusual))
    assert numbers == list(range(COUNT))
    assert damage == []
    assert {(record.kind, record.is_http) for record in records} == {("response", True)}
    assert {record.length for record in records} == {len(r.block) for r in records}


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"no WARC file", b"\x1f\x8b\x08" + b"x" * 9])
def test_other_files(content):
    numbers, damage, _ = read(content)
    assert numbers == []
    assert [item.offset for item in damage] == ([0] if content else [])
