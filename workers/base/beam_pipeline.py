"""Beam pipelines as this project opens them: in this process unless told otherwise."""

from __future__ import annotations

import errno
import os
import shutil
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import apache_beam as beam
from apache_beam.options.pipeline_options import (
    PipelineOptions,
    PortableOptions,
    StandardOptions,
)
from apache_beam.runners.runner import create_runner

from workers.base.cores import usable_cores
from workers.base.exit_codes import causes

#: Seconds within which a job server must answer.
ANSWER_TIMEOUT = 10.0


def pipeline_options(arguments: Sequence[str]) -> PipelineOptions:
    """Beam's options; without a runner among them, the one that runs in this process."""
    # DirectRunner, Beam's default, would first try to download another runner's binary.
    embedded = [] if any(a.startswith("--runner") for a in arguments) else ["--runner=FnApiRunner"]
    return PipelineOptions([*embedded, *arguments])


def on_all_cores(arguments: Sequence[str]) -> list[str]:
    """The options, with a process of Beam's for each core of this machine unless they name a runner
    or its workers."""
    chosen = ("--runner", "--direct_num_workers", "--direct_running_mode")
    if any(argument.startswith(chosen) for argument in arguments) or usable_cores() == 1:
        return list(arguments)
    workers = f"--direct_num_workers={usable_cores()}"
    return [*arguments, "--direct_running_mode=multi_processing", workers]


def check_options(arguments: Sequence[str]) -> None:
    """Raise ValueError for options that Beam does not know, a runner's name for example."""
    options = pipeline_options(arguments)
    if unknown := [name for name in arguments if not name.startswith("--")]:
        raise ValueError(f"{unknown[0]!r} is no option: write it as --name=value")
    create_runner(options.view_as(StandardOptions).runner)


def _check_listens(endpoint: str | None) -> None:
    host, _, port = (endpoint or "").rpartition(":")
    if host and port.isdecimal():
        try:
            socket.create_connection((host, int(port)), ANSWER_TIMEOUT).close()
        except OSError as error:
            what = f"--job_endpoint: nothing answers there ({error})"
            raise ConnectionError(errno.ECONNREFUSED, what, endpoint) from error


def file_names(paths: Iterable[str | Path]) -> beam.Create:
    """Names of files, each as its bytes (see os.fsdecode): Beam encodes no text but UTF-8."""
    return beam.Create([os.fsencode(path) for path in paths])


@contextmanager
def open_pipeline(arguments: Sequence[str]) -> Iterator[beam.Pipeline]:
    """A pipeline with the given options, run when the block ends.

    Raises KeyboardInterrupt as it is: Beam raises it as a RuntimeError from inside a stage. Raises
    OSError where nothing listens at a job server's address: Beam would wait for it without end.
    """
    options = pipeline_options(arguments)
    _check_listens(options.view_as(PortableOptions).job_endpoint)
    whole = beam.Pipeline(options=options)
    try:
        with whole as pipeline:
            yield pipeline
    except RuntimeError as error:
        if any(isinstance(cause, KeyboardInterrupt) for cause in causes(error)):
            raise KeyboardInterrupt from None
        raise
    finally:
        # Beam leaves its folder where a pipeline does not come to be run.
        shutil.rmtree(whole.local_tempdir, ignore_errors=True)
