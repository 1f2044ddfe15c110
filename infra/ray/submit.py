"""Run a configuration on a Ray cluster by ``ray job submit``, wait, end with the run's exit code.

RAY_API_SERVER_ADDRESS is the address of the cluster's dashboard, http://127.0.0.1:8265 after
``ray dashboard``. The folder of the configuration goes to the cluster, with what else is in it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ray.exceptions import RayError
from ray.job_submission import JobStatus, JobSubmissionClient

from workers.base.exit_codes import ExitCode

TERMINATED = 143  # what a run that is stopped by SIGTERM ends with


def command(name: str, config: Path, run_dir: str, options: Sequence[str]) -> list[str]:
    """The words that submit the job of this name and show its log until it has ended."""
    submit = ["ray", "job", "submit", "--submission-id", name, "--working-dir", str(config.parent)]
    entrypoint = ["wit-build", config.name, "--run-dir", run_dir, "--set", "ray.address=auto"]
    return [*submit, "--", *entrypoint, *options]


def exit_code(status: JobStatus, code: int | None) -> int:
    """The exit code of a job of this status, whose entrypoint ended with ``code`` if it did."""
    if not status.is_terminal():
        return ExitCode.LOCKED  # the run is worked on
    if status == JobStatus.SUCCEEDED:
        return ExitCode.COMPLETE
    if status == JobStatus.STOPPED:
        return TERMINATED
    if code is None:
        return ExitCode.PARTIAL  # the cluster was lost: the same command goes on
    return code if code > 0 else 128 - code


def parser() -> argparse.ArgumentParser:
    """The options."""
    result = argparse.ArgumentParser(description=__doc__)
    result.add_argument("config", type=Path, metavar="RUN.yaml")
    result.add_argument("run_dir", metavar="s3://BUCKET/PREFIX", help="where the run lives")
    result.add_argument("options", nargs=argparse.REMAINDER, help="more options of wit-build")
    return result


def main() -> int:
    """Run the command; return its exit code."""
    arguments = parser().parse_args()
    name = time.strftime("clip-%Y%m%d-%H%M%S", time.gmtime())
    words = command(name, arguments.config, arguments.run_dir, arguments.options)
    # It ends with 0 for a job that was stopped and with 1 for every error, so the job is asked.
    subprocess.run(words, check=False)
    try:
        job = JobSubmissionClient().get_job_info(name)
    except (ConnectionError, RuntimeError, RayError) as error:  # as Ray's client raises them
        sys.stderr.write(f"{name}: the cluster cannot be asked: {error}\n")
        return ExitCode.CONFIGURATION
    if not job.status.is_terminal():
        sys.stderr.write(f"{name} has not ended: ray job logs --follow {name}\n")
    return exit_code(job.status, job.driver_exit_code)


if __name__ == "__main__":
    sys.exit(main())
