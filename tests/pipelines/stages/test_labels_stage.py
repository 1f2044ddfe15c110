"""Another label set, attribute or head: labels are made again, and no image is looked at."""

import pytest

from pipelines.run.attempts import perform
from pipelines.run.config import Config
from pipelines.run.directory import Run
from pipelines.run.receipts import Shard
from pipelines.run.runner import Plan
from pipelines.stages.embeddings import Embed, Embeddings, recorded_settings
from pipelines.stages.labels import Label, Labels
from tests.shards import five_images, save_tiny_model


@pytest.fixture
def open_run(tmp_path):
    """A run whose images are there and embedded, opened as each new command opens it."""
    model = save_tiny_model(tmp_path / "tiny")

    def opened(**embeddings):
        settings = {"model": model, "precision": "fp32"} | embeddings
        tree = {"name": "test", "queries": {}, "embeddings": settings}
        return Run.open(Config.model_validate(tree), tmp_path / "run")

    perform(five_images, Shard("00000", "key"), opened().directory / "images")
    assert work(opened(), Embeddings, Embed) == 1
    return opened


def work(run, kind, job):
    """Do what is open of a stage; how many shards that was."""
    stage = kind(run)
    plan = Plan.of(stage)
    run.receipts(stage.name).keep_only(plan.done)
    for shard in plan.todo:
        perform(job(recorded_settings(run)), shard, stage.folder)
    return len(plan.todo)


def test_a_changed_label_set_does_labels_alone(open_run):
    colours = {"label_sets": {"colour": {"classes": ["red", "blue"]}}}
    more = colours | {"attributes": {"photo": {"present": ["a photo"], "absent": ["a map"]}}}
    for settings, open_labels in ((colours, 1), (colours, 0), (more, 1)):
        run = open_run(**settings)
        assert not Plan.of(Embeddings(run)).todo
        assert work(run, Labels, Label) == open_labels
        assert run.outputs("labels")
    assert Plan.of(Embeddings(open_run(**colours, batch_size=7))).todo


def test_where_nothing_is_to_be_said_there_are_no_labels(open_run):
    work(open_run(attributes={"photo": {}}), Labels, Label)
    run = open_run()
    assert Labels(run).skipped
    assert work(run, Labels, Label) == 0
    assert not run.outputs("labels")
    assert not list((run.directory / "labels").iterdir())
