"""The n-gram baseline: its dictionary, loss and scores, and the layer of a run that is judged."""

import json
import math

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from clip_model.templates import ClassName
from pipelines.evaluate import main
from pipelines.evaluation.measures import answer_by
from pipelines.evaluation.n_gram_stage import FitNGrams, NGrams
from pipelines.evaluation.n_grams import (
    SMOOTHING,
    Captions,
    Dictionary,
    NGramLayer,
    fit_n_grams,
    words_of,
)
from pipelines.evaluation.pictures import Pictures
from pipelines.evaluation.protocols import judge_classification
from pipelines.evaluation.settings import ProtocolSettings
from pipelines.evaluation.stages import EvaluationRun
from pipelines.evaluation.suite import Suite
from pipelines.run.config import Config, ConfigError
from pipelines.run.directory import Run
from pipelines.run.receipts import Receipts
from pipelines.verify import main as verify
from tests.pipelines.synthetic_run import make_run
from tests.shards import jpeg, save_tiny_model
from workers.base.failures import NeedsMendingError

CAPTIONS = ["A hot dog", "hot dog!", "the hot sun", "a dog"]


def test_a_dictionary_has_the_frequent_n_grams_of_different_captions():
    found = Dictionary.of([*CAPTIONS, "sun sun"], min_count=2, size=9).n_grams
    assert found == (("dog",), ("hot",), ("a",), ("hot", "dog"), ("sun",))
    assert Dictionary.of(CAPTIONS, min_count=2, size=2).n_grams == (("dog",), ("hot",))
    assert max(map(len, Dictionary.of(["1 2 3 4 5 6"], 1, 99).n_grams)) == 5
    with pytest.raises(ValueError, match="no word stands in 5 of 4 captions"):
        Dictionary.of(CAPTIONS, min_count=5)


def test_a_word_has_its_probability_of_all_that_ends_at_it():
    dictionary = Dictionary((("dog",), ("hot",), ("hot", "dog"), ("a", "hot", "dog")))
    hot, dog = dictionary.endings("a hot dog")[1:]
    assert hot == {1: pytest.approx(0.8)}  # `a hot` is not in the dictionary
    assert dog == {3: 0.2, 2: pytest.approx(0.2 * 0.8), 0: pytest.approx(0.8 * 0.8)}
    assert dictionary.endings("a")[0] == {}
    assert dictionary.of_class("very hot dog") == {2: pytest.approx(0.16), 0: pytest.approx(0.64)}
    assert dictionary.of_class(("dog", "hot dog")) == {0: pytest.approx(1.8), 2: 0.2}
    assert dictionary.of_class("cat") == dictionary.of_class("...") == {}


def smoothed(p, dictionary, words):
    """The paper's formula, by recursion: of the last of these words."""
    own = p.get(tuple(words), 0.0)
    if len(words) == 1:
        return own
    return SMOOTHING * own + (1 - SMOOTHING) * smoothed(p, dictionary, words[1:])


@given(st.lists(st.text("abc ", max_size=12), min_size=1, max_size=4), st.integers(0, 99))
def test_the_loss_is_the_papers(captions, seed):
    n_grams = (("a",), ("b",), ("a", "b"), ("b", "a"), ("a", "a", "b"), ("ab",), ("ab", "b"))
    dictionary = Dictionary(n_grams)
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(len(captions), len(n_grams), generator=generator)
    logits.requires_grad_()
    naive = 0.0
    for caption, row in zip(captions, logits.detach().double().softmax(dim=-1), strict=True):
        p = dict(zip(n_grams, row.tolist(), strict=True))
        words = words_of(caption)
        for end in range(1, len(words) + 1):
            if (of_word := smoothed(p, dictionary, words[max(0, end - 3) : end])) > 0:
                naive -= math.log(of_word)
    loss = Captions.of(dictionary, captions).loss(logits)
    assert loss.item() == pytest.approx(naive / len(captions), rel=1e-4, abs=1e-5)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_a_class_scores_by_its_names_and_an_unknown_one_never():
    dictionary = Dictionary((("dog",), ("hot", "dog"), ("sun",)))
    torch.manual_seed(0)
    layer = NGramLayer(dictionary, torch.randn(3, 4), torch.randn(3), "m")
    features = torch.randn(1500, 4)
    classes: list[ClassName] = ["hot dog", ("sun", "dog"), "cat", "sun"]
    p = (features @ layer.weight.t() + layer.bias).softmax(dim=-1)
    scores = layer.scores(features, classes)
    expected = torch.stack([0.2 * p[:, 1] + 0.8 * p[:, 0], p[:, 2] + p[:, 0], p[:, 2]], dim=1)
    torch.testing.assert_close(scores[:, [0, 1, 3]].exp(), expected)
    assert (scores[:, 2] < scores[:, [0, 1, 3]].min(dim=1).values).all()
    assert scores.isfinite().all()
    assert layer.unknown(classes) == ["cat"]
    assert (answer_by(scores).ranked[:, 3] == 2).all()


@pytest.fixture(scope="module")
def clusters():
    """Features around one of three directions, by the last word of the caption."""
    torch.manual_seed(1)
    names = ["dog", "hot dog", "sun"]
    rows = torch.arange(240) % 3
    features = torch.randn(3, 8)[rows] + 0.3 * torch.randn(240, 8)
    captions = [f"a picture of a {names[row]}" for row in rows.tolist()]
    return features, captions, rows, names


def test_a_fitted_layer_knows_what_captions_say_and_is_the_same_each_time(clusters, tmp_path):
    features, captions, rows, names = clusters
    keys = [str(row) for row in range(len(rows))]
    for name in ("one.parquet", "other.parquet"):
        layer = fit_n_grams(features, captions, keys, Dictionary.of(captions), "m")
        layer.write(tmp_path / name)
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "other.parquet").read_bytes()
    read = NGramLayer.read(tmp_path / "one.parquet")
    assert (read.dictionary, read.model) == (layer.dictionary, "m")
    # A dog is no hot dog; told by the bigram's fifth of the probability, a hot dog is a dog too.
    right = answer_by(read.scores(features, names)).ranked[:, 0] == rows.numpy()
    assert right[rows.numpy() != 1].mean() > 0.95
    assert torch.equal(read.scores(features, names), layer.scores(features, names))
    with pytest.raises(ValueError, match="too few"):
        fit_n_grams(features[:1], captions[:1], keys[:1], layer.dictionary, "m")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run, and pictures of two classes: captions say `a`, and never `b`."""
    folder = tmp_path_factory.mktemp("n_grams")
    run = make_run(folder / "run")
    for name, colour in {"vitamin a": (200, 20, 20), "vitamin b": (20, 20, 200)}.items():
        (folder / "vitamins" / name).mkdir(parents=True)
        for number in range(4):
            (folder / "vitamins" / name / f"{number}.jpg").write_bytes(jpeg(colour))
    return run, folder


def suite(folder, **protocols):
    tree = {
        "sets": {"vitamins": {"format": "folder", "test": "vitamins"}},
        "protocols": {"prompts": ["bare"], "probe": False, "bootstrap": 100, **protocols},
    }
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump(tree))
    return ["--suite", str(path)]


def files_of(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_runs_n_grams_answer_beside_prompts_for_the_model_that_embedded_it(made, capsys):
    run, folder = made
    before = files_of(run.directory)
    other = save_tiny_model(folder / "other.safetensors", 7)
    command = ["--model", f"its={folder / 'm.pt'}", other, *suite(folder, n_grams="run")]
    assert main([*command, "--out", str(folder / "out")]) == 0
    assert "n-grams" in capsys.readouterr().out
    its, others = json.loads((folder / "out" / "results.json").read_text())["results"]
    assert list(its["zero_shot"]) == ["bare", "n_grams"]
    assert (its["best_prompts"], its["zero_shot"]["n_grams"]["value"]) == ("bare", 0.5)
    assert its["gains"]["n_grams"]["value"] == 0.5 - its["zero_shot"]["bare"]["value"]
    assert any("1 of 2 classes" in one and "vitamin b" in one for one in its["warnings"])
    assert list(others["zero_shot"]) == ["bare"]
    assert any("no n-grams: the run" in one for one in others["warnings"])
    receipt = Receipts(folder / "out" / "n_grams").get("layer")
    assert receipt
    assert receipt.rows["pairs"] == {
        "in": 8,
        "kept": 7,
        "rejected": {"no_frequent_n_gram": 1},
        "failed": {},
    }
    layer = folder / "out" / "n_grams" / "layer.parquet"
    made_at = layer.stat().st_mtime_ns
    assert main([*command, "--out", str(folder / "out")]) == 0
    assert layer.stat().st_mtime_ns == made_at
    assert files_of(run.directory) == before
    whole = layer.read_bytes()
    layer.write_bytes(whole[:-1])
    assert verify(["--run-dir", str(folder / "out")]) != 0
    layer.write_bytes(whole)
    assert "layer" in capsys.readouterr().out


def test_n_grams_that_know_no_class_have_no_number():
    pictures = Pictures(["x", "y"], torch.eye(2), [(0,), (1,)])
    layer = NGramLayer(Dictionary((("dog",),)), torch.randn(1, 2), torch.randn(1), "m")
    settings = ProtocolSettings(prompts=("bare",), probe=False, bootstrap=100)
    for classes, kinds in ((["cat", "sun"], ["bare"]), (["cat", "dog"], ["bare", "n_grams"])):
        found = judge_classification(Axes(), classes, None, pictures, None, settings, layer).result
        assert list(found["zero_shot"]) == kinds
        assert any(f"{3 - len(kinds)} of 2 classes" in one for one in found["warnings"])


class Axes:
    """A text tower of two classes."""

    def classifier(self, *_):
        return torch.eye(2)

    def texts(self, captions):
        raise NotImplementedError


def test_a_run_that_is_none_or_not_complete_is_refused_before_any_work(made, capsys):
    run, folder = made
    model = ["--model", str(folder / "m.pt")]
    for name, config in {
        "unfinished": run.config,
        "empty": Config(name="new", queries="none"),
    }.items():
        (folder / name).mkdir()
        Run(config, folder / name).save()
    for name, said in {
        "nowhere": "no record of a run",
        "unfinished": "is not complete",
        "empty": "has no embedded pairs",
    }.items():
        out = folder / f"refused-{name}"
        assert main([*model, *suite(folder, n_grams=name), "--out", str(out)]) == 2
        captured = capsys.readouterr()
        assert said in captured.err + captured.out
        assert "protocols.n_grams" in captured.err + captured.out
        assert not (out / "sets").exists()


def test_a_layer_is_the_same_each_time_and_needs_a_frequent_word(made, tmp_path):
    run, folder = made
    tree = yaml.safe_load((folder / "suite.yaml").read_text())
    tree["protocols"]["n_grams"] = str(run.directory)
    (shard,) = NGrams(EvaluationRun.of(Suite.model_validate(tree), tmp_path, None)).plan()
    FitNGrams()(shard, tmp_path)
    layer = folder / "out" / "n_grams" / "layer.parquet"
    assert (tmp_path / "layer.parquet").read_bytes() == layer.read_bytes()
    with pytest.raises(NeedsMendingError, match="no word stands in 2 of 1 captions"):
        FitNGrams(most=1)(shard, tmp_path)


def test_a_run_that_is_missing_is_an_error_of_the_configuration(made, tmp_path):
    tree = {"sets": {"v": {"format": "folder", "test": "v"}}, "protocols": {"n_grams": "x:/y"}}
    run = EvaluationRun.of(Suite.model_validate(tree), tmp_path, None)
    with pytest.raises(ConfigError, match=r"protocols\.n_grams: x:/y"):
        NGrams(run).check()
