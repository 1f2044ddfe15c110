"""What the commands share: their options, and errors as exit codes."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from pipelines.report import read_report, write_report
from pipelines.run import log as logs
from pipelines.run.attempts import DamagedError
from pipelines.run.config import ConfigError, load_config
from pipelines.run.directory import Run
from pipelines.run.engines import stop_ray
from pipelines.run.health import findings
from pipelines.run.history import Journal, read_history
from pipelines.run.lock import LockedError
from pipelines.run.metrics import write_metrics
from pipelines.run.runner import check, run_stages
from pipelines.run.services import ServiceError, ServiceKilledError
from pipelines.stages import STAGES
from workers.base.bucket import is_bucket
from workers.base.exit_codes import PASSING, ExitCode, explain
from workers.base.file_systems import local_folder
from workers.base.lease import LostError
from workers.base.output import say
from workers.base.supervisor import last_end, supervised

log = logging.getLogger(__name__)

#: The configuration of the embedded sample: in a checkout, and not in a wheel.
SAMPLE = Path(__file__).parents[1] / "examples/sample/sample.yaml"

EXIT_CODES = """\
exit codes:
  0    complete, or nothing to do
  2    the configuration cannot be used
  3    partial: some shards failed, or too much of them could not be reached: a rerun tries those
       again and keeps the rest; or an input is damaged, and what could be read of it was used; or
       the disk is full
  4    a quality gate is not met: one of the configuration, or a stage has kept nothing; or, with
       health.exit, the work is unlike that of the nights before
  70   a fault of the program itself; its trace stands in logs/run.jsonl
  75   another process is working on the same run directory
  130  interrupted (143: by SIGTERM, 129: by SIGHUP); a rerun goes on where it stopped
"""


def parser(command: str, description: str) -> argparse.ArgumentParser:
    """A parser with the options that every command on a run has."""
    result = argparse.ArgumentParser(
        prog=f"python -m pipelines.{command}",
        description=description,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.set_defaults(command=command)
    result.add_argument(
        "config",
        nargs="?",
        type=Path,
        metavar="CONFIG.yaml",
        help="the run's configuration (docs/configuration.md); without one, the embedded sample",
    )
    result.add_argument(
        "--run-dir",
        metavar="DIR",
        help="where the run lives: a folder, or a bucket's s3://, gs:// or az:// "
        "(docs/buckets.md); by default runs/NAME, NAME as the configuration says",
    )
    add_overrides(
        result,
        "override a key of the configuration; VALUE is YAML, paths in it are relative to the "
        "working directory; may be given many times",
    )
    return result


def add_overrides(to: argparse.ArgumentParser, text: str) -> None:
    """The option ``--set``, whose values are ``overrides`` as ``config.build_settings`` takes them.

    Args:
        text: what ``--help`` says of it.
    """
    to.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY.SUB=VALUE",
        dest="overrides",
        help=text,
    )


def open_run(arguments: argparse.Namespace) -> Run:
    """The run that the arguments name. Raises ConfigError."""
    if not arguments.config and not SAMPLE.is_file():
        raise ConfigError(
            "name a configuration (docs/configuration.md): the embedded sample, which is used "
            "without one, is not installed with the package; it runs in a checkout"
        )
    config = load_config(arguments.config or SAMPLE, arguments.overrides)
    folder = f"runs/{config.name}" if arguments.run_dir is None else arguments.run_dir
    return Run.open(config, place_of("--run-dir", folder))


def place_of(option: str, text: str) -> Path | str:
    """A folder that an option names to write to, or a bucket's URL. Raises ConfigError."""
    try:
        return text if is_bucket(text) else local_folder(text)
    except OSError as error:
        raise ConfigError(f"{option} {error}; choose another") from error


def start(main: Callable[[], int]) -> NoReturn:
    """What each command's module does when it is run: ``main`` in a process that is watched."""
    sys.exit(supervised(main))


#: What ends a command and is foreseen: the message says it all.
_CODES: dict[type[BaseException], ExitCode] = {
    ConfigError: ExitCode.CONFIGURATION,
    ServiceError: ExitCode.CONFIGURATION,
    DamagedError: ExitCode.PARTIAL,
    ServiceKilledError: ExitCode.PARTIAL,
    LockedError: ExitCode.LOCKED,
    LostError: ExitCode.LOCKED,
    KeyboardInterrupt: ExitCode.INTERRUPTED,
}


def run_command(command: Callable[[], ExitCode]) -> ExitCode:
    """Run a command; whatever ends it becomes a message and an exit code, never a trace."""
    logs.to_stderr()
    try:
        return command()
    except KeyboardInterrupt:
        log.error("interrupted; the same command goes on where this one stopped")
        return ExitCode.INTERRUPTED
    except Exception as error:
        code, text = ending(error)
        log.error("%s", text, exc_info=not isinstance(error, tuple(_CODES)))
        return code
    finally:
        stop_ray()


def ending(error: BaseException) -> tuple[ExitCode, str]:
    """The exit code and the message of what ends a command."""
    for kind, code in _CODES.items():
        if isinstance(error, kind):
            return code, str(error)
    return explain(error)


@contextmanager
def at_work(run: Run, command: str) -> Iterator[Journal]:
    """Hold the run's lock, write log, history and figures; its code is that of the last line."""
    with run.lock():
        logs.configure(run.home)
        if last_end():
            log.warning("this goes on for a process that %s", last_end())
        journal = Journal(run, command)
        journal.begin()
        write_metrics(run)
        try:
            yield journal
        except BaseException as error:
            journal.end(ending(error)[0])
            raise
        else:
            journal.end(journal.code)
        finally:
            write_metrics(run)


def run_locked(run: Run, stages: Sequence[str], command: str) -> ExitCode:
    """Bring stages up to date with the run locked, logged and recorded; print the report."""
    check(run, stages)
    with at_work(run, command) as journal:
        for doubt in (doubt for name in stages for doubt in STAGES[name](run).doubts()):
            log.warning("%s", doubt)
        is_new = not run.is_recorded()
        _record(run)
        try:
            result = run_stages(run, stages, journal)
        finally:
            _record(run)
        journal.code = code_with_health(run, journal, result.code)
        if result.ended:
            say(write_report(run) if result.worked or is_new else read_report(run))
        return journal.code


def code_with_health(run: Run, journal: Journal, code: ExitCode) -> ExitCode:
    """Say how the command's work is unlike that before it; its exit code, where that counts."""
    entries = read_history(run.home, recent=True) if journal.stages else []
    found = findings(entries, run.config.health, journal.stages)
    for line in found:
        log.warning("unlike the nights before: %s", line)
    if found and run.config.health.exit and code is ExitCode.COMPLETE:
        return ExitCode.QUALITY
    return code


def _record(run: Run) -> None:
    """Write the run's record; a disk that is full for it ends nothing that needs no more of it."""
    try:
        run.save()
    except OSError as error:
        if error.errno not in PASSING:
            raise
        log.warning("%s", error)


def add_discard(to: argparse.ArgumentParser) -> None:
    """The option ``--discard`` of commands that make what a changed setting asks for."""
    to.add_argument(
        "--discard",
        action="store_true",
        help="discard finished shards that were made with other settings, however much work they "
        "were (guard.hours, guard.gigabytes)",
    )


def run_one_stage(arguments: argparse.Namespace, stage: str) -> ExitCode:
    """The whole of a command that does one stage."""
    run = replace(open_run(arguments), discard=arguments.discard)
    return run_locked(run, [stage], arguments.command)
