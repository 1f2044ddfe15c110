"""Beam as this project opens it."""

import socket
import tempfile

import apache_beam as beam
import pytest

from workers.base.beam_pipeline import open_pipeline


def fail(_):
    raise ValueError("from inside")


@pytest.mark.parametrize("when", ["never", "before", "inside"])
def test_nothing_is_left_in_the_temporary_folder(tmp_path, monkeypatch, when):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def run():
        with open_pipeline([]) as pipeline:
            _ = pipeline | beam.Create([1]) | beam.Map(fail if when == "inside" else str)
            if when == "before":
                raise RuntimeError("before the run")

    if when == "never":
        run()
    else:
        with pytest.raises((RuntimeError, ValueError), match=when):
            run()
    assert list(tmp_path.iterdir()) == []


def test_a_job_server_that_is_away_is_not_waited_for():
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"127.0.0.1:{server.getsockname()[1]}"
    options = ["--runner=PortableRunner", f"--job_endpoint={endpoint}"]
    with (
        pytest.raises(OSError, match=f"nothing answers there .*{endpoint}"),
        open_pipeline(options),
    ):
        pass
