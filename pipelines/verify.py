"""``python -m pipelines.verify``: everything that a run holds, read and compared."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.cli import open_run, parser, place_of, run_command, start
from pipelines.run.attempts import damaged
from pipelines.run.checks import EVALUATION, Checker, missing_shards
from pipelines.run.config import Config, ConfigError
from pipelines.run.directory import RECORD, Run, load_record
from pipelines.run.lock import EMBED_HOME, lock_folder
from pipelines.run.progress import Progress
from pipelines.run.receipts import Outcome, Receipt, Receipts, Side, Source
from pipelines.stages import DATASET_STAGES, STAGES
from pipelines.stages.embeddings import Embeddings
from pipelines.stages.scores import SUITE
from workers.base.copies import bring
from workers.base.exit_codes import ExitCode
from workers.base.output import say

#: Findings that are listed; the table counts them all.
LISTED = 100

DESCRIPTION = """\
Read all that a run holds and compare: the sha256 of every output, inputs of the run too; rows with
the receipts' counts; pair_ids, that each is there once and in order; joins of the stages; images,
that they decode; embeddings, that they are finite and of unit length; the model, that it loads;
the scores, and what the models were judged on. CONFIG.yaml may also be the directory of a run, or
what pipelines.embed or pipelines.evaluate has written; of what is in a bucket, --run-dir alone says
it. Nothing is changed without --mend; of a run that another
process works on, what is found may be work in progress. It takes about as long as reading the run
and decoding its images.
"""


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be."""

    stage: str
    what: str
    shard: str | None = None  # whose receipt is to go, so that it is made again


@dataclass(frozen=True)
class Row:
    """What the table says of a stage."""

    stage: str
    shards: int
    rows: int
    findings: list[Finding]


def main(argv: Sequence[str] | None = None) -> ExitCode:
    """Parse the arguments and run the command; returns its exit code."""
    options = parser("verify", DESCRIPTION)
    options.add_argument(
        "--mend",
        action="store_true",
        help="remove the receipts of what is damaged, so that the next run makes it again",
    )
    arguments = options.parse_args(argv)
    return run_command(lambda: verify(arguments))


def verify(arguments: argparse.Namespace) -> ExitCode:
    """Print the table and the findings, and mend if asked to."""
    directory = _directory(arguments)
    logging.getLogger("pipelines").setLevel(logging.INFO)
    with _lock(directory) if arguments.mend else nullcontext():
        rows = list(check_all(directory))
        findings = [finding for row in rows for finding in row.findings]
        say("\n".join(_table(directory, rows)))
        if findings and arguments.mend:
            mend(directory, findings)
    if not findings:
        say("everything is as its receipts say")
        return ExitCode.COMPLETE
    say("\n".join(_what_to_do(directory, findings, mended=arguments.mend)))
    return ExitCode.PARTIAL


def _directory(arguments: argparse.Namespace) -> Path:
    """The run's. Raises ConfigError where there is none."""
    given, place = arguments.config, arguments.run_dir
    if given and given.is_dir():
        directory = given.absolute()
    elif place and not given:  # what it holds says what it is to hold
        nothing = Config(name="verify", queries="none")
        directory = Run.open(nothing, place_of("--run-dir", place)).directory
    else:
        directory = open_run(arguments).directory
    if not (directory / Side.RECEIPTS).is_dir():
        raise ConfigError(f"{directory} is no run: it has no folder {Side.RECEIPTS}")
    return directory


def _is_embed_job(directory: Path) -> bool:
    return (directory / EMBED_HOME).is_dir()


def _lock(directory: Path) -> AbstractContextManager[None]:
    folder = directory / EMBED_HOME if _is_embed_job(directory) else directory
    return lock_folder(folder, "leave out --mend")


def check_all(directory: Path) -> Iterator[Row]:
    """Check the stages of a run in their order, and what it has read from outside."""
    stages = {stage: Receipts(directory / stage) for stage in [*STAGES, *_judgements(directory)]}
    done = {stage: receipts.all() for stage, receipts in stages.items()}
    inputs, problem = _inputs(directory)
    total = sum(map(len, done.values())) + len(inputs)
    checker = Checker(directory)
    with Progress("verify", total, 0) as progress:
        for stage, receipts in stages.items():
            findings = list(_stage_findings(stage, receipts))
            for receipt in done[stage]:
                bring(receipts.folder / output.file for output in receipt.outputs)
                problems = checker.shard(stage, receipt)
                findings += [Finding(stage, problem, receipt.shard) for problem in problems]
                progress.advance(Outcome(receipt.shard))
            if done[stage] or findings:
                yield Row(stage, len(done[stage]), _rows(done[stage]), findings)
        findings = [Finding(RECORD, problem)] if problem else []
        for source in inputs:
            if damaged([source]):
                what = f"{source.path}: its sha256 is not that on record: restore or `touch` it"
                findings.append(Finding("inputs", what))
            progress.advance(Outcome(source.path.name))
        if inputs or findings:
            yield Row("inputs", len(inputs), 0, findings)


def _judgements(directory: Path) -> Iterator[str]:
    """The stages of an evaluation, of that of a run's models too."""
    for place in ("", f"{EVALUATION}/"):
        models = Side.RECEIPTS.of(directory / place / "features" / "model").parent
        labels = sorted(path.name for path in models.glob("[!.]*/"))
        yield from (
            f"{place}{name}" for name in ("sets", "n_grams", *(f"features/{one}" for one in labels))
        )
        yield f"{place}results"


def _stage_findings(stage: str, receipts: Receipts) -> Iterator[Finding]:
    """What is wrong with a stage beside the content of its shards."""
    for shard in receipts.unreadable():
        yield Finding(stage, f"the receipt of shard {shard} cannot be read", shard)
    for shard in missing_shards(receipts.folder.parent, stage):
        yield Finding(stage, f"shard {shard} is not done")
    for path in receipts.foreign():
        yield Finding(stage, f"{path.name} is not the run's: move it elsewhere")


def _inputs(directory: Path) -> tuple[list[Source], str]:
    """The files from outside that are where they were, with size and time of old; a problem."""
    try:
        record = load_record(directory / RECORD)
    except ValueError as error:
        return [], f"{RECORD} cannot be read ({error}): the next run makes it again"
    found = {
        Path(path): Source(Path(path), known["sha256"])
        for files in record.get("inputs", {}).values()
        for path, known in files.items()
        if _has_stamp(Path(path), known)
    }
    return list(found.values()), ""


def _has_stamp(path: Path, known: dict[str, Any]) -> bool:
    try:
        status = path.stat()
    except OSError:
        return False
    return (status.st_size, status.st_mtime_ns) == (known["bytes"], known["mtime_ns"])


def _rows(receipts: Sequence[Receipt]) -> int:
    """What the shards hold of the kind of row that goes on to the next stage."""
    return sum([*receipt.rows.values()][-1]["kept"] for receipt in receipts if receipt.rows)


def _table(directory: Path, rows: Sequence[Row]) -> Iterator[str]:
    yield f"verification of {directory}"
    yield ""
    yield "| stage | shards | rows kept | findings |"
    yield "|---|--:|--:|--:|"
    for row in rows:
        yield f"| {row.stage} | {row.shards:,} | {row.rows:,} | {len(row.findings):,} |"
    yield ""
    findings = [finding for row in rows for finding in row.findings]
    for finding in findings[:LISTED]:
        yield f"{finding.stage}: {finding.what}"
    if len(findings) > LISTED:
        yield f"... and {len(findings) - LISTED:,} more"


def mend(directory: Path, findings: Sequence[Finding]) -> None:
    """Remove the receipts of what is damaged; the run must be locked."""
    for finding in findings:
        if finding.shard is not None:
            Receipts(directory / finding.stage).drop(finding.shard)
        if finding.stage.startswith(f"{EVALUATION}/"):  # the shard that was made of it
            Receipts(directory / "scores").drop(SUITE)


def _what_to_do(directory: Path, findings: Sequence[Finding], *, mended: bool) -> Iterator[str]:
    yield ""
    if any(finding.shard is not None for finding in findings):
        yield (
            "the receipts of what is damaged are removed"
            if mended
            else "the same command with --mend removes the receipts of what is damaged"
        )
    stages = {finding.stage for finding in findings}
    if commands := [name for name, made in _commands(directory).items() if stages & set(made)]:
        yield f"what is missing is made again by: {', then '.join(commands)}"


def _commands(directory: Path) -> dict[str, Sequence[str]]:
    """Which command makes the shards of which stages."""
    if _is_embed_job(directory):
        return {"python -m pipelines.embed, given as before": [Embeddings.name]}
    judgements = list(_judgements(directory))
    if (Side.RECEIPTS.of(directory / "sets")).is_dir():
        return {"the command that made it, given as before": judgements}
    commands = {
        "build_dataset": DATASET_STAGES,
        "train": ["model"],
        "evaluate": ["scores", *judgements],
    }
    return {f"python -m pipelines.{name}": stages for name, stages in commands.items()}


if __name__ == "__main__":
    start(main)
