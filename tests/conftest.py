"""Which tests run one after the other when several run at a time."""

import signal

import pytest

# Where pytest was started in the background, a shell has had SIGINT ignored, which commands that
# the tests start would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)

#: Fixtures that a whole run of the sample, its port and its site stand behind.
SAMPLE = {"commands", "finished"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """All tests of the sample share one process, and so one run, and begin first; of the others,
    those of a file share theirs.
    """
    for item in items:
        uses_sample = SAMPLE & set(getattr(item, "fixturenames", ()))
        group = "sample" if uses_sample else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: item.get_closest_marker("xdist_group").args != ("sample",))
