"""What a training has made of a model: it and the one it started from on the sets of a suite.

The part of stage ``scores`` that ``scores.suite`` asks for. It is an evaluation as any other, in
the run's folder ``evaluation/``, of which the stage keeps what people compare.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.evaluation.answered import Answered, difference_of_means, first_recall
from pipelines.evaluation.candidates import Candidate
from pipelines.evaluation.command import judged, report
from pipelines.evaluation.n_gram_stage import NGrams
from pipelines.evaluation.stages import EvaluationRun, Sets
from pipelines.evaluation.suite import read_suite
from pipelines.run.checks import EVALUATION
from pipelines.run.config import Config, ConfigError, RaySettings
from pipelines.run.history import Journal
from pipelines.run.receipts import Shard
from workers.base.failures import NeedsMendingError
from workers.base.storage import write_json
from workers.base.tally import Tally
from workers.embedding.settings import EmbedSettings

START, TRAINED = "start", "trained"  # what the report calls the models


def evaluation_of(config: Config, directory: Path) -> EvaluationRun:
    """The evaluation of a run that names a suite. Raises ConfigError where it cannot be used."""
    assert config.scores.suite is not None
    try:
        suite = read_suite(Path(config.scores.suite))
    except ConfigError as error:
        raise ConfigError(f"scores.suite: {error}") from error
    return EvaluationRun(config, directory / EVALUATION, suite=suite, ray=_ray(config.ray))


def _ray(settings: RaySettings) -> RaySettings | None:
    """Where the run's Ray is more than this machine, it works here too."""
    import torch

    is_wanted = settings.address or settings.actors or torch.cuda.device_count() > 1
    return settings if is_wanted else None


def suite_identity(run: EvaluationRun) -> dict[str, Any]:
    """What scores on a suite depend on beside the models.

    Raises ConfigError, naming the key, where a data set is missing or cannot be used.
    """
    try:
        sets = Sets(run).plan()
        n_grams = [] if run.suite.protocols.n_grams is None else NGrams(run).plan()
    except ConfigError as error:
        raise ConfigError(f"scores.suite: {error}") from error
    return {
        "suite": run.suite.model_dump(mode="json"),
        "sets": {shard.name: shard.key for shard in [*sets, *n_grams]},
    }


@dataclass(frozen=True)
class JudgeSuite:
    """The work on the shard of a suite."""

    config: Config
    directory: Path  # of the run

    def __call__(self, shard: Shard, out: Path) -> dict[str, Tally]:
        run = evaluation_of(self.config, self.directory)
        models = {START: self.config.model.start_from, TRAINED: str(shard.file(TRAINED))}
        candidates = [
            Candidate(label, EmbedSettings(model=model, precision="fp32"))
            for label, model in models.items()
            if model is not None
        ]
        results = _results(run, candidates)
        report(run, results, candidates)
        by_name = {(one["set"], one["model"]): one for one in results}
        rows = [
            compared(run.directory / "results", by_name.get((name, START)), by_name[name, TRAINED])
            for name in run.suite.sets
        ]
        write_json({"sets": rows}, out / "suite.json")
        # The stage's last kind of row stays that of the held-out pairs.
        return {"pictures": _pictures(run), "pairs": Tally()}


def _results(run: EvaluationRun, candidates: Sequence[Candidate]) -> list[dict[str, Any]]:
    journal = Journal(run, "evaluate")
    journal.begin()
    code, results = judged(run, candidates, journal)
    journal.end(code)
    if results is None:
        raise NeedsMendingError(
            f"the suite is not judged: what failed is said above, and stands in {run.directory}"
        )
    return results


def _pictures(run: EvaluationRun) -> Tally:
    """The test pictures of all sets, each once: those that no model could read, too."""
    total, sets, results = Tally(), run.receipts("sets"), run.receipts("results")
    for name in run.suite.sets:
        written, of_trained = sets.get(f"{name}.test"), results.get(f"{TRAINED}.{name}")
        assert written
        assert of_trained
        given, kept = (Tally.from_counts(one.rows["pictures"]) for one in (written, of_trained))
        given.kept -= kept.rows_in  # those that were written are counted as they were judged
        given.rows_in -= kept.rows_in
        total = Tally.total([total, given, kept])
    return total


def compared(
    folder: Path, start: Mapping[str, Any] | None, trained: Mapping[str, Any]
) -> dict[str, Any]:
    """A row of the report's table: both models on a set, and the paired difference.

    Args:
        folder: of ``Results``.
        start: the result of the model that training started from; None where there was none.
    """
    row = {
        "set": trained["set"],
        "measure": trained.get("metric") or f"R@{first_recall(trained)}",
        "pictures": trained["pictures"],
        "chance": trained["chance"],
    }
    after = Answered.of(folder, trained)
    if start is None:
        return row | {START: None, TRAINED: after.estimate, "difference": None}
    before = Answered.of(folder, start)
    return row | {
        START: before.estimate,
        TRAINED: after.estimate,
        "difference": difference_of_means([after], [before]),
    }
