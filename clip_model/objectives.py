"""What a model is trained for: image-text contrast in two forms, and the paper's two baselines.

An objective holds a CLIP and whatever weights it needs beside it. It works in two steps, so that
one training loop suits all: `forward` computes features of each example by itself, `loss` what
the features of a batch cost together. A new one is a class with these, and a name in `OBJECTIVES`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from clip_model.loss import Parts, contrastive_loss, full_precision, sigmoid_loss
from clip_model.model import CLIP
from clip_model.optimisation import clamp_logit_scale

SIGMOID_SCALE, SIGMOID_BIAS = math.log(10.0), -10.0  # what SigLIP starts from
WORDS_AT_A_TIME = 1024  # of a language model's predictions: 0.2 GB of float32 logits
# Of `zero_shot`, which keeps nothing for a backward pass.
SENTENCES_AT_A_TIME = 256
IMAGES_AT_A_TIME = 256  # of words' logits: 50 MB
PLACES_AT_A_TIME = 16_384  # in the text transformer: some 100 MB where it is 500 wide


class Objective(nn.Module, ABC):
    """A model and what it is trained for."""

    #: The loss is a sum over examples, so a batch may be taken in pieces, one after the other.
    #: Where it is not, `forward` takes `known`, too: what it gave for the same examples before.
    separable: ClassVar[bool]

    def __init__(self, model: CLIP) -> None:
        super().__init__()
        self.model = model

    @abstractmethod
    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, ...]:
        """Features of n examples, each [n, ...], as `loss` takes them.

        Args:
            images: [n, 3, R, R], preprocessed.
            tokens: [n, L], padded with 0.
        """

    @abstractmethod
    def loss(self, features: tuple[Tensor, ...], parts: Parts) -> Tensor:
        """This part's share: the shares of all parts sum to the loss of the whole batch."""

    @abstractmethod
    def zero_shot(self, images: Tensor, tokens: Tensor) -> Tensor:
        """How well sentences fit images, by what the objective has learnt.

        Args:
            images: [n, E], what the image tower makes of them, not normalised.
            tokens: [C, L], a sentence of each class, padded with 0.

        Returns:
            [n, C] scores; an image's class is the one with its highest. Scores of different
            images are not compared.
        """

    def shared(self) -> list[nn.Parameter]:
        """The weights that `loss` uses and `forward` does not: all of them are scalars."""
        return []

    def after_step(self) -> None:
        """Called after each step of the optimizer; most have nothing to do."""


class Contrastive(Objective):
    """Symmetric InfoNCE, which CLIP is trained with."""

    separable = False

    def forward(
        self, images: Tensor, tokens: Tensor, *, known: Sequence[Tensor] = ()
    ) -> tuple[Tensor, ...]:
        return _features(self.model, images, tokens, known)

    def loss(self, features: tuple[Tensor, ...], parts: Parts) -> Tensor:
        images, texts = features
        return contrastive_loss(images, texts, self.model.logit_scale, parts)

    def zero_shot(self, images: Tensor, tokens: Tensor) -> Tensor:
        return _cosines(self.model, images, tokens)

    def shared(self) -> list[nn.Parameter]:
        return [self.model.logit_scale]

    def after_step(self) -> None:
        clamp_logit_scale(self.model.logit_scale)


class Sigmoid(Objective):
    """SigLIP's loss, arXiv 2303.15343: its temperature starts at 1/10 and has no bound."""

    separable = False

    def __init__(self, model: CLIP) -> None:
        super().__init__(model)
        nn.init.constant_(model.logit_scale, SIGMOID_SCALE)
        self.logit_bias = nn.Parameter(torch.full_like(model.logit_scale, SIGMOID_BIAS))

    def forward(
        self, images: Tensor, tokens: Tensor, *, known: Sequence[Tensor] = ()
    ) -> tuple[Tensor, ...]:
        return _features(self.model, images, tokens, known)

    def loss(self, features: tuple[Tensor, ...], parts: Parts) -> Tensor:
        images, texts = features
        return sigmoid_loss(images, texts, self.model.logit_scale, self.logit_bias, parts)

    def zero_shot(self, images: Tensor, tokens: Tensor) -> Tensor:
        return _cosines(self.model, images, tokens)

    def shared(self) -> list[nn.Parameter]:
        return [self.model.logit_scale, self.logit_bias]


class PredictCaption(Objective):
    """The paper's first baseline: the text transformer is a language model that sees the image.

    The image's features stand where the start token stood; each token is predicted from them and
    the tokens before it, with the token embeddings as the classifier. An example costs the mean of
    its tokens' cross-entropies, the end token's included.

    Raises:
        ValueError: the model's text encoder is no transformer, or one whose tokens see those that
            are to be predicted from them.
    """

    separable = True

    def __init__(self, model: CLIP) -> None:
        super().__init__(model)
        text = model.config.text
        if text.kind != "transformer":
            raise ValueError(f"to predict captions takes a text transformer, not {text.kind}")
        if not text.causal:
            raise ValueError("to predict captions takes a causal text transformer; this one is not")
        self.image_prefix = nn.Linear(model.config.embed_dim, text.width)
        nn.init.normal_(self.image_prefix.weight, std=model.config.embed_dim**-0.5)
        nn.init.zeros_(self.image_prefix.bias)
        # Not used, so not trained.
        model.logit_scale.requires_grad_(False)
        model.text_projection.requires_grad_(False)

    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, ...]:
        model, tokens = self.model, self.model.trimmed(tokens)
        prefix = self.image_prefix(model.encode_image(images))  # nD
        known = model.token_embedding(tokens[:, 1:-1])  # n(L-2)D
        x = torch.cat([prefix[:, None], known], dim=1).to(model.text_dtype)
        x = model.contextual(x)  # n(L-1)D
        end = tokens.argmax(dim=-1, keepdim=True)  # n1
        predicted = torch.arange(x.shape[1], device=x.device) < end  # n(L-1)
        of_words = self._costs(x[predicted], tokens[:, 1:][predicted])
        costs = of_words.new_zeros(predicted.shape).masked_scatter(predicted, of_words)  # n(L-1)
        return (costs.sum(dim=-1) / end[:, 0],)  # n

    def _costs(self, x: Tensor, words: Tensor) -> Tensor:
        """Cross-entropies, [m, D] and [m] -> [m]; logits are made again in the backward pass."""
        weight = self.model.token_embedding.weight
        blocks = zip(x.split(WORDS_AT_A_TIME), words.split(WORDS_AT_A_TIME), strict=True)
        costs = [
            checkpoint(_cross_entropies, *block, weight, use_reentrant=False) for block in blocks
        ]
        return torch.cat(costs)

    def loss(self, features: tuple[Tensor, ...], parts: Parts) -> Tensor:
        return features[0].sum() / parts.total

    @torch.inference_mode()
    def zero_shot(self, images: Tensor, tokens: Tensor) -> Tensor:
        """The log-likelihood of a sentence given the image: the sum over its tokens and its end.

        Not their mean, as in the loss: by it a name of many words wins, whose later ones follow
        from the first whatever the image shows.

        What a place costs is the sum over the vocabulary, which is the same for all sentences that
        begin alike: it is computed once an image and beginning. Sentences of one length go
        through the transformer together, so there is no padding.
        """
        ends = tokens.argmax(dim=-1)  # C
        begun, is_first = _beginnings(tokens, ends)  # C(L-1)
        prefixes = self.image_prefix(images)  # nD
        totals = prefixes.new_empty(len(images), int(begun.max()) + 1)
        scores = prefixes.new_empty(len(images), len(tokens))
        for end in ends.unique().tolist():
            for some in (ends == end).nonzero()[:, 0].split(max(1, PLACES_AT_A_TIME // end)):
                words, new = tokens[some, 1 : end + 1].long(), is_first[some, :end]  # ce
                at_once = max(1, PLACES_AT_A_TIME // words.numel())
                rows = torch.arange(len(images), device=images.device)
                for block in rows.split(at_once):
                    x = self._predictions(prefixes[block], words)  # bceD
                    if new.any():
                        totals[block[:, None], begun[some, :end][new]] = self._totals(x[:, new])
                    logits = (x * self.model.token_embedding(words)).sum(dim=-1)  # bce
                    costs = totals[block][:, begun[some, :end]] - logits
                    scores[block[:, None], some] = -costs.sum(dim=-1)
        return scores

    def _predictions(self, prefixes: Tensor, words: Tensor) -> Tensor:
        """From what each word is predicted: prefixes [b, D] and words [c, e] -> [b, c, e, D]."""
        shape = (len(prefixes), *words.shape, prefixes.shape[-1])
        known = self.model.token_embedding(words[:, :-1]).expand(len(prefixes), -1, -1, -1)
        x = torch.cat([prefixes[:, None, None].expand(-1, len(words), -1, -1), known], dim=2)
        x = self.model.contextual(x.flatten(0, 1).to(self.model.text_dtype))
        return full_precision(x).view(shape)

    def _totals(self, x: Tensor) -> Tensor:
        """Logarithms of the sums over the vocabulary: [..., D] -> [...]."""
        weight = self.model.token_embedding.weight
        blocks = x.flatten(0, -2).split(WORDS_AT_A_TIME)
        sums = [full_precision(block @ weight.t()).logsumexp(dim=-1) for block in blocks]
        return torch.cat(sums).view(x.shape[:-1])


class PredictWords(Objective):
    """The paper's second baseline: which words the caption has, in whatever order.

    One linear layer on the image's features, a softmax over the vocabulary, and as its target the
    caption's distinct tokens in equal shares, after Joulin et al., arXiv 1511.02251. The text
    tower is not used. An empty caption costs nothing.
    """

    separable = True

    def __init__(self, model: CLIP) -> None:
        super().__init__(model)
        self.words = nn.Linear(model.config.embed_dim, model.vocab_size)
        model.requires_grad_(False)
        model.visual.requires_grad_(True)

    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, ...]:
        logits = full_precision(self.words(self.model.encode_image(images)))  # nV
        words, counts = _distinct_words(tokens)  # nL
        costs = logits.logsumexp(dim=-1, keepdim=True) - logits.gather(1, words)  # nL
        return ((costs * counts).sum(dim=-1) / counts.sum(dim=-1).clamp_min(1),)  # n

    def loss(self, features: tuple[Tensor, ...], parts: Parts) -> Tensor:
        return features[0].sum() / parts.total

    @torch.inference_mode()
    def zero_shot(self, images: Tensor, tokens: Tensor) -> Tensor:
        """The mean log-likelihood of a sentence's distinct tokens, as in training.

        Raises:
            ValueError: a sentence has no tokens.
        """
        words, counts = _distinct_words(tokens)  # CL
        if not counts.any(dim=-1).all():
            raise ValueError("a sentence of a class has no words")
        known, places = words[counts].unique(return_inverse=True)  # U
        shares = images.new_zeros(len(tokens), len(known))  # CU
        shares[counts.nonzero()[:, 0], places] = 1.0
        shares /= shares.sum(dim=-1, keepdim=True)
        scores = []
        for some in images.split(IMAGES_AT_A_TIME):
            logits = full_precision(self.words(some))  # bV
            logs = logits[:, known] - logits.logsumexp(dim=-1, keepdim=True)  # bU
            scores.append(logs @ shares.to(logs.dtype).t())
        return torch.cat(scores)


OBJECTIVES: dict[str, type[Objective]] = {
    "contrastive": Contrastive,
    "sigmoid": Sigmoid,
    "caption": PredictCaption,
    "bag_of_words": PredictWords,
}


def _features(
    model: CLIP, images: Tensor, tokens: Tensor, known: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """nE each; those of a locked tower are computed once."""
    locked = model.lock.part if model.lock and known else None
    return (
        known[0] if locked == "image" else model.encode_image(images),
        known[1] if locked == "text" else model.encode_text(tokens),
    )


@torch.inference_mode()
def _cosines(model: CLIP, images: Tensor, tokens: Tensor) -> Tensor:
    texts = torch.cat([model.encode_text(some) for some in tokens.split(SENTENCES_AT_A_TIME)])
    return F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).t()  # nC


def _beginnings(tokens: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    """Which sentences begin alike.

    Returns:
        [C, L - 1] both: the number of what stands before each token behind the start, and whether
        it stands there first, if sentences are taken by their length.
    """
    numbers: dict[tuple[int, ...], int] = {}
    begun = torch.zeros(len(tokens), tokens.shape[1] - 1, dtype=torch.long)
    is_first = torch.zeros_like(begun, dtype=torch.bool)
    texts, lengths = tokens.tolist(), ends.tolist()
    for row in sorted(range(len(texts)), key=lengths.__getitem__):
        for place in range(lengths[row]):
            beginning = tuple(texts[row][1 : place + 1])
            is_first[row, place] = beginning not in numbers
            begun[row, place] = numbers.setdefault(beginning, len(numbers))
    return begun.to(tokens.device), is_first.to(tokens.device)


def _cross_entropies(x: Tensor, words: Tensor, weight: Tensor) -> Tensor:
    logits = full_precision(x @ weight.to(x.dtype).t())  # mV
    return F.cross_entropy(logits, words.long(), reduction="none")


def _distinct_words(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Each caption's tokens between start and end, sorted, and which of them count: [n, L] both."""
    places = torch.arange(tokens.shape[1], device=tokens.device)
    inside = (places > 0) & (places < tokens.argmax(dim=-1, keepdim=True))
    words = tokens.long().where(inside, -1).sort(dim=-1).values
    is_first = words != F.pad(words, (1, 0), value=-1)[:, :-1]  # of equals, which stand together
    return words.clamp_min(0), is_first & (words >= 0)
