"""What runs side by side when the tests run several at a time: `make test`."""

import os
import signal

import pytest
from xdist.scheduler import LoadFileScheduling

#: These tests share one run of the sample, its port and its site, and so one process.
TOGETHER = "tests/pipelines/whole_run/"

# Where pytest was started in the background, a shell has had SIGINT ignored, which commands that
# the tests start would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)


# Several processes compute at a time: threads of OpenMP that wait for each other by spinning take
# the cores from those that work, and everything twice as long. Read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


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

    def remove_node(self, node):
        """Return the test that ended its process: it has failed; others do what is left to do.

        xdist 3.8.0 would give them everything again: that test, and files that are done, after
        which a process waits for ever.
        """
        work = self.assigned_work.pop(node)
        left = {
            scope: [test for test, is_done in tests.items() if not is_done]
            for scope, tests in work.items()
        }
        fatal = next((test for tests in left.values() for test in tests), None)
        for scope, tests in left.items():
            if rest := {test: False for test in tests if test != fatal}:
                self.workqueue[scope] = rest
        if fatal is not None:
            for other in self.assigned_work:
                self._reschedule(other)
        return fatal


def pytest_xdist_make_scheduler(config, log):
    return Scheduling(config, log)


def pytest_collection_modifyitems(items):
    """Those that go together take the longest, so they begin first."""
    items.sort(key=lambda item: not item.nodeid.startswith(TOGETHER))
