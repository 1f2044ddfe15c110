"""A run's next state takes its place at once, whatever is killed and when."""

import shutil
from pathlib import Path

import pytest

from pipelines.run.config import Config, ConfigError
from pipelines.run.directory import Run
from pipelines.run.rewrite import FOLDER, finish_rewrite, rewriting
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
