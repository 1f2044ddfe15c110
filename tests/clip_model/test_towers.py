"""The towers beyond the plain ones: bags of words, checkpointing, compiling, narrow types,
patch dropout."""

from __future__ import annotations

import copy

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn import functional as F

from clip_model import CLIP, ClipConfig, contrastive_loss, tokenize
from clip_model.compilation import compile_blocks
from clip_model.config import ModifiedResNetConfig, TextConfig, VisionTransformerConfig
from clip_model.model import convert_weights, trim
from clip_model.resnet import Bottleneck
from clip_model.vision_transformer import VisionTransformer, kept_patches

TEXT = TextConfig(width=64, layers=2, heads=2)
BAG = TextConfig(width=64, kind="cbow")
VIT = ClipConfig(32, 32, VisionTransformerConfig(2, 64, 8), TEXT)
RESNET = ClipConfig(32, 64, ModifiedResNetConfig((2, 1, 1, 1), 8), TEXT)
WORDS = ClipConfig(32, 32, VisionTransformerConfig(1, 64, 8), BAG)
CAPTIONS = ["a cat", "a rather longer caption about two dogs and a bone", "sea"]
EVERY_KIND = pytest.mark.parametrize("config", [VIT, RESNET, WORDS], ids=["vit", "resnet", "cbow"])


def built(config: ClipConfig) -> CLIP:
    torch.manual_seed(0)
    model = CLIP(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bn3.weight"):
            torch.nn.init.ones_(parameter)  # else each block of the ResNet is its shortcut
    return model


def random_images(model: CLIP, count: int = 3) -> torch.Tensor:
    resolution = model.config.image_resolution
    return torch.randn(count, 3, resolution, resolution)


def test_bag_of_words_is_the_mean_of_the_captions_tokens() -> None:
    model = built(WORDS).eval()
    ids = [49406, 320, 2368, 49407]  # start, a, cat, end
    expected = model.token_embedding(torch.tensor(ids)).mean(dim=0) @ model.text_projection
    torch.testing.assert_close(model.encode_text(tokenize(CAPTIONS))[0], expected)


def test_bag_of_words_ignores_order_and_padding() -> None:
    model = built(WORDS).eval()
    features = model.encode_text(tokenize(["red cat", "cat red", "blue cat"]))
    torch.testing.assert_close(features[0], features[1])
    assert (features[0] - features[2]).abs().max() > 1e-5
    torch.testing.assert_close(model.encode_text(tokenize(["red cat"], 5))[0], features[0])


def test_bag_of_words_has_an_embedding_and_a_projection_only() -> None:
    text = {name for name in built(WORDS).state_dict() if not name.startswith("visual.")}
    assert text == {"token_embedding.weight", "text_projection", "logit_scale"}


def test_bag_of_words_survives_json_types() -> None:
    assert ClipConfig.from_dict(WORDS.to_dict()) == WORDS


def test_unknown_text_encoder_is_refused() -> None:
    fields = WORDS.to_dict()
    fields["text"]["kind"] = "rnn"
    with pytest.raises(ValueError, match="rnn"):
        ClipConfig.from_dict(fields)


@EVERY_KIND
def test_checkpointing_changes_neither_gradients_nor_statistics(config: ClipConfig) -> None:
    plain = built(config).train()
    checkpointed = copy.deepcopy(plain)
    checkpointed.set_grad_checkpointing()
    images, texts = random_images(plain), tokenize(CAPTIONS)
    for model in (plain, checkpointed):
        features = model.encode_image(images), model.encode_text(texts)
        contrastive_loss(*features, model.logit_scale).backward()
    for (name, one), other in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        assert one.grad is not None, name
        assert other.grad is not None, name
        assert torch.equal(one.grad, other.grad), name
    for (name, before), after in zip(plain.named_buffers(), checkpointed.buffers(), strict=True):
        assert torch.equal(before, after), name


@EVERY_KIND
def test_checkpointing_keeps_less(config: ClipConfig) -> None:
    model = built(config).train()
    images, texts = random_images(model), tokenize(CAPTIONS)
    everything = _bytes_kept(model, images, texts)
    model.set_grad_checkpointing()
    assert _bytes_kept(model, images, texts) < 0.8 * everything
    model.set_grad_checkpointing(False)
    assert _bytes_kept(model, images, texts) == everything


def _bytes_kept(model: CLIP, images: torch.Tensor, texts: torch.Tensor) -> int:
    kept = 0

    def count(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += 0 if isinstance(tensor, torch.nn.Parameter) else tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        model.encode_image(images)
        model.encode_text(texts)
    return kept


@EVERY_KIND
def test_both_towers_compile_without_a_graph_break(config: ClipConfig) -> None:
    model = built(config).eval()
    images, texts = random_images(model), tokenize(CAPTIONS)
    torch.compiler.reset()
    image_tower = torch.compile(model.encode_image, fullgraph=True, backend="aot_eager")
    text_tower = torch.compile(model.encode_text, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(image_tower(images), model.encode_image(images))
        expected = model.encode_text(texts)
        torch.testing.assert_close(text_tower(texts), expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(text_tower(trim(texts)), expected, rtol=1e-5, atol=1e-6)


@EVERY_KIND
def test_training_compiles_without_a_graph_break(config: ClipConfig) -> None:
    model = built(config).train()
    model.set_grad_checkpointing(not isinstance(config.vision, ModifiedResNetConfig))
    images, texts = random_images(model), trim(tokenize(CAPTIONS))

    @torch.compile(fullgraph=True, backend="aot_eager")
    def loss() -> torch.Tensor:
        return contrastive_loss(
            model.encode_image(images), model.encode_text(texts), model.logit_scale
        )

    torch.compiler.reset()
    loss().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@EVERY_KIND
@pytest.mark.parametrize("checkpointed", [False, True], ids=["", "checkpointed"])
def test_blocks_that_are_compiled_learn_the_same_by_one_graph_of_a_shape(
    config: ClipConfig, checkpointed: bool
) -> None:
    plain = built(config).train()
    plain.set_grad_checkpointing(checkpointed)
    compiled = copy.deepcopy(plain)
    torch.compiler.reset()
    graphs = CompileCounterWithBackend("aot_eager")
    compile_blocks(compiled, graphs)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    images, texts = random_images(plain), trim(tokenize(CAPTIONS))
    for _ in range(2):
        for model in (plain, compiled):
            features = model.encode_image(images), model.encode_text(texts)
            contrastive_loss(*features, model.logit_scale).backward()
    for (name, one), other in zip(plain.named_parameters(), compiled.parameters(), strict=True):
        assert one.grad is not None, name
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-4, atol=1e-6, msg=name)
    for (name, before), after in zip(plain.named_buffers(), compiled.buffers(), strict=True):
        torch.testing.assert_close(after, before, msg=name)
    of_text = config.text.kind == "transformer"
    of_images = sum(isinstance(m, Bottleneck) for m in plain.modules()) or 1
    if checkpointed and of_images > 1:
        of_images *= 2  # the second time, BatchNorms rest
    assert graphs.frame_count == of_images + of_text
    with torch.inference_mode():
        for model in (plain, compiled):
            model.eval()
        torch.testing.assert_close(
            compiled.encode_text(texts), plain.encode_text(texts), rtol=1e-5, atol=1e-6
        )
        longer = F.pad(texts, (0, 3))
        torch.testing.assert_close(
            compiled.encode_text(longer), plain.encode_text(texts), rtol=1e-5, atol=1e-6
        )
    assert graphs.frame_count == of_images + 3 * of_text, "what is longer is another shape"


def test_trim_keeps_the_longest_caption() -> None:
    tokens = tokenize(CAPTIONS)
    trimmed = trim(tokens)
    assert trimmed.shape == (3, 12)
    assert torch.equal(trimmed, tokens[:, :12])
    assert trim(tokens[:0]).shape == (0, 77)


@EVERY_KIND
def test_bfloat16_on_cpu(config: ClipConfig) -> None:
    model = built(config).eval()
    images, texts = random_images(model), tokenize(CAPTIONS)
    mixed = copy.deepcopy(model)
    convert_weights(mixed, torch.bfloat16)
    with torch.inference_mode():
        exact = torch.cat([model.encode_image(images), model.encode_text(texts)])
        for narrow in (copy.deepcopy(model).to(torch.bfloat16), mixed):
            features = torch.cat([narrow.encode_image(images), narrow.encode_text(texts)])
            assert features.dtype == torch.bfloat16
            assert F.cosine_similarity(features.float(), exact).min() > 0.999
            assert narrow(images, texts)[0].isfinite().all()


def test_float16_is_refused_on_a_cpu() -> None:
    model = built(VIT).half()
    with pytest.raises(RuntimeError, match="float16 model does not run on a CPU.*bfloat16"):
        model.encode_text(tokenize(CAPTIONS))
    with pytest.raises(RuntimeError, match="float16"):
        model.encode_image(random_images(model))


def test_patches_are_left_out_in_training_only_and_others_each_time() -> None:
    model = built(VIT)
    images = random_images(model, 2)
    whole = model.encode_image(images)
    model.set_patch_dropout(0.5)
    some = [model.encode_image(images) for _ in range(2)]
    assert not torch.allclose(some[0], some[1])
    assert not torch.allclose(some[0], whole)
    torch.manual_seed(5)
    first = model.encode_image(images)
    torch.manual_seed(5)
    assert torch.equal(model.encode_image(images), first)
    assert torch.equal(model.eval().encode_image(images), whole)


def test_what_is_kept_are_the_class_token_and_different_patches_of_each_image() -> None:
    model = built(VIT).visual
    assert isinstance(model, VisionTransformer)
    model.patch_dropout = 0.5
    seen: list[torch.Tensor] = []
    model.ln_pre.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    image = torch.randn(1, 3, 32, 32)
    model(image.expand(8, -1, -1, -1))
    model.eval()(image)
    kept, whole = seen[0], seen[1][0]
    patches = len(whole) - 1
    assert kept.shape[1] == 1 + patches // 2
    places = [[int((whole == token).all(1).nonzero()) for token in tokens] for tokens in kept]
    assert all(chosen[0] == 0 and len(set(chosen)) == len(chosen) for chosen in places)
    assert len({tuple(sorted(chosen)) for chosen in places}) > 1


def test_one_patch_is_kept_at_least_and_a_resnet_has_none() -> None:
    assert [kept_patches(4, share) for share in (0.0, 0.5, 0.99)] == [4, 2, 1]
    with pytest.raises(ValueError, match="no patches"):
        built(RESNET).set_patch_dropout(0.5)
