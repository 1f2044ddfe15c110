"""The paper's protocols on one data set: zero-shot, probes, few-shot, retrieval, robustness.

Pure functions: features in, a result for JSON out. The order of the pictures does not matter, and
the same pictures, settings and number of threads give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clip_model.templates import ClassName, template_set
from pipelines.evaluation.intervals import (
    bootstrap,
    estimate,
    independent_difference,
    is_scarce,
    mean_of_known,
    percentiles,
)
from pipelines.evaluation.measures import (
    RANKED,
    Answers,
    Measure,
    Truth,
    answer,
    answer_by,
    chance,
    details,
    difference,
    first_name,
    measure,
)
from pipelines.evaluation.n_grams import NGramLayer
from pipelines.evaluation.pictures import (
    NO_DRAWS,
    NO_TEXTS,
    Judged,
    Pictures,
    TextTower,
    about_interval,
    as_given,
    by_id,
    check_labels,
    for_probes,
    named,
)
from pipelines.evaluation.retrieval import judge_retrieval
from pipelines.evaluation.settings import Metric, ProtocolSettings
from pipelines.evaluation.supervised import Lesson, hold_out, teach

__all__ = [
    "Judged",
    "Pictures",
    "Predicted",
    "TextTower",
    "judge_classification",
    "judge_retrieval",
    "robustness",
]


def judge_classification(
    tower: TextTower | None,
    classes: Sequence[ClassName],
    own_templates: Sequence[str] | None,
    test: Pictures,
    train: Pictures | None,
    settings: ProtocolSettings,
    n_grams: NGramLayer | None = None,
) -> Judged:
    """Zero-shot by every kind of prompt, and what probes on labelled examples do beside it.

    Without a text tower probes alone; what needs zero-shot is None, and the result says why. An
    n-gram baseline answers beside the prompts, and is never what probes are compared with.

    Raises:
        ValueError: there is no picture, class or prompt, a label is none of the classes or
            missing, or features are not finite.
    """
    metric = settings.metric
    pictures, order = _checked(test, classes, settings)
    truth = Truth.of(pictures.labels, len(classes))
    answers = _zero_shot(tower, classes, own_templates, pictures, settings) if tower else {}
    best = "ensemble" if "ensemble" in answers else next(reversed(answers), None)
    if n_grams is not None and len(n_grams.unknown(classes)) < len(classes):
        answers["n_grams"] = answer_by(n_grams.scores(pictures.features, classes))
    measures = {name: measure(metric, some, truth) for name, some in answers.items()}
    statistics = {name: one.statistic for name, one in measures.items()}
    draws = bootstrap(len(pictures), statistics, settings.bootstrap, settings.seed)
    examples, rows = hold_out(
        pictures, None if train is None else _checked(train, classes, settings)[0], settings
    )
    taught = teach(
        Lesson(*for_probes(examples, pictures.take(rows)), classes, settings),
        answers[best].take(rows) if best else None,
    )
    zero_shot = {
        name: details(metric, some, truth, classes, measures[name], draws[name])
        for name, some in answers.items()
    }
    predictions = {name: torch.from_numpy(some.ranked[:, 0]) for name, some in answers.items()}
    for name, predicted in taught.predictions.items():
        predictions[name] = torch.full((len(pictures),), -1)
        predictions[name][rows] = predicted
    result = {
        "task": "classification",
        "metric": metric,
        "pictures": len(pictures),
        "classes": len(classes),
        "chance": chance(metric, truth),
        "zero_shot": zero_shot or None,
        **({} if tower else {"reason": NO_TEXTS}),
        "gains": {
            name: difference(one, draws[name], measures["bare"], draws["bare"])
            for name, one in measures.items()
            if name != "bare" and "bare" in measures
        },
        "best_prompts": best,
        "probe_features": "joint" if pictures.hidden is None else "hidden",
        "probe": taught.probe,
        "few_shot": taught.few_shot,
        "equal_shots": taught.equal_shots,
        "warnings": [
            *_of_classes(truth, classes),
            *_of_interval(best, zero_shot, len(pictures)),
            *_of_n_grams(n_grams, classes),
            *taught.warnings,
        ],
    }
    given = {name: as_given(some, order) for name, some in predictions.items()}
    return Judged(result, given, mean_of_known(draws[best]) if best else NO_DRAWS)


def _checked(
    pictures: Pictures, classes: Sequence[ClassName], settings: ProtocolSettings
) -> tuple[Pictures, Tensor]:
    some, order = by_id(pictures)
    check_labels(some, len(classes), needed=settings.metric not in RANKED)
    return some, order


def _zero_shot(
    tower: TextTower,
    classes: Sequence[ClassName],
    own_templates: Sequence[str] | None,
    pictures: Pictures,
    settings: ProtocolSettings,
) -> dict[str, Answers]:
    templates = {
        "bare": template_set("bare"),
        "one": template_set("one"),
        "own": own_templates,
        "ensemble": template_set("ImageNet"),
    }
    answers: dict[str, Answers] = {}
    for name in settings.prompts:
        if sentences := templates[name]:
            classifier = tower.classifier(classes, sentences).to(pictures.features)
            answers[name] = answer(pictures.features, classifier, settings.metric)
    if not answers:
        raise ValueError(
            "`prompts` asks for the data set's own templates alone, and it has none: name them, or "
            "ask for `ensemble` too"
        )
    return answers


def _of_interval(best: str | None, zero_shot: Mapping[str, Any], pictures: int) -> list[str]:
    if best is None:
        return []
    return about_interval(f"zero-shot ({best})", zero_shot[best], pictures)


def _of_classes(truth: Truth, classes: Sequence[ClassName]) -> list[str]:
    empty = [first_name(classes[number]) for number in np.flatnonzero(truth.sizes == 0).tolist()]
    if not empty:
        return []
    return [f"{len(empty)} of {len(classes)} classes have no picture: {named(empty)}"]


def _of_n_grams(layer: NGramLayer | None, classes: Sequence[ClassName]) -> list[str]:
    unknown = [first_name(names) for names in layer.unknown(classes)] if layer else []
    if not unknown:
        return []
    return [
        f"n-grams: {len(unknown)} of {len(classes)} classes have names that end in no frequent "
        f"word of the captions, and are never the answer: {named(unknown)}"
    ]


@dataclass(frozen=True)
class Predicted:
    """What a model said of a data set's pictures, as `Judged.predictions` has it."""

    name: str
    classes: Sequence[ClassName]
    labels: Sequence[tuple[int, ...]]
    predictions: Tensor  # int64 [N]


def robustness(one: Predicted, other: Predicted, settings: ProtocolSettings) -> dict[str, Any]:
    """How much better a model does on one set than on another one of the same classes.

    The two sets' accuracies are the points from which effective robustness is read. Only pictures
    of classes that both sets have count, so that the classes are the same where one set has but
    some of them. The pictures differ, so each set is drawn by itself.

    Raises:
        ValueError: the sets' classes have other names, or no class has pictures in both.
    """
    names = [[first_name(name) for name in some.classes] for some in (one, other)]
    if names[0] != names[1]:
        raise ValueError(
            f"{one.name} and {other.name} differ in their classes: robustness compares two sets of "
            "the same classes in the same order"
        )
    shared = {label for some in one.labels for label in some} & {
        label for some in other.labels for label in some
    }
    if not shared:
        raise ValueError(f"{one.name} and {other.name} have no class with pictures in common")
    metric: Metric = "mean_per_class" if settings.metric == "mean_per_class" else "top1"
    measures = [_of_shared(some, shared, metric) for some in (one, other)]
    # Of two seeds, so that sets of as many pictures are not drawn alike.
    draws = [
        bootstrap(some.pictures, {metric: some.statistic}, settings.bootstrap, seed)[metric]
        for some, seed in zip(measures, (2 * settings.seed, 2 * settings.seed + 1), strict=True)
    ]
    interval = percentiles(mean_of_known(draws[0]) - mean_of_known(draws[1]))
    rights = [some.right for some in measures if some.right is not None]
    if len(rights) == 2 and any(is_scarce(right) for right in rights):
        interval = independent_difference(rights[0], rights[1])
    return {
        "metric": metric,
        "classes": len(shared),
        **{
            key: {"set": some.name, "pictures": measured.pictures, **measured.estimate(drawn)}
            for key, some, measured, drawn in zip(
                ("one", "other"), (one, other), measures, draws, strict=True
            )
        },
        "difference": estimate(measures[0].value - measures[1].value, interval),
    }


def _of_shared(some: Predicted, shared: set[int], metric: Metric) -> Measure:
    """The measure of the pictures of shared classes."""
    rows = [row for row, labels in enumerate(some.labels) if shared & set(labels)]
    truth = Truth.of([tuple(shared & set(some.labels[row])) for row in rows], len(some.classes))
    return measure(metric, Answers(some.predictions[rows, None].cpu().numpy(), None), truth)
