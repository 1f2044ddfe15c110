"""Every format in and out: the same bits, the same architecture, the same activation."""

from __future__ import annotations

import json
import re
import warnings
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

import clip_model
from clip_model import CLIP, ClipConfig
from clip_model.architecture import infer_config
from clip_model.checkpoint import Format, read_weights
from clip_model.config import (
    ARCHITECTURES,
    SMALL,
    ModifiedResNetConfig,
    TextConfig,
    VisionTransformerConfig,
)
from clip_model.model import convert_weights
from clip_model.model_files import checkpoint_files, checkpoint_path
from clip_model.open_clip import _their_config, described
from clip_model.positions import resize_positions
from clip_model.preprocess import fold_normalisation

TEXT = TextConfig(width=128, layers=2, heads=2, context_length=20, vocab_size=300)
VIT = ClipConfig(32, 32, VisionTransformerConfig(2, 64, 8), TEXT)
RESNET = ClipConfig(32, 64, ModifiedResNetConfig((1, 2, 1, 1), 8), TEXT)
OTHER_HEADS = replace(TEXT, heads=4)  # heads that shapes do not tell
TOWERS = pytest.mark.parametrize("config", [VIT, RESNET], ids=["vit", "resnet"])
SAVED: list[tuple[str, Format]] = [  # file or folder, format
    ("model.safetensors", "clip_model"),
    ("model.pt", "openai"),
    ("model.pt", "open_clip"),
    ("model.safetensors", "open_clip"),
    ("folder", "open_clip"),
    ("folder", "hugging_face"),
]


def random_model(config: ClipConfig, seed: int = 0) -> CLIP:
    """A model in which no tensor is still as it was initialised."""
    torch.manual_seed(seed)
    model = CLIP(config).eval()
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(torch.rand_like(tensor) / 8)
        else:
            tensor.add_(3)
    return model


def assert_same(actual: CLIP, expected: CLIP) -> None:
    assert actual.config == expected.config
    theirs, ours = actual.state_dict(), expected.state_dict()
    assert theirs.keys() == ours.keys()
    for name, tensor in ours.items():
        assert theirs[name].dtype == tensor.dtype, name
        assert torch.equal(theirs[name], tensor), name


def reload(path: Path, **options) -> CLIP:
    return clip_model.load(path, device="cpu", **options)[0]


@pytest.mark.parametrize(
    ("config", "name", "format"),
    [(VIT, *saved) for saved in SAVED]
    + [(RESNET, *saved) for saved in SAVED if saved[1] != "hugging_face"],  # which has ViTs only
)
def test_round_trip_is_bit_equal(config, name, format, tmp_path) -> None:
    model = random_model(config)
    clip_model.save(model, tmp_path / "new" / name, format, half=False)
    loaded = reload(tmp_path / "new" / name)
    assert_same(loaded, model)
    assert not loaded.training
    assert not list(tmp_path.rglob("*.partial"))
    images, texts = torch.randn(2, 3, *[config.image_resolution] * 2), torch.tensor([[298, 5, 299]])
    with torch.inference_mode():
        assert torch.equal(loaded.encode_image(images), model.encode_image(images))
        assert torch.equal(loaded.encode_text(texts), model.encode_text(texts))


@TOWERS
def test_round_trip_through_all_formats_in_a_row(config, tmp_path) -> None:
    model = random_model(config)
    current = model
    for number, (name, format) in enumerate(SAVED):
        if format == "hugging_face" and config is RESNET:
            continue
        clip_model.save(current, tmp_path / str(number) / name, format, half=False)
        current = reload(tmp_path / str(number) / name)
    assert_same(current, model)


@pytest.mark.parametrize(
    ("name", "format"), [saved for saved in SAVED if saved[1] not in ("openai",)]
)
def test_exact_gelu_and_heads_survive(name, format, tmp_path) -> None:
    model = random_model(replace(VIT, text=OTHER_HEADS, quick_gelu=False))
    clip_model.save(model, tmp_path / name, format, half=False)
    assert_same(reload(tmp_path / name), model)


def test_formats_that_cannot_hold_a_model_refuse_it(tmp_path) -> None:
    with pytest.raises(ValueError, match="QuickGELU"):
        clip_model.save(CLIP(replace(VIT, quick_gelu=False)), tmp_path / "x", "openai")
    with pytest.raises(ValueError, match="heads"):
        clip_model.save(CLIP(replace(VIT, text=OTHER_HEADS)), tmp_path / "x", "openai")
    for tower in (
        VisionTransformerConfig(2, 64, 8, head_width=32),
        VisionTransformerConfig(2, 64, 8, mlp_width=100),
    ):
        with pytest.raises(ValueError, match="means image heads 64 wide and perceptrons 4 times"):
            clip_model.save(CLIP(replace(VIT, vision=tower)), tmp_path / "x", "openai")
    with pytest.raises(ValueError, match="ResNet"):
        clip_model.save(CLIP(RESNET), tmp_path / "x", "hugging_face")
    bag_of_words = CLIP(replace(VIT, text=replace(TEXT, kind="cbow")))
    with pytest.raises(ValueError, match="cbow"):
        clip_model.save(bag_of_words, tmp_path / "x", "open_clip")
    with pytest.raises(ValueError, match="unknown format"):
        clip_model.save(CLIP(VIT), tmp_path / "x", "onnx")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_half_by_default_in_the_own_format_only(tmp_path) -> None:
    model = random_model(VIT)
    clip_model.save(model, tmp_path / "own.safetensors")
    clip_model.save(model, tmp_path / "theirs.safetensors", "open_clip")
    assert load_file(tmp_path / "own.safetensors")["visual.proj"].dtype == torch.float16
    assert load_file(tmp_path / "theirs.safetensors")["visual.proj"].dtype == torch.float32


@pytest.mark.parametrize(("name", "format"), SAVED)
def test_half_precision_on_request(name, format, tmp_path) -> None:
    model = random_model(VIT)
    clip_model.save(model, tmp_path / name, format, half=True)
    loaded = reload(tmp_path / name).state_dict()
    for name, tensor in model.state_dict().items():
        expected = tensor.half().float() if tensor.ndim >= 2 else tensor
        assert torch.equal(loaded[name], expected), name


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_weights_that_are_not_finite_are_not_written(value, tmp_path) -> None:
    """1e30 is finite, but not as float16, in which this project's own files have matrices."""
    model = random_model(VIT)
    with torch.no_grad():
        model.text_projection[3, 4] = value
    with pytest.raises(ValueError, match="weight is"):
        clip_model.save(model, tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if value == 1e30:
        with pytest.raises(ValueError, match=r"too large for torch.float16: keep float32"):
            convert_weights(model)
        assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
        clip_model.save(model, tmp_path / "model.safetensors", half=False)
        assert_same(reload(tmp_path / "model.safetensors"), model)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architecture_from_shapes(name) -> None:
    config = ARCHITECTURES[name]
    with torch.device("meta"):
        tensors = CLIP(config).state_dict()
    assert infer_config(tensors, quick_gelu=True) == config


# --- What OpenAI published: a traced program --------------------------------------------------


class TracedBlock(nn.Module):
    """openai/CLIP's residual block: attention with a mask that is neither parameter nor buffer."""

    def __init__(self, width: int, heads: int, attn_mask: Tensor | None) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_1 = nn.LayerNorm(width)
        layers = OrderedDict(
            c_fc=nn.Linear(width, 4 * width),
            gelu=clip_model.transformer.QuickGELU(),
            c_proj=nn.Linear(4 * width, width),
        )
        self.mlp = nn.Sequential(layers)
        self.ln_2 = nn.LayerNorm(width)
        self.attn_mask = attn_mask

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=self.attn_mask)[0]
        return x + self.mlp(self.ln_2(x))


class TracedClip(nn.Module):
    """A CLIP laid out like OpenAI's, with the numbers that its archives hold."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        text = config.text
        self.clip = CLIP(config).eval()
        mask = torch.full((text.context_length,) * 2, -torch.inf).triu(1)
        self.visual = self.clip.visual
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.Sequential(
            *(TracedBlock(text.width, text.heads, mask) for _ in range(text.layers))
        )
        self.token_embedding = self.clip.token_embedding
        self.positional_embedding = self.clip.positional_embedding
        self.ln_final = self.clip.ln_final
        self.text_projection = self.clip.text_projection
        self.logit_scale = self.clip.logit_scale
        del self.clip
        self.register_buffer("input_resolution", torch.tensor(config.image_resolution))
        self.register_buffer("context_length", torch.tensor(text.context_length))
        self.register_buffer("vocab_size", torch.tensor(text.vocab_size))

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        x = self.token_embedding(text) + self.positional_embedding
        x = self.ln_final(self.transformer.get_submodule("resblocks")(x))
        x = x[torch.arange(len(x)), text.argmax(dim=-1)] @ self.text_projection
        features = F.normalize(self.visual(image), dim=-1), F.normalize(x, dim=-1)
        return self.logit_scale.exp() * features[0] @ features[1].t()


@pytest.fixture(scope="module", params=[VIT, RESNET], ids=["vit", "resnet"])
def traced(request, tmp_path_factory) -> tuple[ClipConfig, Path, torch.jit.ScriptModule]:
    config: ClipConfig = request.param
    path = tmp_path_factory.mktemp("traced") / "traced.pt"
    torch.manual_seed(0)
    inputs = (
        torch.randn(2, 3, *[config.image_resolution] * 2),
        torch.randint(0, 300, (2, config.text.context_length)),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        program = torch.jit.trace(TracedClip(config).eval(), inputs, check_trace=False)
        program.save(str(path))
    return config, path, program


def test_traced_archive_reads_equal(traced) -> None:
    config, path, program = traced
    tensors, read = read_weights(path)
    expected = program.state_dict()
    numbers = ["input_resolution", "context_length", "vocab_size"]
    assert tensors.keys() == expected.keys() - set(numbers)
    assert all(torch.equal(tensors[name], expected[name]) for name in tensors)
    assert read == config
    assert read.quick_gelu
    loaded = reload(path)
    images = torch.randn(2, 3, *[config.image_resolution] * 2)
    texts = torch.randint(0, 300, (2, config.text.context_length))
    with torch.inference_mode():
        torch.testing.assert_close(loaded(images, texts)[0], program(images, texts))


def test_archive_is_never_given_to_torch(traced, monkeypatch) -> None:
    def refuse(*arguments, **options):
        raise AssertionError("the archive would have been executed")

    monkeypatch.setattr(torch.jit, "load", refuse)
    monkeypatch.setattr(torch, "load", refuse)
    reload(traced[1])


def test_written_archive_is_one_of_torchscript(tmp_path) -> None:
    """What openai/CLIP does with a file: torch.jit.load, state_dict, and these three numbers."""
    model = random_model(RESNET)
    clip_model.save(model, tmp_path / "model.pt", "openai")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = torch.jit.load(tmp_path / "model.pt").eval().state_dict()
    assert state.pop("input_resolution") == 64
    assert state.pop("context_length") == 20
    assert state.pop("vocab_size") == 300
    assert state.keys() == model.state_dict().keys()


# --- State dicts, and open_clip's files -----------------------------------------------------


def test_files_that_do_not_say_their_activation_are_refused(tmp_path) -> None:
    model = random_model(replace(VIT, quick_gelu=False))
    state = model.state_dict()
    torch.save(state, tmp_path / "state.pt")
    save_file(state, tmp_path / "state.safetensors")
    for name in ("state.pt", "state.safetensors"):
        with pytest.raises(RuntimeError, match="quick_gelu=True\\) for OpenAI's weights"):
            clip_model.load(tmp_path / name, device="cpu")
        assert_same(reload(tmp_path / name, quick_gelu=False), model)
        assert reload(tmp_path / name, quick_gelu=True).config.quick_gelu


def test_openai_state_dict_is_known_by_its_numbers(tmp_path) -> None:
    model = random_model(VIT)
    numbers = {"input_resolution": 32, "context_length": 20, "vocab_size": 300}
    tensors = {name: torch.tensor(value) for name, value in numbers.items()}
    torch.save(model.state_dict() | tensors, tmp_path / "state.pt")
    assert_same(reload(tmp_path / "state.pt"), model)


def test_legacy_torch_save(tmp_path) -> None:
    model = random_model(VIT)
    path = tmp_path / "state.pt"
    torch.save(model.state_dict(), path, _use_new_zipfile_serialization=False)
    assert_same(reload(path, quick_gelu=True), model)


def test_training_checkpoint_of_open_clip(tmp_path) -> None:
    model = random_model(RESNET)
    state = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    content = {"epoch": 3, "name": "run", "state_dict": state, "optimizer": {"state": {}}}
    torch.save(content, tmp_path / "epoch_3.pt")
    assert_same(reload(tmp_path / "epoch_3.pt", quick_gelu=True), model)


def test_own_text_tower_and_one_element_scale_of_open_clip(tmp_path) -> None:
    model = random_model(VIT)
    state = {
        name if name.startswith(("visual.", "logit")) else f"text.{name}": tensor
        for name, tensor in model.state_dict().items()
    }
    state["logit_scale"] = state["logit_scale"][None]
    save_file(state, tmp_path / "state.safetensors")
    assert_same(reload(tmp_path / "state.safetensors", quick_gelu=True), model)


@pytest.mark.parametrize(("written", "expected"), [(True, True), (False, False), (None, False)])
def test_activation_from_open_clip_config(written, expected, tmp_path) -> None:
    save_file(random_model(VIT).state_dict(), tmp_path / "open_clip_model.safetensors")
    model_cfg = {"embed_dim": 32, "vision_cfg": {"width": 64}, "text_cfg": {"heads": 4}}
    if written is not None:
        model_cfg["quick_gelu"] = written
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": model_cfg}))
    loaded = reload(tmp_path)
    assert loaded.config.quick_gelu == expected
    assert loaded.config.text.heads == 4


def test_the_preprocessing_is_the_models(tmp_path) -> None:
    """It goes through both formats that have words for it, and is what a picture comes through."""
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.2, 0.2)
    other = replace(VIT, squash=True, interpolation="bilinear", mean=mean, std=std)
    model = random_model(other)
    clip_model.save(model, tmp_path / "folder", "open_clip")
    weights = tmp_path / "folder" / "open_clip_model.safetensors"
    save_file(load_file(weights), weights)  # without what we say in it
    clip_model.save(model, tmp_path / "own.safetensors", half=False)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 90, 3), np.uint8))
    for name in ("folder", "own.safetensors"):
        loaded, preprocess = clip_model.load(tmp_path / name, device="cpu", quick_gelu=True)
        assert_same(loaded, model)
        squashed = picture.resize((32, 32), Image.Resampling.BILINEAR)
        levels = torch.from_numpy(np.array(squashed)).permute(2, 0, 1) / 255
        expected = (levels - torch.tensor(mean).view(3, 1, 1)) / 0.2
        torch.testing.assert_close(preprocess(picture), expected)
        folded = fold_normalisation(loaded).encode_image((levels * 255).round()[None])
        features = loaded.encode_image(expected[None])
        torch.testing.assert_close(folded, features, rtol=1e-3, atol=1e-4)
    for format in ("openai", "hugging_face"):
        with pytest.raises(ValueError, match="no preprocessing other than OpenAI's"):
            clip_model.save(model, tmp_path / "x", format)


@pytest.mark.parametrize("name", ["small", "odd", *ARCHITECTURES])
def test_a_configuration_of_open_clips_describes_new_weights(name) -> None:
    odd = replace(VIT, vision=VisionTransformerConfig(2, 96, 8, 32, 200), quick_gelu=False)
    config = {"small": SMALL, "odd": odd, **ARCHITECTURES}[name]
    fields = _their_config(config)
    assert described(fields, "here") == config
    assert described(fields["model_cfg"], "here") == config


def test_what_open_clip_takes_for_granted_is_taken_here() -> None:
    vision = {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32}
    text = {"width": 512, "layers": 12}
    fields = {"embed_dim": 512, "vision_cfg": vision, "text_cfg": text}
    assert described(fields, "here") == replace(ARCHITECTURES["ViT-B/32"], quick_gelu=False)


@pytest.mark.parametrize(
    ("part", "more", "message"),
    [
        ("vision_cfg", {"layers": None}, "layers must be a whole number"),
        ("vision_cfg", {"layers": [1, 2]}, "must be four numbers"),
        ("vision_cfg", {"width": "64"}, "width"),
        ("vision_cfg", {"mlp_ratio": "4"}, "here"),
        ("vision_cfg", {"mlp_ratio": 1e400}, "infinity"),
        ("vision_cfg", {"patch_size": 0}, "patch_size must be from 1"),
        ("vision_cfg", {"patch_size": 64}, "no patch"),
        ("vision_cfg", {"pool_type": "avg"}, "'pool_type' must be 'tok'"),
        ("vision_cfg", {"timm_model_name": "convnext_bas"}, "near are convnext_base"),
        ("vision_cfg", {"timm_model_name": "hf-hub:some/one"}, "letters, digits and underscores"),
        ("vision_cfg", {"timm_model_name": "test_vit", "timm_pool": "x"}, "the pool of a network"),
        ("vision_cfg", {"timm_model_name": "test_convnext", "timm_pool": "token"}, "makes no"),
        ("text_cfg", {"heads": 3}, "not a multiple of 3 heads"),
        ("text_cfg", {"hf_model_name": "bert"}, "'hf_model_name' must be"),
        ("text_cfg", {"depth": 3}, "nothing is known of 'depth'"),
    ],
)
def test_new_weights_of_another_kind_are_refused(part, more, message) -> None:
    fields = _their_config(VIT)["model_cfg"]
    fields[part] |= more
    with pytest.raises(RuntimeError, match=message):
        described(fields, "here")


@pytest.mark.parametrize("missing", ["embed_dim", "vision_cfg", "text_cfg"])
def test_what_new_weights_need_is_named(missing) -> None:
    fields = _their_config(VIT)["model_cfg"]
    del fields[missing]
    with pytest.raises(RuntimeError, match="here: '.*' is missing"):
        described(fields, "here")


def test_half_precision_files_become_float32(tmp_path) -> None:
    state = {name: t.half() for name, t in random_model(VIT).state_dict().items()}
    save_file(state, tmp_path / "half.safetensors")
    loaded = reload(tmp_path / "half.safetensors", quick_gelu=True)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    with pytest.raises(ValueError, match="half precision is for GPUs"):
        reload(tmp_path / "half.safetensors", quick_gelu=True, half=True)


def test_wrong_shapes_and_configurations_are_errors(tmp_path) -> None:
    state = random_model(VIT).state_dict()
    path = tmp_path / "open_clip_model.safetensors"
    save_file(state | {"visual.conv1.weight": torch.zeros(2)}, path)
    with pytest.raises(RuntimeError, match="a shape or a number is wrong"):
        reload(tmp_path, quick_gelu=True)
    for text, message in [("[]", "not a table"), ("{", "not JSON"), ('{"model_cfg": 1}', "table")]:
        (tmp_path / "open_clip_config.json").write_text(text)
        with pytest.raises(RuntimeError, match=message):
            reload(tmp_path)


@pytest.mark.parametrize("tower", ["vision", "text"])
def test_an_absurd_number_of_layers_is_refused_before_it_is_built(tower, tmp_path) -> None:
    fields = VIT.to_dict()
    fields[tower]["layers"] = 10**12
    path = tmp_path / "model.safetensors"
    texts = {"clip_model.config": json.dumps(fields)}
    save_file(random_model(VIT).state_dict(), path, metadata=texts)
    with pytest.raises(RuntimeError, match=r"layers must be from 1 to 500"):
        reload(path)


def test_missing_and_additional_tensors_are_named(tmp_path) -> None:
    state = random_model(VIT).state_dict()
    save_file(state | {"logit_bias": torch.zeros(1)}, tmp_path / "more.safetensors")
    with pytest.raises(RuntimeError, match='Unexpected key.*"logit_bias"'):
        reload(tmp_path / "more.safetensors", quick_gelu=True)
    del state["visual.ln_pre.bias"]
    save_file(state, tmp_path / "less.safetensors")
    with pytest.raises(RuntimeError, match='Missing key.*"visual.ln_pre.bias"'):
        reload(tmp_path / "less.safetensors", quick_gelu=True)
    del state["ln_final.weight"]
    save_file(state, tmp_path / "less.safetensors")
    with pytest.raises(RuntimeError, match=r"less.safetensors: .*no 'ln_final.weight'"):
        reload(tmp_path / "less.safetensors", quick_gelu=True)


# --- Hugging Face's folders ---------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path) -> Path:
    clip_model.save(random_model(VIT), tmp_path / "hf", "hugging_face")
    return tmp_path / "hf"


def edit_config(folder: Path, section: str, **fields) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config[section] |= fields
    path.write_text(json.dumps(config))


def shard(folder: Path) -> Path:
    """Cut the weights in two, as transformers does with large ones; returns the index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    files = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in files.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    index = folder / "model.safetensors.index.json"
    weight_map = {name: file for file, part in files.items() for name in part}
    index.write_text(json.dumps({"weight_map": weight_map}))
    return index


def test_names_and_shapes_are_those_of_hugging_face(folder) -> None:
    tensors = load_file(folder / "model.safetensors")
    assert tensors["text_projection.weight"].shape == (32, 128)
    assert tensors["visual_projection.weight"].shape == (32, 64)
    assert tensors["vision_model.encoder.layers.1.self_attn.k_proj.weight"].shape == (64, 64)
    assert not any("in_proj" in name or "resblocks" in name for name in tensors)
    assert len(tensors) == len(random_model(VIT).state_dict()) + 2 * 2 * 2 * 2  # q, k, v apart


def test_files_that_a_checkpoint_depends_on(folder) -> None:
    names = [path.name for path in checkpoint_files(folder)]
    assert names == ["model.safetensors", "config.json", "preprocessor_config.json"]
    shard(folder)
    (folder / "model.safetensors").unlink(missing_ok=True)
    names = [path.name for path in checkpoint_files(folder)]
    shards = ["a.safetensors", "b.safetensors"]
    configs = ["config.json", "preprocessor_config.json"]
    assert names == ["model.safetensors.index.json", *shards, *configs]


def test_sharded_folder(folder) -> None:
    index = shard(folder)
    assert_same(reload(folder), random_model(VIT))
    assert checkpoint_path(folder) == index


@pytest.mark.parametrize("name", ["../outside.safetensors", "missing.safetensors", "."])
def test_shards_elsewhere_are_refused(folder, name) -> None:
    index = shard(folder)
    save_file({"x": torch.zeros(1)}, folder.parent / "outside.safetensors")
    weight_map = json.loads(index.read_text())["weight_map"] | {"logit_scale": name}
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(RuntimeError, match="no file beside it"):
        reload(folder)


def test_position_ids_of_old_files_are_ignored(folder) -> None:
    tensors = load_file(folder / "model.safetensors")
    ids = {"text_model.embeddings.position_ids": torch.arange(20)[None]}
    save_file(tensors | ids, folder / "model.safetensors")
    assert_same(reload(folder), random_model(VIT))


def test_pickled_weights_of_old_folders(folder) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert_same(reload(folder), random_model(VIT))


def test_hidden_act_decides(folder) -> None:
    edit_config(folder, "text_config", hidden_act="gelu")
    with pytest.raises(RuntimeError, match="hidden_act must be"):
        reload(folder)
    edit_config(folder, "vision_config", hidden_act="gelu")
    assert not reload(folder).config.quick_gelu
    assert reload(folder, quick_gelu=True).config.quick_gelu
    for section in ("text_config", "vision_config"):
        edit_config(folder, section, hidden_act="gelu_pytorch_tanh")
    with pytest.raises(RuntimeError, match="gelu_pytorch_tanh"):
        reload(folder)


def test_what_cannot_be_computed_is_refused(folder) -> None:
    edit_config(folder, "vision_config", num_attention_heads=3)
    with pytest.raises(RuntimeError, match="an image tower's width, 64, in 3 heads"):
        reload(folder)
    edit_config(folder, "vision_config", num_attention_heads=1, layer_norm_eps=1e-6)
    with pytest.raises(RuntimeError, match="layer_norm_eps"):
        reload(folder)
    (folder / "config.json").unlink()
    with pytest.raises(RuntimeError, match=r"config.json is missing"):
        reload(folder)


def test_empty_folder(tmp_path) -> None:
    with pytest.raises(RuntimeError, match="holds none of model.safetensors"):
        clip_model.load(tmp_path)


# --- Names, and OpenAI's signature ----------------------------------------------------------------


def test_unknown_name_has_the_text_of_openai() -> None:
    names = clip_model.available_models()
    assert set(names) == {"starter", *ARCHITECTURES}
    expected = f"Model ViT-Z/1 not found; available models = {names}"
    with pytest.raises(RuntimeError, match=f"^{re.escape(expected)}$"):
        clip_model.load("ViT-Z/1")


def test_jit_is_refused() -> None:
    with pytest.raises(RuntimeError, match="jit=True would run the program"):
        clip_model.load("starter", "cpu", True)


# --- Another resolution -----------------------------------------------------------------------


@TOWERS
def test_resized_positions(config, tmp_path) -> None:
    model = random_model(config)
    side = config.image_resolution * 2
    resized = resize_positions(model, side)
    assert resized.config == replace(config, image_resolution=side)
    assert resized.visual.input_resolution == side
    assert resized.encode_image(torch.randn(1, 3, side, side)).shape == (1, 32)
    assert_same(model, random_model(config))  # what was given is as it was
    clip_model.save(resized, tmp_path / "resized.pt", "openai")
    assert_same(reload(tmp_path / "resized.pt"), resized)
    state = resize_positions(model.state_dict(), side)
    assert all(torch.equal(state[name], t) for name, t in resized.state_dict().items())


def positions(model: CLIP) -> Tensor:
    return model.get_parameter("visual.positional_embedding")


def test_resampling_keeps_the_class_token_and_a_constant() -> None:
    model = random_model(VIT)
    with torch.no_grad():
        positions(model)[1:] = 0.5
    old, new = positions(model), positions(resize_positions(model, 56))
    assert new.shape == (50, 64)
    assert torch.equal(new[0], old[0])
    torch.testing.assert_close(new[1:], torch.full((49, 64), 0.5))


def test_positions_are_those_of_places_between_and_stand_in_rows() -> None:
    """A slope along the rows stays one: each new place lies between its neighbours."""
    model = random_model(VIT)
    old_side, new_side = VIT.image_resolution // 8, 2 * VIT.image_resolution // 8
    slope = torch.arange(old_side, dtype=torch.float32)
    with torch.no_grad():
        positions(model)[1:] = slope.repeat(old_side)[:, None]
    new = positions(resize_positions(model, 2 * VIT.image_resolution))
    rows = new[1:, 0].view(new_side, new_side)
    torch.testing.assert_close(rows, rows[:1].expand_as(rows))
    inside = rows[0, 2:-2]
    expected = (torch.arange(2, new_side - 2) + 0.5) / 2 - 0.5
    torch.testing.assert_close(inside, expected, atol=0.1, rtol=0)
    assert (rows[0].diff() > 0).all()


def test_same_resolution_changes_nothing() -> None:
    model = random_model(RESNET)
    assert_same(resize_positions(model, 64), model)


@pytest.mark.parametrize("resolution", [0, 4, 33])
def test_resolution_must_be_whole_patches(resolution) -> None:
    with pytest.raises(ValueError, match="not a multiple of 8"):
        resize_positions(CLIP(VIT), resolution)
