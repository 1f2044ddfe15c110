"""Each objective against its definition, written out example by example."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from clip_model import (
    CLIP,
    ClipConfig,
    contrastive_loss,
    distillation_loss,
    sigmoid_loss,
    tokenize,
)
from clip_model.config import TextConfig, VisionTransformerConfig
from clip_model.distillation import Distilled
from clip_model.loss import OnePart
from clip_model.objectives import (
    OBJECTIVES,
    Contrastive,
    Objective,
    PredictCaption,
    PredictWords,
    Sigmoid,
)

CONFIG = ClipConfig(
    embed_dim=16,
    image_resolution=32,
    vision=VisionTransformerConfig(layers=1, width=64, patch_size=16),
    text=TextConfig(width=32, layers=2, heads=2),
)
CAPTIONS = ["a dog and a dog", "", "three red apples on a table", "cat"]


def make(kind: type[Objective]) -> Objective:
    torch.manual_seed(0)
    objective = kind(CLIP(CONFIG)).double()
    for parameter in objective.parameters():
        if parameter.ndim:
            nn.init.normal_(parameter, std=0.2)
    return objective


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(len(CAPTIONS), 3, 32, 32, generator=generator, dtype=torch.float64)
    return images, tokenize(CAPTIONS)


def whole_loss(objective: Objective) -> torch.Tensor:
    features = objective(*batch())
    assert all(len(one) == len(CAPTIONS) for one in features)
    return objective.loss(features, OnePart(len(CAPTIONS)))


def test_contrastive_is_the_loss_of_both_features() -> None:
    objective = make(Contrastive)
    images, tokens = batch()
    model = objective.model
    features = model.encode_image(images), model.encode_text(tokens)
    torch.testing.assert_close(
        whole_loss(objective), contrastive_loss(*features, model.logit_scale)
    )


def test_a_student_learns_from_the_pairs_and_by_its_weight_from_the_teacher() -> None:
    objective = Distilled(CLIP(CONFIG), weight=0.7, temperature=0.05).double()
    teacher = tuple(torch.randn(2, len(CAPTIONS), 5, generator=torch.Generator().manual_seed(2)))
    images, texts, *theirs = objective(*batch(), *teacher)
    scale, parts = objective.model.logit_scale, OnePart(len(CAPTIONS))
    own = contrastive_loss(images, texts, scale)
    distance = distillation_loss(images, texts, scale, (theirs[0], theirs[1]), math.log(20))
    found = objective.loss((images, texts, *theirs), parts)
    torch.testing.assert_close(found, own + 0.7 * distance)


def test_sigmoid_starts_where_siglip_does() -> None:
    objective = make(Sigmoid)
    assert isinstance(objective, Sigmoid)
    assert objective.model.logit_scale.item() == pytest.approx(math.log(10))
    assert objective.logit_bias.item() == -10
    images, tokens = batch()
    model = objective.model
    features = model.encode_image(images), model.encode_text(tokens)
    expected = sigmoid_loss(*features, model.logit_scale, objective.logit_bias)
    torch.testing.assert_close(whole_loss(objective), expected)


def test_the_caption_is_predicted_from_the_image_and_the_words_before() -> None:
    """Each token by itself, from a sequence that ends before it."""
    objective = make(PredictCaption)
    assert isinstance(objective, PredictCaption)
    model, costs = objective.model, []
    for image, caption in zip(*batch(), strict=True):
        words = caption[: int(caption.argmax()) + 1]  # start ... end
        prefix = objective.image_prefix(model.encode_image(image[None]))  # 1D
        of_words = []
        for place in range(1, len(words)):
            known = model.token_embedding(words[1:place])
            x = model.contextual(torch.cat([prefix, known])[None])[0, -1]  # D
            probabilities = (model.token_embedding.weight @ x).softmax(dim=0)
            of_words.append(-probabilities[words[place]].log())
        costs.append(torch.stack(of_words).mean())
    found = objective(*batch())[0]
    torch.testing.assert_close(found, torch.stack(costs))
    torch.testing.assert_close(whole_loss(objective), found.mean())


def test_words_are_classified_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    objective = make(PredictCaption)
    weights = [p for p in objective.parameters() if p.requires_grad]
    at_once = torch.autograd.grad(whole_loss(objective), weights)
    monkeypatch.setattr("clip_model.objectives.WORDS_AT_A_TIME", 3)
    torch.testing.assert_close(torch.autograd.grad(whole_loss(objective), weights), at_once)


def test_a_bag_of_words_has_each_word_once_and_neither_start_nor_end() -> None:
    objective = make(PredictWords)
    assert isinstance(objective, PredictWords)
    images, tokens = batch()
    logs = objective.words(objective.model.encode_image(images)).log_softmax(dim=-1)
    costs = []
    for caption, log in zip(tokens.tolist(), logs, strict=True):
        words = set(caption[1 : caption.index(max(caption))])
        costs.append(-log[list(words)].sum() / max(1, len(words)))
    assert costs[1].item() == 0
    found = objective(images, tokens)[0]
    torch.testing.assert_close(found, torch.stack(costs))
    torch.testing.assert_close(whole_loss(objective), found.mean())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_all_that_wants_a_gradient_gets_one(name: str) -> None:
    """A weight that gets none would keep DDP waiting."""
    objective = make(OBJECTIVES[name])
    whole_loss(objective).backward()
    for weight, parameter in objective.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, weight


@pytest.mark.parametrize("name", OBJECTIVES)
def test_shared_weights_are_those_that_features_do_not_depend_on(name: str) -> None:
    objective = make(OBJECTIVES[name])
    weights = [p for p in objective.parameters() if p.requires_grad]
    total = torch.stack([one.sum() for one in objective(*batch())]).sum()
    gradients = torch.autograd.grad(total, weights, allow_unused=True)
    unused = [w for w, gradient in zip(weights, gradients, strict=True) if gradient is None]
    assert {id(one) for one in unused} == {id(one) for one in objective.shared()}


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if OBJECTIVES[name].separable])
def test_a_separable_loss_is_the_sum_of_its_pieces(name: str) -> None:
    objective, (images, tokens) = make(OBJECTIVES[name]), batch()
    parts = OnePart(len(images))
    pieces = [
        objective.loss(objective(images[some], tokens[some]), parts)
        for some in (slice(0, 1), slice(1, 4))
    ]
    torch.testing.assert_close(sum(pieces), whole_loss(objective))


@pytest.mark.parametrize(("kind", "bounded"), [(Contrastive, True), (Sigmoid, False)])
def test_the_temperature_of_the_contrastive_loss_is_bounded(kind, bounded) -> None:
    objective = make(kind)
    scale = objective.model.logit_scale
    nn.init.constant_(scale, 5.0)
    objective.after_step()
    assert scale.item() == pytest.approx(math.log(100) if bounded else 5.0)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_each_learns_four_pairs(name: str) -> None:
    torch.manual_seed(0)
    objective = OBJECTIVES[name](CLIP(CONFIG))
    images, tokens = batch()
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(12):
        loss = objective.loss(objective(images.float(), tokens), OnePart(4))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        objective.after_step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_a_bag_of_words_predicts_no_caption() -> None:
    config = ClipConfig(CONFIG.embed_dim, 32, CONFIG.vision, TextConfig(width=32, kind="cbow"))
    with pytest.raises(ValueError, match="cbow"):
        PredictCaption(CLIP(config))


def test_cross_entropies_are_in_full_precision() -> None:
    torch.manual_seed(0)
    objective = PredictWords(CLIP(CONFIG))
    images, tokens = batch()
    with torch.autocast("cpu", torch.bfloat16):
        (costs,) = objective(images.float(), tokens)
    assert costs.dtype == torch.float32
    expected = objective(images.float(), tokens)[0]
    assert F.l1_loss(costs, expected) < 0.05


#: Some begin alike, one is the beginning of another, one stands there twice.
SENTENCES = ["a dog", "a dog and a cat", "a dog and a bird", "cat", "a dog", "three red apples"]


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("at_a_time", [1, 20, 10_000])
def test_zero_shot_scores_are_those_of_each_image_with_each_sentence(
    name: str, at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for constant in ("SENTENCES", "IMAGES", "PLACES", "WORDS"):
        monkeypatch.setattr(f"clip_model.objectives.{constant}_AT_A_TIME", at_a_time)
    objective, images = make(OBJECTIVES[name]).eval(), batch()[0]
    tokens = tokenize(SENTENCES)
    rows = []
    for image in images:
        first, *more = objective(image.expand(len(tokens), -1, -1, -1), tokens)
        tokens_of = tokens.argmax(dim=-1) if name == "caption" else 1  # of the mean, a sum
        rows.append(F.cosine_similarity(first, more[0]) if more else -first * tokens_of)
    found = objective.zero_shot(objective.model.encode_image(images), tokens)
    assert not found.requires_grad
    torch.testing.assert_close(found, torch.stack(rows))


def test_the_vocabulary_is_summed_over_once_for_what_begins_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rows of logits: one an image and beginning, not one an image, sentence and place."""
    objective, (images, _) = make(PredictCaption), batch()
    rows: list[int] = []
    totals = PredictCaption._totals

    def counted(self: PredictCaption, x: torch.Tensor) -> torch.Tensor:
        rows.append(x.shape[:-1].numel())
        return totals(self, x)

    monkeypatch.setattr(PredictCaption, "_totals", counted)
    objective.zero_shot(objective.model.encode_image(images), tokenize(SENTENCES))
    words = [text.split() for text in SENTENCES]  # each word is a token here
    beginnings = {tuple(text[:place]) for text in words for place in range(len(text) + 1)}
    assert sum(rows) == len(images) * len(beginnings)


def test_a_sentence_without_words_has_no_likelihood_by_its_words() -> None:
    objective = make(PredictWords)
    with pytest.raises(ValueError, match="no words"):
        objective.zero_shot(torch.ones(2, 16).double(), tokenize(["a dog", ""]))
