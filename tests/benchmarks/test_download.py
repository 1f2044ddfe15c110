"""The benchmark of downloading, of a few pictures: both contenders for real, and the hosts."""

from __future__ import annotations

import json
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.download.__main__ import main, pictures, problems, ratios, table
from benchmarks.download.case import ENDING, ENDLESS, MAX_BYTES, Case, cases
from benchmarks.download.link import NETEM, SITE, linked
from benchmarks.download.measure import Measured, measure
from benchmarks.download.site import PICTURES

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / PICTURES).mkdir()
    for number, content in enumerate(pictures(2, are_small=True)):
        (tmp_path / PICTURES / f"{number}.jpg").write_bytes(content)
    return tmp_path


def ours(case: Case, folder: Path) -> Measured:
    with linked(case.round_trip) as link:
        return measure(case, "ours", link, folder, limit=90)


def test_both_keep_the_same_pictures(folder: Path) -> None:
    case = Case("healthy hosts", images=20, hosts=5)
    with linked(0.0) as link:
        rows = [measure(case, name, link, folder, limit=170) for name in ("ours", "img2dataset")]
    assert [row.kept for row in rows] == [row.served for row in rows] == [20, 20]
    assert rows[0].pictures == rows[1].pictures
    assert all(sha for _, sha in rows[0].pictures)
    assert rows[0].requests == 20 + 2 * 5  # robots.txt and tdmrep.json
    assert rows[1].requests == 20
    assert list(problems(rows)) == []
    assert any("| healthy hosts | img2dataset | 20 of 20 |" in line for line in table(rows))
    (ratio,) = ratios(rows)
    assert ratio.startswith("healthy hosts: ")
    lacking = replace(rows[0], pictures=frozenset(list(rows[0].pictures)[1:]))
    assert list(problems([lacking, rows[1]])) == [
        "healthy hosts: 1 pictures were kept by one of the two alone"
    ]
    held = replace(rows[1], was_ended=True, kept=0)
    assert any("none (ended; 20 were sent)" in line for line in table([rows[0], held]))
    assert next(iter(ratios([rows[0], held]))).startswith("healthy hosts: at least ")


def test_a_case_that_is_none_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--only", "no such case"])
    assert "--only: there is no such case" in capsys.readouterr().err


def test_hosts_that_misbehave_take_nothing_from_the_others(folder: Path) -> None:
    case = Case("ill", images=100, hosts=50, conduct=ENDLESS)
    ill = [host for host, does in enumerate(case.conducts()) if does != "good"]
    assert len(ill) == 5
    row = ours(case, folder)
    assert not row.was_ended
    assert row.kept == row.served == 90
    assert row.at_once <= 2
    assert {path for path, _ in row.pictures}.isdisjoint(
        f"/{number}.jpg" for host, number in case.places() if host in ill
    )


def test_a_contender_that_does_not_end_is_ended(folder: Path) -> None:
    case = replace(Case("ill", images=10, hosts=10, conduct=("drip",)))
    with linked(0.0) as link:
        row = measure(case, "ours", link, folder, limit=3.0)
    assert row.was_ended
    assert (row.kept, row.fetched) == (0, row.served)


def test_a_slow_host_has_its_share_of_the_pictures() -> None:
    case = Case("slow", images=200, hosts=10, slow_images=10)
    of_host = Counter(host for host, _ in case.places())
    assert case.conducts()[10] == "slow"
    assert of_host[10] == 10
    assert sum(of_host.values()) == 200
    assert [sorted(case.conducts()) for case in cases(100, 100, 50) if case.conduct] == [
        sorted(["good"] * 45 + [*kinds]) for kinds in (ENDLESS, ENDING)
    ]


def test_an_answer_comes_a_round_trip_later(folder: Path) -> None:
    row = ours(Case("far", images=4, hosts=1, round_trip=0.2), folder)
    assert row.kept == 4
    assert row.link in (NETEM, SITE)
    # robots.txt, tdmrep.json and two pictures at a time, one after the other.
    assert row.seconds >= 4 * 0.2


@pytest.fixture
def ill_site(folder: Path) -> Iterator[tuple[int, dict[str, str]]]:
    conducts = {f"127.0.1.{n}": does for n, does in enumerate(("endless", "circle", "busy"), 1)}
    (folder / "site.json").write_text(json.dumps({"conducts": conducts, "round_trip": 0}))
    with subprocess.Popen(
        [".venv/bin/python", "-m", "benchmarks.download.site", str(folder)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        yield int(process.stdout.readline()), {does: at for at, does in conducts.items()}
        process.communicate("")


def test_an_endless_body_fills_no_memory(ill_site: tuple[int, dict[str, str]]) -> None:
    port, addresses = ill_site
    with socket.create_connection((addresses["endless"], port), 30) as connection:
        connection.sendall(b"GET /1.jpg HTTP/1.1\r\n\r\n")
        size = 0
        while size < 2 * MAX_BYTES:
            size += len(connection.recv(2**20))
        assert len(connection.recv(2**20)) < 2**16
        assert len(connection.recv(2**20)) == 1
