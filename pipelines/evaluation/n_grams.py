"""Visual n-grams: of an image's features the n-grams of its caption.

The baseline that CLIP's paper compares zero-shot transfer with (table 1): Li et al., Learning
Visual N-Grams from Web Data (arXiv 1612.09161). A linear layer gives a softmax over a dictionary of
n-grams. A word of a caption is as likely as the n-grams that end at it, smoothed as in their
Jelinek-Mercer loss; a class as its name's last word after the words before it.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.nn import functional as F

from clip_model.probe import hash_order
from clip_model.templates import ClassName
from workers.base.storage import write_table
from workers.embedding.matrix import embedding_matrix

NGram = tuple[str, ...]

#: Lambda of the paper, and its longest n-gram.
SMOOTHING = 0.2
LONGEST = 5
#: Captions that an n-gram stands in at least, and n-grams at most.
MIN_COUNT, SIZE = 2, 20_000
#: Words of a caption that are trained on, the first ones that end an n-gram of the dictionary.
WORDS = 32
#: Pairs in a step, passes over them at most, and passes without a better one after which it ends.
BATCH, PASSES, PATIENCE = 256, 30, 3
LEARNING_RATE = 1e-2
#: Share of the pairs, drawn by hash, that say which pass was the best.
VALIDATION = 0.1
#: Pictures whose probabilities of all n-grams are in memory at once.
PICTURES = 1024

#: What the layer depends on beside the pairs.
IDENTITY = {
    "smoothing": SMOOTHING,
    "longest": LONGEST,
    "min_count": MIN_COUNT,
    "size": SIZE,
    "words": WORDS,
    "training": [BATCH, PASSES, PATIENCE, LEARNING_RATE, VALIDATION],
}


def words_of(text: str) -> list[str]:
    """The words of a caption or a name, in lower case."""
    return re.findall(r"\w+", text.lower())


@dataclass(frozen=True)
class Dictionary:
    """The n-grams that are told apart, the most frequent first."""

    n_grams: tuple[NGram, ...]

    @classmethod
    def of(
        cls, captions: Sequence[str], min_count: int = MIN_COUNT, size: int = SIZE
    ) -> Dictionary:
        """Those that stand in so many captions or more, at most ``size``; of equals as sorted.

        Raises:
            ValueError: there is none.
        """
        counts: Counter[NGram] = Counter()
        for caption in captions:
            words = words_of(caption)
            counts.update(
                {
                    tuple(words[start : start + length])
                    for length in range(1, LONGEST + 1)
                    for start in range(len(words) - length + 1)
                }
            )
        frequent = [(-count, n_gram) for n_gram, count in counts.items() if count >= min_count]
        if not frequent:
            raise ValueError(f"no word stands in {min_count} of {len(captions)} captions")
        return cls(tuple(n_gram for _, n_gram in sorted(frequent)[:size]))

    @cached_property
    def longest(self) -> int:
        return max(map(len, self.n_grams))

    @cached_property
    def _number(self) -> Mapping[NGram, int]:
        return {n_gram: number for number, n_gram in enumerate(self.n_grams)}

    def endings(self, text: str) -> list[dict[int, float]]:
        """For each word the n-grams that end at it, by number, with their shares in it.

        The longest that could end there gives `SMOOTHING` of the word's probability, the next
        shorter one as much of the rest, and the word by itself all that is left. An n-gram that is
        not in the dictionary has no probability to give.
        """
        words, found = words_of(text), []
        for end in range(1, len(words) + 1):
            most, shares = min(end, self.longest), dict[int, float]()
            for length in range(most, 0, -1):
                number = self._number.get(tuple(words[end - length : end]))
                if number is not None:
                    own = SMOOTHING if length > 1 else 1.0
                    shares[number] = own * (1 - SMOOTHING) ** (most - length)
            found.append(shares)
        return found

    def of_class(self, names: ClassName) -> dict[int, float]:
        """The n-grams that end at the last word of a class's name, of all its names, likewise.

        Empty where the dictionary has none of them.
        """
        total: Any = Counter()  # it adds floats as well
        for name in [names] if isinstance(names, str) else names:
            for shares in self.endings(name)[-1:]:
                total.update(shares)
        return dict(total)


@dataclass(frozen=True)
class Captions:
    """The words of captions that end n-grams of the dictionary, L of them at most each."""

    numbers: Tensor  # int64 [N, W, L] those n-grams, 0 where there are fewer
    shares: Tensor  # float32 [N, W, L] the logarithms of their shares, -inf there
    known: Tensor  # bool [N, W] where there is a word

    @classmethod
    def of(cls, dictionary: Dictionary, captions: Sequence[str]) -> Captions:
        ends = [[some for some in dictionary.endings(text) if some][:WORDS] for text in captions]
        size = len(captions), max(map(len, ends), default=0), dictionary.longest
        numbers, shares = torch.zeros(size, dtype=torch.long), torch.full(size, -math.inf)
        for row, words in enumerate(ends):
            for word, some in enumerate(words):
                numbers[row, word, : len(some)] = torch.tensor(list(some))
                shares[row, word, : len(some)] = torch.tensor(list(some.values())).log()
        return cls(numbers, shares, shares.isfinite().any(dim=-1))

    def take(self, rows: Tensor) -> Captions:
        return Captions(self.numbers[rows], self.shares[rows], self.known[rows])

    def loss(self, logits: Tensor) -> Tensor:
        """-log p of a caption's words, summed; the mean over the captions. Logits are [N, V].

        It gathers along rows: the gradient of `log_p[rows, numbers]` adds up in any order.
        """
        log_p = logits.log_softmax(dim=-1).gather(1, self.numbers.flatten(1))
        of_n_grams = log_p.view_as(self.shares) + self.shares
        of_words = of_n_grams.masked_fill(~self.known[..., None], 0.0).logsumexp(dim=-1)
        return -of_words.masked_fill(~self.known, 0.0).sum() / len(logits)


@dataclass(frozen=True)
class NGramLayer:
    """A linear layer from the features of a model to n-grams."""

    dictionary: Dictionary
    weight: Tensor  # float32 [V, D]
    bias: Tensor  # float32 [V]
    model: str  # whose features, as `workers.embedding.settings.model_label` names it

    def scores(self, features: Tensor, classes: Sequence[ClassName]) -> Tensor:
        """The logarithm of each class's probability: [N, D] -> float32 [N, C].

        A class of which the dictionary knows nothing scores less than all others.
        """
        of_classes = [self.dictionary.of_class(names) for names in classes]
        used = sorted({number for shares in of_classes for number in shares})
        place = {number: row for row, number in enumerate(used)}
        shares = torch.zeros(len(used), len(classes), dtype=torch.float64)
        for column, some in enumerate(of_classes):
            for number, share in some.items():
                shares[place[number], column] = share
        chunks = []
        for some_features in features.cpu().split(PICTURES):
            logits = F.linear(some_features.to(self.weight), self.weight, self.bias)
            chunks.append(logits.double().softmax(dim=-1)[:, used] @ shares)
        probabilities = torch.cat(chunks).clamp_min(torch.finfo(torch.float64).tiny)
        return probabilities.log().float()

    def unknown(self, classes: Sequence[ClassName]) -> list[ClassName]:
        """The classes of which the dictionary knows nothing."""
        return [names for names in classes if not self.dictionary.of_class(names)]

    def write(self, path: Path) -> None:
        """As Parquet, a row an n-gram."""
        columns = {
            "n_gram": [" ".join(n_gram) for n_gram in self.dictionary.n_grams],
            "bias": self.bias.numpy(),
            "weight": pa.FixedSizeListArray.from_arrays(
                self.weight.contiguous().numpy().ravel(), self.weight.shape[1]
            ),
        }
        write_table(pa.table(columns).replace_schema_metadata({"model": self.model}), path)

    @classmethod
    def read(cls, path: Path) -> NGramLayer:
        table = pq.read_table(path)
        n_grams = tuple(tuple(text.split(" ")) for text in table["n_gram"].to_pylist())
        bias = torch.from_numpy(table["bias"].to_numpy().copy())
        weight = torch.from_numpy(embedding_matrix(table["weight"]))
        return cls(Dictionary(n_grams), weight, bias, table.schema.metadata[b"model"].decode())


def fit_n_grams(
    features: Tensor,
    captions: Sequence[str],
    keys: Sequence[str],
    dictionary: Dictionary,
    model: str,
) -> NGramLayer:
    """Train the layer on features of images [N, D] and their captions.

    A tenth of the captions, by hash of their keys, is not trained on: the layer is that of the
    pass after which they were likeliest. The same input in the same order gives the same weights
    with the same number of threads.

    Raises:
        ValueError: there are fewer than two captions.
    """
    if len(captions) < 2:
        raise ValueError(
            f"{len(captions)} captions are too few to train on some and judge by others"
        )
    words = Captions.of(dictionary, captions)
    order = hash_order(keys, seed=0)
    count = max(1, round(VALIDATION * len(order)))
    mean, std = features.mean(dim=0), features.std(dim=0).clamp_min(1e-6)
    layer = torch.nn.Linear(features.shape[1], len(dictionary.n_grams))
    for parameter in layer.parameters():
        torch.nn.init.zeros_(parameter)
    validated, trained = torch.tensor(order[:count]), torch.tensor(order[count:])
    _train(layer, (features - mean) / std, words, trained, validated)
    weight = layer.weight.detach() / std
    return NGramLayer(dictionary, weight, layer.bias.detach() - weight @ mean, model)


def _train(
    layer: torch.nn.Linear, features: Tensor, words: Captions, trained: Tensor, validated: Tensor
) -> None:
    """Leave in the layer the weights of the best pass."""
    optimizer = torch.optim.Adam(layer.parameters(), lr=LEARNING_RATE)
    best, kept, since = math.inf, dict[str, Tensor](), 0
    for number in range(PASSES):
        order = trained[torch.tensor(hash_order(trained.tolist(), seed=number))]
        for rows in order.split(BATCH):
            optimizer.zero_grad()
            words.take(rows).loss(layer(features[rows])).backward()
            optimizer.step()
        loss = _validation_loss(layer, features, words, validated)
        since += 1
        if loss < best:
            best, since = loss, 0
            kept = {name: value.clone() for name, value in layer.state_dict().items()}
        if since == PATIENCE:
            break
    layer.load_state_dict(kept)


@torch.no_grad()
def _validation_loss(
    layer: torch.nn.Linear, features: Tensor, words: Captions, validated: Tensor
) -> float:
    parts = validated.split(BATCH)
    return math.fsum(
        float(words.take(rows).loss(layer(features[rows]))) * len(rows) for rows in parts
    ) / len(validated)
