"""What the starter learns from besides drawings: two networks and photographs that packages carry.

- EfficientNet-Lite0, trained on ImageNet with labels, becomes the image tower's trunk.
- all-MiniLM-L6-v2, trained on pairs of sentences, is who the text tower learns words from.
- Photographs without names (wallpapers, OpenCV's examples) keep what is learnt of drawings from
  spoiling what the trunk knows of photographs.
"""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Mapping, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clip_model.efficientnet import STAGES, EfficientNet
from clip_model.tensor_files import read_tensor_file
from examples.evaluation_sets.weights import timm_name
from workers.base.hardware import computes_bfloat16

logger = logging.getLogger(__name__)

NORM_EPS = 1e-3  # TensorFlow's BatchNorm
SENTENCE_WIDTH = 384
TEXTS_AT_ONCE = 256


def half() -> torch.autocast:
    """Where the processor computes bfloat16, matrices in it: it costs half the time, and less
    precision than the weights are stored with."""
    return torch.autocast("cpu", torch.bfloat16, computes_bfloat16(torch.device("cpu")))


# --- the trunk -----------------------------------------------------------------------------------


def load_trunk(tower: EfficientNet, folder: Path) -> None:
    """Put the package's weights into the tower, each BatchNorm folded into its convolution."""
    named = read_tensor_file(folder / "efficientnet-lite0-57934424.pth").tensors
    tensors = {timm_name(name): tensor for name, tensor in named.items()}
    for name, (convolution, norm) in _sources().items():
        module = tower.get_submodule(name)
        assert isinstance(module, nn.Conv2d)
        _fold(module, convolution, norm, tensors)
    tower.classifier.load_state_dict(
        {name: tensors[f"classifier.{name}"] for name in ("weight", "bias")}
    )


def _sources() -> dict[str, tuple[str, str]]:
    """By the tower's convolution: timm's, and its norm."""
    found = {"conv1": ("conv_stem", "bn1"), "head": ("conv_head", "bn2")}
    for stage, (_, _, expansion, _, blocks) in enumerate(STAGES):
        for block in range(blocks):
            ours, theirs = f"stages.{stage}.{block}", f"blocks.{stage}.{block}"
            if expansion == 1:
                names = {"depthwise": ("conv_dw", "bn1"), "project": ("conv_pw", "bn2")}
            else:
                names = {
                    "expand": ("conv_pw", "bn1"),
                    "depthwise": ("conv_dw", "bn2"),
                    "project": ("conv_pwl", "bn3"),
                }
            for name, (convolution, norm) in names.items():
                found[f"{ours}.{name}"] = (f"{theirs}.{convolution}", f"{theirs}.{norm}")
    return found


@torch.no_grad()
def _fold(module: nn.Conv2d, convolution: str, norm: str, tensors: Mapping[str, Tensor]) -> None:
    gain = tensors[f"{norm}.weight"] / (tensors[f"{norm}.running_var"] + NORM_EPS).sqrt()
    module.weight.copy_(tensors[f"{convolution}.weight"] * gain[:, None, None, None])
    assert module.bias is not None
    module.bias.copy_(tensors[f"{norm}.bias"] - tensors[f"{norm}.running_mean"] * gain)


# --- sentences -----------------------------------------------------------------------------------


def sentence_features(texts: Sequence[str], folder: Path, processes: int) -> np.ndarray:
    """Of all-MiniLM-L6-v2: float16 [N, 384], each of length 1.

    Args:
        folder: what is kept of its package.
    """
    model = folder / "model"
    if not model.is_dir():
        with zipfile.ZipFile(folder / "model.zip") as archive:
            archive.extractall(model)
    # Texts of one length go together, so that little is computed for padding.
    order = np.argsort([len(text) for text in texts], kind="stable")
    chunks = [order[start : start + TEXTS_AT_ONCE] for start in range(0, len(order), TEXTS_AT_ONCE)]
    features = np.empty((len(texts), SENTENCE_WIDTH), np.float16)
    with get_context("spawn").Pool(processes, _open_sentences, (model,)) as pool:
        lists = ([texts[i] for i in chunk] for chunk in chunks)
        for done, rows in enumerate(pool.imap(_of_sentences, lists)):
            features[chunks[done]] = rows
            if done % 200 == 0:
                logger.info("%d of %d batches of texts are read", done, len(chunks))
    return features


_tokenizer: Any  # of a process that reads sentences
_sentences: Any


def _open_sentences(folder: Path) -> None:
    import clip_model._torchvision  # noqa: F401, I001  # before transformers looks for torchvision
    from tokenizers import Tokenizer
    from transformers import AutoModel

    global _tokenizer, _sentences
    torch.set_num_threads(1)
    _tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    _tokenizer.enable_padding()
    _tokenizer.enable_truncation(128)
    _sentences = AutoModel.from_pretrained(folder).eval()


@torch.inference_mode()
def _of_sentences(texts: list[str]) -> np.ndarray:
    encoded = _tokenizer.encode_batch(texts)
    ids, mask = (torch.tensor([getattr(e, n) for e in encoded]) for n in ("ids", "attention_mask"))
    with half():
        states = _sentences(input_ids=ids, attention_mask=mask).last_hidden_state  # NLD
    states = states.float()
    means = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)  # ND
    return F.normalize(means, dim=-1).half().numpy()
