"""What is done of an evaluation or a comparison, and what is to do: looked at, and nothing done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from pipelines.evaluation.candidates import Candidate
from pipelines.evaluation.stages import EvaluationRun, Features, Results, data_stages
from pipelines.report import at_work_lines, plan_line
from pipelines.run.receipts import Side
from pipelines.run.runner import Plan
from pipelines.stages.base import Stage


@dataclass(frozen=True)
class Part:
    """A stage that can be planned once others are complete."""

    title: str  # the stage's folder in the run's, or what else tells it from the others
    stage: Callable[[], Stage]
    needs: tuple[str, ...] = ()  # titles of parts before this one


def evaluation_parts(
    run: EvaluationRun, candidates: Sequence[Candidate], models: Mapping[str, str]
) -> Iterator[Part]:
    """The parts of an evaluation; results model by model, since each can be there without others.

    Args:
        models: by a candidate's label the title of the part that makes it, where one does.
    """
    data = {stage.name: type(stage) for stage in data_stages(run)}
    yield from (Part(name, partial(kind, run)) for name, kind in data.items())
    for one in candidates:
        made = [models[one.label]] if one.label in models else []
        yield Part(f"features/{one.label}", partial(Features, run, one), (*made, *Features.reads))
    for one in candidates:
        needs = (*data, f"features/{one.label}")
        yield Part(f"results of {one.label}", partial(Results, run, [one]), needs)


def status_of(run: EvaluationRun, parts: Iterable[Part]) -> str:
    """Who is at work, and of each part how many shards are done and to do.

    Raises ConfigError for what cannot be planned.
    """
    lines = [f"status of {run.directory}", *at_work_lines(run), ""]
    listed, complete = list(parts), set[str]()
    width = max(len(part.title) for part in listed)
    for part in listed:
        if missing := [title for title in part.needs if title not in complete]:
            said = f"to be planned once {', '.join(missing)} is complete"
        else:
            stage = part.stage()
            plan = Plan.of(stage)
            said = plan_line(plan) + _failed(stage, plan)
            if not plan.todo:
                complete.add(part.title)
        lines.append(f"  {part.title:<{width}} {said}")
    return "\n".join(lines)


def _failed(stage: Stage, plan: Plan) -> str:
    errors = [stage.receipts.record(Side.ERRORS, shard.name) for shard in plan.todo]
    failed = sum(error.exists() for error in errors)
    return f"; {failed} failed when last tried, see {errors[0].parent}" if failed else ""
