"""``python -m pipelines.proxy``: whether a selection pays, by small models trained on each."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from pipelines.cli import EXIT_CODES, add_overrides, at_work, place_of, run_command, start
from pipelines.embed import add_ray_options, ray_settings
from pipelines.evaluation.candidates import Candidate
from pipelines.evaluation.proxy import (
    ChoiceRun,
    ChosenPairs,
    ProxySettings,
    Scorer,
    ScorerEmbeddings,
    SmallModel,
    run_of_choice,
)
from pipelines.evaluation.stages import EvaluationRun
from pipelines.evaluation.status import Part, evaluation_parts, status_of
from pipelines.evaluation.suite import read_suite
from pipelines.run.config import ConfigError, build_settings, folder_of, read_tree
from pipelines.run.directory import Run
from pipelines.run.history import Journal
from pipelines.run.receipts import Receipts
from pipelines.run.runner import finished_run, run_stage
from pipelines.stages.base import Stage
from pipelines.stages.dataset import Dataset
from pipelines.training import CHECKPOINT
from workers.base.exit_codes import ExitCode
from workers.base.output import say
from workers.embedding.settings import EmbedSettings
from workers.selection.settings import SelectionSettings

DESCRIPTION = """\
Train one small model on each of several selections of a run's embedded pairs, with the same number
of pairs seen and several seeds, judge all of them on one suite of data sets, and say what the
difference is. The same command goes on where it was interrupted. docs/evaluation.md says how to
read the verdict.
"""
#: The folder of the models that choices are scored by.
SCORERS = "scorers"
#: The folder of what is compared.
CHOICES = "choices"
#: What a pool must have.
POOL = ("labels", "embeddings", "images", "pairs")


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    result = argparse.ArgumentParser(
        prog="python -m pipelines.proxy",
        description=DESCRIPTION,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = result.add_argument
    add("choices", type=Path, metavar="CHOICES.yaml", help="the pool, the choices and the suite")
    add("--out", required=True, metavar="DIR", help="where the models and judgements go")
    add(
        "--status", action="store_true", help="print what is done and what is to do, and do nothing"
    )
    add_overrides(result, "a key of CHOICES.yaml, VALUE in YAML")
    add_ray_options(result)
    return result


def main(argv: Sequence[str] | None = None) -> ExitCode:
    """Parse the arguments and run the command; returns its exit code."""
    arguments = parser().parse_args(argv)
    return run_command(lambda: compare(arguments))


def compare(arguments: argparse.Namespace) -> ExitCode:
    """Select, train and judge what has no receipt yet, and say what came of it."""
    tree, file = read_tree(arguments.choices), arguments.choices
    settings = build_settings(ProxySettings, tree, arguments.overrides, str(file), folder_of(file))
    suite = read_suite(Path(settings.suite))
    pool = pool_of(settings)
    out = place_of("--out", arguments.out)
    if isinstance(out, str):
        raise ConfigError("--out: a folder; a bucket cannot hold a comparison yet")
    run = EvaluationRun.of(suite, out, ray_settings(arguments))
    if arguments.status:
        say(status(settings, pool, run))
        return ExitCode.COMPLETE
    with at_work(run, "proxy") as journal:
        journal.code = _work(settings, pool, run, journal)
    return journal.code


def pool_of(settings: ProxySettings) -> Run:
    """The run that is chosen of. Raises ConfigError where it is not complete."""
    return finished_run("pool", settings.pool, POOL)


def status(settings: ProxySettings, pool: Run, run: EvaluationRun) -> str:
    """What is done of a comparison, and what is to do. Raises ConfigError."""
    models = list(_models(settings, pool, run))
    made_by = dict(zip(_checkpoints(settings, run), (part.title for part in models), strict=True))
    judged = evaluation_parts(run, _candidates(settings, run), made_by)
    return status_of(run, [*_chosen(settings, pool, run), *models, *judged])


def _work(settings: ProxySettings, pool: Run, run: EvaluationRun, journal: Journal) -> ExitCode:
    from pipelines.evaluation.command import judged  # takes long
    from pipelines.evaluation.proxy_report import write_proxy_report

    with pool.lock():  # a night's run must not change what is chosen of meanwhile
        _check(settings, pool, run)
        if (code := _run(_chosen(settings, pool, run), journal)) is not None:
            return code
    if (code := _run(_models(settings, pool, run), journal)) is not None:
        return code
    code, results = judged(run, _candidates(settings, run), journal)
    if results is not None:
        kept = {name: _kept(run, name) for name in settings.choices}
        say(write_proxy_report(settings, kept, results, run.directory))
    return code


def _run(parts: Iterable[Part], journal: Journal) -> ExitCode | None:
    """Bring stages up to date; the exit code of the one that did not end well, if one did not."""
    for part in parts:
        stage = part.stage()
        stage.check()
        if not (result := run_stage(stage, journal)).ended:
            return result.code
    return None


def _check(settings: ProxySettings, pool: Run, run: EvaluationRun) -> None:
    """Raise ConfigError for a step that refers to nothing, before anything is trained."""
    named: dict[str, SelectionSettings] = {f"scorers.{n}": s for n, s in settings.scorers.items()}
    # A scorer's model, which files of embeddings must be by, is not there yet.
    named |= {f"choices.{n}": c for n, c in settings.choices.items() if c.scorer is None}
    for key, steps in named.items():
        chosen = run_of_choice(pool, run.directory, steps, settings.model, None, None)
        try:
            ChosenPairs(chosen).check()
        except ConfigError as error:
            raise ConfigError(f"{key}: {error}") from error


def _chosen(settings: ProxySettings, pool: Run, run: EvaluationRun) -> Iterator[Part]:
    """What is made of the pool: scorers, and the pairs of each choice."""
    for name, scorer in settings.scorers.items():
        yield from _chain(f"{SCORERS}/{name}", _scorer_stages(settings, pool, run, name, scorer))
    for name, choice in settings.choices.items():
        needs = [f"{SCORERS}/{choice.scorer}/embeddings"] if choice.scorer else []
        needs += [f"{CHOICES}/{choice.as_many_as}/dataset"] if choice.as_many_as else []
        of = partial(_choice_run, settings, pool, run, name)
        stages = {
            "selection": lambda of=of: ChosenPairs(of()),
            "dataset": lambda of=of: Dataset(of()),
        }
        yield from _chain(f"{CHOICES}/{name}", stages, needs)


def _chain(
    title: str, stages: Mapping[str, Callable[[], Stage]], needs: Sequence[str] = ()
) -> Iterator[Part]:
    """Stages of a folder, each of which reads the one before."""
    for name, stage in stages.items():
        yield Part(f"{title}/{name}", stage, tuple(needs))
        needs = [f"{title}/{name}"]


def _scorer_stages(
    settings: ProxySettings, pool: Run, run: EvaluationRun, name: str, scorer: Scorer
) -> dict[str, Callable[[], Stage]]:
    """It is trained on what its steps leave of the pool, and then embeds all of the pool."""
    place, model = run.directory / SCORERS / name, scorer.model or settings.model
    trained = run_of_choice(pool, place, scorer, model, None, None)
    scored = run_of_choice(pool, place, scorer, model, None, None, scorer=place)
    return {
        "selection": partial(ChosenPairs, trained),
        "dataset": partial(Dataset, trained),
        "model": partial(SmallModel, trained, run.ray),
        "embeddings": partial(ScorerEmbeddings, scored, run.ray),
    }


def _choice_run(settings: ProxySettings, pool: Run, run: EvaluationRun, name: str) -> ChoiceRun:
    """The run of a choice's pairs; those of the one it is as large as must be there."""
    choice = settings.choices[name]
    pairs = None if choice.as_many_as is None else _kept(run, choice.as_many_as)
    scorer = run.directory / SCORERS / choice.scorer if choice.scorer else None
    place = run.directory / CHOICES / name
    return run_of_choice(pool, place, choice, settings.model, None, pairs, scorer)


def _kept(run: EvaluationRun, name: str) -> int:
    """Pairs of a choice's data set."""
    receipts = Receipts(run.directory / CHOICES / name / "dataset")
    return sum(receipt.rows["pairs"]["kept"] for receipt in receipts.all())


def _models(settings: ProxySettings, pool: Run, run: EvaluationRun) -> Iterator[Part]:
    for name, choice in settings.choices.items():
        title = f"{CHOICES}/{name}"
        for seed in settings.seeds:
            place = run.directory / title
            chosen = run_of_choice(pool, place, choice, settings.model, seed, None)
            model = partial(SmallModel, chosen, run.ray)
            yield Part(f"{title}/seed-{seed}/model", model, (f"{title}/dataset",))


def _checkpoints(settings: ProxySettings, run: EvaluationRun) -> dict[str, Path]:
    """By the label of each model, in the order of ``_models``."""
    return {
        f"{name}.{seed}": run.directory / CHOICES / name / f"seed-{seed}" / "model" / CHECKPOINT
        for name in settings.choices
        for seed in settings.seeds
    }


def _candidates(settings: ProxySettings, run: EvaluationRun) -> list[Candidate]:
    return [
        Candidate(label, EmbedSettings(model=str(path), precision="fp32"))
        for label, path in _checkpoints(settings, run).items()
    ]


if __name__ == "__main__":
    start(main)
