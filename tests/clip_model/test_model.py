"""The towers: sizes of the paper's models, initialisation, and what each input may change."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from clip_model import ARCHITECTURES, CLIP, ClipConfig, tokenize
from clip_model.config import ModifiedResNetConfig, TextConfig, VisionTransformerConfig
from clip_model.transformer import Attention, QuickGELU

PARAMETERS = {
    "RN50": 102_007_137,
    "RN101": 119_688_033,
    "RN50x4": 178_300_601,
    "RN50x16": 290_979_217,
    "RN50x64": 623_258_305,
    "ViT-B/32": 151_277_313,
    "ViT-B/16": 149_620_737,
    "ViT-L/14": 427_616_513,
    "ViT-L/14@336px": 427_944_193,
}

TEXT = TextConfig(width=64, layers=2, heads=2)
SMALL_VIT = ClipConfig(32, 32, VisionTransformerConfig(2, 64, 8), TEXT)
SMALL_RESNET = ClipConfig(32, 64, ModifiedResNetConfig((1, 2, 1, 1), 8), TEXT)


@pytest.fixture(params=[SMALL_VIT, SMALL_RESNET], ids=["vit", "resnet"])
def model(request: pytest.FixtureRequest) -> CLIP:
    torch.manual_seed(0)
    return CLIP(request.param).eval()


def test_every_architecture_of_the_paper_is_there() -> None:
    assert ARCHITECTURES.keys() == PARAMETERS.keys()


@pytest.mark.parametrize(("name", "count"), PARAMETERS.items())
def test_parameter_counts(name: str, count: int) -> None:
    with torch.device("meta"):
        model = CLIP(ARCHITECTURES[name])
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_state_dict_names_are_openais() -> None:
    with torch.device("meta"):
        vit, resnet = CLIP(SMALL_VIT).state_dict(), CLIP(SMALL_RESNET).state_dict()
    assert {
        "visual.conv1.weight",
        "visual.class_embedding",
        "visual.positional_embedding",
        "visual.proj",
        "visual.ln_pre.weight",
        "visual.transformer.resblocks.1.mlp.c_fc.bias",
        "visual.ln_post.bias",
        "transformer.resblocks.0.attn.in_proj_weight",
        "transformer.resblocks.0.attn.in_proj_bias",
        "transformer.resblocks.0.attn.out_proj.weight",
        "transformer.resblocks.0.ln_1.weight",
        "transformer.resblocks.1.mlp.c_proj.weight",
        "token_embedding.weight",
        "positional_embedding",
        "ln_final.weight",
        "text_projection",
        "logit_scale",
    } <= vit.keys()
    assert {
        "visual.conv3.weight",
        "visual.bn3.running_var",
        "visual.layer1.0.downsample.0.weight",
        "visual.layer2.1.conv2.weight",
        "visual.layer4.0.downsample.1.running_mean",
        "visual.attnpool.positional_embedding",
        "visual.attnpool.c_proj.weight",
    } <= resnet.keys()
    assert vit["visual.conv1.weight"].shape == (64, 3, 8, 8)
    assert vit["text_projection"].shape == (64, 32)


@pytest.mark.parametrize("config", [*ARCHITECTURES.values(), SMALL_VIT, SMALL_RESNET])
def test_configuration_survives_json_types(config: ClipConfig) -> None:
    assert ClipConfig.from_dict(config.to_dict()) == config


def test_unknown_tower_is_refused() -> None:
    fields = SMALL_VIT.to_dict()
    fields["vision"]["kind"] = "mixer"
    with pytest.raises(ValueError, match="mixer"):
        ClipConfig.from_dict(fields)


def test_initialisation() -> None:
    torch.manual_seed(0)
    text = TextConfig(width=128, layers=3, heads=2, vocab_size=49408)
    model = CLIP(ClipConfig(256, 64, ModifiedResNetConfig((1, 1, 1, 1), 16), text))
    weights = dict(model.named_parameters())
    block = "transformer.resblocks.2."
    expected = {
        "token_embedding.weight": 0.02,
        "positional_embedding": 0.01,
        "text_projection": 128**-0.5,
        block + "attn.in_proj_weight": 128**-0.5,
        block + "attn.out_proj.weight": 128**-0.5 * 6**-0.5,
        block + "mlp.c_fc.weight": 256**-0.5,
        block + "mlp.c_proj.weight": 128**-0.5 * 6**-0.5,
        "visual.attnpool.q_proj.weight": 512**-0.5,
        "visual.attnpool.c_proj.weight": 512**-0.5,
    }
    for name, std in expected.items():
        assert weights[name].std().item() == pytest.approx(std, rel=0.05), name
    assert not weights["visual.layer3.0.bn3.weight"].any()
    assert model.logit_scale.item() == pytest.approx(math.log(1 / 0.07))


def test_vit_initialisation() -> None:
    torch.manual_seed(0)
    model = CLIP(ClipConfig(256, 64, VisionTransformerConfig(1, 256, 8), TEXT))
    weights = dict(model.named_parameters())
    for name in ("visual.proj", "visual.positional_embedding", "visual.class_embedding"):
        assert weights[name].std().item() == pytest.approx(256**-0.5, rel=0.15), name


def test_shapes_and_logits(model: CLIP) -> None:
    resolution = model.config.image_resolution
    images, texts = torch.randn(3, 3, resolution, resolution), tokenize(["a cat", "a dog"])
    with torch.inference_mode():
        per_image, per_text = model(images, texts)
        image_features, text_features = model.encode_image(images), model.encode_text(texts)
    assert image_features.shape == (3, 32)
    assert text_features.shape == (2, 32)
    cosine = F.cosine_similarity(image_features[:, None], text_features[None], dim=-1)
    torch.testing.assert_close(per_image, cosine / 0.07)
    torch.testing.assert_close(per_text, per_image.t())


def test_trimming_is_exact(model: CLIP) -> None:
    captions = ["a cat", "a rather longer caption about two dogs and a bone", "sea"]
    full = tokenize(captions)
    with torch.inference_mode():
        together = model.encode_text(full)
        for length in (13, 20, 77):
            torch.testing.assert_close(model.encode_text(full[:, :length]), together)
        untrimmed = _encode_all_positions(model, full)
    torch.testing.assert_close(together, untrimmed, rtol=1e-5, atol=1e-6)


def _encode_all_positions(model: CLIP, text: torch.Tensor) -> torch.Tensor:
    """What encode_text computes, without the trimming."""
    x = model.token_embedding(text) + model.positional_embedding
    x = model.ln_final(model.transformer(x))
    return x[torch.arange(len(x)), text.argmax(dim=-1)] @ model.text_projection


def test_what_follows_the_end_token_does_not_matter(model: CLIP) -> None:
    text = tokenize(["a cat"])
    changed = text.clone()
    changed[0, 10:] = 320
    with torch.inference_mode():
        torch.testing.assert_close(model.encode_text(changed), model.encode_text(text))


def test_every_word_before_the_end_matters(model: CLIP) -> None:
    with torch.inference_mode():
        features = model.encode_text(tokenize(["red cat", "blue cat", "cat red"]))
    assert (features[0] - features[1]).abs().max() > 1e-5
    assert (features[0] - features[2]).abs().max() > 1e-5


def test_too_long_text_is_refused(model: CLIP) -> None:
    with pytest.raises(ValueError, match="78 tokens"):
        model.encode_text(torch.ones(1, 78, dtype=torch.long))


def test_attention_equals_the_frameworks() -> None:
    torch.manual_seed(0)
    ours, theirs = Attention(64, 4), torch.nn.MultiheadAttention(64, 4, batch_first=True)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 7, 64)
    mask = torch.full((7, 7), -torch.inf).triu(1)
    torch.testing.assert_close(ours(x), theirs(x, x, x, need_weights=False)[0])
    causal = theirs(x, x, x, attn_mask=mask, need_weights=False)[0]
    torch.testing.assert_close(ours(x, causal=True), causal)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="3 heads"):
        Attention(64, 3)


def test_quick_gelu_is_a_choice() -> None:
    x = torch.linspace(-3, 3, 7)
    torch.testing.assert_close(QuickGELU()(x), x / (1 + (-1.702 * x).exp()))
    exact = CLIP(ClipConfig(32, 32, SMALL_VIT.vision, TEXT, quick_gelu=False))
    kinds = {type(module) for module in exact.modules()}
    assert torch.nn.GELU in kinds
    assert QuickGELU not in kinds


def test_both_towers_learn(model: CLIP) -> None:
    from clip_model import contrastive_loss

    resolution = model.config.image_resolution
    images, texts = torch.randn(4, 3, resolution, resolution), tokenize(list("abcd"))
    model.train()
    loss = contrastive_loss(model.encode_image(images), model.encode_text(texts), model.logit_scale)
    loss.backward()
    unused = [name for name, p in model.named_parameters() if p.grad is None]
    assert unused == []
