"""What labels are worth beside zero-shot: linear probes, few-shot probes, examples to equal it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clip_model.probe import (
    COARSE,
    LinearProbe,
    OneVsRest,
    Split,
    binary_sweep,
    few_shot_rows,
    fit_one_vs_rest,
    fit_probe,
    hash_order,
    shots_to_equal,
    sweep_l2,
)
from clip_model.templates import ClassName
from pipelines.evaluation.intervals import (
    bootstrap,
    draw_counts,
    estimate,
    mean_of_known,
    percentiles,
)
from pipelines.evaluation.measures import (
    RANKED,
    TOP,
    Answers,
    Measure,
    Truth,
    details,
    difference,
    first_name,
    measure,
)
from pipelines.evaluation.pictures import NO_TEXTS, Pictures, named, split_by_hash
from pipelines.evaluation.settings import ProtocolSettings
from workers.base.arrays import Float64s

ZERO_SHOT = "zero-shot"
PROBE = "probe"
NO_SHOTS = "where pictures have several labels, examples of one class are examples of others too"


@dataclass(frozen=True)
class Lesson:
    """What probes learn from, and what judges them."""

    train: Pictures
    judged: Pictures
    classes: Sequence[ClassName]
    settings: ProtocolSettings

    @property
    def has_several(self) -> bool:
        """Whether training pictures have several labels, or none."""
        return any(len(some) != 1 for some in self.train.labels)

    @property
    def split(self) -> Split:
        """The training pictures' features [N, E] and labels [N]."""
        labels = torch.tensor([some[0] for some in self.train.labels])
        return self.train.features, labels.to(self.train.features.device)

    @property
    def split_of_several(self) -> Split:
        """The same where pictures have several: which classes each is of, bool [N, C]."""
        known = torch.from_numpy(Truth.of(self.train.labels, len(self.classes)).matrix)
        return self.train.features, known.to(self.train.features.device)


@dataclass
class Taught:
    """What came of it: parts of a result. Predictions are of the judged pictures."""

    probe: dict[str, Any] | None = None
    few_shot: dict[str, dict[str, Any]] = field(default_factory=dict)
    equal_shots: dict[str, Any] = field(default_factory=dict)
    predictions: dict[str, Tensor] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def hold_out(
    test: Pictures, train: Pictures | None, settings: ProtocolSettings
) -> tuple[Pictures, list[int]]:
    """The pictures that train, and the rows of the test pictures that judge.

    Where there is no train split, a share of the test pictures judges and the others train.
    """
    if train is not None:
        return train, list(range(len(test)))
    rest, judged = split_by_hash(test, settings.held_out, settings.seed)
    return test.take(rest), judged


def why_not(lesson: Lesson) -> str | None:
    """Why no probe can be fitted, if so."""
    if not lesson.settings.probe:
        return "the probe is turned off"
    if lesson.has_several:
        if lesson.settings.metric not in RANKED:
            return "training pictures have several labels or none, and the metric is of one"
        if not _both_kinds(lesson.split_of_several[1]):
            return "no class has training pictures and others beside them"
    elif len({some[0] for some in lesson.train.labels}) < 2:
        return "the training pictures are of fewer than two classes"
    if not len(lesson.judged):
        return "no class has two pictures, of which one could judge"
    return None


def teach(lesson: Lesson, zero_shot: Answers | None) -> Taught:
    """Fit the probes and judge them, beside zero-shot's answers to the same pictures.

    Of a model that knows no text, there are none: what compares with them is None.
    """
    if reason := why_not(lesson):
        warnings = [f"no probe: {reason}"] if lesson.settings.probe else []
        return Taught(equal_shots=_never(reason), warnings=warnings)
    settings, metric = lesson.settings, lesson.settings.metric
    taught = Taught()
    probe, l2 = _swept_probe(lesson, taught.warnings)
    answers = {PROBE: _answers(probe, lesson, lesson.judged.features)}
    if zero_shot:
        answers[ZERO_SHOT] = zero_shot
    shots = _possible_shots(lesson, taught.warnings)
    for count in shots:
        for seed in settings.seeds:
            few = _few_shot_probe(lesson, count, seed)
            answers[_name(count, seed)] = _answers(few, lesson, lesson.judged.features)
    truth = Truth.of(lesson.judged.labels, len(lesson.classes))
    measures = {name: measure(metric, some, truth) for name, some in answers.items()}
    statistics = {name: one.statistic for name, one in measures.items()}
    draws = bootstrap(len(lesson.judged), statistics, settings.bootstrap, settings.seed)
    taught.predictions[PROBE] = torch.from_numpy(answers[PROBE].ranked[:, 0])
    taught.probe = {
        **details(metric, answers[PROBE], truth, lesson.classes, measures[PROBE], draws[PROBE]),
        "l2": l2,
        "train": len(lesson.train),
        "pictures": len(lesson.judged),
        **_beside(measures, draws),
    }
    curve = _few_shot_curve(shots, settings, measures, draws)
    for count, point in curve.items():
        taught.few_shot[str(count)] = {
            "values": point.by_seed,
            **estimate(point.value, percentiles(point.draws)),
        }
    if zero_shot is None or lesson.has_several:
        taught.equal_shots = _never(NO_SHOTS if zero_shot else NO_TEXTS)
        return taught
    examples = len(lesson.train) // len({some[0] for some in lesson.train.labels})
    full = _Point([], measures[PROBE].value, mean_of_known(draws[PROBE]))
    taught.equal_shots = _equal_shots(
        measures[ZERO_SHOT].value, mean_of_known(draws[ZERO_SHOT]), {**curve, examples: full}
    )
    return taught


def _both_kinds(known: Tensor) -> bool:
    """Whether a class has pictures and counterexamples, bool [N, C]."""
    count = known.sum(dim=0)
    return bool(((count > 0) & (count < len(known))).any())


def _beside(measures: dict[str, Measure], draws: dict[str, Float64s]) -> dict[str, Any]:
    """Zero-shot on the pictures that judge the probe, and what it is better by."""
    if ZERO_SHOT not in measures:
        return {"zero_shot": None, "difference": None}
    of_zero_shot = measures[ZERO_SHOT], draws[ZERO_SHOT]
    return {
        "zero_shot": of_zero_shot[0].estimate(of_zero_shot[1]),
        "difference": difference(*of_zero_shot, measures[PROBE], draws[PROBE]),
    }


def _swept_probe(lesson: Lesson, warnings: list[str]) -> tuple[LinearProbe | OneVsRest, float]:
    """A probe on all training pictures, its L2 strength chosen on a validation split by hash.

    The sweep fits up to 15 probes, so it takes no more than `sweep_examples` pictures, drawn by
    hash: the last fit alone sees more. The strength is that of the sum of the losses, so it is
    the same prior over the weights however many pictures there are.
    """
    settings = lesson.settings
    features, labels = lesson.split_of_several if lesson.has_several else lesson.split
    drawn = sorted(hash_order(lesson.train.ids, settings.seed)[: settings.sweep_examples])
    fitted, validated = (
        torch.tensor([drawn[row] for row in rows], dtype=torch.long, device=features.device)
        for rows in split_by_hash(lesson.train.take(drawn), settings.validation, settings.seed)
    )
    l2, train = settings.few_shot_l2, (features[fitted], labels[fitted])
    if lesson.has_several and len(validated) and _both_kinds(labels[fitted]):

        def score(l2: float) -> float:
            return _score(fit_one_vs_rest(*train, l2, tolerance=COARSE), lesson, validated)

        l2 = binary_sweep(score).l2
    elif not lesson.has_several and len(validated) and len(labels[fitted].unique()) > 1:
        l2 = sweep_l2(train, (features[validated], labels[validated])).l2
    else:
        warnings.append(
            f"too few training pictures to choose the probe's L2 strength by: it is {l2:g}"
        )
    if lesson.has_several:
        return fit_one_vs_rest(features, labels, l2), l2
    return fit_probe(features, labels, l2), l2


def _score(probe: OneVsRest, lesson: Lesson, rows: Tensor) -> float:
    """The metric on some of the training pictures; -1 where these give it no value."""
    some = lesson.train.take(rows.tolist())
    truth = Truth.of(some.labels, len(lesson.classes))
    if not truth.sizes.any():
        return -1.0
    value = measure(lesson.settings.metric, _answers(probe, lesson, some.features), truth).value
    return value if math.isfinite(value) else -1.0


def _few_shot_probe(lesson: Lesson, count: int, seed: int) -> LinearProbe:
    features, labels = lesson.split
    rows = few_shot_rows(labels, count, seed, lesson.train.ids).to(features.device)
    return fit_probe(features[rows], labels[rows], lesson.settings.few_shot_l2)


def _answers(probe: LinearProbe | OneVsRest, lesson: Lesson, features: Tensor) -> Answers:
    """A probe knows nothing of a class that it saw no picture of: that one's score is lowest."""
    logits = probe.logits(features)
    ranked = probe.classes[logits.topk(min(TOP, logits.shape[1]), dim=-1).indices]
    if lesson.settings.metric not in RANKED:
        return Answers(ranked.cpu().numpy(), None)
    scores = logits.new_full((len(logits), len(lesson.classes)), -torch.inf)
    scores[:, probe.classes] = logits
    return Answers(ranked.cpu().numpy(), scores.float().cpu().numpy())


def _possible_shots(lesson: Lesson, warnings: list[str]) -> list[int]:
    """Those of the settings' for which every class has examples enough."""
    if lesson.has_several:
        warnings += [f"no few-shot: {NO_SHOTS}"] if lesson.settings.shots else []
        return []
    have = np.bincount([some[0] for some in lesson.train.labels], minlength=len(lesson.classes))
    asked = Truth.of(lesson.judged.labels, len(lesson.classes)).sizes
    used = np.flatnonzero(have + asked)
    possible = [count for count in lesson.settings.shots if count <= have[used].min()]
    if left_out := [count for count in lesson.settings.shots if count not in possible]:
        scarce = [first_name(lesson.classes[c]) for c in used.tolist() if have[c] < max(left_out)]
        warnings.append(
            f"few-shot without {named(left_out)} examples a class: there are not as many training "
            f"pictures of {named(scarce)}"
        )
    return possible


@dataclass(frozen=True)
class _Point:
    """A point of the few-shot curve."""

    by_seed: list[float]
    value: float
    draws: Float64s  # [B]


def _name(count: int, seed: int) -> str:
    return f"{count} shots, seed {seed}"


def _few_shot_curve(
    shots: Sequence[int],
    settings: ProtocolSettings,
    measures: dict[str, Measure],
    draws: dict[str, Float64s],
) -> dict[int, _Point]:
    """The mean over the seeds at each number of examples, pictures and seeds drawn anew.

    A seed's examples are among those that it draws for more shots, so one draw of the seeds holds
    for the whole curve.
    """
    generator = np.random.default_rng([settings.seed, len(settings.seeds), settings.bootstrap])
    counts = draw_counts(generator, settings.bootstrap, len(settings.seeds))  # [B, S]
    curve: dict[int, _Point] = {}
    for count in shots:
        names = [_name(count, seed) for seed in settings.seeds]
        values = [measures[name].value for name in names]
        by_seed = np.stack([mean_of_known(draws[name]) for name in names], axis=1)  # [B, S]
        mean = (counts * by_seed).sum(axis=1) / len(names)
        curve[count] = _Point(values, float(np.mean(values)), mean)
    return curve


def _never(reason: str) -> dict[str, Any]:
    return {**estimate(math.nan, (math.nan, math.nan)), "reason": reason}


def _equal_shots(value: float, draws: Float64s, curve: dict[int, _Point]) -> dict[str, Any]:
    """Labelled examples a class that equal zero-shot, on the curve of each draw.

    The probe on all training pictures is the last point, as in the paper's figure 7. An end of the
    interval that is None is beyond it: no number of examples that there is was enough.
    """
    if len(curve) < 2:
        return _never("a curve needs probes of two numbers of examples a class or more")
    counts = sorted(curve)
    points = np.stack([curve[count].draws for count in counts], axis=1)  # [B, P]
    known = np.isfinite(points).all(axis=1) & np.isfinite(draws)
    equal = [
        shots_to_equal(level, dict(zip(counts, row, strict=True)))
        for level, row in zip(draws[known].tolist(), points[known].tolist(), strict=True)
    ]
    found = shots_to_equal(value, {count: curve[count].value for count in counts})
    answer: dict[str, Any] = {**estimate(found, percentiles(equal))}
    if math.isinf(found):
        answer["reason"] = f"no probe equals zero-shot, up to {counts[-1]:g} examples a class"
    return answer
