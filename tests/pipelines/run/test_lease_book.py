"""Tasks of a Ray cluster take turns at a host; the book of that may be lost."""

import asyncio
import time

import pytest

from pipelines.run import engines, lease_book
from pipelines.run.config import RaySettings
from pipelines.run.engines import start_ray, stop_ray
from pipelines.run.lease_book import RayLeaseBook
from tests.pipelines.stages.growing import Nights, image
from tests.workers.web import Answer, serving

SETTINGS = RaySettings(num_cpus=3)
PATHS = [f"/{number}.png" for number in range(60)]


@pytest.fixture(scope="module", autouse=True)
def ray_here():
    start_ray(SETTINGS)
    yield
    stop_ray()


@pytest.fixture
def nights(tmp_path, monkeypatch):
    slow = {path: Answer(image(n).body, seconds=0.1) for n, path in enumerate(PATHS)}
    with serving(slow) as web:
        opened = RayLeaseBook.open
        nights = Nights(tmp_path, web, monkeypatch)
        monkeypatch.setattr("pipelines.stages.images.in_ray_tasks", engines.in_ray_tasks)
        monkeypatch.setattr(lease_book.RayLeaseBook, "open", opened)
        nights.settings = {"ray": SETTINGS.model_dump()}
        yield nights


@pytest.mark.parametrize(("tasks_per_host", "most"), [(1, 2), (2, 4), (None, 6)])
def test_lists_that_are_worked_on_at_a_time_have_one_limit(nights, tasks_per_host, most):
    settings = {"pairs_per_shard": 10, "tasks_per_host": tasks_per_host}
    assert nights(PATHS, images=settings) == sorted(PATHS)
    assert nights.code == 0
    assert len(nights.run().outputs("images")) == 6
    assert most - 2 < nights.web.most_at_once <= most


def test_a_book_that_is_lost_begins_anew():
    import ray

    book = RayLeaseBook.open(1, SETTINGS)
    first = asyncio.run(book.exchange("a", ["x"], {}))
    assert first.granted == {"x": 0.0}
    assert not asyncio.run(book.exchange("b", ["x"], {})).granted
    ray.kill(book.actor, no_restart=False)
    deadline = time.monotonic() + 60
    while (second := asyncio.run(book.exchange("b", ["x"], {}))).book == first.book:
        assert time.monotonic() < deadline  # the kill takes a moment, as with a lost machine
    assert second.granted == {"x": 0.0}
