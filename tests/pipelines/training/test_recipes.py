"""The recipes against the paper, what they cost, and a configuration that names one."""

import json
from itertools import pairwise
from pathlib import Path
from typing import get_args

import pytest
import yaml

from clip_model.config import ARCHITECTURES, ModifiedResNetConfig, VisionTransformerConfig
from clip_model.flops import image_flops
from clip_model.objectives import OBJECTIVES
from pipelines.run.config import ConfigError, build_settings
from pipelines.training.recipes import cost_of, load_recipe, main
from pipelines.training.settings import Known, TrainSettings, recipe_names
from pipelines.training.start import known_or_described, starting_model
from workers.base.exit_codes import ExitCode

#: Peak learning rate and resolution; tables 19 and 20 of arXiv 2103.00020.
PAPER = {
    "rn50": ("RN50", 5e-4, 224),
    "rn101": ("RN101", 5e-4, 224),
    "rn50x4": ("RN50x4", 5e-4, 288),
    "rn50x16": ("RN50x16", 4e-4, 384),
    "rn50x64": ("RN50x64", 3.6e-4, 448),
    "vit-b-32": ("ViT-B/32", 5e-4, 224),
    "vit-b-16": ("ViT-B/16", 5e-4, 224),
    "vit-l-14": ("ViT-L/14", 4e-4, 224),
    "vit-l-14-336": ("ViT-L/14@336px", 2e-5, 336),
}


def settings_of(tree, *overrides, folder=None) -> TrainSettings:
    return build_settings(TrainSettings, tree, overrides, "a file", folder)


def test_the_nine_models_are_trained_as_the_paper_says():
    assert {name for name, *_ in PAPER.values()} == ARCHITECTURES.keys()
    for recipe, (name, learning_rate, resolution) in PAPER.items():
        settings = load_recipe(recipe).settings
        longer = recipe == "vit-l-14-336"
        assert settings.architecture == (None if longer else name)
        assert settings.start_from == ("ViT-L/14" if longer else None)
        assert settings.resolution == resolution == ARCHITECTURES[name].image_resolution
        assert (settings.epochs, settings.batch_size) == (1 if longer else 32, 32_768)
        assert (settings.objective, settings.gradient_checkpointing) == ("contrastive", True)
        optimizer = settings.optimizer
        assert (optimizer.name, optimizer.learning_rate) == ("adamw", learning_rate)
        assert (optimizer.weight_decay, optimizer.warmup_steps) == (0.2, 2000)
        adam = (0.9, 0.98, 1e-6) if name.startswith("ViT") else (0.9, 0.999, 1e-8)
        assert (optimizer.beta1, optimizer.beta2, optimizer.eps) == adam


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_can_be_a_configurations_and_is_shown_with_its_cost(name, capsys):
    asked = {"start_from": "ViT-B/16"} if name == "clipa-b-16-224" else {}
    settings = settings_of({"recipe": name} | asked)
    assert settings.recipe is None, "its values stand there instead"
    assert settings_of(settings.model_dump()) == settings
    assert main([name]) is ExitCode.COMPLETE
    assert "FLOPs" in capsys.readouterr().out


def test_what_the_largest_took_is_at_a_plausible_share_of_its_gpus_peak():
    for name, days in (("vit-l-14", 256 * 12), ("rn50x64", 592 * 18)):
        recipe = load_recipe(name)
        assert recipe.cost.paper is not None
        assert recipe.cost.paper.hours == days * 24
        assert 0.15 < cost_of(recipe).hours("V100", 1.0) / recipe.cost.paper.hours < 0.25


def test_a_cost_is_that_of_the_pairs_seen():
    recipe = load_recipe("vit-l-14")
    cost = cost_of(recipe)
    assert cost.steps == 32 * (399_960_000 // 32_768)
    assert cost.flops == pytest.approx(3 * (162.0e9 + 13.3e9) * cost.pairs_seen, rel=1e-3)
    assert cost.computed == pytest.approx(4 / 3 * cost.flops, rel=1e-3)
    assert cost.hours("H100", 0.4) == pytest.approx(2 * cost.hours("H100", 0.8))
    smaller = {"resolution": 112, "caption_tokens": 16, "gradient_checkpointing": False}
    less = recipe.model_copy(update={"model": recipe.model | smaller})
    assert cost_of(less).flops < 0.26 * cost.flops


def test_a_locked_tower_costs_its_forward_pass():
    recipe = load_recipe("clipa-b-16-224")
    locked = recipe.model_copy(update={"model": recipe.model | {"locked": "image"}})
    whole, less = (cost_of(one) for one in (recipe, locked))
    image = image_flops(ARCHITECTURES["ViT-B/16"])
    assert whole.flops - less.flops == pytest.approx(2 * image * whole.pairs_seen, rel=1e-9)


def test_small_ones_take_as_long_on_two_cores_as_their_names_say(capsys):
    assert main([]) is ExitCode.COMPLETE
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    minutes = {name: float(lines[name].split()[-2]) for name in ("seconds", "minutes", "hour")}
    assert minutes["seconds"] < 1 < minutes["minutes"] < 15
    assert 40 < minutes["hour"] < 75
    assert lines.keys() >= PAPER.keys()


def test_what_a_configuration_says_goes_before_its_recipe():
    tree = {"recipe": "vit-b-32", "epochs": 3, "optimizer": {"learning_rate": 1e-5}}
    settings = settings_of(tree, "optimizer.name=muon")
    recipe = load_recipe("vit-b-32").settings
    own = {"learning_rate": 1e-5, "name": "muon"}
    optimizer = recipe.optimizer.model_copy(update=own)
    assert settings == recipe.model_copy(update={"epochs": 3, "optimizer": optimizer})


def test_who_goes_on_from_a_model_has_none_of_the_recipes():
    settings = settings_of({"recipe": "vit-b-32", "start_from": "ViT-B/32"})
    assert (settings.start_from, settings.architecture) == ("ViT-B/32", None)
    settings = settings_of({"recipe": "vit-l-14-336", "architecture": "ViT-L/14"})
    assert (settings.start_from, settings.architecture) == (None, "ViT-L/14")
    assert settings_of({"architecture": "RN50"}).start_from is None
    assert settings_of({}).start_from == "starter"


def test_a_recipe_of_ones_own_lies_beside_the_configuration(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"model": {"epochs": 9, "start_from": "starter"}}))
    assert settings_of({"recipe": "mine.yaml"}, folder=tmp_path).epochs == 9


#: The architectures of examples/scale.
SCALE = Path(__file__).parents[3] / "examples" / "scale"


def test_an_architecture_of_ones_own_is_a_file_and_what_is_kept_is_its_content(tmp_path):
    fields = json.loads((SCALE / "vit-1.json").read_text())
    (tmp_path / "mine.json").write_text(json.dumps(fields))
    settings = settings_of({"architecture": "mine.json"}, folder=tmp_path)
    assert (settings.architecture, settings.start_from) == (fields, None)
    assert settings_of({}, f"architecture={tmp_path}/mine.json") == settings
    assert settings_of({"architecture": fields}).identity() == settings.identity()
    assert TrainSettings.model_validate(settings.model_dump(mode="json")) == settings
    recipe = {"recipe": "seconds", "architecture": "mine.json"}
    assert settings_of(recipe, folder=tmp_path).architecture == fields
    model = starting_model(settings, seed=0)
    assert model.config == known_or_described(fields)
    assert isinstance(model.config.vision, VisionTransformerConfig)
    assert model.config.vision.layers == fields["vision_cfg"]["layers"]
    fields["vision_cfg"]["layers"] += 1
    (tmp_path / "mine.json").write_text(json.dumps(fields))
    other = settings_of({"architecture": "mine.json"}, folder=tmp_path)
    assert other.identity() != settings.identity()


@pytest.mark.parametrize("family", ["rn", "vit"])
def test_four_sizes_of_each_family_are_told_apart_by_their_compute(family):
    files = [str(SCALE / f"{family}-{size}.json") for size in range(1, 5)]
    sizes = [starting_model(settings_of({"architecture": file}), 0).config for file in files]
    flops = [image_flops(config) for config in sizes]
    assert all(1.5 * small < large for small, large in pairwise(flops))
    assert {config.text.layers for config in sizes} == {3}
    if family == "rn":
        towers = [config.vision for config in sizes]
        widths = [tower.width for tower in towers if isinstance(tower, ModifiedResNetConfig)]
        ratios = [one.text.width / width for one, width in zip(sizes, widths, strict=True)]
        assert set(ratios) == {8}


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"architecture": "RN51"}, "architecture: must be small, .* or must be a mapping"),
        ({"architecture": "none.json"}, "architecture: cannot read .*none.json: No such file"),
        ({"architecture": "bad.json"}, "architecture: .*bad.json: not JSON"),
        ({"architecture": "latin.json"}, "architecture: .*save the file as UTF-8"),
        ({"architecture": {}}, "architecture: the table: 'layers' is missing"),
        ({"recipe": "vit-b-33"}, "cannot read .*vit-b-33.*clipa-b-16-112, .*vit-l-14-336"),
        ({"recipe": "bad.yaml"}, "bad.yaml has no `model:`"),
        ({"recipe": "nested.yaml"}, "names a recipe itself"),
        ({"recipe": "wrong.yaml"}, "epochs: must be at least 1"),
        ({"recipe": "clipa-b-16-224"}, "goes on from a model: say which, with start_from"),
        ({"start_from": None}, "say start_from, .* or architecture"),
        ({"start_from": "RN50", "architecture": "RN50"}, "say start_from, .* or architecture"),
        ({"workers": 16}, "16 of them cannot share 8 lanes; raise data.lanes"),
        ({"workers": [3, 2]}, "3 to 2 of them"),
        ({"checkpoints": {"every_minutes": None}}, "say every_steps, every_minutes or both"),
        ({"objective": "caption", "evaluate_every": 9}, "retrieval does not judge what caption"),
        (
            {"optimizer": {"average": 0.9}, "parallelism": "fsdp"},
            "optimizer.average takes whole weights",
        ),
        ({"optimizer": {"average": 1.0}}, "optimizer.average: must be less than 1"),
        ({"learning_rate": 1e-4}, "learning_rate"),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_to_do(tree, message, tmp_path):
    (tmp_path / "bad.yaml").write_text("epochs: 3\n")
    (tmp_path / "bad.json").write_text("epochs: 3\n")
    (tmp_path / "latin.json").write_bytes(b'{"name": "caf\xe9"}')
    (tmp_path / "nested.yaml").write_text("model: {recipe: vit-b-32}\n")
    (tmp_path / "wrong.yaml").write_text("model: {start_from: starter, epochs: 0}\n")
    with pytest.raises(ConfigError, match=message):
        settings_of(tree, folder=tmp_path)


def test_the_names_that_settings_take_are_those_that_there_are():
    fields = TrainSettings.model_fields
    assert set(get_args(fields["objective"].annotation)) == OBJECTIVES.keys()
    assert set(get_args(Known)) == {"small", *ARCHITECTURES}


def test_what_changes_the_speed_alone_is_no_part_of_a_trainings_identity():
    fast = settings_of(
        {
            "workers": [2, 4],
            "cpus": 3,
            "parallelism": "fsdp",
            "checkpoints": {"keep": 5},
            "data": {"threads": 2},
            "gradient_checkpointing": True,
            "compile": True,
        }
    )
    plain = settings_of({})
    assert fast.identity() == plain.identity()
    for other in ({"data": {"lanes": 4}}, {"evaluate_every": 5}, {"optimizer": {"average": 0.9}}):
        assert settings_of(other).identity() != plain.identity()


def test_a_recipe_that_is_none_ends_the_command_with_a_message(capsys):
    assert main(["absent"]) is ExitCode.CONFIGURATION
    assert "cannot read absent" in capsys.readouterr().err
