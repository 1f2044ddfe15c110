"""A small run of the real thing: Beam, Scrapy, img2dataset over HTTP, Ray, CLIP, Parquet."""

import pytest

from benchmarks.small_sample import SmallSample


@pytest.fixture(scope="session")
def commands():
    """The project's commands on a small sample site, all runs on the same port."""
    return SmallSample()


@pytest.fixture(scope="session")
def finished(commands, tmp_path_factory):
    """The directory of a finished run: data set, model and scores."""
    run_dir = tmp_path_factory.mktemp("finished")
    for module in ("build_dataset", "train", "evaluate"):
        result = commands.run(f"pipelines.{module}", run_dir)
        assert result.returncode == 0, result.stdout + result.stderr
    return run_dir
