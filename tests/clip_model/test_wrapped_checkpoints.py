"""Weights as training programs leave them, and files that are no weights at all."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import clip_model
from clip_model import CLIP
from clip_model.tensor_files import read_tensor_file
from tests.clip_model.test_checkpoint_formats import VIT, assert_same, random_model, reload

State = dict[str, Tensor]


class Task(nn.Module):
    """A training program's module, with the model as one of its attributes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model


class Net(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.net = Task(model)


def compiled(model: nn.Module) -> nn.Module:
    module = torch.compile(model)
    assert isinstance(module, nn.Module)
    return module


def one_tower_compiled(model: CLIP) -> nn.Module:
    model.visual = compiled(model.visual)  # type: ignore[assignment]
    return model


TRAINED: dict[str, Callable[[CLIP], nn.Module]] = {
    "data parallel": nn.DataParallel,
    "compiled": compiled,
    "compiled, then data parallel": lambda model: nn.DataParallel(compiled(model)),
    "data parallel, then compiled": lambda model: compiled(nn.DataParallel(model)),
    "twice data parallel": lambda model: nn.DataParallel(nn.DataParallel(model)),
    "one tower compiled": one_tower_compiled,
    "an attribute": Task,
    "an attribute of an attribute": Net,
    "an attribute, compiled, data parallel": lambda model: nn.DataParallel(Task(compiled(model))),
}
TABLES: dict[str, Callable[[State], dict[Any, Any]]] = {
    "none": lambda state: dict(state),
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model": lambda state: {"model": state, "args": {"lr": 0.1}, "scaler": None},
    "model_state_dict": lambda state: {"model_state_dict": state, "loss": 0.5},
    "model in state_dict": lambda state: {"state_dict": {"model": state}},
    "Lightning": lambda state: {
        "epoch": 1,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": state,
        "callbacks": {"checkpoint": {"best": torch.tensor(1.0), "every": (1, 2)}},
        "hyper_parameters": {"lr": 1e-3, "device": torch.device("cpu"), "type": torch.float16},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{}]}],
    },
}


@pytest.mark.parametrize("trained", TRAINED)
def test_prefixes_are_taken_off(trained, tmp_path) -> None:
    state = TRAINED[trained](random_model(VIT)).state_dict()
    torch.save({"state_dict": state}, tmp_path / "model.pt")
    save_file(state, tmp_path / "model.safetensors")
    for name in ("model.pt", "model.safetensors"):
        assert_same(reload(tmp_path / name, quick_gelu=True), random_model(VIT))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old"])
@pytest.mark.parametrize("table", TABLES)
def test_tables_are_opened(table, zipped, tmp_path) -> None:
    state = {f"model.{name}": tensor for name, tensor in random_model(VIT).state_dict().items()}
    path = tmp_path / "model.ckpt"
    torch.save(TABLES[table](state), path, _use_new_zipfile_serialization=zipped)
    assert_same(reload(path, quick_gelu=True), random_model(VIT))


def test_parameters_and_shared_storages_are_read(tmp_path) -> None:
    """As a module's parameters, not detached; and as parts of one flat tensor."""
    model = random_model(VIT)
    floating = dict(model.state_dict(keep_vars=True))
    torch.save(floating, tmp_path / "parameters.pt")
    flat = torch.cat([tensor.detach().ravel() for tensor in floating.values()])
    parts = flat.split([tensor.numel() for tensor in floating.values()])
    shared = {
        name: part.view(tensor.shape)
        for part, (name, tensor) in zip(parts, floating.items(), strict=True)
    }
    torch.save(shared, tmp_path / "shared.pt")
    for name in ("parameters.pt", "shared.pt"):
        loaded = reload(tmp_path / name, quick_gelu=True)
        assert_same(loaded, model)
        storages = {p.untyped_storage().data_ptr() for p in loaded.parameters()}
        assert len(storages) == len(list(loaded.parameters()))


def test_hugging_face_names_inside_of_a_module(tmp_path) -> None:
    clip_model.save(random_model(VIT), tmp_path / "hf", "hugging_face")
    weights = tmp_path / "hf" / "model.safetensors"
    tensors = read_tensor_file(weights).tensors
    save_file({f"_orig_mod.clip.{name}": tensor for name, tensor in tensors.items()}, weights)
    assert_same(reload(tmp_path / "hf"), random_model(VIT))


def refusal(tensors: Any, tmp_path) -> str:
    torch.save(tensors, tmp_path / "model.pt")
    with pytest.raises(RuntimeError) as error:
        clip_model.load(tmp_path / "model.pt", device="cpu", quick_gelu=True)
    return str(error.value)


def test_what_is_ambiguous_is_named(tmp_path) -> None:
    state = random_model(VIT).state_dict()
    twice = {f"{who}.{n}": t for who in ("student", "teacher") for n, t in state.items()}
    assert "several text towers, at 'student.', 'teacher.'" in refusal(twice, tmp_path)
    beside = {f"model.{n}": t for n, t in state.items()} | {"head.weight": torch.ones(2)}
    assert "under 'model.' and besides it 'head.weight'" in refusal(beside, tmp_path)
    both = state | {f"_orig_mod.{n}": t for n, t in state.items()}
    assert "two tensors would have one name" in refusal(both, tmp_path)
    assert "'epoch', 'weights'; it would be" in refusal({"epoch": 1, "weights": [1]}, tmp_path)
    assert "a list, not a table" in refusal([state], tmp_path)


def test_half_of_a_clip_and_other_models_are_named(tmp_path) -> None:
    state = random_model(VIT).state_dict()
    text = {name: tensor for name, tensor in state.items() if not name.startswith("visual.")}
    assert "a text tower alone: a CLIP has an image tower" in refusal(text, tmp_path)
    image = {name: tensor for name, tensor in state.items() if name.startswith("visual.")}
    assert "an image tower, but there is no 'token_embedding" in refusal(image, tmp_path)
    other = {f"bert.layer.{n}": torch.ones(1) for n in range(9)}
    message = refusal(other, tmp_path)
    assert "there are 'bert.layer.0', 'bert.layer.1', 'bert.layer.2' and 6 more" in message


def test_a_folder_with_a_text_tower_alone(tmp_path) -> None:
    clip_model.save(random_model(VIT), tmp_path / "hf", "hugging_face")
    weights = tmp_path / "hf" / "model.safetensors"
    tensors = read_tensor_file(weights).tensors
    save_file({n: t for n, t in tensors.items() if not n.startswith("vis")}, weights)
    with pytest.raises(RuntimeError, match="a text tower alone"):
        reload(tmp_path / "hf")


def tar() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as file:
        file.addfile(tarfile.TarInfo("model.safetensors"))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "run git lfs pull"),
        (b"<!DOCTYPE html><html><head><title>Sign in</title>", "is a web page"),
        (b"\n  <HTML>\n<body>404</body>", "is a web page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "is a web page"),
        (b'{"error": "Repository not found"}', "is JSON"),
        (b'{\n  "architectures": ["CLIPModel"]}', "is JSON"),
        (gzip.compress(b"weights", mtime=0), "is compressed"),
        (tar(), "is a tar archive"),
        (b"GGUF\x03\0\0\0" + bytes(40), "another framework"),
        (b"PK\x03\x04" + bytes(100), "cut short"),
        (b"no tensors here", "not a safetensors file"),
        (bytes(64), "not a safetensors file"),
        ((1 << 40).to_bytes(8, "little") + b'{"a":', "cut short"),
    ],
)
def test_other_files_are_said_to_be_what_they_are(content, message, tmp_path) -> None:
    for name in ("model.pt", "model.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(RuntimeError, match=message):
            clip_model.load(tmp_path / name, device="cpu", quick_gelu=True)


@pytest.mark.parametrize("share", [0.2, 0.6, 0.999])
@pytest.mark.parametrize("kind", ["zip", "old", "safetensors"])
def test_files_cut_short_say_so(kind, share, tmp_path) -> None:
    path, state = tmp_path / "model", random_model(VIT).state_dict()
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(RuntimeError, match=r"cut short|compare its size"):
        clip_model.load(path, device="cpu", quick_gelu=True)


def test_a_configuration_instead_of_weights(tmp_path) -> None:
    path = tmp_path / "open_clip_config.json"
    path.write_text(json.dumps({"model_cfg": {}}))
    with pytest.raises(RuntimeError, match="is JSON, not a model: give the folder"):
        clip_model.load(path)
