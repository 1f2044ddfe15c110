"""What runs side by side when the tests run several at a time: `make test`."""

import signal

import pytest
from xdist.scheduler import LoadFileScheduling

#: These tests share one run of the sample, its port and its site, and so one process.
TOGETHER = "tests/pipelines/whole_run/"

# Where pytest was started in the background, a shell has had SIGINT ignored, which commands that
# the tests start would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def store():
    """An S3-compatible server, which this process and those that it starts reach."""
    from tests.object_store import serving_objects  # takes a second

    with serving_objects() as server:
        yield server


class Scheduling(LoadFileScheduling):  # type: ignore[misc]
    """A file at a time to each process, but for those that go together."""

    def _split_scope(self, nodeid):
        return TOGETHER if nodeid.startswith(TOGETHER) else super()._split_scope(nodeid)


def pytest_xdist_make_scheduler(config, log):
    return Scheduling(config, log)


def pytest_collection_modifyitems(items):
    """Those that go together take the longest, so they begin first."""
    items.sort(key=lambda item: not item.nodeid.startswith(TOGETHER))
