"""Opt-outs of a run: looked at before any work, and no reason to fetch or match anything again."""

import pytest

from pipelines.run.config import ConfigError, load_config
from pipelines.run.directory import Run
from pipelines.run.opt_outs import check_opt_outs, opt_out_files, shared_opt_outs
from pipelines.run.runner import Plan, check
from pipelines.stages import STAGES
from tests.pipelines.synthetic_run import BIRDS, FISH, make_run
from workers.base.opt_outs import OptOutSettings
from workers.base.storage import write_text


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("opt_outs") / "run")


def with_list(run, tmp_path, text):
    (tmp_path / "urls.txt").write_text(text)
    settings = OptOutSettings(urls=(str(tmp_path / "urls.txt"),))
    return Run(run.config.model_copy(update={"opt_outs": settings}), run.directory)


def todo(run):
    return [name for name in STAGES if name in PLANNED and Plan.of(STAGES[name](run)).todo]


PLANNED = ("pages", "pairs", "requests", "images", "embeddings", "selection", "dataset")


def test_a_list_redoes_the_selection_and_nothing_before_it(finished, tmp_path):
    assert todo(finished) == []
    assert todo(with_list(finished, tmp_path, f"{BIRDS}/heron.jpg\n{FISH}/pike.jpg\n")) == [
        "selection"
    ]


def test_what_is_listed_counts_and_not_how_it_is_written(finished, tmp_path):
    def key(text):
        (shard,) = STAGES["selection"](with_list(finished, tmp_path, text)).plan()
        return shard.key

    same = key("https://a.example/2 # b\n\nhttp://a.example/1\n")
    assert key("http://a.example/1\nhttp://a.example/2") == same
    assert key("http://a.example/1\n") != key("http://a.example/2\n")


def test_a_line_that_is_no_entry_is_refused_before_any_work(finished, tmp_path):
    run = with_list(finished, tmp_path, "http://a.example/1\nnothing\n")
    with pytest.raises(ConfigError, match=r"opt_outs: .*urls\.txt, line 2: 'nothing' is not an"):
        check(run, [])
    (tmp_path / "urls.txt").unlink()
    with pytest.raises(ConfigError, match="opt_outs: there is no file"):
        check(run, [])


def test_lists_are_files_of_a_configuration(tmp_path):
    (tmp_path / "a.yaml").write_text("name: a\nqueries: none\nopt_outs: {urls: [lists/*.txt]}\n")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/a.txt").write_text("http://a.example/1\n")
    run = Run(load_config(tmp_path / "a.yaml"), tmp_path / "run")
    listed, *none = shared_opt_outs(run).load()
    assert listed.has_url("https://a.example/1")
    assert none == []


def test_damaged_tombstones_are_refused(finished, tmp_path):
    run = Run(finished.config, tmp_path)
    write_text("url 0123456789abcdef 2026-11-26\nnothing\n", opt_out_files(run).taken_down)
    with pytest.raises(ConfigError, match=r"taken_down\.txt, line 2: this is no tombstone"):
        check_opt_outs(run)
