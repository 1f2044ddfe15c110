"""A web that means harm, on loopback, through the project's own download.

``python -m benchmarks.hostile_web`` starts servers at addresses of loopback, one a case, and has
``workers.fetch.download`` fetch their pictures in a process of its own. What they do wrong stands
in one table a subject: redirects to where nothing may go, names that lead inside, bodies without
end, answers that are no HTTP, compressed and other bombs, pictures of all kinds, servers that are
busy, robots.txt and opt-outs in all their forms.

Held against each case: the reason in which its rows end, the colours of what is kept, the number of
requests at the servers, how many of them at a time, and seconds, from when a connection is accepted
until all is said or one of the two has gone; nothing may outlive its bound by more than a second.

Prints a table, the memory of the process, what is right, and as its last line the same as JSON;
exits 1 where a case is wrong.
"""

from __future__ import annotations

import argparse
import json
import re
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.hostile_web import (
    addresses,
    codings,
    heads,
    manners,
    pictures,
    statuses,
    transfers,
)
from benchmarks.hostile_web.answers import answer
from benchmarks.hostile_web.case import CONNECTIONS, KEPT, MAX_BYTES, PATIENCE, Case
from benchmarks.hostile_web.fetching import Memory
from benchmarks.hostile_web.files import PNG
from benchmarks.hostile_web.judge import Verdict, judge, of_inside, of_memory, table
from benchmarks.hostile_web.server import serving
from benchmarks.hostile_web.shard import download

#: What is fetched before all others, alone.
FIRST = Case("before all others", KEPT, answer(PNG))
#: Slow hosts stand first in a list, where they would be in the way of the others.
CASES: Sequence[Case] = [
    *statuses.CASES,
    *addresses.CASES,
    *transfers.CASES,
    *heads.CASES,
    *codings.CASES,
    *pictures.CASES,
    *manners.ROBOTS,
    *manners.OPT_OUTS,
]


def run(cases: Sequence[Case], folder: Path) -> tuple[list[Verdict], Memory | None, list[str]]:
    """Serve the cases, download them, and judge; what is wrong beside the cases comes last."""
    certificate = untrusted(folder) if any(case.is_tls for case in cases) else None
    with serving([FIRST, *cases], certificate) as web:
        rows, memory = download(web, FIRST, cases, folder)
        time.sleep(PATIENCE)  # what is closed only now is late
        verdicts = [judge(case, rows.get(case.slug, []), web.seen) for case in cases]
        return verdicts, memory, [*of_memory(memory), *of_inside(web.seen)]


def untrusted(folder: Path) -> ssl.SSLContext:
    """A server's side of TLS, with a certificate that it has signed itself."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve, download, judge and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.hostile_web",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", default="", metavar="REGEX", help="cases whose name matches it")
    options = parser.parse_args(arguments)
    cases = [case for case in CASES if re.search(options.only, case.name)]
    if not cases:
        parser.error(f"--only: there is no such case; there are {[case.name for case in CASES]}")
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hostile-web-") as folder:
        verdicts, memory, problems = run(cases, Path(folder))
    seconds = time.monotonic() - started
    sys.stdout.writelines(f"{line}\n" for line in summary(verdicts, memory, problems, seconds))
    cells = {"cases": list(map(asdict, verdicts)), "memory": memory and memory.peaks}
    sys.stdout.write(json.dumps({**cells, "problems": problems, "seconds": seconds}) + "\n")
    return 1 if problems or any(verdict.problems for verdict in verdicts) else 0


def summary(
    verdicts: Sequence[Verdict], memory: Memory | None, problems: Sequence[str], seconds: float
) -> Iterator[str]:
    """The table, and what is said of all cases."""
    yield from table(verdicts)
    yield ""
    if memory is not None:
        first, last = (f"{peak / 1e6:,.0f} MB" for peak in memory.peaks)
        allowed = f"{CONNECTIONS} connections x {MAX_BYTES / 1e6:.1f} MB"
        yield f"memory: {last} at most, {first} after the first picture; {allowed} were allowed"
    yield from problems
    right = sum(not verdict.problems for verdict in verdicts)
    yield f"{right} of {len(verdicts)} cases are right, in {seconds:.0f} s"


if __name__ == "__main__":
    sys.exit(main())
