"""What is computed, against PyTorch's own count of it."""

import math
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from clip_model.config import ARCHITECTURES, ClipConfig
from clip_model.flops import image_flops, peak_flops, step_flops, text_flops
from clip_model.model import CLIP

#: Of an image, in 1e9, as published for these models (a multiply-add is two).
KNOWN = {"ViT-B/32": 8.82, "ViT-B/16": 35.13, "ViT-L/14": 162.0, "ViT-L/14@336px": 381.9}


@pytest.mark.parametrize(("name", "billions"), KNOWN.items())
def test_the_papers_vits_cost_what_is_known(name, billions):
    assert image_flops(ARCHITECTURES[name]) / 1e9 == pytest.approx(billions, rel=2e-3)


def on_meta(config: ClipConfig) -> CLIP:
    with torch.device("meta"):
        return CLIP(config)


def counted(run) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@pytest.mark.parametrize("name", ["RN50", "RN101", "RN50x4", "RN50x64", "ViT-B/32"])
def test_the_towers_cost_what_pytorch_counts(name):
    config = ARCHITECTURES[name]
    model = on_meta(config)
    side, width = config.image_resolution, config.text.width
    image, tokens = (
        torch.empty(shape, device="meta") for shape in ((1, 3, side, side), (1, 32, width))
    )
    assert image_flops(config) == counted(lambda: model.encode_image(image))
    text = counted(lambda: model.transformer(tokens)[:, 0] @ model.text_projection)
    assert text_flops(config, 32) == text


def test_smaller_images_and_fewer_patches_cost_what_pytorch_counts():
    config = ARCHITECTURES["ViT-B/16"]
    smaller = on_meta(replace(config, image_resolution=112))
    smaller.set_patch_dropout(0.3)
    image = torch.empty(1, 3, 112, 112, device="meta")
    assert image_flops(config, 112, 0.3) == counted(lambda: smaller.encode_image(image))
    assert image_flops(config, 112) == counted(lambda: smaller.eval().encode_image(image))
    assert image_flops(config, 112, 0.3) < 0.75 * image_flops(config, 112)


def test_a_step_is_three_forward_passes_and_what_is_done_again():
    config = ARCHITECTURES["ViT-B/32"]
    pair = image_flops(config) + text_flops(config, 32)
    step = step_flops(config, 64, 32)
    similarities = 2 * 64 * 64 * 512
    assert step.model == 3 * (64 * pair + similarities)
    assert step.total == step.model + similarities
    once_more = step_flops(config, 64, 32, grad_checkpointing=True)
    twice_more = step_flops(config, 64, 32, grad_checkpointing=True, two_pass=True)
    assert once_more.model == twice_more.model == step.model
    assert once_more.again - step.again == twice_more.again - once_more.again == 64 * pair


def test_pytorch_counts_the_same_for_a_training_step():
    """But for the first layer, which has no gradient to pass on to the image."""
    config = ARCHITECTURES["ViT-B/32"]
    model = on_meta(config)
    image = torch.empty(2, 3, 224, 224, device="meta")
    both = counted(lambda: model.encode_image(image).sum().backward())
    first = 2 * 2 * 49 * 3 * 32**2 * 768
    assert both == 3 * 2 * image_flops(config) - first


@pytest.mark.parametrize("locked", ["image", "image_trunk", "text"])
@pytest.mark.parametrize("name", ["RN50", "ViT-B/32"])
def test_a_step_with_a_locked_tower_costs_what_pytorch_counts(name, locked):
    """But for the first layer of a tower that is trained."""
    config = ARCHITECTURES[name]
    model = on_meta(config).train()
    model.lock_part(locked)
    side, width = config.image_resolution, config.text.width
    image = torch.empty(2, 3, side, side, device="meta")
    tokens = torch.empty(2, 32, width, device="meta", requires_grad=locked != "text")

    def step():
        texts = model.transformer(tokens)[:, 0] @ model.text_projection
        (model.encode_image(image).sum() + texts.sum()).backward()

    step_of_one = step_flops(config, 1, 32, locked=locked)
    towers = step_of_one.model - 3 * 2 * config.embed_dim
    half = side // 2
    of_first = {"RN50": 2 * half**2 * 27 * 32, "ViT-B/32": 2 * 49 * 3 * 32**2 * 768}
    assert counted(step) == 2 * (towers - of_first[name] * (locked == "text"))
    assert towers < step_flops(config, 1, 32).model - 3 * 2 * config.embed_dim


def test_what_is_done_again_is_not_done_for_a_tower_that_is_locked():
    config = ARCHITECTURES["RN50"]
    image, text = 64 * image_flops(config), 64 * text_flops(config, 32)
    least = step_flops(config, 64, 32).again
    again = {
        locked: [
            step_flops(config, 64, 32, locked=locked, **{how: True}).again - least
            for how in ("grad_checkpointing", "two_pass")
        ]
        for locked in (None, "image", "image_trunk", "text")
    }
    assert again == {
        None: [image + text, image + text],
        "image": [text, text],
        "image_trunk": [text, image + text],
        "text": [image, image],
    }


def test_a_bag_of_words_costs_its_projection():
    config = ARCHITECTURES["RN50"]
    cbow = replace(config, text=replace(config.text, kind="cbow"))
    assert text_flops(cbow) == 2 * 512 * 1024


@pytest.mark.parametrize(
    ("device", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("Tesla V100-SXM2-16GB", 125e12),
        ("NVIDIA B200", 2250e12),
        ("B200", 2250e12),
        ("NVIDIA GeForce GTX 1080", None),
        ("", None),
    ],
)
def test_a_gpus_peak_is_known_by_its_name(device, peak):
    assert peak_flops(device) == peak


def test_the_papers_own_training_was_at_a_plausible_share_of_its_gpus_peak():
    """256 V100 for 12 days, ViT-L/14, 32 epochs of 400 million pairs."""
    step = step_flops(ARCHITECTURES["ViT-L/14"], 32_768)
    steps = 32 * 400e6 / 32_768
    share = steps * step.model / (256 * 12 * 86_400 * 125e12)
    assert math.isclose(share, 0.2, abs_tol=0.02)
