"""A run's next state takes its place at once, whatever is killed and when."""

import itertools
import shutil
from pathlib import Path

import pytest

from pipelines.run.config import Config, ConfigError
from pipelines.run.directory import Run
from pipelines.run.rewrite import FOLDER, finish_rewrite, rewriting
from tests.object_store import objects_below, refuse
from workers.base import copies
from workers.base.bucket import Bucket
from workers.base.lease import NAME as LEASE
from workers.base.lease import LostError, acquire
from workers.base.storage import write_text


@pytest.fixture
def run(tmp_path):
    for name in ("pairs/a.txt", "pairs/b.txt", "logs/c.txt", "_work/pairs/x"):
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).write_text(name)
    return Run(Config(name="birds", queries="none"), tmp_path / "run")


def contents(directory):
    """Every file of a run by its name, but for what is thrown away."""
    return {
        str(path.relative_to(directory)): path.read_text()
        for path in directory.rglob("*")
        if path.is_file() and "_work" not in path.parts
    }


NEXT = {"pairs/a.txt": "new", "logs/c.txt": "logs/c.txt", "queries/d.txt": "more"}


def change(state):
    write_text("new", state.directory / "pairs/a.txt")
    write_text("more", state.directory / "queries/d.txt")
    (state.directory / "pairs/b.txt").unlink()


def test_the_run_becomes_what_was_made_of_it(run):
    with rewriting(run) as state:
        assert contents(state.directory)["logs/c.txt"] == "logs/c.txt"
        change(state)
        assert (run.directory / "pairs/a.txt").read_text() == "pairs/a.txt"
    assert contents(run.directory) == NEXT


def test_an_error_leaves_the_run_as_it_was(run):
    before = contents(run.directory)

    def change_and_fail():
        with rewriting(run) as state:
            change(state)
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        change_and_fail()
    assert contents(run.directory) == before


class KilledError(BaseException):
    """As good as SIGKILL: no handler of the code sees it."""


def killed_at(run, monkeypatch, step):
    """Rewrite the run; the process is killed at one of the steps of the operating system's."""
    steps = 0

    def counted(function):
        def call(*arguments, **named):
            nonlocal steps
            steps += 1
            if steps > step:
                raise KilledError
            return function(*arguments, **named)

        return call

    with monkeypatch.context() as patch:
        for name in ("replace", "unlink", "symlink_to"):
            patch.setattr(Path, name, counted(getattr(Path, name)))
        patch.setattr(shutil, "rmtree", counted(shutil.rmtree))
        try:
            with rewriting(run) as state:
                change(state)
        except KilledError:
            return True
    return False


def test_a_rewrite_that_is_killed_is_ended_or_was_never_begun(run, monkeypatch, tmp_path):
    before = contents(run.directory)
    ends = []
    for step in range(100):
        shutil.copytree(run.directory, tmp_path / "copy", symlinks=True)
        copy = Run(run.config, tmp_path / "copy")
        killed = killed_at(copy, monkeypatch, step)
        with copy.lock():
            found = contents(copy.directory)
        assert found in (before, NEXT)
        assert not (copy.directory / FOLDER).exists()
        ends.append(found == NEXT)
        shutil.rmtree(tmp_path / "copy")
        if not killed:
            break
    assert not killed
    assert ends == sorted(ends)
    assert {False, True} == set(ends[:-1])  # killed on both sides of the moment


def test_a_list_that_was_not_written_in_full_is_none(run):
    before = contents(run.directory)
    folder = run.directory / FOLDER
    (folder / "run/pairs").mkdir(parents=True)
    (folder / "run/pairs/a.txt").write_text("new")
    (folder / "changes.json").write_text('{"written": ["pairs/a.txt"')
    finish_rewrite(run.directory)
    assert contents(run.directory) == before


def test_a_folder_on_another_file_system_is_refused_before_anything_is_changed(run):
    elsewhere = Path("/dev/shm")
    if not elsewhere.is_dir() or elsewhere.stat().st_dev == run.directory.stat().st_dev:
        pytest.skip("there is one file system alone")
    (run.directory / "images").symlink_to(elsewhere)
    before = contents(run.directory / "pairs")
    with pytest.raises(ConfigError, match="another file system"), rewriting(run):
        pass
    assert contents(run.directory / "pairs") == before
    assert not (run.directory / FOLDER).exists()


@pytest.fixture
def there(run, bucket_of):
    """The same run in a bucket."""
    shutil.rmtree(run.directory / "_work")
    return bucket_of(run)[0]


def in_bucket(run):
    """What whoever takes the bucket next finds: objects, and what he has of them."""
    again = Run.open(run.config, copies.as_urls(str(run.directory)))
    with again.lock():
        copies.bring_all(again.directory)
        found = contents_of_bucket(again)
        assert contents(again.directory) == found
    return found


@pytest.mark.parametrize("requests", range(0, 45, 2))
def test_cut_off_at_any_request_a_run_in_a_bucket_is_what_it_was_or_has_become(
    there, store, requests
):
    before = contents_of_bucket(there)
    count = itertools.count()
    with there.lock():
        store.fault = lambda _environ, start, _application: (
            refuse("403 Forbidden", start) if next(count) >= requests else None
        )
        try:
            with rewriting(there) as state:
                change(state)
            was_cut = False
            assert contents(there.directory) == NEXT
        except PermissionError:
            was_cut = True
        store.fault = None
    found = in_bucket(there)
    assert found in (before, NEXT)
    assert found == NEXT or was_cut


def contents_of_bucket(run):
    url = copies.as_urls(str(run.directory))
    return {name: content.decode() for name, content in objects_below(url).items()}


def test_the_cuts_fall_on_both_sides_of_the_moment(there, store):
    """That is, the test above has tried enough of them."""
    with there.lock():
        asked = len(store.requests)
        with rewriting(there) as state:
            change(state)
        requests = store.requests[asked:]
    (sealed,) = [
        number
        for number, (method, path) in enumerate(requests)
        if method == "PUT" and path.endswith("/seal.json")
    ]
    assert 5 < sealed < len(requests) - 5 < 45 - 5


def test_who_has_lost_the_bucket_rewrites_nothing(there):
    bucket = Bucket(copies.as_urls(str(there.directory)))
    before = contents_of_bucket(there)

    def overtaken():
        with there.lock(), rewriting(there) as state:
            change(state)
            bucket.delete([LEASE])
            taken.append(acquire(bucket))

    taken: list = []
    with pytest.raises(LostError):
        overtaken()
    taken[0].release()
    assert contents_of_bucket(there) == before


def test_to_see_what_would_be_leaves_a_bucket_as_it_is(there):
    before = contents_of_bucket(there)
    with there.lock(), rewriting(there, discard=True) as state:
        change(state)
        assert contents(state.directory) == NEXT
    assert in_bucket(there) == before
