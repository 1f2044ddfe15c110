"""Every fault that the project knows of: what happens, with which exit code, after how long.

``python -m benchmarks.faults`` makes each of them happen to real commands on a small sample: a
configuration that is none, damaged inputs and receipts, full disks, lost processes and services,
signals in every stage. Held against what docs/robustness.md says: the exit code, and what is
printed. Whatever it is, no trace is printed, nothing ends with 1, no process is left after five
seconds, and nothing in the folder of temporary files.

Prints a table, then what is not as it is documented, and as its last line the same as JSON; exits 1
where there is any. Some faults need the right to mount a disk, and are left out without it.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from benchmarks.chaos import run_undisturbed
from benchmarks.faults import (
    buckets,
    commands,
    configuration,
    embed,
    environment,
    inputs,
    processes,
    queries,
    run_directory,
    services,
)
from benchmarks.faults.fault import Fault, Finding, try_fault
from benchmarks.small_sample import SmallSample, free_port
from workers.base.supervisor import interrupt

KINDS = {
    "configuration": configuration.FAULTS,
    "inputs": inputs.FAULTS,
    "run directory": run_directory.FAULTS,
    "environment": environment.FAULTS,
    "processes": processes.FAULTS,
    "services": services.FAULTS,
    "commands": commands.FAULTS,
    "embed": embed.FAULTS,
    "query_builder": queries.FAULTS,
    "buckets": buckets.FAULTS,
}


def named(pattern: str) -> list[Fault]:
    """The faults whose name, kind included, matches a regular expression."""
    faults = [
        Fault(**{**vars(fault), "name": f"{kind}: {fault.name}"})
        for kind, faults_of_kind in KINDS.items()
        for fault in faults_of_kind
    ]
    return [fault for fault in faults if re.search(pattern, fault.name)]


def port_of(run_dir: Path) -> int:
    """The port of the sample site of a run."""
    record = json.loads((run_dir / "run.json").read_text())
    return int(record["configuration"]["services"]["site"]["ready"].rstrip("/").rpartition(":")[2])


def table(findings: Sequence[Finding]) -> Iterator[str]:
    """A line for each fault."""
    yield "| fault | exit code | s | what it said |"
    yield "|---|---|--:|---|"
    for finding in findings:
        said = " ".join(finding.said.split()).replace("|", "/")
        said = f"{said[:117]}..." if len(said) > 120 else said
        code = finding.code_text() if finding.is_here else "not here"
        yield f"| {finding.name} | {code} | {finding.seconds:.1f} | {said} |"


def main() -> int:
    """Parse the options, try the faults, print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--only", default="", metavar="REGEX", help="faults whose names match")
    add("--run-dir", type=Path, metavar="DIR", help="a finished run of benchmarks.small_sample")
    add("--jobs", type=int, default=2, metavar="N", help="faults at a time (default: 2)")
    add("--list", action="store_true", help="print the names alone")
    options = parser.parse_args()
    faults = named(options.only)
    if options.list:
        sys.stdout.writelines(f"{fault.name}\n" for fault in faults)
        return 0
    started = time.monotonic()
    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGINT, interrupt)  # ignored in a shell's background, and so by commands
    with ExitStack() as stack:
        if options.run_dir:
            finished = options.run_dir.absolute()
            sample = SmallSample(port_of(finished))
        else:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="faults-"))
            finished, sample = Path(folder) / "run", SmallSample(free_port())
            run_undisturbed(sample, finished)
        pool = ThreadPoolExecutor(options.jobs)
        # Interrupted, it waits for the faults at work, which have disks to unmount.
        stack.callback(pool.shutdown, cancel_futures=True)
        findings = []
        for finding in pool.map(lambda fault: try_fault(fault, sample, finished), faults):
            findings.append(finding)
            sys.stderr.write(f"{'NOT MET ' if finding.problems else ''}{finding.name}\n")
    return report(findings, time.monotonic() - started)


def report(findings: Sequence[Finding], seconds: float) -> int:
    """Print what was found; 1 where something is not as it is documented."""
    unmet = [finding for finding in findings if finding.problems]
    tried = [finding for finding in findings if finding.is_here]
    lines = [*table(findings), ""]
    for finding in unmet:
        lines += [f"{finding.name}:", *(f"  {problem}" for problem in finding.problems)]
    lines.append(f"{len(tried)} faults in {seconds:.0f} s, {len(unmet)} not as documented")
    summary = {
        "faults": len(tried),
        "unmet": len(unmet),
        "seconds": round(seconds),
        "findings": [asdict(finding) for finding in findings],
    }
    sys.stdout.write("\n".join([*lines, json.dumps(summary)]) + "\n")
    return bool(unmet)


if __name__ == "__main__":
    sys.exit(main())
