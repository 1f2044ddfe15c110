"""The protocols against naive loops and scikit-learn, on directions made by a seed."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score
from sklearn.multiclass import OneVsRestClassifier
from torch import Tensor
from torch.nn import functional as F

from clip_model.probe import few_shot_rows, shots_to_equal
from pipelines.evaluation.intervals import draw_counts, independent_difference
from pipelines.evaluation.measures import (
    Answers,
    Truth,
    average_precision_of,
    chance,
    measure,
    roc_auc_of,
)
from pipelines.evaluation.pictures import by_id, split_by_hash
from pipelines.evaluation.protocols import (
    Judged,
    Pictures,
    Predicted,
    judge_classification,
    judge_retrieval,
    robustness,
)
from pipelines.evaluation.settings import Metric, ProtocolSettings
from pipelines.evaluation.supervised import Lesson, _equal_shots, _Point, teach

WIDTH = 16
CLASSES = ("cat", "dog", ("sea", "ocean"), "apple pie")
QUICK = ProtocolSettings(bootstrap=200, shots=(1, 2, 4))


def direction(text: str) -> Tensor:
    """A unit vector that is a function of a text: [WIDTH]."""
    seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest())
    return F.normalize(torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed)), dim=0)


class Directions:
    """A tower whose prompts lie around their class, the nearer the more templates there are."""

    def classifier(self, classes: Sequence[Any], templates: Sequence[str]) -> Tensor:
        rows = []
        for name in classes:
            first = name if isinstance(name, str) else name[0]
            prompts = [direction(template.format(first)) for template in templates]
            rows.append(2 * direction(first) + torch.stack(prompts).mean(dim=0))
        return F.normalize(torch.stack(rows), dim=-1)

    def texts(self, captions: Sequence[str]) -> Tensor:
        return torch.stack([direction(caption) for caption in captions])


def pictures(
    labels: Sequence[Sequence[int]], noise: float = 0.5, seed: int = 0, prefix: str = "test"
) -> Pictures:
    """Pictures around the directions of their classes' names."""
    generator = torch.Generator().manual_seed(seed)
    names = [name if isinstance(name, str) else name[0] for name in CLASSES]
    centres = torch.stack([direction(name) for name in names])
    rows = [centres[list(some)].sum(dim=0) for some in labels]
    features = torch.stack(rows) + noise * torch.randn(len(labels), WIDTH, generator=generator)
    ids = [f"{prefix}-{row:05}" for row in range(len(labels))]
    return Pictures(ids, F.normalize(features, dim=-1), [tuple(some) for some in labels])


def cycle(count: int, classes: int = 4) -> list[tuple[int, ...]]:
    return [(row * 5 % 7 % classes,) for row in range(count)]


def judge(
    test: Pictures, train: Pictures | None = None, settings: ProtocolSettings = QUICK
) -> Judged:
    return judge_classification(
        Directions(), CLASSES, ("a {} here.", "my {}"), test, train, settings
    )


@pytest.fixture(scope="module")
def judged() -> Judged:
    train = pictures(cycle(200), seed=1, prefix="train")
    return judge(pictures(cycle(151)), train)


def test_probes_see_the_features_before_the_projection() -> None:
    """Whatever their scale; zero-shot sees the others."""
    sets = pictures(cycle(151)), pictures(cycle(200), seed=1, prefix="train")
    few = QUICK.model_copy(update={"shots": (2,), "seeds": (0,)})
    plain = judge(*sets, few)
    assert plain.result["probe_features"] == "joint"
    generator = torch.Generator().manual_seed(3)
    turned = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator)).Q
    lengths = torch.rand(400, 1, generator=generator) + 0.5
    hidden = [some.features @ turned * lengths[: len(some)] for some in sets]
    of_hidden = []
    for scale in (1, 8):  # a power of two: the same digits
        test, train = (replace(s, hidden=scale * h) for s, h in zip(sets, hidden, strict=True))
        of_hidden.append(judge(test, train, few))
    rms = hidden[1].square().sum(dim=-1).mean().sqrt()
    test, train = (replace(s, features=h / rms) for s, h in zip(sets, hidden, strict=True))
    as_joint = teach(Lesson(train, test, CLASSES, few), None).predictions["probe"].tolist()
    for judged in of_hidden:
        assert judged.result["probe_features"] == "hidden"
        assert judged.result["zero_shot"] == plain.result["zero_shot"]
        assert judged.predictions["bare"].tolist() == plain.predictions["bare"].tolist()
        assert judged.predictions["probe"].tolist() == as_joint
        assert judged.result["probe"]["value"] != plain.result["probe"]["value"]
    assert of_hidden[0].result["few_shot"] == of_hidden[1].result["few_shot"]


def test_a_feature_before_the_projection_that_is_not_finite_is_refused() -> None:
    test = pictures(cycle(20))
    hidden = test.features.clone()
    hidden[4, 2] = math.nan
    with pytest.raises(ValueError, match="features of 1 of 20 pictures are not finite"):
        by_id(replace(test, hidden=hidden))


def predictions_of(test: Pictures, templates: Sequence[str]) -> np.ndarray:
    similarity = test.features @ Directions().classifier(CLASSES, templates).t()
    return similarity.argmax(dim=-1).numpy()


def labels_of(test: Pictures) -> np.ndarray:
    return np.array([some[0] for some in test.labels])


def test_zero_shot_is_a_naive_argmax(judged: Judged) -> None:
    test = pictures(cycle(151))
    truth = labels_of(test)
    for prompts, templates in {
        "bare": ("{}",),
        "one": ("a photo of a {}.",),
        "own": ("a {} here.", "my {}"),
    }.items():
        predicted = predictions_of(test, templates)
        entry = judged.result["zero_shot"][prompts]
        assert judged.predictions[prompts].tolist() == predicted.tolist()
        assert entry["value"] == entry["top1"] == (predicted == truth).mean()
        assert entry["mean_per_class"] == pytest.approx(balanced_accuracy_score(truth, predicted))
        assert entry["top5"] == 1.0  # of four classes
        for number, of_class in enumerate(entry["per_class"]):
            assert of_class["pictures"] == (truth == number).sum()
            assert of_class["value"] == (predicted[truth == number] == number).mean()
            assert of_class["interval"][0] < of_class["value"] <= of_class["interval"][1]
    assert [row["name"] for row in entry["per_class"]] == ["cat", "dog", "sea", "apple pie"]
    assert judged.result["chance"] == 0.25


def test_the_interval_is_of_pictures_drawn_anew(judged: Judged) -> None:
    test = pictures(cycle(151))
    rights = {
        name: predictions_of(test, templates) == labels_of(test)
        for name, templates in {"bare": ("{}",), "one": ("a photo of a {}.",)}.items()
    }
    counts = draw_counts(np.random.default_rng([0, 151]), 200, 151).astype(int)
    drawn = {
        name: np.array([np.repeat(right, row).mean() for row in counts])
        for name, right in rights.items()
    }
    bare = judged.result["zero_shot"]["bare"]
    assert bare["interval"] == pytest.approx(np.percentile(drawn["bare"], [2.5, 97.5]).tolist())
    gain = judged.result["gains"]["one"]
    assert gain["value"] == pytest.approx(rights["one"].mean() - rights["bare"].mean())
    assert gain["interval"] == pytest.approx(
        np.percentile(drawn["one"] - drawn["bare"], [2.5, 97.5]).tolist()
    )
    assert set(judged.result["gains"]) == {"one", "own", "ensemble"}


def test_the_result_is_json_and_the_same_whatever_the_order(judged: Judged) -> None:
    train = pictures(cycle(200), seed=1, prefix="train")
    test = pictures(cycle(151))
    torch.manual_seed(5)
    order = torch.randperm(151).tolist()
    again = judge(test.take(order), train.take(torch.randperm(200).tolist()))
    one, other = (json.dumps(some.result, allow_nan=False) for some in (judged, again))
    assert one == other
    for name, predicted in judged.predictions.items():
        assert again.predictions[name].tolist() == predicted[order].tolist()


def test_probe_is_scikit_learns_and_zero_shot_is_judged_on_its_pictures(judged: Judged) -> None:
    train, test = pictures(cycle(200), seed=1, prefix="train"), pictures(cycle(151))
    probe = judged.result["probe"]
    theirs = LogisticRegression(C=1 / probe["l2"], max_iter=10_000, tol=1e-8)
    theirs.fit(train.features.double().numpy(), labels_of(train))
    predicted = theirs.predict(test.features.double().numpy())
    assert (judged.predictions["probe"].numpy() != predicted).mean() <= 0.01
    right = judged.predictions["probe"].numpy() == labels_of(test)
    assert probe["value"] == right.mean()
    assert (probe["train"], probe["pictures"]) == (200, 151)
    best = judged.result["zero_shot"]["ensemble"]
    assert probe["zero_shot"] == {key: best[key] for key in ("value", "interval")}
    assert probe["difference"]["value"] == pytest.approx(best["value"] - probe["value"])
    low, high = probe["difference"]["interval"]
    assert low < probe["difference"]["value"] < high


def test_without_a_train_split_a_share_by_hash_judges() -> None:
    test = pictures(cycle(160))
    some = judge(test)
    rows = (some.predictions["probe"] >= 0).nonzero().flatten().tolist()
    probe = some.result["probe"]
    assert rows == split_by_hash(test, 0.25, 0)[1]
    taught = some.predictions["probe"][rows].numpy() == labels_of(test)[rows]
    assert probe["value"] == taught.mean() > 0.6
    assert probe["pictures"] == len(rows) == pytest.approx(40, abs=2)
    assert probe["train"] == 160 - len(rows)
    right = some.predictions["ensemble"][rows].numpy() == labels_of(test)[rows]
    assert probe["zero_shot"]["value"] == right.mean()
    assert some.result["zero_shot"]["ensemble"]["value"] != probe["zero_shot"]["value"]


def test_parts_by_hash_hold_every_class_and_do_not_know_of_order() -> None:
    test = pictures([(0,)] * 20 + [(1,)] * 2 + [(2,)])
    first, second = split_by_hash(test, 0.25, 0)
    assert sorted(first + second) == list(range(23))
    assert [sum(row < 20 for row in part) for part in (first, second)] == [15, 5]
    assert 22 in first
    assert len({20, 21} & set(second)) == 1
    reverse = test.take(list(range(22, -1, -1)))
    assert {reverse.ids[row] for row in split_by_hash(reverse, 0.25, 0)[1]} == {
        test.ids[row] for row in second
    }
    assert split_by_hash(test, 0.25, 1) != (first, second)


def test_few_shot_probes_are_fitted_on_the_drawn_rows(judged: Judged) -> None:
    train, test = pictures(cycle(200), seed=1, prefix="train"), pictures(cycle(151))
    labels = torch.from_numpy(labels_of(train))
    assert list(judged.result["few_shot"]) == ["1", "2", "4"]
    for shots, point in judged.result["few_shot"].items():
        naive = []
        for seed in QUICK.seeds:
            rows = few_shot_rows(labels, int(shots), seed, train.ids).numpy()
            theirs = LogisticRegression(C=1 / QUICK.few_shot_l2, max_iter=10_000, tol=1e-8)
            theirs.fit(train.features.double().numpy()[rows], labels.numpy()[rows])
            naive.append(theirs.score(test.features.double().numpy(), labels_of(test)))
        assert point["values"] == pytest.approx(naive, abs=2 / 151)
        assert point["value"] == pytest.approx(np.mean(point["values"]))
        low, high = point["interval"]  # the three seeds are drawn too, now and then one alone
        assert low < min(point["values"]) + 0.02
        assert high > max(point["values"]) - 0.02


def test_the_probe_on_all_pictures_is_the_last_point_of_the_curve(judged: Judged) -> None:
    result = judged.result
    curve = {int(shots): point["value"] for shots, point in result["few_shot"].items()}
    curve[200 // 4] = result["probe"]["value"]
    assert math.isinf(shots_to_equal(result["probe"]["zero_shot"]["value"], curve))
    equal = result["equal_shots"]
    assert equal["reason"] == "no probe equals zero-shot, up to 50 examples a class"
    low, high = equal["interval"]  # in some draws the probe on all pictures does
    assert 4 < low < 50
    assert (equal["value"], high) == (None, None)


def metric_of(answers: Answers, truth: Truth, metric: Metric, counts: np.ndarray) -> np.ndarray:
    columns = measure(metric, answers, truth).statistic(counts.astype(float))
    return np.nanmean(columns, axis=1)


def scored(seed: int, ties: bool, classes: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores [N, C] and labels bool [N, C] of 40 pictures, and some draws of them."""
    generator = np.random.default_rng(seed)
    scores = generator.normal(size=(40, classes))
    if ties:
        scores = scores.round(0)
    known = generator.random((40, classes)) < 0.3
    known[0], known[1] = True, False
    return scores.astype(np.float32), known, draw_counts(generator, 8, 40)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_average_precision_and_auc_are_scikit_learns_of_every_draw(seed: int, ties: bool) -> None:
    scores, known, counts = scored(seed, ties)
    for make, theirs in (
        (average_precision_of, average_precision_score),
        (roc_auc_of, roc_auc_score),
    ):
        ours = make(scores[:, 0], known[:, 0])(counts)
        expected = [theirs(known[:, 0], scores[:, 0], sample_weight=row) for row in counts]
        np.testing.assert_allclose(ours[:, 0], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("metric", ["map", "auc"])
def test_the_mean_over_classes_is_scikit_learns_macro(metric: Metric) -> None:
    scores, known, counts = scored(0, ties=False)
    labels = [tuple(np.flatnonzero(row).tolist()) for row in known]
    answers = Answers(np.argsort(-scores, axis=1), scores)
    theirs = average_precision_score if metric == "map" else roc_auc_score
    expected = [theirs(known, scores, average="macro", sample_weight=row) for row in counts]
    ours = metric_of(answers, Truth.of(labels, 3), metric, counts)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-12)


def test_mean_per_class_is_scikit_learns_of_every_draw() -> None:
    generator = np.random.default_rng(0)
    truth, predicted = generator.integers(0, 5, size=(2, 60))
    counts = draw_counts(generator, 10, 60)
    answers = Answers(predicted[:, None], None)
    ours = metric_of(answers, Truth.of([(label,) for label in truth], 9), "mean_per_class", counts)
    expected = [balanced_accuracy_score(truth, predicted, sample_weight=row) for row in counts]
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-12)


def test_a_set_of_two_classes_by_auc() -> None:
    test = pictures(cycle(80, 2))
    some = judge_classification(
        Directions(), CLASSES[:2], None, test, None, ProtocolSettings(metric="auc", bootstrap=200)
    )
    similarity = test.features @ Directions().classifier(CLASSES[:2], ("{}",)).t()
    margin = (similarity[:, 1] - similarity[:, 0]).numpy()
    bare = some.result["zero_shot"]["bare"]
    assert bare["value"] == pytest.approx(roc_auc_score(labels_of(test), margin))
    assert bare["value"] > bare["top1"] - 0.1
    assert some.result["chance"] == 0.5
    assert some.result["probe"]["value"] > 0.8
    assert "own" not in some.result["zero_shot"]


def test_pictures_of_several_classes_by_mean_average_precision() -> None:
    generator = np.random.default_rng(0)
    labels = [tuple(np.flatnonzero(row).tolist()) for row in generator.random((90, 4)) < 0.4]
    labels[0] = ()
    test = pictures(labels)
    some = judge(test, settings=ProtocolSettings(metric="map", bootstrap=200, probe=False))
    known = Truth.of(labels, 4).matrix
    similarity = (test.features @ Directions().classifier(CLASSES, ("{}",)).t()).numpy()
    bare = some.result["zero_shot"]["bare"]
    assert bare["value"] == pytest.approx(average_precision_score(known, similarity))
    assert [row["value"] for row in bare["per_class"]] == pytest.approx(
        average_precision_score(known, similarity, average=None).tolist()
    )
    assert some.result["chance"] == pytest.approx(known.mean())
    assert all(row["interval"][0] < row["value"] for row in bare["per_class"])


@pytest.mark.parametrize("metric", ["map", "auc"])
def test_a_probe_on_pictures_of_several_classes_is_scikit_learns(metric: Metric) -> None:
    generator = np.random.default_rng(0)
    rows = [tuple(np.flatnonzero(row).tolist()) for row in generator.random((170, 4)) < 0.4]
    train, test = pictures(rows[:110], 0.3, 1, "train"), pictures(rows[110:], 0.3)
    some = judge(test, train, ProtocolSettings(metric=metric, bootstrap=200)).result
    probe, known = some["probe"], [Truth.of(one, 4).matrix for one in (rows[:110], rows[110:])]
    theirs = OneVsRestClassifier(LogisticRegression(C=1 / probe["l2"], tol=1e-8, max_iter=1000))
    scores = theirs.fit(train.features.numpy(), known[0]).decision_function(test.features.numpy())
    score = average_precision_score if metric == "map" else roc_auc_score
    # Neighbours whose scores are equal but for rounding may stand the other way round.
    assert probe["value"] == pytest.approx(score(known[1], scores), abs=2e-3)
    assert probe["value"] > some["chance"] + 0.2
    assert (probe["train"], probe["pictures"]) == (110, 60)
    assert some["few_shot"] == {}
    assert some["equal_shots"]["value"] is None
    (said,) = [line for line in some["warnings"] if "few-shot" in line]
    assert "several labels" in said
    # The strength is that which does best on the validation pictures, of the paper's grid.
    assert math.log10(probe["l2"]) * 8 == pytest.approx(round(math.log10(probe["l2"]) * 8))


def test_without_an_order_of_pictures_there_is_no_probe_on_several_classes() -> None:
    labels: list[tuple[int, ...]] = [(row % 4, (row + 1) % 4) for row in range(40)]
    some = judge(pictures(labels), settings=ProtocolSettings(bootstrap=200)).result
    assert some["probe"] is None
    assert any("the metric is of one" in line for line in some["warnings"])


# Five guesses of seven classes miss both right ones only if they are the five wrong ones.
@pytest.mark.parametrize(("metric", "expected"), [("top1", 2 / 7), ("top5", 1 - 1 / 21)])
def test_chance_of_pictures_with_two_right_classes(metric: Metric, expected: float) -> None:
    assert chance(metric, Truth.of([(0, 3), (5, 6)], 7)) == pytest.approx(expected)


def test_one_picture_and_one_class() -> None:
    some = judge_classification(
        Directions(), CLASSES[:1], None, pictures([(0,)]), None, ProtocolSettings()
    )
    assert some.result["zero_shot"]["bare"]["value"] == 1.0
    assert some.result["zero_shot"]["bare"]["interval"] == pytest.approx([0.2065, 1.0], abs=1e-3)
    assert some.result["gains"]["one"]["value"] == 0.0
    assert some.result["probe"] is None
    assert some.result["few_shot"] == {}
    assert some.result["equal_shots"]["value"] is None
    assert some.result["equal_shots"]["reason"]
    assert any("1 pictures, an interval" in line for line in some.result["warnings"])
    assert any("fewer than two classes" in line for line in some.result["warnings"])
    json.dumps(some.result, allow_nan=False)


def test_classes_without_pictures_are_named_and_do_not_count() -> None:
    test = pictures(cycle(60, 2))
    some = judge(test, settings=ProtocolSettings(metric="mean_per_class", bootstrap=200))
    assert any(
        "2 of 4 classes have no picture: sea, apple pie" in w for w in some.result["warnings"]
    )
    entry = some.result["zero_shot"]["bare"]
    assert entry["per_class"][3] == {
        "name": "apple pie",
        "pictures": 0,
        "value": None,
        "interval": [None, None],
    }
    present = [row["value"] for row in entry["per_class"][:2]]
    assert entry["value"] == pytest.approx(np.mean(present))
    assert "4" in some.result["few_shot"]  # though two classes have no example


def test_more_shots_than_pictures_are_left_out_and_said() -> None:
    train = pictures([(0,)] * 9 + [(1,)] * 3 + [(2,)] * 9 + [(3,)] * 2, prefix="train")
    some = judge(pictures(cycle(60)), train)
    assert list(some.result["few_shot"]) == ["1", "2"]
    assert any(
        "few-shot without 4 " in w and "dog, apple pie" in w for w in some.result["warnings"]
    )


def test_all_right_and_all_wrong() -> None:
    test = pictures(cycle(40), noise=0.0)
    right = judge(test).result["zero_shot"]["bare"]
    assert right["value"] == 1.0
    assert right["interval"][0] < 0.95
    assert right["interval"][1] == 1.0
    swapped = Pictures(test.ids, test.features, [((some[0] + 1) % 4,) for some in test.labels])
    wrong = judge(swapped).result["zero_shot"]["bare"]
    assert wrong["value"] == 0.0
    assert wrong["interval"][0] == 0.0
    assert wrong["interval"][1] > 0.05


def test_what_cannot_be_judged_is_refused_in_one_line() -> None:
    test = pictures(cycle(20))
    for broken in (torch.nan, torch.inf, 0.0):
        features = test.features.clone()
        features[3] = broken
        with pytest.raises(ValueError, match=r"features of 1 of 20 pictures .*: test-00003; leave"):
            judge(Pictures(test.ids, features, test.labels))
        with pytest.raises(ValueError, match="features of 1 of 20 pictures"):
            judge(test, Pictures(test.ids, features, test.labels))
    with pytest.raises(ValueError, match="one id: test-00001"):
        judge(test.take([0, 1, 1]))
    with pytest.raises(ValueError, match="no picture"):
        judge(test.take([]))
    with pytest.raises(ValueError, match="none of the 4 classes: test-00000"):
        judge(Pictures(test.ids, test.features, [(4,), *test.labels[1:]]))
    with pytest.raises(ValueError, match="1 pictures have no label: test-00000"):
        judge(Pictures(test.ids, test.features, [(), *test.labels[1:]]))
    with pytest.raises(ValueError, match="own templates alone"):
        judge_classification(
            Directions(), CLASSES, None, test, None, ProtocolSettings(prompts=("own",))
        )
    with pytest.raises(ValidationError, match="prompts"):
        ProtocolSettings(prompts=())


def test_rows_by_id_lead_back_to_the_order_given() -> None:
    test = pictures(cycle(9)).take([4, 2, 0, 8])
    some, rows = by_id(test)
    assert some.ids == sorted(test.ids)
    assert [test.ids[row] for row in rows] == some.ids


def with_captions(count: int, noise: float) -> Pictures:
    """Pictures near one of their captions, of which some are shared."""
    generator = torch.Generator().manual_seed(0)
    captions = [(f"a picture {row // 2}", f"number {row}", f"seen {row}") for row in range(count)]
    features = torch.stack([direction(some[row % 3]) for row, some in enumerate(captions)])
    features = features + noise * torch.randn(count, WIDTH, generator=generator)
    ids = [f"{row:04}" for row in range(count)]
    return Pictures(ids, F.normalize(features, dim=-1), captions=captions)


def test_retrieval_is_a_naive_ranking_both_ways() -> None:
    test = with_captions(30, 0.3)
    some = judge_retrieval(Directions(), test, ProtocolSettings(bootstrap=200))
    texts = list(dict.fromkeys(text for row in test.captions for text in row))
    similarity = (test.features @ Directions().texts(texts).t()).numpy()
    right = np.array([[text in row for text in texts] for row in test.captions])
    assert some.result["captions"] == len(texts) == 30 * 2 + 15
    for way, scores, matches in (
        ("image_to_text", similarity, right),
        ("text_to_image", similarity.T, right.T),
    ):
        for k in (1, 5, 10):
            first = np.argsort(-scores, axis=1)[:, :k]
            expected = np.take_along_axis(matches, first, axis=1).any(axis=1).mean()
            entry = some.result[way][str(k)]
            assert entry["value"] == pytest.approx(expected)
            assert entry["interval"][0] < expected <= entry["interval"][1]
    assert some.result["chance"] == pytest.approx(right.mean())
    ranks = some.predictions["image_to_text_rank"]
    assert (ranks < 5).double().mean().item() == pytest.approx(
        some.result["image_to_text"]["5"]["value"]
    )
    assert any("30 pictures, an interval" in line for line in some.result["warnings"])


def test_retrieval_does_not_depend_on_the_order() -> None:
    test = with_captions(30, 0.3)
    settings = ProtocolSettings(bootstrap=200)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1)).tolist()
    one = judge_retrieval(Directions(), test, settings)
    other = judge_retrieval(Directions(), test.take(order), settings)
    assert json.dumps(one.result, allow_nan=False) == json.dumps(other.result, allow_nan=False)
    ranks = one.predictions["image_to_text_rank"]
    assert other.predictions["image_to_text_rank"].tolist() == ranks[order].tolist()


def test_captions_of_a_picture_are_drawn_together() -> None:
    """Twice the same query tells nothing new, so the interval must be that of the pictures."""
    directions = torch.eye(WIDTH)

    class Plain:
        def classifier(self, classes: Any, templates: Any) -> Tensor:
            raise NotImplementedError

        def texts(self, captions: Sequence[str]) -> Tensor:
            return directions[[int(caption.split()[0]) for caption in captions]]

    ids = [f"{row:02}" for row in range(WIDTH)]
    captions = [(f"{row if row % 3 else (row + 1) % WIDTH}",) for row in range(WIDTH)]
    captions = [(f"{some[0]} of {row}",) for row, some in enumerate(captions)]
    doubled = [(*some, f"{some[0]} again") for some in captions]
    tile = 20  # pictures enough that the interval is the bootstrap's

    def judge_captions(of_each: Sequence[tuple[str, ...]]) -> list[float]:
        many = Pictures(
            [f"{name}-{copy}" for copy in range(tile) for name in ids],
            directions.repeat(tile, 1),
            captions=[
                tuple(f"{text} {copy}" for text in some) for copy in range(tile) for some in of_each
            ],
        )
        settings = ProtocolSettings(recall_at=(20,))
        result = judge_retrieval(Plain(), many, settings).result["text_to_image"]["20"]
        assert 0.1 < result["value"] < 0.9
        interval: list[float] = result["interval"]
        return interval

    assert judge_captions(doubled) == pytest.approx(judge_captions(captions))


def test_pictures_without_captions_are_refused() -> None:
    test = with_captions(4, 0.1)
    captions = [*test.captions[:2], (), test.captions[3]]
    lacking = Pictures(test.ids, test.features, captions=captions)
    with pytest.raises(ValueError, match="1 pictures have no caption: 0002"):
        judge_retrieval(Directions(), lacking, QUICK)
    with pytest.raises(ValueError, match="4 pictures have no caption"):
        judge_retrieval(Directions(), Pictures(test.ids, test.features), QUICK)


def predicted(name: str, right: int, count: int, classes: int = 2) -> Predicted:
    labels = [(row % classes,) for row in range(count)]
    given = [label[0] if row < right else label[0] + 1 for row, label in enumerate(labels)]
    return Predicted(name, CLASSES, labels, torch.tensor(given))


def test_robustness_is_the_difference_of_two_sets() -> None:
    photos, drawings = predicted("photos", 80, 100), predicted("drawings", 60, 150)
    some = robustness(photos, drawings, QUICK)
    assert some["one"]["value"] == 0.8
    assert some["other"]["value"] == 0.4
    assert some["difference"]["value"] == pytest.approx(0.4)
    low, high = some["difference"]["interval"]
    half = 1.96 * math.sqrt(0.8 * 0.2 / 100 + 0.4 * 0.6 / 150)
    assert (low, high) == pytest.approx((0.4 - half, 0.4 + half), abs=0.03)
    assert (some["classes"], some["metric"]) == (2, "top1")
    json.dumps(some, allow_nan=False)


def test_robustness_counts_the_classes_that_both_sets_have() -> None:
    one, other = predicted("photos", 60, 60, classes=3), predicted("drawings", 30, 60, classes=2)
    some = robustness(one, other, QUICK)
    assert some["classes"] == 2
    assert some["one"]["pictures"] == 40
    in_closed_form = independent_difference(np.ones(40, bool), np.arange(60) < 30)
    assert some["difference"]["interval"] == pytest.approx(in_closed_form)
    with pytest.raises(ValueError, match="differ in their classes"):
        robustness(one, Predicted("x", ("cat",), [(0,)], torch.tensor([0])), QUICK)
    far = Predicted("far", CLASSES, [(3,)], torch.tensor([3]))
    with pytest.raises(ValueError, match="no class with pictures in common"):
        robustness(one, far, QUICK)


def test_robustness_of_sets_of_one_size_is_not_paired() -> None:
    one, other = predicted("photos", 50, 100), predicted("drawings", 50, 100)
    low, high = robustness(one, other, QUICK)["difference"]["interval"]
    assert high - low > 0.2  # paired draws of the same rows would leave nothing


def test_the_curve_of_every_draw_has_its_own_crossing() -> None:
    """Zero-shot is between the last few-shot probe and that on all pictures, or above both."""
    generator = np.random.default_rng(0)
    curve = {
        count: _Point([], value, value + 0.01 * generator.normal(size=200))
        for count, value in {1: 0.3, 4: 0.5, 50: 0.8}.items()
    }
    zero_shot = 0.7 + 0.01 * generator.normal(size=200)
    equal = _equal_shots(0.7, zero_shot, curve)
    assert equal["value"] == pytest.approx(4 * 12.5 ** (2 / 3))
    naive = [
        shots_to_equal(level, {count: point.draws[row] for count, point in curve.items()})
        for row, level in enumerate(zero_shot)
    ]
    assert equal["interval"] == pytest.approx(np.percentile(naive, [2.5, 97.5]).tolist())
    zero_shot[:40] = 0.95
    equal = _equal_shots(0.7, zero_shot, curve)
    assert equal["value"] is not None
    assert equal["interval"][1] is None
    equal = _equal_shots(0.9, zero_shot, curve)
    assert equal["value"] is None
    assert equal["reason"] == "no probe equals zero-shot, up to 50 examples a class"
    assert _equal_shots(0.7, zero_shot, {1: curve[1]})["reason"].startswith("a curve needs")


def test_retrieval_intervals_are_of_pictures_drawn_with_their_captions() -> None:
    """Pictures of one to three captions, against a loop over the drawn ones."""
    whole = with_captions(60, 0.3)
    captions = [some[1 : 2 + row % 2] for row, some in enumerate(whole.captions)]
    test = Pictures(whole.ids, whole.features, captions=captions)
    result = judge_retrieval(Directions(), test, ProtocolSettings(bootstrap=200)).result
    owner = np.repeat(np.arange(60), [len(some) for some in captions])
    texts = Directions().texts([text for some in captions for text in some])
    similarity = (test.features @ texts.t()).numpy()
    of_right = similarity[owner, np.arange(len(owner))]
    right_text = (similarity > of_right).sum(axis=0) < 5  # of every caption, its picture's rank
    best = np.array([similarity[row][owner == row].max() for row in range(60)])
    right_picture = (similarity > best[:, None]).sum(axis=1) < 5
    counts = draw_counts(np.random.default_rng([0, 60]), 200, 60).astype(int)
    for way, right, of in (
        ("image_to_text", right_picture, np.arange(60)),
        ("text_to_image", right_text, owner),
    ):
        assert 10 <= right.sum() <= len(right) - 10
        naive = [np.repeat(right, row[of]).mean() for row in counts]
        entry = result[way]["5"]
        assert entry["value"] == pytest.approx(right.mean())
        assert entry["interval"] == pytest.approx(np.percentile(naive, [2.5, 97.5]).tolist())
