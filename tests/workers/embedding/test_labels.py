import itertools

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

import clip_model
from tests.shards import TINY
from workers.embedding.labels import LabelError, Labels
from workers.embedding.settings import ATTRIBUTES, Attribute, EmbedSettings, Head, LabelSet


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return clip_model.CLIP(TINY).eval()


@pytest.fixture
def features():
    return F.normalize(torch.randn(6, TINY.embed_dim, generator=torch.manual_seed(1)), dim=-1)


def labels_of(model, **settings):
    return Labels.of(EmbedSettings(**settings), model)


@torch.inference_mode()
def test_a_large_list_of_classes_is_scored_in_chunks_as_if_at_once(model, features, monkeypatch):
    """But for float32's rounding, which is another for other shapes on some processors.

    A probability is off by the share that its logit is off by: here a sum of 32 products of up to
    14, each rounded to 6e-8 of it.
    """
    classes = tuple(f"thing {number}" for number in range(40))
    label_sets = {"things": LabelSet(classes=classes, templates=("{}", "a {}"), top_k=3)}
    labels = labels_of(model, label_sets=label_sets)
    at_once = labels.of_images(features)
    monkeypatch.setattr("workers.embedding.labels.CLASSES_AT_ONCE", 7)
    for one, other in zip(labels.of_images(features), at_once, strict=True):
        assert [label["label"] for label in one] == [label["label"] for label in other]
        assert [label["probability"] for label in one] == pytest.approx(
            [label["probability"] for label in other], rel=1e-5
        )
    classifier = clip_model.zero_shot_classifier(model, classes, ("{}", "a {}")).double()
    scale = model.logit_scale.double().exp()
    probabilities = (scale * features.double() @ classifier.T).softmax(dim=-1)
    best = probabilities.topk(3, dim=-1)
    for row, values, indices in zip(at_once, best.values, best.indices, strict=True):
        assert [label["label"] for label in row] == [classes[index] for index in indices]
        assert [label["probability"] for label in row] == pytest.approx(values.tolist(), rel=1e-5)


def test_the_classes_of_the_papers_data_sets_are_known_by_name(model, features):
    sets = {"a": LabelSet(classes="CIFAR10", top_k=2), "b": LabelSet(classes="STL10")}
    for row in labels_of(model, label_sets=sets).of_images(features):
        assert [label["set"] for label in row] == ["a", "a", "b"]
        assert row[0]["label"] in clip_model.templates.class_set("CIFAR10")
    assert LabelSet().classes == "ImageNet"


@torch.inference_mode()
def test_an_attribute_is_the_probability_of_its_prompts_against_the_others(model, features):
    pair = Attribute(present=("a cat", "a kitten"), absent=("a dog",))
    labels = labels_of(model, attributes={"cat": pair, "photo": Attribute()})
    scores = dict(labels.scores)
    assert list(scores) == ["cat", "photo"]
    cats = F.normalize(clip_model.encode_texts(model, pair.present).mean(dim=0), dim=-1)
    dogs = clip_model.encode_texts(model, pair.absent)[0]
    logits = model.logit_scale.exp() * torch.stack([features @ cats, features @ dogs], dim=-1)
    torch.testing.assert_close(scores["cat"].score(features), logits.softmax(dim=-1)[:, 0])
    explicit = labels_of(model, attributes={"photo": ATTRIBUTES["photo"]})
    torch.testing.assert_close(
        scores["photo"].score(features), explicit.scores[0][1].score(features)
    )


@pytest.mark.parametrize(
    ("activation", "module"), [("none", nn.Identity), ("relu", nn.ReLU), ("gelu", nn.GELU)]
)
@pytest.mark.parametrize("output", ["none", "sigmoid"])
def test_a_head_is_the_network_it_was_saved_from(
    model, features, tmp_path, activation, module, output
):
    """Numbered as LAION's aesthetic predictor: layers.0, .2, ... .10 must come after .2."""
    torch.manual_seed(2)
    widths = [TINY.embed_dim, 16, 8, 4, 4, 4, 1]
    steps = [
        step
        for wide, narrow in itertools.pairwise(widths)
        for step in (nn.Linear(wide, narrow), module())
    ]
    network = nn.Sequential(*steps[:-1])
    tensors = {f"layers.{name}": tensor for name, tensor in network.state_dict().items()}
    save_file(tensors, tmp_path / "head.safetensors")
    head = Head(path=str(tmp_path / "head.safetensors"), activation=activation, output=output)
    (scored,) = labels_of(model, heads={"aesthetic": head}).scores
    expected = network(features)[:, 0]
    expected = expected.sigmoid() if output == "sigmoid" else expected
    torch.testing.assert_close(scored[1].score(features), expected)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"weight": torch.zeros(1, 768)}, r"has \[1, 768\]; .* 32 dimensions to 1 are needed"),
        ({"weight": torch.zeros(3, 32)}, r"has \[3, 32\]"),
        ({"bias": torch.zeros(1)}, "has no layer"),
        (None, "cannot read"),
    ],
)
def test_a_head_for_another_model_is_refused(model, tmp_path, tensors, message):
    path = tmp_path / "head.safetensors"
    if tensors is None:
        path.write_bytes(b"nothing of the kind")
    else:
        save_file(tensors, path)
    with pytest.raises(LabelError, match=message):
        labels_of(model, heads={"aesthetic": Head(path=str(path))})


def test_prompts_come_in_pairs_and_names_are_used_once():
    with pytest.raises(ValueError, match="or for neither"):
        Attribute(present=("a cat",))
    with pytest.raises(ValueError, match=r"attributes\.cat needs prompts"):
        EmbedSettings(attributes={"cat": Attribute()})
    with pytest.raises(ValueError, match="both called photo"):
        EmbedSettings(attributes={"photo": Attribute()}, heads={"photo": Head(path="a")})
