"""What Hugging Face's configurations say about a CLIP and its images, key by key.

Names and defaults: `configuration_clip.py`, `image_processing_clip.py` and
`configuration_utils.py` of transformers 5.23, and what its earlier versions wrote.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clip_model.config import MEAN, MLP_RATIO, STD, ClipConfig, VisionTransformerConfig
from clip_model.json_file import read_json
from clip_model.known_keys import ANY, check_keys, check_square, same
from clip_model.model_files import PROCESSORS

LAYER_NORM_EPS = 1e-5
TEXT_HEADS, IMAGE_HEADS = 8, 12  # what absence means
TABLES = ("text_config", "vision_config", "text_config_dict", "vision_config_dict")
# What `PreTrainedConfig` writes into every table, in any of its versions: about training, text
# generation, labels. It changes no feature of a CLIP.
_NAMES = """
    _attn_implementation _commit_hash _name_or_path add_cross_attention architectures
    attention_dropout attn_implementation bad_words_ids begin_suppress_tokens bos_token_id
    chunk_size_feed_forward cross_attention_hidden_size decoder_start_token_id
    diversity_penalty do_sample dropout dtype early_stopping encoder_no_repeat_ngram_size
    exponential_decay_length_penalty finetuning_task forced_bos_token_id forced_eos_token_id
    gradient_checkpointing id2label initializer_factor initializer_range is_decoder
    is_encoder_decoder label2id length_penalty max_length min_length no_repeat_ngram_size
    num_beam_groups num_beams num_return_sequences output_attentions output_hidden_states
    output_scores pad_token_id prefix problem_type pruned_heads remove_invalid_values
    repetition_penalty return_dict return_dict_in_generate sep_token_id suppress_tokens
    task_specific_params temperature tf_legacy_loss tie_encoder_decoder tie_word_embeddings
    tokenizer_class top_k top_p torch_dtype torchscript transformers_version typical_p
    use_bfloat16
"""
NO_MATTER = dict.fromkeys(_NAMES.split(), ANY)


def check_config(
    fields: dict[str, Any],
    text: dict[str, Any],
    vision: dict[str, Any],
    config: ClipConfig,
    where: str,
) -> None:
    """Compare `config.json` and its two tables with the architecture that the weights have.

    Raises:
        RuntimeError: a key asks for what is not done here.
    """
    tower, words = config.vision, config.text
    assert isinstance(tower, VisionTransformerConfig)
    top = dict.fromkeys((*TABLES, "model_type", "logit_scale_init_value"), ANY)
    top["projection_dim"] = same(config.embed_dim)
    check_keys(fields, NO_MATTER | top, where)
    both = {
        "hidden_act": ANY,  # obeyed
        "layer_norm_eps": same(LAYER_NORM_EPS),
        "projection_dim": ANY,  # the one at the top counts
    }
    of_text = {
        "model_type": same("clip_text_model", "clip"),
        "vocab_size": same(words.vocab_size),
        "hidden_size": same(words.width),
        "intermediate_size": same(MLP_RATIO * words.width),
        "num_hidden_layers": same(words.layers),
        "num_attention_heads": same(words.heads, absent=TEXT_HEADS),  # obeyed
        "max_position_embeddings": same(words.context_length),
        # The token that is pooled is the one of the largest id: 2 means that in transformers.
        "eos_token_id": same(2, words.vocab_size - 1, absent=49407),
    }
    of_vision = {
        "model_type": same("clip_vision_model", "clip"),
        "eos_token_id": ANY,
        "hidden_size": same(tower.width),
        "intermediate_size": same(tower.mlp_width),
        "num_hidden_layers": same(tower.layers),
        "num_attention_heads": same(tower.heads, absent=IMAGE_HEADS),  # obeyed
        "num_channels": same(3),
        "image_size": same(config.image_resolution, (config.image_resolution,) * 2),
        "patch_size": same(tower.patch_size, (tower.patch_size,) * 2),
    }
    check_keys(text, NO_MATTER | both | of_text, f"{where}, text_config")
    check_keys(vision, NO_MATTER | both | of_vision, f"{where}, vision_config")


def check_processors(folder: Path, resolution: int) -> None:
    """What is in the folder about images must be what `image_transform` does.

    Raises:
        RuntimeError: it is not.
    """
    for name in PROCESSORS:
        path = folder / name
        if not path.is_file():
            continue
        fields = read_json(path)
        if name == PROCESSORS[1] and "image_processor" not in fields:
            continue  # the images' part is in a file of its own
        check_processor(fields.get("image_processor", fields), resolution, str(path))


def check_processor(fields: Any, resolution: int, where: str) -> None:
    """Raises RuntimeError: an image processor does not do what `image_transform` does."""
    if not isinstance(fields, dict):
        raise RuntimeError(f"{where}: the image processor is not a table")
    no_matter = """data_format device disable_grouping image_seq_length input_data_format
        processor_class return_tensors"""
    types = [f"CLIP{kind}" for kind in ("ImageProcessor", "ImageProcessorFast", "FeatureExtractor")]
    types += ["CLIPImageProcessorPil"]
    known = dict.fromkeys(no_matter.split(), ANY) | {
        "image_processor_type": same(*types),
        "feature_extractor_type": same(*types),
        "do_resize": same(True),
        "size": ANY,  # below
        "resample": same(3),  # Pillow's bicubic
        "default_to_square": same(False, None),
        "do_center_crop": same(True),
        "crop_size": ANY,
        "do_pad": same(False, None),
        "pad_size": same(None),
        "do_convert_rgb": same(True, None),
        "do_rescale": same(True),
        "rescale_factor": same(1 / 255, 0.00392156862745098),
        "do_normalize": same(True),
        "image_mean": same(MEAN),
        "image_std": same(STD),
    }
    check_keys(fields, known, where)
    check_square(fields.get("size", 224), resolution, ["shortest_edge"], f"{where}: 'size'")
    crop = fields.get("crop_size", 224)
    check_square(crop, resolution, ["height", "width"], f"{where}: 'crop_size'")
