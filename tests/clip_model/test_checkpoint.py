"""Files and names of models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import clip_model
from clip_model import CLIP
from clip_model.config import ClipConfig
from tests.clip_model.test_model import SMALL_RESNET, SMALL_VIT


@pytest.mark.parametrize("config", [SMALL_VIT, SMALL_RESNET], ids=["vit", "resnet"])
def test_round_trip(config: ClipConfig, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = CLIP(config).eval()
    path = tmp_path / "new folder" / "model.safetensors"
    clip_model.save(model, path)
    loaded, preprocess = clip_model.load(path, device="cpu")
    assert loaded.config == config
    assert not loaded.training
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # no temporary file is left
    for (name, expected), actual in zip(
        model.state_dict().items(), loaded.state_dict().values(), strict=True
    ):
        assert actual.dtype == expected.dtype, name
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-6)
    image = preprocess(Image.new("RGB", (100, 80), "red"))
    assert image.shape == (3, config.image_resolution, config.image_resolution)
    with torch.inference_mode():
        features = model.encode_image(image[None]), loaded.encode_image(image[None])
    assert torch.cosine_similarity(*features).item() > 0.9999


def test_second_save_loses_nothing(tmp_path: Path) -> None:
    clip_model.save(CLIP(SMALL_VIT), tmp_path / "first")
    loaded, _ = clip_model.load(tmp_path / "first", device="cpu")
    clip_model.save(loaded, tmp_path / "second")
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_loaded_model_can_be_trained(tmp_path: Path) -> None:
    clip_model.save(CLIP(SMALL_VIT), tmp_path / "model")
    model, _ = clip_model.load(tmp_path / "model", device="cpu")
    assert all(p.requires_grad for p in model.parameters())


def test_unknown_name_says_what_there_is() -> None:
    with pytest.raises(RuntimeError, match=r"^Model ViT-Z/1 not found; available models = \['sta"):
        clip_model.load("ViT-Z/1")


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "noise").write_bytes(b"no tensors here")
    with pytest.raises(RuntimeError, match="not a safetensors file"):
        clip_model.load(tmp_path / "noise")
    save_file({"weight": torch.ones(1)}, tmp_path / "foreign")
    with pytest.raises(RuntimeError, match="no architecture"):
        clip_model.load(tmp_path / "foreign")
