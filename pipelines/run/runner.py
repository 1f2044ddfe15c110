"""Run stages in order: each does the shards without a valid receipt, and nothing else."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from shutil import which

from pipelines.run.attempts import finish_publishing
from pipelines.run.config import Config, ConfigError
from pipelines.run.directory import RECORD, Run, load_record
from pipelines.run.gates import barren, gate_of, is_met, places_of, shortfall
from pipelines.run.history import Journal
from pipelines.run.losses import Loss, made_with, refuse_large
from pipelines.run.memory import peak_memory
from pipelines.run.opt_outs import check_opt_outs
from pipelines.run.outages import Unreached, is_outage, is_stale, lacks
from pipelines.run.progress import Progress
from pipelines.run.receipts import Outcome, Receipt, Shard, Side
from pipelines.run.references import check_truth
from pipelines.run.services import services_of
from pipelines.run.totals import StageTotals, settled
from pipelines.stages import STAGES
from pipelines.stages.base import Stage
from pipelines.stages.embeddings import Embeddings
from workers.base.exit_codes import ExitCode
from workers.base.file_systems import local_folder

log = logging.getLogger(__name__)

#: How the reasons begin for which a part of an input is not in a stage's output.
DAMAGED = "damaged_"


def _check_beam(config: Config) -> None:
    if config.beam.options:  # importing Beam takes seconds
        from workers.base.beam_pipeline import check_options

        try:
            check_options(config.beam.options)
        except (ValueError, ImportError) as error:
            raise ConfigError(f"beam.options: {error}") from error


def _check_suite(run: Run) -> None:
    if run.config.scores.suite:
        from pipelines.evaluation.trained import evaluation_of, suite_identity

        suite_identity(evaluation_of(run.config, run.directory))


@dataclass(frozen=True)
class Plan:
    """The shards of a stage: done and to do.

    Those ``again`` are valid as they are, but some of their rows could not be reached, or may have
    changed by now: they are done once more, while the stages after this one may use what there is.
    """

    done: list[Shard]
    todo: list[Shard]
    again: list[Shard] = field(default_factory=list)

    @property
    def kept(self) -> list[Shard]:
        """Those of which something is there that stays, or is gone on from."""
        goes_on = [shard for shard in self.todo if shard.due_since is not None]
        return [*self.done, *self.again, *goes_on]

    def loss(self, stage: Stage) -> Loss | None:
        """What of the stage goes for a changed setting."""
        return Loss.of(stage, self.kept, self.todo)

    @classmethod
    def of(cls, stage: Stage) -> Plan:
        plan = cls([], [])
        receipts: list[Receipt] = []
        for shard in stage.plan():
            if receipt := stage.receipts.valid(shard):
                plan.done.append(shard)
                receipts.append(receipt)
            else:
                plan.todo.append(shard)
        stage.run.note_inputs(stage.name, stage.inputs)
        # A gate that is missed must not be missed for ever with nothing tried.
        gate, totals = gate_of(stage.run.config, stage.name), StageTotals.of(receipts)
        missed = not plan.todo and not is_met(gate, totals)
        plan.again.extend(stage.again(plan.done, receipts, missed=missed))
        names = {shard.name for shard in plan.again}
        plan.done[:] = [shard for shard in plan.done if shard.name not in names]
        return plan


def check(run: Run, names: Sequence[str]) -> None:
    """Raise ConfigError for what would end one of the stages later, before any has started."""
    _check_names(run.config)
    _check_services(run)
    check_truth(run.config, run.directory)
    check_opt_outs(run)
    _check_beam(run.config)
    _check_suite(run)
    for name in names:
        stage = STAGES[name](run)
        stage.receipts.refuse_foreign_data()
        stage.check()


def _check_services(run: Run) -> None:
    for name, service in run.config.services.items():
        program = run.resolve(service.command[0])
        if program != "python" and not which(program):
            raise ConfigError(f"services.{name}.command: there is no program {program}")


def _check_names(config: Config) -> None:
    for key, names in {
        "gates": config.gates,
        **{f"services.{name}.stages": service.stages for name, service in config.services.items()},
    }.items():
        for name in names:
            if name not in STAGES:
                raise ConfigError(f"{key}: there is no stage {name!r}; stages: {', '.join(STAGES)}")


@dataclass(frozen=True)
class Result:
    """How a command's stages ended, and whether there was anything to do.

    ``ended`` says that every stage ran to its end: one can with a damaged input, but its
    coverage, and so the code, is partial.
    """

    code: ExitCode
    worked: bool
    ended: bool = False


def run_stages(run: Run, names: Sequence[str], journal: Journal | None = None) -> Result:
    """Bring the named stages up to date, in order; stop at the first that does not end well."""
    journal = journal or Journal(run, "stages")
    worked = False
    complete: dict[str, bool] = {}
    stages = [STAGES[name](run) for name in names]
    for stage in stages:
        if missing := [other for other in stage.reads if not is_complete(run, other, complete)]:
            raise ConfigError(
                f"stage {stage.name} reads {', '.join(missing)}, not complete with this "
                "configuration: run the stages before it first (pipelines.build_dataset, then "
                "pipelines.train)"
            )
        result = run_stage(stage, journal, guarded=not run.discard)
        worked |= result.worked
        if not result.ended:
            return Result(result.code, worked)
        complete[stage.name] = True
    if not worked:
        log.info("nothing to do: %s is complete", run.directory)
    partial = [_is_out_of_date(stage) | _reads_damaged_inputs(stage) for stage in stages]
    code = ExitCode.PARTIAL if any(partial) else ExitCode.COMPLETE
    return Result(code, worked, ended=True)


def run_stage(stage: Stage, journal: Journal, *, guarded: bool = False) -> Result:
    """Bring a stage up to date; what it reads must be.

    Args:
        guarded: raise ConfigError where that would discard much for a changed setting.
    """
    finish_publishing(stage.folder)
    stage.prepare()
    plan = Plan.of(stage)
    if guarded:
        refuse_large(plan.loss(stage), stage.run.config.guard)
    stage.discard_others(plan.kept)
    worked = bool(plan.todo or plan.again)
    if not worked:
        why = stage.skipped or f"complete, nothing to do ({len(plan.done)} shards)"
        log.info("%s: %s", stage.title, why)
    elif not _work(stage, plan, journal) or _ends_in_outage(stage):
        return Result(ExitCode.PARTIAL, worked)
    stage.tidy()
    stage.run.note_made_with(stage.name, made_with(stage))
    if not passes_gate(stage):
        return Result(ExitCode.QUALITY, worked)
    return Result(ExitCode.COMPLETE, worked, ended=True)


def is_complete(run: Run, name: str, known: dict[str, bool]) -> bool:
    """Whether every shard of a stage, and of those that it reads, is done and no outage.

    ``known`` holds the answers so far: planning reads every receipt of a stage, and most stages
    are read by several others.
    """
    if name not in known:
        stage = STAGES[name](run)
        above = all(is_complete(run, other, known) for other in stage.reads)
        known[name] = above and not Plan.of(stage).todo and not _outage(stage)
    return known[name]


def finished_run(key: str, place: str, stages: Sequence[str]) -> Run:
    """A run as it was configured, whose stages are complete, to be read.

    Raises ConfigError, which names the ``key`` that names the run, where there is no such run or
    one of the stages is not complete.
    """
    try:
        directory = local_folder(place)
        recorded = load_record(directory / RECORD).get("configuration")
        config = None if recorded is None else Config.model_validate(recorded)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{key}: {place} cannot be read as a run: {error}") from error
    if config is None:
        raise ConfigError(f"{key}: {directory} has no record of a run: name a run's directory")
    run, known = Run.open(config, directory), dict[str, bool]()
    if missing := [stage for stage in stages if not is_complete(run, stage, known)]:
        raise ConfigError(
            f"{key}: {', '.join(missing)} of {run.directory} is not complete: run "
            "pipelines.build_dataset on it first"
        )
    return run


@dataclass(frozen=True)
class Standing:
    """What a stage has done of this configuration, and how many receipts it has beside it."""

    receipts: list[Receipt]
    others: int
    why: str  # these others are not counted
    skipped: str = ""  # why it has nothing to do
    is_whole: bool = False  # every shard is done, and there is nothing else


def standings(run: Run) -> dict[str, Standing]:
    """How far each stage is; nothing of an older configuration is taken for this one's."""
    complete: dict[str, bool] = {}
    return {name: _standing(run, name, complete) for name in STAGES}


def _standing(run: Run, name: str, complete: dict[str, bool]) -> Standing:
    stage, receipts = STAGES[name](run), run.receipts(name)
    shards: list[Shard] = []
    why = "they are of an older configuration"
    try:
        if waits := [other for other in stage.reads if not is_complete(run, other, complete)]:
            why = f"whether they are its own can be told once {', '.join(waits)} is complete"
        else:
            shards = stage.plan()
    except ConfigError as error:
        why = f"the stage cannot be planned: {error}"
    valid = [receipt for shard in shards if (receipt := receipts.valid(shard))]
    others = len(receipts.all()) - len(valid)
    return Standing(valid, others, why, stage.skipped, len(valid) == len(shards) and not others)


def _work(stage: Stage, plan: Plan, journal: Journal) -> bool:
    """Do a stage's open shards; True when every one of them ended with a receipt."""
    import workers.base.hardware  # noqa: F401 - torch, before Ray: see there

    todo = [*plan.todo, *plan.again]
    total = len(plan.done) + len(todo)
    log.info("%s: %d of %d shards to do", stage.title, len(todo), total)
    if plan.again:
        due = sum(shard.due_since is not None for shard in plan.again)
        log.info(
            "%s: %d of them once more for what failed to come, and %d for what may have changed",
            stage.title,
            len(plan.again) - due,
            due,
        )
    started = time.monotonic()
    with (
        journal.work_on(stage.name, stage.sources) as outcomes,
        peak_memory() as peak,
        services_of(stage.run, stage.name) as services,
        Progress(stage.title, total, len(plan.done), stage.folder, journal.note_state) as progress,
    ):
        for outcome in stage.execute(todo):
            outcomes.append(outcome)
            if outcome.receipt:
                stage.receipts.note(outcome.receipt)
            progress.advance(outcome)
            _log_outcome(stage, outcome)
        lost = services.lost()
        pace = progress.line()
    totals = StageTotals.of(stage.done())
    wall = round(time.monotonic() - started, 3)
    stage.run.note_stage(stage.name, totals, wall_seconds=wall, peak_bytes=peak.bytes)
    stage.run.save()
    _log_totals(stage, totals)
    log.info(pace)
    made = [outcome.receipt for outcome in outcomes if outcome.receipt]
    return not _spoiled(stage, made, lost) and len(made) == len(outcomes)


def _spoiled(stage: Stage, made: Sequence[Receipt], lost: Sequence[str]) -> int:
    """The number of shards that a lost service may have cost rows; a rerun tries those again."""
    receipts = [receipt for receipt in made if lost and lacks(receipt)]
    for receipt in receipts:
        stage.receipts.spoil(receipt)
    if lost:
        log.error(
            "%s: service %s ended while it was needed: %d shards lack rows that could not be "
            "reached, and a rerun asks for those again",
            stage.name,
            ", ".join(lost),
            len(receipts),
        )
    return len(receipts)


def _outage(stage: Stage) -> list[Receipt]:
    """The shards of which more could not be reached than is tolerated."""
    receipts = settled(stage.done())
    return [receipt for receipt in receipts if is_outage(receipt, stage.tolerance)]


def _ends_in_outage(stage: Stage) -> bool:
    """Whether the stage is partial because the network, or what it asks, is away; says so."""
    receipts = _outage(stage)
    if not receipts:
        return False
    unreached = Unreached.of(receipts)
    reasons = ", ".join(f"{reason} {n:,}" for reason, n in sorted(unreached.reasons.items()))
    *_, kind = receipts[0].rows
    limit = f"{stage.name}.max_unreachable"
    log.error(
        f"{stage.name}: {unreached.reasons.total():,} of {unreached.rows:,} {kind} in "
        f"{unreached.shards:,} shards could not be reached ({reasons}), more than {limit} "
        f"({stage.tolerance.max_unreachable}): is the network down? A rerun tries them again and "
        f"keeps the rest; with a higher {limit} it goes on without them"
    )
    return True


def _is_out_of_date(stage: Stage) -> bool:
    """Whether some shards of a stage could not be looked at again; says which."""
    receipts = [one for one in stage.done() if is_stale(one, stage.tolerance)]
    if receipts:
        stale = Unreached.of(receipts).stale
        shards = [*(receipt.shard for receipt in receipts[:3]), *["..."] * (len(receipts) > 3)]
        log.error(
            "%s: %s away (%s): %s pages are as an earlier crawl found them; a rerun asks again",
            stage.title,
            ", ".join(shards),
            ", ".join(f"{reason} {n:,}" for reason, n in sorted(stale.items())),
            f"{stale.total():,}",
        )
    return bool(receipts)


def _log_outcome(stage: Stage, outcome: Outcome) -> None:
    """Log how a shard ended."""
    fields = {"stage": stage.name, "shard": outcome.shard}
    if outcome.receipt:
        fields["seconds"] = str(outcome.receipt.seconds)
        log.debug("%s/%s done", stage.name, outcome.shard, extra={"fields": fields})
        return
    fields["error"] = str(outcome.error)
    log.error("%s: %s", stage.title, outcome.failure(), extra={"fields": fields})


def _log_totals(stage: Stage, totals: StageTotals) -> None:
    for kind, counts in totals.rows.items():
        dropped = {**counts["rejected"], **counts["failed"]}
        reasons = ", ".join(f"{reason} {number:,}" for reason, number in dropped.items())
        log.info(
            "%s: %d %s in, %d kept%s",
            stage.title,
            counts["in"],
            kind,
            counts["kept"],
            f"; {reasons}" if reasons else "",
            extra={"fields": {"stage": stage.name, "kind": kind, "rows": counts}},
        )


def _reads_damaged_inputs(stage: Stage) -> bool:
    """Whether a part of an input could not be read; says of which, and where its samples are."""
    totals = StageTotals.of(stage.done())
    reasons = {
        reason: number
        for counts in totals.rows.values()
        for reason, number in counts["failed"].items()
        if reason.startswith(DAMAGED)
    }
    for reason, number in reasons.items():
        log.error(
            "%s: coverage is partial: %s (%d) in %s; what could be read was used. Replace what is "
            "damaged and run again",
            stage.title,
            reason,
            number,
            places_of(reason, Side.REJECTED.of(stage.folder)),
        )
    return bool(reasons)


def passes_gate(stage: Stage) -> bool:
    """Whether a stage reaches its gate; says what it lacks."""
    gate, receipts = gate_of(stage.run.config, stage.name), stage.done()
    totals, samples = StageTotals.of(receipts), Side.REJECTED.of(stage.folder)
    if stage.may_be_empty or is_met(gate, totals):
        if not isinstance(stage, Embeddings) or not gate.min_kept:
            return True
        if line := barren(stage.title, receipts, samples):
            log.error("%s", line)
        return not line
    log.error("%s", shortfall(stage.title, gate, totals, samples))
    _reads_damaged_inputs(stage)  # it may be why
    return False
