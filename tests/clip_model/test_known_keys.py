"""Every key that open_clip's and transformers' CLIPs know is obeyed, equal to ours, or refused.

For each: another value than the default. What loads has their features; what does not is refused
by the key's name. A key that a new version knows makes a test fail until it stands here.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

import clip_model
from benchmarks.baselines import open_clip_model
from clip_model import (
    CLIP,
    _torchvision,  # noqa: F401
)
from clip_model.config import ClipConfig, TextConfig, VisionTransformerConfig
from clip_model.open_clip import mlp_ratio
from tests.clip_model.test_checkpoint_formats import reload

import open_clip  # isort: skip
import transformers  # isort: skip
from open_clip.transform import PreprocessCfg  # isort: skip

TEXT = TextConfig(width=128, layers=2, heads=2, context_length=20, vocab_size=300)
CONFIG = ClipConfig(32, 32, VisionTransformerConfig(2, 64, 8), TEXT)
TOKENS = torch.tensor([[298, 5, 7, 299, *[0] * 16], [298, 9, 299, *[0] * 17]])
LOADS, REFUSED = "loads", "refused"

Features = tuple[Tensor, Tensor]

# Those with other heads that are in all else towers of this project.
OPEN_CLIP_CONFIGS = [
    path
    for path in (Path(open_clip.__file__).parent / "model_configs").glob("ViT-*14.json")
    if "head_width" in path.read_text() and "hf_tokenizer_name" not in path.read_text()
]


def random_model(config: ClipConfig) -> CLIP:
    """No gain is 1, no bias 0, and nothing is so large that roundings grow."""
    torch.manual_seed(0)
    model = CLIP(config).eval()
    for tensor in model.state_dict().values():
        tensor.add_(torch.randn_like(tensor) / 50)
    return model


def close(ours: Features, theirs: Features) -> bool:
    return all(
        torch.allclose(a, b, rtol=0, atol=1e-5 * float(b.abs().max()))
        for a, b in zip(ours, theirs, strict=True)
    )


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def our_features(folder: Path, images: Tensor) -> Features:
    model = reload(folder)
    with torch.inference_mode():
        return model.encode_image(images), model.encode_text(TOKENS)


# --- open_clip ----------------------------------------------------------------------------------

#: Of both towers.
TOWER: dict[str, tuple[Any, str]] = {
    "layers": (3, REFUSED),
    "mlp_ratio": (2.0, REFUSED),
    "ls_init_value": (0.1, REFUSED),
    "final_ln_after_pool": (True, LOADS),
    "output_tokens": (True, REFUSED),
    "act_kwargs": ({"approximate": "tanh"}, REFUSED),
    "norm_kwargs": ({"eps": 1e-3}, REFUSED),
    "block_type": ("custom", REFUSED),
    "qk_norm": (True, REFUSED),
    "scaled_cosine_attn": (True, REFUSED),
    "scale_heads": (True, REFUSED),
    "scale_attn_inner": (True, REFUSED),
    "scale_attn": (True, REFUSED),
    "scale_fc": (True, REFUSED),
}
VISION: dict[str, tuple[Any, str]] = {
    **TOWER,
    "width": (128, REFUSED),
    "head_width": (32, LOADS),
    "patch_size": (16, REFUSED),
    "image_size": (64, REFUSED),
    "patch_dropout": (0.5, LOADS),
    "attentional_pool": (True, REFUSED),
    "attn_pooler_queries": (64, LOADS),
    "attn_pooler_heads": (4, LOADS),
    "no_ln_pre": (True, REFUSED),
    "pos_embed_type": ("sin_cos_2d", REFUSED),
    "pool_type": ("avg", REFUSED),
    "timm_model_name": ("vit_tiny_patch16_224", REFUSED),
    "timm_model_pretrained": (True, LOADS),
    "timm_pool": ("map", LOADS),
    "timm_proj": ("mlp", LOADS),
    "timm_proj_bias": (True, LOADS),
    "timm_drop": (0.5, LOADS),
    "timm_drop_path": (0.5, LOADS),
}
WORDS: dict[str, tuple[Any, str]] = {
    **TOWER,
    "context_length": (77, REFUSED),
    "vocab_size": (49408, REFUSED),
    "hf_tokenizer_name": ("bert-base-uncased", REFUSED),
    "tokenizer_mode": ("canonicalize", REFUSED),
    "tokenizer_kwargs": ({"clean": "whitespace"}, REFUSED),
    "width": (64, REFUSED),
    "heads": (4, LOADS),
    "embed_cls": (True, REFUSED),
    "pad_id": (1, LOADS),
    "eos_id": (299, LOADS),
    "no_causal_mask": (True, LOADS),
    "pool_type": ("eos", REFUSED),
    "proj_bias": (True, REFUSED),
    "proj_type": ("none", REFUSED),
    "hf_model_name": ("roberta-base", REFUSED),
    "hf_model_pretrained": (False, LOADS),
    "hf_proj_type": ("linear", LOADS),
    "hf_pooler_type": ("cls_pooler", LOADS),
}
MODEL: dict[str, tuple[Any, str]] = {
    "embed_dim": (64, REFUSED),
    "quick_gelu": (True, LOADS),
    "init_logit_scale": (1.0, LOADS),
    "init_logit_bias": (-10.0, REFUSED),
    "nonscalar_logit_scale": (True, LOADS),
    "cast_dtype": (None, LOADS),
    "output_dict": (True, LOADS),
    # not of the class, but of the files
    "custom_text": (True, LOADS),
    "multimodal_cfg": ({"width": 64}, REFUSED),
    "anything_else": (1, REFUSED),
}
PREPROCESS: dict[str, tuple[Any, str]] = {
    "size": (64, REFUSED),
    "mode": ("L", REFUSED),
    "mean": ([0.5, 0.5, 0.5], LOADS),
    "std": ([0.5, 0.5, 0.5], LOADS),
    "interpolation": ("bilinear", LOADS),
    "resize_mode": ("squash", LOADS),
    "fill_color": (255, LOADS),
    "anything_else": (1, REFUSED),
}
OPEN_CLIP = {"": MODEL, "vision_cfg": VISION, "text_cfg": WORDS, "preprocess_cfg": PREPROCESS}


def test_every_key_of_open_clip_stands_here() -> None:
    parts = {"vision_cfg": open_clip.CLIPVisionCfg, "text_cfg": open_clip.CLIPTextCfg}
    for name, part in (parts | {"preprocess_cfg": PreprocessCfg}).items():
        fields = {field.name for field in dataclasses.fields(part)}
        assert fields == OPEN_CLIP[name].keys() - {"anything_else"}
    parameters = inspect.signature(open_clip.CLIP.__init__).parameters.keys()
    of_files = {"custom_text", "multimodal_cfg", "anything_else"}
    assert parameters - {"self", "vision_cfg", "text_cfg"} == MODEL.keys() - of_files


def open_clip_folder(path: Path, part: str, changes: dict[str, Any]) -> dict[str, Any]:
    clip_model.save(random_model(CONFIG), path, "open_clip")
    weights = path / "open_clip_model.safetensors"
    save_file(load_file(weights), weights)  # without what `save` says in it
    fields: dict[str, Any] = json.loads((path / "open_clip_config.json").read_text())
    fields["model_cfg"]["quick_gelu"] = False
    model = fields["model_cfg"]
    section = fields[part] if part == "preprocess_cfg" else model[part] if part else model
    section.update(changes)
    (path / "open_clip_config.json").write_text(json.dumps(fields))
    return fields


def open_clips_features(fields: dict[str, Any], images: Tensor) -> Features:
    model_cfg = fields["model_cfg"] | {"output_dict": False}
    custom = model_cfg.pop("custom_text", False)
    state = random_model(CONFIG).state_dict()
    if custom:
        state = {n if n[:5] in ("visua", "logit") else f"text.{n}": t for n, t in state.items()}
    if model_cfg.get("nonscalar_logit_scale"):
        state["logit_scale"] = state["logit_scale"][None]
    model = (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**model_cfg).eval()
    model.load_state_dict(state)
    with torch.inference_mode():
        return model.encode_image(images), model.encode_text(TOKENS)


@pytest.mark.parametrize(
    ("part", "key"), [(part, key) for part, keys in OPEN_CLIP.items() for key in keys]
)
def test_keys_of_open_clip(part, key, images, tmp_path) -> None:
    value, outcome = OPEN_CLIP[part][key]
    fields = open_clip_folder(tmp_path / "x", part, {key: value})
    if outcome == REFUSED:
        with pytest.raises(RuntimeError, match=f"{key}'"):
            reload(tmp_path / "x")
    else:
        assert close(our_features(tmp_path / "x", images), open_clips_features(fields, images))


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("text_cfg", "heads", "8"),
        ("text_cfg", "heads", 0),
        ("text_cfg", "heads", -2),
        ("text_cfg", "heads", 10**30),
        ("text_cfg", "heads", None),
        ("text_cfg", "layers", True),
        ("text_cfg", "no_causal_mask", "no"),
        ("vision_cfg", "head_width", [64]),
        ("", "quick_gelu", "no"),
        ("", "quick_gelu", 1),
        ("", "vision_cfg", [1]),
        ("", "text_cfg", "x"),
        ("preprocess_cfg", "mean", 5),
        ("preprocess_cfg", "mean", None),
        ("preprocess_cfg", "mean", [float("nan")] * 3),
        ("preprocess_cfg", "std", [0.0] * 3),
        ("preprocess_cfg", "std", [0.5] * 4),
        ("preprocess_cfg", "interpolation", "nearest"),
        ("preprocess_cfg", "resize_mode", "longest"),
    ],
)
def test_values_of_the_wrong_type(part, key, value, tmp_path) -> None:
    open_clip_folder(tmp_path / "x", part, {key: value})
    with pytest.raises(RuntimeError, match=rf"{key}|number|heads"):
        reload(tmp_path / "x")


def test_absent_heads_are_open_clips_eight(images, tmp_path) -> None:
    fields = open_clip_folder(tmp_path / "x", "", {})
    del fields["model_cfg"]["text_cfg"]["heads"]
    (tmp_path / "x" / "open_clip_config.json").write_text(json.dumps(fields))
    assert close(our_features(tmp_path / "x", images), open_clips_features(fields, images))


@pytest.mark.parametrize("width", [96, 1280])
def test_heads_that_shapes_do_not_tell_must_be_told(width, tmp_path) -> None:
    """open_clip's ViT-H/14 is 1280 wide with 16 heads of 80, its ViT-L/14 1024 with 16 of 64."""
    config = dataclasses.replace(CONFIG, text=TextConfig(width, 1, 2, 20, 300))
    state = random_model(config).state_dict()
    save_file(state, tmp_path / "lone.safetensors")
    with pytest.raises(RuntimeError, match=r"how many heads .* heads=\(image tower's, text"):
        reload(tmp_path / "lone.safetensors", quick_gelu=True)
    told = reload(tmp_path / "lone.safetensors", quick_gelu=True, heads=(1, 2))
    assert told.config == config
    told = reload(tmp_path / "lone.safetensors", quick_gelu=True, heads=(2, 4))
    assert (told.config.vision.heads, told.config.text.heads) == (2, 4)
    for wrong in [(3, 2), (1, 7), (0, 2), (128, 2), (-1, 2)]:
        with pytest.raises(RuntimeError, match=r"heads"):
            reload(tmp_path / "lone.safetensors", quick_gelu=True, heads=wrong)
    clip_model.save(told, tmp_path / "own.safetensors")
    with pytest.raises(RuntimeError, match=r"\(1, 2\) heads were asked for, and .* \(2, 4\)"):
        reload(tmp_path / "own.safetensors", heads=(1, 2))


def big(head_width: int, mlp_ratio: float) -> ClipConfig:
    """A tower with heads and perceptrons like those of open_clip's large ones, two heads wide."""
    width = 2 * head_width
    tower = VisionTransformerConfig(2, width, 8, head_width, int(width * mlp_ratio))
    return dataclasses.replace(CONFIG, vision=tower)


BIG = pytest.mark.parametrize(
    "config",
    [big(80, 4), big(88, 4.3637), big(104, 4.9231), big(112, 8.5715)],
    ids=["H", "g", "bigG", "e"],
)


@BIG
def test_large_towers_have_other_heads_and_perceptrons(config, images, tmp_path) -> None:
    model = random_model(config)
    with torch.inference_mode():
        expected = model.encode_image(images), model.encode_text(TOKENS)
    theirs: Any = open_clip_model(config)
    theirs.load_state_dict(model.state_dict())
    with torch.inference_mode():
        assert close(expected, (theirs.encode_image(images), theirs.encode_text(TOKENS)))
    clip_model.save(model, tmp_path / "hf", "hugging_face")
    assert close(expected, transformers_features(tmp_path / "hf", images))
    clip_model.save(model, tmp_path / "open_clip", "open_clip")
    weights = tmp_path / "open_clip" / "open_clip_model.safetensors"
    save_file(load_file(weights), weights)  # without what `save` says in it
    clip_model.save(model, tmp_path / "own.safetensors", half=False)
    for name in ("hf", "open_clip", "own.safetensors"):
        loaded = reload(tmp_path / name)
        assert loaded.config == config
        assert close(our_features(tmp_path / name, images), expected)
    save_file(model.state_dict(), tmp_path / "lone.safetensors")
    lone = reload(tmp_path / "lone.safetensors", quick_gelu=True, heads=(2, TEXT.heads))
    assert lone.config == config


@pytest.mark.parametrize("path", sorted(OPEN_CLIP_CONFIGS), ids=lambda path: path.stem)
def test_configurations_of_open_clips_large_towers(path, tmp_path) -> None:
    """What open_clip says of its ViT-H, g, bigG and e, with a small model's other numbers."""
    model_cfg = json.loads(path.read_text())
    vision = model_cfg["vision_cfg"]
    heads = vision["width"] // vision["head_width"]
    width = 2 * vision["head_width"]
    assert heads == 16
    small = big(vision["head_width"], vision.get("mlp_ratio", 4))
    clip_model.save(random_model(small), tmp_path / "x", "open_clip")
    weights = tmp_path / "x" / "open_clip_model.safetensors"
    save_file(load_file(weights), weights)
    vision |= {"width": width, "layers": 2, "image_size": 32, "patch_size": 8}
    text = {"context_length": 20, "vocab_size": 300, "width": 128, "heads": 2, "layers": 2}
    model_cfg |= {"embed_dim": 32, "text_cfg": model_cfg["text_cfg"] | text}
    (tmp_path / "x" / "open_clip_config.json").write_text(json.dumps(model_cfg))
    model = reload(tmp_path / "x")
    assert model.config == dataclasses.replace(small, quick_gelu=model_cfg.get("quick_gelu", False))


@pytest.mark.parametrize("ratio", [0, -4, 4.02, 3.99, "4", None, True, 1e308, float("nan")])
def test_a_ratio_that_does_not_make_the_width_is_refused(ratio, tmp_path) -> None:
    open_clip_folder(tmp_path / "x", "vision_cfg", {"mlp_ratio": ratio})
    with pytest.raises(RuntimeError, match="'mlp_ratio' must make 256"):
        reload(tmp_path / "x")


@given(st.integers(1, 5000), st.integers(1, 50_000))
def test_the_ratio_that_is_written_makes_the_width(width, mlp_width) -> None:
    tower = VisionTransformerConfig(1, width, 1, head_width=width, mlp_width=mlp_width)
    assert int(width * mlp_ratio(tower)) == mlp_width


# --- transformers -------------------------------------------------------------------------------

HF_BOTH: dict[str, tuple[Any, str]] = {
    "hidden_size": (256, REFUSED),
    "intermediate_size": (64, REFUSED),
    "projection_dim": (64, LOADS),  # of the tables: the one at the top counts
    "num_hidden_layers": (3, REFUSED),
    "hidden_act": ("gelu", REFUSED),  # in one tower
    "layer_norm_eps": (1e-6, REFUSED),
    "attention_dropout": (0.5, LOADS),
    "initializer_range": (1.0, LOADS),
    "initializer_factor": (2.0, LOADS),
    "is_decoder": (True, LOADS),  # of an early version
    "quantization_config": ({"bits": 4}, REFUSED),
    "anything_else": (1, REFUSED),
}
HF_TEXT = HF_BOTH | {
    "num_attention_heads": (4, LOADS),
    "vocab_size": (49408, REFUSED),
    "max_position_embeddings": (77, REFUSED),
    "pad_token_id": (5, LOADS),
    "bos_token_id": (5, LOADS),
    "eos_token_id": (5, REFUSED),
    "model_type": ("siglip_text_model", REFUSED),
}
HF_VISION = HF_BOTH | {
    "num_attention_heads": (4, LOADS),
    "num_channels": (1, REFUSED),
    "image_size": (64, REFUSED),
    "patch_size": (16, REFUSED),
    "model_type": ("siglip_vision_model", REFUSED),
}
HF_TOP: dict[str, tuple[Any, str]] = {
    "projection_dim": (64, REFUSED),
    "logit_scale_init_value": (1.0, LOADS),
    "initializer_factor": (2.0, LOADS),
    "model_type": ("metaclip_2", REFUSED),
    "anything_else": (1, REFUSED),
}
PROCESSOR: dict[str, tuple[Any, str]] = {
    "do_convert_rgb": (False, REFUSED),
    "do_resize": (False, REFUSED),
    "size": ({"shortest_edge": 64}, REFUSED),
    "default_to_square": (True, REFUSED),
    "resample": (2, REFUSED),
    "do_rescale": (False, REFUSED),
    "rescale_factor": (1 / 127.5, REFUSED),
    "do_normalize": (False, REFUSED),
    "image_mean": ([0.5] * 3, REFUSED),
    "image_std": ([0.5] * 3, REFUSED),
    "do_center_crop": (False, REFUSED),
    "crop_size": ({"height": 32, "width": 48}, REFUSED),
    "do_pad": (True, REFUSED),
    "pad_size": ({"height": 40, "width": 40}, REFUSED),
    "disable_grouping": (True, LOADS),
    "data_format": ("channels_first", LOADS),
    "input_data_format": (None, LOADS),
    "return_tensors": ("pt", LOADS),
    "device": ("cpu", LOADS),
    "image_seq_length": (5, LOADS),
    "image_processor_type": ("SiglipImageProcessor", REFUSED),
    "anything_else": (1, REFUSED),
}
HF_SIZES: list[Any] = [32, {"shortest_edge": 32}, [32, 32]]
TRANSFORMERS = {"": HF_TOP, "text_config": HF_TEXT, "vision_config": HF_VISION}


def test_every_key_of_transformers_stands_here() -> None:
    generic = set(transformers.PreTrainedConfig().to_dict())
    parts = [("text_config", transformers.CLIPTextConfig)]
    parts += [("vision_config", transformers.CLIPVisionConfig), ("", transformers.CLIPConfig)]
    for name, part in parts:
        own = set(part().to_dict()) - generic - {"text_config", "vision_config"}
        assert own <= TRANSFORMERS[name].keys()
    assert set(transformers.CLIPImageProcessor.valid_kwargs.__annotations__) <= PROCESSOR.keys()


def hugging_face_folder(path: Path, section: str, changes: dict[str, Any]) -> None:
    clip_model.save(random_model(CONFIG), path, "hugging_face")
    fields = json.loads((path / "config.json").read_text())
    (fields[section] if section else fields).update(changes)
    (path / "config.json").write_text(json.dumps(fields))


def transformers_features(folder: Path, images: Tensor) -> Features:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = transformers.CLIPModel.from_pretrained(folder, local_files_only=True).eval()
    with torch.inference_mode():
        pooled = model.vision_model(images).pooler_output, model.text_model(TOKENS).pooler_output
        return model.visual_projection(pooled[0]), model.text_projection(pooled[1])


@pytest.mark.parametrize(
    ("section", "key"), [(part, key) for part, keys in TRANSFORMERS.items() for key in keys]
)
def test_keys_of_transformers(section, key, images, tmp_path) -> None:
    value, outcome = TRANSFORMERS[section][key]
    hugging_face_folder(tmp_path, section, {key: value})
    if outcome == REFUSED:
        name = "model of type" if (section, key) == ("", "model_type") else key
        with pytest.raises(RuntimeError, match=name):
            reload(tmp_path)
    else:
        assert close(our_features(tmp_path, images), transformers_features(tmp_path, images))


def test_what_transformers_itself_writes_loads(images, tmp_path) -> None:
    """All the generic keys that it writes are known."""
    hugging_face_folder(tmp_path / "ours", "", {})
    model = transformers.CLIPModel.from_pretrained(tmp_path / "ours", local_files_only=True)
    model.save_pretrained(tmp_path / "theirs")
    processor = transformers.CLIPImageProcessor.from_pretrained(tmp_path / "ours")
    processor.save_pretrained(tmp_path / "theirs")
    fields = json.loads((tmp_path / "theirs" / "config.json").read_text())
    whole = transformers.CLIPConfig(**fields).to_dict()  # the defaults too
    (tmp_path / "theirs" / "config.json").write_text(json.dumps(whole))
    features = transformers_features(tmp_path / "theirs", images)
    assert close(our_features(tmp_path / "theirs", images), features)


NUMBERS: list[Any] = [0, -1, 10**18, "8", 1e308, None, [1], True]
ACTIVATIONS: list[Any] = [["gelu"], None, 5, {}]
WRONG: list[tuple[str, str, Any]] = [
    *(("text_config", "num_attention_heads", value) for value in NUMBERS),
    *(("vision_config", "num_attention_heads", value) for value in NUMBERS),
    *(("text_config", "hidden_act", value) for value in ACTIVATIONS),
    ("vision_config", "layer_norm_eps", float("nan")),
    ("vision_config", "image_size", "32"),
    ("vision_config", "num_channels", True),
    ("", "text_config", [1]),
    ("", "vision_config", 0),
    ("", "model_type", ["clip"]),
]


@pytest.mark.parametrize(("section", "key", "value"), WRONG)
def test_values_of_the_wrong_type_for_transformers(section, key, value, tmp_path) -> None:
    hugging_face_folder(tmp_path, section, {key: value})
    with pytest.raises(RuntimeError):
        reload(tmp_path)


@pytest.mark.parametrize("nested", [False, True], ids=["of its own", "of the processor"])
@pytest.mark.parametrize("key", PROCESSOR)
def test_keys_of_image_processors(key, nested, tmp_path) -> None:
    value, outcome = PROCESSOR[key]
    clip_model.save(random_model(CONFIG), tmp_path, "hugging_face")
    path = tmp_path / "preprocessor_config.json"
    fields = json.loads(path.read_text()) | {key: value}
    path.unlink()
    if nested:
        path, fields = tmp_path / "processor_config.json", {"image_processor": fields}
    path.write_text(json.dumps(fields))
    if outcome == REFUSED:
        with pytest.raises(RuntimeError, match=rf"{path.name}.*'{key}'"):
            reload(tmp_path)
    else:
        reload(tmp_path)


@pytest.mark.parametrize("size", HF_SIZES)
def test_sizes_as_versions_write_them(size, tmp_path) -> None:
    clip_model.save(random_model(CONFIG), tmp_path, "hugging_face")
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"size": size, "crop_size": 32}))
    reload(tmp_path)
    path.write_text(json.dumps({"image_processor_type": "CLIPImageProcessor"}))
    with pytest.raises(RuntimeError, match="'size' must be 32, as the weights are, not 224"):
        reload(tmp_path)  # what its absence means
