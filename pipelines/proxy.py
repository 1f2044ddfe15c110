"""``python -m pipelines.proxy``: whether a selection pays, by small models trained on each."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pipelines.cli import EXIT_CODES, add_overrides, at_work, place_of, run_command, start
from pipelines.embed import add_ray_options, ray_settings
from pipelines.evaluation.candidates import Candidate
from pipelines.evaluation.command import judged
from pipelines.evaluation.proxy import (
    ChosenPairs,
    ProxySettings,
    ScorerEmbeddings,
    SmallModel,
    run_of_choice,
)
from pipelines.evaluation.proxy_report import write_proxy_report
from pipelines.evaluation.stages import EvaluationRun
from pipelines.evaluation.suite import read_suite
from pipelines.run.config import ConfigError, build_settings, folder_of, read_tree
from pipelines.run.directory import Run
from pipelines.run.history import Journal
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
    with at_work(run, "proxy") as journal:
        journal.code = _work(settings, pool, run, journal)
    return journal.code


def pool_of(settings: ProxySettings) -> Run:
    """The run that is chosen of. Raises ConfigError where it is not complete."""
    return finished_run("pool", settings.pool, POOL)


def _work(settings: ProxySettings, pool: Run, run: EvaluationRun, journal: Journal) -> ExitCode:
    kept: dict[str, int] = {}
    with pool.lock():  # a night's run must not change what is chosen of meanwhile
        _check(settings, pool, run)
        if (code := _run(_scorers(settings, pool, run), journal)) is not None:
            return code
        for name, choice in settings.choices.items():
            pairs = None if choice.as_many_as is None else kept[choice.as_many_as]
            place = run.directory / "choices" / name
            scorer = run.directory / SCORERS / choice.scorer if choice.scorer else None
            chosen = run_of_choice(pool, place, choice, settings.model, None, pairs, scorer)
            if (code := _run([ChosenPairs(chosen), Dataset(chosen)], journal)) is not None:
                return code
            kept[name] = sum(r.rows["pairs"]["kept"] for r in chosen.receipts("dataset").all())
    if (code := _run(_models(settings, pool, run), journal)) is not None:
        return code
    candidates = [
        Candidate(label, EmbedSettings(model=str(path), precision="fp32"))
        for label, path in _checkpoints(settings, run)
    ]
    code, results = judged(run, candidates, journal)
    if results is not None:
        say(write_proxy_report(settings, kept, results, run.directory))
    return code


def _run(stages: Iterable[Stage], journal: Journal) -> ExitCode | None:
    """Bring stages up to date; the exit code of the one that did not end well, if one did not."""
    for stage in stages:
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


def _scorers(settings: ProxySettings, pool: Run, run: EvaluationRun) -> Iterator[Stage]:
    """Each is trained on what its steps leave of the pool, and then embeds all of the pool."""
    for name, scorer in settings.scorers.items():
        place, model = run.directory / SCORERS / name, scorer.model or settings.model
        trained = run_of_choice(pool, place, scorer, model, None, None)
        yield from (ChosenPairs(trained), Dataset(trained), SmallModel(trained, run.ray))
        scored = run_of_choice(pool, place, scorer, model, None, None, scorer=place)
        yield ScorerEmbeddings(scored, run.ray)


def _models(settings: ProxySettings, pool: Run, run: EvaluationRun) -> Iterator[Stage]:
    for name, choice in settings.choices.items():
        for seed in settings.seeds:
            place = run.directory / "choices" / name
            chosen = run_of_choice(pool, place, choice, settings.model, seed, None)
            yield SmallModel(chosen, run.ray)


def _checkpoints(settings: ProxySettings, run: EvaluationRun) -> Iterator[tuple[str, Path]]:
    for name in settings.choices:
        for seed in settings.seeds:
            place = run.directory / "choices" / name / f"seed-{seed}" / "model"
            yield f"{name}.{seed}", place / CHECKPOINT


if __name__ == "__main__":
    start(main)
