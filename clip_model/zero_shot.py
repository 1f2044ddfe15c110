"""Classification by nothing but the classes' names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from clip_model.templates import ClassName, class_set, fill, sentences


class TextTower(Protocol):
    """All that classification by names needs of a model: a `CLIP`, a `DualEncoder`."""

    @property
    def logit_scale(self) -> Tensor:
        """The logarithm of what cosines are multiplied by; it is where the model is."""

    def tokenize(self, texts: Sequence[str], truncate: bool = False) -> Tensor:
        """[N, L]; a model of another library always cuts what is too long."""

    def encode_text(self, text: Tensor) -> Tensor:
        """Tokens to features, not normalised: [N, L] -> [N, E]."""


@torch.inference_mode()
def zero_shot_classifier(
    model: TextTower,
    class_names: Sequence[ClassName] | str,
    templates: Sequence[str] | str = "bare",
    batch_size: int = 256,
    truncate: bool = False,
) -> Tensor:
    """One direction a class, the mean of its prompts' directions: [C, E], normalised.

    As in the paper: encode each prompt, normalise, average, normalise again.

    Args:
        class_names: C names, several names of one class as a tuple; or a data set's name, for
            `clip_model.templates.class_set`.
        templates: sentences with a `{}` where the name goes; or one such sentence; or a set's
            name, for `clip_model.templates.template_set`.
        batch_size: prompts encoded at once.
        truncate: cut prompts that are longer than the context instead of refusing them.

    Raises:
        ValueError: there is no class, no template, a template without `{}`, or no set of the name
            that was given; or the model makes features that are not finite.
        RuntimeError: a prompt is longer than the context and `truncate` is false.
    """
    names = class_set(class_names) if isinstance(class_names, str) else class_names
    prompts_of = sentences(templates)
    if not names or not prompts_of:
        raise ValueError("zero-shot classification needs at least one class and one template")
    classes_at_once = max(1, batch_size // len(prompts_of))
    chunks = []
    for start in range(0, len(names), classes_at_once):
        prompts = [fill(prompts_of, name) for name in names[start : start + classes_at_once]]
        texts = [text for of_one in prompts for text in of_one]
        features = encode_texts(model, texts, batch_size, truncate)
        by_class = features.split([len(of_one) for of_one in prompts])
        chunks.append(torch.stack([of_one.mean(dim=0) for of_one in by_class]))  # CE
    classifier = F.normalize(torch.cat(chunks), dim=-1)
    if not classifier.isfinite().all():
        raise ValueError("the model's features of the classes' names are not finite")
    return classifier


@torch.inference_mode()
def encode_texts(
    model: TextTower, texts: Sequence[str], batch_size: int = 256, truncate: bool = False
) -> Tensor:
    """Normalised features of any number of texts: [N, E].

    Raises:
        RuntimeError: a text is longer than the context and `truncate` is false.
    """
    device = model.logit_scale.device
    chunks = [
        model.encode_text(model.tokenize(texts[start : start + batch_size], truncate).to(device))
        for start in range(0, len(texts), batch_size)
    ]
    return F.normalize(torch.cat(chunks), dim=-1)


@torch.inference_mode()
def classify(
    image_features: Tensor,
    classifier: Tensor,
    logit_scale: Tensor | float,
    top_k: int = 5,
    chunk_size: int = 65536,
) -> tuple[Tensor, Tensor]:
    """The likeliest classes of each image, and their probabilities among all classes.

    Classes are scored `chunk_size` at a time, so a million of them fit in memory.

    Args:
        image_features: [N, E]; they are normalised here.
        classifier: [C, E], as `zero_shot_classifier` gives it.
        logit_scale: the model's, a logarithm.

    Returns:
        Probabilities [N, K] in descending order, and class numbers [N, K]; K = min(top_k, C). An
        image whose features or logits are not finite has probabilities NaN and classes -1, so that
        it is right by no count.
    """
    queries = F.normalize(image_features, dim=-1) * torch.as_tensor(logit_scale).exp()  # NE
    total = torch.full((len(queries),), -torch.inf, device=queries.device)  # N, log of the sum
    best = torch.empty(len(queries), 0, device=queries.device)
    best_classes = torch.empty(len(queries), 0, dtype=torch.long, device=queries.device)
    for start in range(0, len(classifier), chunk_size):
        logits = queries @ classifier[start : start + chunk_size].t()  # NC'
        total = torch.logaddexp(total, logits.logsumexp(dim=-1))
        values, classes = logits.topk(min(top_k, logits.shape[-1]), dim=-1)  # NK
        best = torch.cat([best, values], dim=-1)
        best_classes = torch.cat([best_classes, classes + start], dim=-1)
        best, kept = best.topk(min(top_k, best.shape[-1]), dim=-1)  # NK
        best_classes = best_classes.gather(-1, kept)
    probabilities = (best - total[:, None]).exp()
    return probabilities, best_classes.where(probabilities.isfinite(), -1)
