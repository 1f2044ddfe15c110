"""Beam pipelines as this project opens them: in this process unless told otherwise."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.runners.runner import create_runner


def pipeline_options(arguments: Sequence[str]) -> PipelineOptions:
    """Beam's options; without a runner among them, the one that runs in this process."""
    # DirectRunner, Beam's default, would first try to download another runner's binary.
    embedded = [] if any(a.startswith("--runner") for a in arguments) else ["--runner=FnApiRunner"]
    return PipelineOptions([*embedded, *arguments])


def check_options(arguments: Sequence[str]) -> None:
    """Raise ValueError for options that Beam does not know, a runner's name for example."""
    options = pipeline_options(arguments)
    if unknown := [name for name in arguments if not name.startswith("--")]:
        raise ValueError(f"{unknown[0]!r} is no option: write it as --name=value")
    create_runner(options.view_as(StandardOptions).runner)


@contextmanager
def open_pipeline(arguments: Sequence[str]) -> Iterator[beam.Pipeline]:
    """A pipeline with the given options, run when the block ends.

    Raises KeyboardInterrupt as it is: Beam raises it as a RuntimeError from inside a stage.
    """
    whole = beam.Pipeline(options=pipeline_options(arguments))
    try:
        with whole as pipeline:
            yield pipeline
    except RuntimeError as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            cause = cause.__cause__ or cause.__context__
        raise
    finally:
        # Beam leaves its folder where a pipeline does not come to be run.
        shutil.rmtree(whole.local_tempdir, ignore_errors=True)
