"""The hostile web: what the judge finds, and cases that hold, through the real download."""

from __future__ import annotations

import json
import socket
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.hostile_web.__main__ import CASES, main
from benchmarks.hostile_web.answers import answer, endless, held, message, moved, robots
from benchmarks.hostile_web.case import KEPT, MAX_SECONDS, Case
from benchmarks.hostile_web.fetching import Memory, resolver
from benchmarks.hostile_web.files import JPEG, LOOKS, PNG, file_of, image_of, plain, turned
from benchmarks.hostile_web.judge import MOST_GROWTH, judge, of_inside, of_memory
from benchmarks.hostile_web.looks import BLUE, Looks
from benchmarks.hostile_web.server import INSIDE, LIMIT, Seen, Visit, Web, serving
from benchmarks.hostile_web.shard import Row

HOST = "127.0.1.1"
GOOD = Case("good", KEPT, answer(PNG), looks=LOOKS)
ROW = Row(KEPT, JPEG)


def seen(*visits: Visit) -> Seen:
    return Seen(list(visits), hosts={"good": HOST})


def visit(began: float = 0.0, seconds: float = 0.1, host: str = HOST, path: str = "0.png") -> Visit:
    return Visit(host, f"/good/{path}", began, began + seconds)


def problems(case: Case, rows: list[Row], at_servers: Seen) -> list[str]:
    return list(judge(case, rows, at_servers).problems)


def test_what_is_as_it_must_be_has_no_problem() -> None:
    verdict = judge(GOOD, [ROW], seen(visit()))
    assert verdict.problems == []
    assert (verdict.got, verdict.requests) == (KEPT, 1)
    assert verdict.seconds == pytest.approx(0.1)
    refused = replace(GOOD, expected=("opted_out", "robots_txt"), requests=(0, 1))
    assert problems(refused, [Row("robots_txt")], seen()) == []


def test_each_thing_that_is_not_as_it_must_be_is_found() -> None:
    lost = Case("good", "timeout", held(), (1, 2))
    assert problems(GOOD, [Row("timeout")], seen(visit())) == ["timeout"]
    assert problems(lost, [ROW], seen(visit())) == [KEPT]
    assert problems(GOOD, [], seen(visit())) == ["0 of 1 rows"]
    assert problems(GOOD, [ROW], seen()) == ["0 requests, not 1"]
    assert problems(GOOD, [ROW], seen(visit(), visit(1))) == ["2 requests, not 1"]
    assert problems(lost, [Row("timeout")], seen(*map(visit, range(3)))) == [
        "3 requests, not 1 to 2"
    ]
    assert problems(GOOD, [ROW], seen(visit(seconds=2.9))) == []
    assert problems(GOOD, [ROW], seen(visit(seconds=3.1))) == ["3.1 s, not 2"]
    slow = replace(GOOD, within=MAX_SECONDS)
    assert problems(slow, [ROW], seen(visit(seconds=5.9))) == []
    assert problems(slow, [ROW], seen(Visit(HOST, "/good/0.png", time.monotonic() - 9))) == [
        "9.0 s, not 5"
    ]
    twice = replace(GOOD, requests=(2, 2))
    assert problems(twice, [ROW], seen(visit(), visit(host=INSIDE, path="x.png"))) == [
        "1 requests where none may go"
    ]
    many = replace(GOOD, urls=3, requests=(3, 3))
    assert problems(many, [ROW] * 3, seen(visit(0), visit(0.05), visit(0.12))) == []
    assert problems(many, [ROW] * 3, seen(visit(0), visit(0.05), visit(0.07))) == [
        "3 requests at a time"
    ]
    other = replace(GOOD, check=lambda case, at: f"{case.name} {len(at.visits)}")
    assert problems(other, [ROW], seen(visit())) == ["good 1"]


def test_a_slow_robots_txt_counts_as_well() -> None:
    slow = Visit(HOST, "/robots.txt", 0.0, 4.0)
    assert problems(GOOD, [ROW], seen(slow, visit(4))) == ["4.0 s, not 2"]


def test_a_kept_picture_must_look_as_it_was_meant() -> None:
    lying = Row(KEPT, file_of(plain(BLUE), "JPEG"))
    (problem,) = problems(GOOD, [lying], seen(visit()))
    assert problem.startswith("top left is #283c")
    on_its_side = Row(KEPT, turned("JPEG"))
    assert problems(GOOD, [on_its_side], seen(visit())) == ["it is 64 wide and 96 high"]
    lighter = image_of().point(lambda level: min(255, level + 12))
    assert LOOKS.problem(file_of(lighter, "PNG")) != ""
    assert Looks.all_over(BLUE).problem(file_of(plain(BLUE), "PNG")) == ""


def test_memory_and_strange_connections_are_judged_for_all() -> None:
    assert of_memory(None) == ["the process has not ended by itself"]
    assert of_memory(Memory(peaks=(10**8, 10**8 + MOST_GROWTH))) == []
    assert len(of_memory(Memory(peaks=(10**8, 10**8 + MOST_GROWTH + 1)))) == 1
    assert of_inside(Seen(connections=[HOST])) == []
    assert of_inside(Seen(connections=[HOST, INSIDE])) == ["1 connections where none may go"]


def test_a_name_has_other_addresses_at_a_later_look_up() -> None:
    look_up = resolver({"a.test": (("127.0.1.1",), ("127.0.1.2", "127.0.1.3")), "b.test": ((),)})

    def addresses(name: str) -> list[str]:
        found = look_up(name, 80, type=socket.SOCK_STREAM)
        return [address[0] for *_, address in found]

    assert [addresses("a.test") for _ in range(3)] == [
        ["127.0.1.1"],
        ["127.0.1.2", "127.0.1.3"],
        ["127.0.1.2", "127.0.1.3"],
    ]
    assert addresses("127.0.0.9") == ["127.0.0.9"]
    for unknown in ("b.test", "c.test"):
        with pytest.raises(socket.gaierror):
            look_up(unknown, 80)


def test_there_are_many_cases_and_no_two_have_a_name() -> None:
    assert len(CASES) >= 60
    assert [slug for slug, n in Counter(case.slug for case in CASES).items() if n > 1] == []


#: Seconds: the servers themselves end what takes longer than LIMIT.
PATIENCE = LIMIT / 2


@pytest.fixture
def web() -> Iterator[Web]:
    cases = [
        replace(GOOD, robots=robots("User-agent: *")),
        Case("moved", KEPT, moved("http://{inside}/{slug}/x.png")),
        Case("endless", KEPT, endless(b"HTTP/1.1 200 OK\r\n\r\n")),
        Case("silent", KEPT, held()),
        Case("eager", KEPT, answer(), at_accept=held(b"early")),
    ]
    with serving(cases) as servers:
        yield servers


def talk(web: Web, case: Case, request: bytes, size: int) -> bytes:
    """What a server says, of so many bytes at least, to somebody who then goes away."""
    host, port = web.authority(case).split(":")
    said = b""
    with socket.create_connection((host, int(port)), PATIENCE) as connection:
        connection.sendall(request)
        while len(said) < size and (more := connection.recv(2**20)):
            said += more
    return said


def has_ended(web: Web) -> bool:
    """Whether all exchanges end, within the time that is given to them."""
    until = time.monotonic() + PATIENCE
    while any(one.ended is None for one in web.seen.visits):
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def test_the_servers_do_what_the_cases_say_and_note_it(web: Web) -> None:
    good, to_inside, never_ends, silent, eager = web.cases
    url = "GET /{}/0.png HTTP/1.1\r\nUser-Agent: me\r\n\r\n"
    ask = url.format("good").encode()
    assert talk(web, good, ask + ask, 2 * len(message(PNG))) == 2 * message(PNG)
    assert b"User-agent: *" in talk(web, good, b"GET /robots.txt HTTP/1.1\r\n\r\n", 1)
    said = talk(web, to_inside, url.format("moved").encode(), 1)
    assert f"Location: http://{INSIDE}:{web.port}/moved/x.png\r\n".encode() in said
    assert len(talk(web, never_ends, url.format("endless").encode(), 10**6)) >= 10**6
    assert talk(web, eager, b"", 5) == b"early"
    with socket.create_connection((INSIDE, web.port), PATIENCE) as connection:
        connection.sendall(b"GET /moved/x.png HTTP/1.1\r\n\r\n")
        assert connection.recv(99).startswith(b"HTTP/1.1 404")
    with socket.create_connection((web.addresses["silent"], web.port), PATIENCE) as connection:
        connection.sendall(url.format("silent").encode() + b"and more that is not read")
        while not web.seen.of(silent):
            time.sleep(0.01)
    assert has_ended(web)
    assert [one.path for one in web.seen.at_host_of(good)] == ["/good/0.png"] * 2 + ["/robots.txt"]
    assert {one.agent for one in web.seen.of(good)} == {"me"}
    assert web.seen.connections.count(web.addresses["good"]) == 2
    assert web.seen.trespasses(to_inside) == 1
    assert web.seen.trespasses(good) == 0


#: They hold whoever fetches, and take no time.
HOLD = (
    "redirect to (loopback|a decimal host|full-width digits|file:|data:|a relative URL)$",
    "directly: a name that leads inside",
    "five redirects",
    "endless body",
    "Content-Length above what comes",
    "HTTP/0.9",
    "a gzip bomb$",
    "a good (PNG|JPEG)",
    "a PNG of 30,000",
    "a truncated JPEG",
    "(SVG|HTML) as (PNG|JPEG)",
    "a (JPEG on its side|transparent PNG|grey PNG of 16 bits)",
    "404",
    "opt-out: noai",
)


def test_cases_that_hold_end_as_they_must(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    code = main(["--only", "^(" + "|".join(HOLD) + ")"])
    printed = capfd.readouterr().out
    found = json.loads(printed.splitlines()[-1])
    assert [one for one in found["cases"] if one["problems"]] == []
    assert found["problems"] == []
    assert code == 0
    assert len(found["cases"]) == 23
    assert f"{len(found['cases'])} of {len(found['cases'])} cases are right" in printed


def test_a_case_that_is_none_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--only", "no such case"])
    assert "--only: there is no such case" in capsys.readouterr().err
