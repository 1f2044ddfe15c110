"""What a plan says of the model that it depends on."""

from __future__ import annotations

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from clip_model import download
from clip_model.checkpoint import PUBLISHED
from pipelines.run.config import ConfigError
from pipelines.run.models import architecture, checkpoint_inputs
from tests.shards import save_tiny_model


def test_a_published_model_is_known_by_its_checksum_and_not_downloaded(monkeypatch):
    def refuse(*_arguments):
        raise AssertionError("a plan must not download")

    monkeypatch.setattr(download, "download", refuse)
    files, values = checkpoint_inputs("ViT-B/32", "embeddings.model")
    assert (files, values) == ([], [PUBLISHED["ViT-B/32"].sha256])


def test_a_file_is_known_by_its_content():
    files, values = checkpoint_inputs("starter", "embeddings.model")
    assert [file.name for file in files] == ["model.safetensors"]
    assert not values


def test_a_missing_model_names_the_key():
    with pytest.raises(ConfigError, match=r"^model.start_from: .*no-such-model"):
        checkpoint_inputs("no-such-model", "model.start_from")


@pytest.mark.parametrize("content", [b"", b"no model"])
def test_a_file_that_is_no_model_names_the_key(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"^model.start_from: .*model.safetensors"):
        architecture(str(path), "model.start_from")


def test_weights_that_are_not_finite_name_the_key(tmp_path):
    path = save_tiny_model(tmp_path / "model.safetensors")
    with safe_open(path, "pt") as file:
        texts = file.metadata()
    save_file(load_file(path) | {"logit_scale": torch.tensor(torch.nan)}, path, texts)
    with pytest.raises(ConfigError, match=r"^model.start_from: .*'logit_scale' are not finite"):
        architecture(str(path), "model.start_from")
