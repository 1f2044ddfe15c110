"""One owner at a time, whatever the clocks say, and whoever is stopped, killed or cut off."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from datetime import datetime, timedelta

import pytest

from tests.object_store import refuse
from workers.base import lease as leases
from workers.base.bucket import Bucket
from workers.base.lease import NAME, HeldError, Lease, LostError, acquire, holding

#: The store tells whole seconds.
SECONDS = 3.0

HOLD = """
import sys, time
from workers.base.bucket import Bucket
from workers.base.lease import LostError, acquire
bucket = Bucket(sys.argv[1])
lease = acquire(bucket, float(sys.argv[2]))
print("held", flush=True)
sys.stdin.readline()
for check in (lease.check, lease.holder.check):
    try:
        check()
        print("still held", flush=True)
    except LostError as error:
        print(f"lost: {error}", flush=True)
lease.release()
"""


@pytest.fixture
def bucket(store):
    store.fault = None
    yield Bucket(f"{store.new_bucket()}/run")
    store.fault = None


@contextmanager
def another_process(bucket):
    """Somebody who holds the lease, and asks whether he does when he gets a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, bucket.url, str(SECONDS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()


def test_the_second_one_is_told_who_and_since_when(bucket):
    with another_process(bucket) as owner:
        with pytest.raises(HeldError, match=rf"held by process {owner.pid} on .*, since 20"):
            acquire(bucket, SECONDS)
        owner.communicate("\n")
    with holding(bucket, SECONDS) as lease:
        assert lease.holder.number == 2
        lease.check()
        lease.holder.check()


def test_it_is_renewed_for_as_long_as_its_owner_lives(bucket):
    with another_process(bucket) as owner:
        time.sleep(1.7 * SECONDS)
        with pytest.raises(HeldError):
            acquire(bucket, SECONDS)
        said, _ = owner.communicate("\n")
    assert said == "still held\nstill held\n"


def wait_for(bucket):
    """Take the lease when its time is over."""
    deadline = time.monotonic() + 4 * SECONDS
    while True:
        try:
            return acquire(bucket, SECONDS)
        except HeldError:
            assert time.monotonic() < deadline
            time.sleep(0.2)


def test_of_an_owner_that_was_killed_here_it_is_taken_over_at_once(bucket):
    with another_process(bucket) as owner:
        owner.kill()
        owner.wait()
        with holding(bucket, 3600) as lease:
            assert lease.holder.number == 2


@pytest.fixture
def another_machine(monkeypatch):
    """What this process is on, by its own account."""
    monkeypatch.setattr(leases, "_machine", lambda: "another machine")


@pytest.mark.usefixtures("another_machine")
def test_of_a_killed_owner_it_is_taken_over_when_its_time_is_over(bucket):
    with another_process(bucket) as owner:
        owner.kill()
    killed = time.monotonic()
    lease = wait_for(bucket)
    assert time.monotonic() - killed > SECONDS / 2
    assert lease.holder.number == 2
    lease.release()


def test_an_owner_that_was_stopped_for_too_long_finds_that_it_is_anothers(bucket):
    with another_process(bucket) as owner:
        os.kill(owner.pid, signal.SIGSTOP)
        lease = wait_for(bucket)
        os.kill(owner.pid, signal.SIGCONT)
        said, _ = owner.communicate("\n")
    assert said.count("lost: ") == 2
    assert f"held by process {os.getpid()} on" in said
    lease.holder.check()
    lease.release()
    with holding(bucket, SECONDS) as third:  # the old one has let nobody's go
        assert third.holder.number == 3


@pytest.mark.usefixtures("another_machine")
@pytest.mark.parametrize("minutes", [-1, 1])
def test_clocks_that_disagree_change_nothing(bucket, monkeypatch, minutes):
    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(minutes=minutes)

    with another_process(bucket):
        monkeypatch.setattr(leases, "datetime", Clock)
        with pytest.raises(HeldError):
            acquire(bucket, SECONDS)
    lease = wait_for(bucket)
    with pytest.raises(HeldError):
        acquire(bucket, SECONDS)
    lease.release()


def test_of_two_who_find_it_free_one_gets_it(bucket, store):
    other: list[Lease] = []

    def overtake(environ, _start, _application):
        if environ["REQUEST_METHOD"] == "PUT" and environ["PATH_INFO"].endswith(NAME) and not other:
            store.fault = None
            other.append(acquire(bucket, SECONDS))
        return

    store.fault = overtake
    with pytest.raises(HeldError, match=f"process {os.getpid()}"):
        acquire(bucket, SECONDS)
    other[0].holder.check()
    other[0].release()


def test_an_owner_that_is_cut_off_stops_in_time(bucket, store):
    lease = acquire(bucket, SECONDS)
    lease.check()
    store.fault = lambda _environ, start, _application: refuse("403 Forbidden", start)
    with pytest.raises(PermissionError):
        lease.check()
    time.sleep(1.1 * SECONDS)
    with pytest.raises(LostError, match="could not be reached for 3 s"):
        lease.check()
    store.fault = None
    time.sleep(SECONDS / 2)
    with pytest.raises(LostError):  # what was told once holds: another may have come and gone
        lease.check()
    lease.release()


@pytest.mark.parametrize("content", [b"", b"{", b"null", b"\xff", b'{"number": 0}'])
def test_one_that_cannot_be_read_is_nobodys(bucket, content):
    bucket.write(NAME, content, None)
    with holding(bucket, SECONDS) as lease:
        lease.holder.check()
