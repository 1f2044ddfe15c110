"""The starter model's recipe on a handful of made images: no network, no rendering of SVG."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageDraw
from torch.nn import functional as F

import clip_model
from clip_model import CLIP
from clip_model.config import ClipConfig, EfficientNetConfig, TextConfig
from clip_model.efficientnet import HEAD_WIDTH, EfficientNet
from clip_model.tokenizer import tokenize
from examples.evaluation_sets.weights import timm_name
from examples.starter_model import __main__ as command
from examples.starter_model import (
    augment,
    data,
    lessons,
    packages,
    pairs,
    sources,
    teachers,
    train,
    words,
)
from examples.starter_model.data import Concept, Drawing

CLASSES = 5
SMALL = ClipConfig(32, 64, EfficientNetConfig(CLASSES), TextConfig(width=32, layers=1, heads=1))
COLOURS = ("red", "green", "blue", "orange", "purple", "black", "grey", "brown")


def png(colour: str, shape: str, side: int = 40) -> bytes:
    image = Image.new("RGBA", (side, side))
    draw = ImageDraw.Draw(image)
    (draw.ellipse if shape == "disc" else draw.rectangle)((4, 4, 36, 36), fill=colour)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """What `data.prepare` would leave, of 16 concepts in two styles."""
    drawings = [
        Drawing("made", f"name:{c}{s}", "other", (f"{c} {s}",), png=png(c, s))
        for c in COLOURS
        for s in ("disc", "square")
        for _ in range(2)
    ]
    images, concepts = data.group(drawings, data.render_all(drawings, processes=1))
    np.save(tmp_path / "images.npy", images)
    (tmp_path / "concepts.json").write_text(json.dumps([vars(concept) for concept in concepts]))
    return tmp_path


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shortcode", "caption"),
    [
        (":waving_hand_medium_skin_tone:", "waving hand: medium skin tone"),
        (":woman_medium-dark_skin_tone_red_hair:", "woman: medium-dark skin tone red hair"),
        (":Côte_d’Ivoire:", "côte d’ivoire"),
        (":red_apple:", "red apple"),
    ],
)
def test_shortcodes_become_captions(shortcode: str, caption: str) -> None:
    assert data.caption_from_shortcode(shortcode) == caption


def test_code_points_join_spellings() -> None:
    assert data.code_points("3\ufe0f\u20e3") == "33-20e3"
    assert data.normalised_codes("0033-FE0F-20E3") == "33-20e3"
    assert data.kind_of("1f44b-1f3fd") == "skin"
    assert data.kind_of("1f3fd") == "emoji"  # the swatch itself


@pytest.mark.parametrize(
    ("name", "codes"),
    [
        ("waving-hand-medium-skin-tone", "1f44b-1f3fd"),
        ("waving-hand-medium", "1f44b-1f3fd"),  # Fluent's spelling
        ("fishingpoleandfish", "1f3a3"),  # FxEmoji's
        ("flag-for-niue", "1f1f3-1f1fa"),  # EmojiOne's
        ("lighthouse-of-alexandria", None),
    ],
)
def test_icon_names_find_their_emoji(name: str, codes: str | None) -> None:
    assert data.EmojiIndex().find(name) == codes


def test_flags_are_found_by_country() -> None:
    index = data.EmojiIndex()
    assert index.flag("fr") == "1f1eb-1f1f7"
    assert index.flag("zz") is None
    assert index.flag("gb-wls") is None


@pytest.mark.parametrize(
    ("title", "caption"),
    [
        ("Apple_Tree 02", "apple tree"),
        ("CandleLight.svg", "candle light"),
        ("untitled", ""),
        ("42", ""),
        ("x" * 61, ""),
    ],
)
def test_titles_are_cleaned(title: str, caption: str) -> None:
    assert data.clean_title(title) == caption


# --- drawings ------------------------------------------------------------------------------------


def test_the_test_style_is_not_trained_on() -> None:
    trained = {*data.EMOJI_SETS, *data.FLAG_SETS, *data.ICON_SETS}
    assert not trained & data.EXCLUDED_SETS
    assert not any(
        "twemoji" in name for name in (*trained, *(package.name for package in packages.KEPT))
    )


def test_icons_of_a_set() -> None:
    icon_set: dict[str, Any] = {
        "prefix": "openmoji",
        "height": 72,
        "width": 72,
        "chars": {"1f34e": "red-apple"},
        "icons": {
            "red-apple": {"body": "<g/>"},
            "apple-core-2": {"body": "<p/>", "width": 9},
            "old": {"body": "", "hidden": True},
        },
    }
    apple, core = data.collect_icons(icon_set, data.EmojiIndex())
    assert (apple.key, apple.kind, apple.names[0]) == ("emoji:1f34e", "emoji", "red apple")
    assert (core.key, core.names) == ("name:applecore", ("apple core",))
    assert 'viewBox="0 0 9 72"' in core.svg


def test_openclipart_titles(tmp_path: Path) -> None:
    rdf = (
        '<svg xmlns="http://www.w3.org/2000/svg"><metadata>'
        '<r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#" '
        'xmlns:cc="http://web.resource.org/cc/" xmlns:dc="http://purl.org/dc/elements/1.1/">'
        "<cc:Work><dc:title>{}</dc:title></cc:Work></r:RDF></metadata></svg>"
    )
    (tmp_path / "stars").mkdir()
    (tmp_path / "stars" / "s.svg").write_text(rdf.format("gramastar"))
    (tmp_path / "a.svg").write_text(rdf.format("Old Lighthouse"))
    (tmp_path / "b.svg").write_text(rdf.format("red apple"))
    (tmp_path / "broken.svg").write_text("<svg")
    found = list(data.collect_openclipart(tmp_path, data.EmojiIndex()))
    assert [drawing.key for drawing in found] == ["name:oldlighthouse", "emoji:1f34e"]


def test_render_keeps_proportions_and_transparency() -> None:
    buffer = io.BytesIO()
    Image.new("RGBA", (80, 40), "red").save(buffer, "PNG")
    pixels = data.render(Drawing("made", "k", "other", ("n",), png=buffer.getvalue()))
    assert pixels is not None
    assert pixels.shape == (72, 72, 4)
    assert pixels[36, 36].tolist() == [255, 0, 0, 255]
    assert not pixels[:17].any()
    assert not pixels[-17:].any()


def test_invisible_drawings_are_dropped() -> None:
    buffer = io.BytesIO()
    Image.new("RGBA", (8, 8)).save(buffer, "PNG")
    blank = Drawing("made", "name:blank", "other", ("blank",), png=buffer.getvalue())
    disc = Drawing("made", "name:disc", "other", ("disc",), png=png("red", "disc"))
    images, concepts = data.group([blank, disc], data.render_all([blank, disc], 1))
    assert len(images) == 1
    assert [concept.key for concept in concepts] == ["name:disc"]
    assert data.count_sources([blank, disc], concepts) == {"made": {"collected": 2, "rendered": 1}}


# --- batches -------------------------------------------------------------------------------------


def test_a_batch_has_each_concept_once(cache: Path) -> None:
    _, concepts = data.load(cache)
    sampler = augment.PairSampler(concepts, batch_size=12)
    rows, captions = sampler.draw(np.random.default_rng(0))
    assert len({row // 2 for row in rows}) == len(rows) == len(captions) == 12
    assert sampler.draw(np.random.default_rng(0)) == (rows, captions)
    assert sampler.draw(np.random.default_rng(1)) != (rows, captions)


def test_captions_keep_the_name() -> None:
    concept = Concept("emoji:1f34e", "emoji", ["red apple", "apple"], [0])
    captions = {augment.vary_caption(concept, random.Random(seed)) for seed in range(200)}
    assert all("apple" in caption for caption in captions)
    assert {"red apple", "apple", "a picture of red apple"} <= captions


def test_augmentation_is_seeded_and_in_range(cache: Path) -> None:
    images, _ = data.load(cache)
    stored = torch.from_numpy(np.array(images[:8]))
    first, again, other = (
        augment.augment(stored, 64, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert first.shape == (8, 3, 64, 64)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    lightest = augment.normalise(torch.ones(1, 3, 1, 1))
    darkest = augment.normalise(torch.zeros(1, 3, 1, 1))
    assert (first <= lightest + 1e-5).all()
    assert (first >= darkest - 1e-5).all()


# --- training ------------------------------------------------------------------------------------


def small(seed: int = 0) -> CLIP:
    torch.manual_seed(seed)
    return CLIP(SMALL)


def pairs_of(cache: Path, model: CLIP) -> train.Pairs:
    """Of the 32 drawings, with features that no trunk made."""
    images, concepts = data.load(cache)
    rng = np.random.default_rng(0)
    shown = rng.random((len(images), model.hidden_dim))
    drawings = np.stack([shown + 0.1 * rng.random(shown.shape) for _ in range(2)])
    texts = [concept.names[0] for concept in concepts]
    targets = F.normalize(torch.from_numpy(rng.normal(size=(16, 32))).float(), dim=-1)
    return train.Pairs(
        drawings.astype(np.float16),
        concepts,
        torch.from_numpy(rng.random((20, model.hidden_dim))).float(),
        tokenize(texts),
        targets,
        targets[:CLASSES],
        [words.ClassTexts(name, f"{name}, {name} too", "") for name in "abcde"],
    )


STEPS = train.TrainConfig(
    distil_epochs=3,
    distil_batch=4,
    distil_lr=1e-3,
    steps=12,
    batch_size=8,
    warmup=2,
    ema_decay=0.5,
    checkpoint_every=5,
)


def test_a_killed_run_ends_as_an_unbroken_one(tmp_path: Path) -> None:
    def run(steps_alive: int) -> dict[str, torch.Tensor]:
        layer = torch.nn.Linear(3, 2)
        torch.nn.init.ones_(layer.weight)
        torch.nn.init.zeros_(layer.bias)

        def loss_of(step: int) -> torch.Tensor:
            if step == steps_alive:
                raise KeyboardInterrupt
            generator = torch.Generator().manual_seed(step)
            return layer(torch.rand(4, 3, generator=generator)).square().mean()

        train.take_steps(layer, 12, 1e-2, STEPS, tmp_path / "run.pt", loss_of)
        return layer.state_dict()

    unbroken = run(99)
    (tmp_path / "run.pt").unlink()
    with pytest.raises(KeyboardInterrupt):
        run(8)
    resumed = run(99)
    for name, expected in unbroken.items():
        assert torch.equal(resumed[name], expected), name
    other = replace(STEPS, seed=1)
    with pytest.raises(RuntimeError, match="of other settings"):
        train.take_steps(
            torch.nn.Linear(3, 2), 12, 1e-2, other, tmp_path / "run.pt", lambda _: torch.zeros(())
        )


def test_texts_come_to_where_the_teacher_has_them(cache: Path) -> None:
    model = small()
    pairs = pairs_of(cache, model)
    before = model.state_dict(keep_vars=False)["visual.conv1.weight"].clone()

    def away() -> float:
        with torch.no_grad():
            return train.away(model.encode_text(pairs.tokens), pairs.targets).item()

    first = away()
    train.distil(model, pairs.tokens, pairs.targets, STEPS, cache / "distilled.pt")
    assert away() < first - 0.2
    assert torch.equal(model.state_dict()["visual.conv1.weight"], before)


def test_drawings_and_names_meet_and_photographs_stay_at_their_classes(cache: Path) -> None:
    model = small()
    pairs = pairs_of(cache, model)
    trunk = {n: t.clone() for n, t in model.visual.named_parameters() if "linear" not in n}
    config = replace(STEPS, steps=60, peak_lr=3e-3, photographs=4.0)
    train.align(model, pairs, config, cache / "aligned.pt")
    visual = model.eval().visual
    assert isinstance(visual, EfficientNet)
    with torch.no_grad():
        drawn = visual.project(torch.from_numpy(pairs.drawings[0, ::2]).float())
        names = model.encode_text(pairs.tokens)
        recall = clip_model.retrieval_recall(F.normalize(drawn), F.normalize(names))
        classes = visual.classifier(pairs.photographs[:, -HEAD_WIDTH:]).softmax(dim=-1)
        photographs = visual.project(pairs.photographs)
        kept = train.away(photographs, classes @ pairs.class_targets).item()
    assert recall["image_to_text@1"] > 0.8
    assert kept < 0.1
    for name, expected in trunk.items():
        if name != "class_features":
            assert torch.equal(visual.get_parameter(name), expected), name


def test_batches_hold_each_text_once_an_epoch_and_differ_between_epochs() -> None:
    lengths = torch.tensor([3, 5, 4, 9] * 8)
    batches = train.Batches(lengths, 4, seed=0)
    first, second = ([batches.of(8 * epoch + i) for i in range(8)] for epoch in range(2))
    for epoch in (first, second):
        assert sorted(torch.cat(epoch).tolist()) == list(range(32))
    assert not torch.equal(torch.cat(first), torch.cat(second))
    assert all(len(lengths[batch].unique()) == 1 for batch in first)
    again = train.Batches(lengths, 4, seed=0)
    assert torch.equal(again.of(13), second[5])


# --- sources -------------------------------------------------------------------------------------


def test_concepts_of_some_sources_have_their_drawings_alone() -> None:
    apple = Concept("emoji:1f34e", "emoji", ["red apple"], [0, 3, 5], ["noto", "flag", "noto"])
    house = Concept("name:house", "other", ["house"], [1], ["openclipart"])
    assert sources.of_sources([apple, house], ["noto"]) == [
        Concept("emoji:1f34e", "emoji", ["red apple"], [0, 5], ["noto", "noto"])
    ]
    assert sources.of_sources([apple, house], ["noto", "flag", "openclipart"]) == [apple, house]
    named = {name for mix in sources.MIXES.values() for name in mix.drawings}
    assert named == {*data.EMOJI_SETS, *data.FLAG_SETS, *data.ICON_SETS, "noto-png", "openclipart"}


def test_mixes_are_trained_once_and_compared(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def taught(_: Path, config: train.TrainConfig) -> tuple[CLIP, train.Pairs]:
        asked.append(config)
        model = small()
        return model, pairs_of(cache, model)

    for colour in ("red", "green"):
        (tmp_path / "pictures" / colour).mkdir(parents=True)
        (tmp_path / "pictures" / colour / "disc.png").write_bytes(png(colour, "disc"))
    suite = tmp_path / "suite.yaml"
    suite.write_text("sets: {discs: {format: folder, test: pictures}}\nprotocols: {probe: false}")
    mixes = {"first": sources.Mix(("made",)), "bare": sources.Mix(("made",), classes=False)}
    monkeypatch.setattr(sources, "taught", taught)
    monkeypatch.setattr(sources, "MIXES", mixes)
    monkeypatch.setattr(sources, "SUITE", suite)
    options = ["--out", str(tmp_path / "out"), "--steps", "7", "--seeds", "0", "1"]
    assert sources.main(options) == 0
    said = capsys.readouterr().out
    assert "| mix | average | discs |" in said
    assert "Differences from `first`, points, with the 95% interval" in said
    assert "| of 2 trainings alone |" in said
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    assert [file.name for file in files] == [
        f"{mix}.{seed}.7.safetensors" for mix in ("bare", "first") for seed in (0, 1)
    ]
    assert len({file.read_bytes() for file in files}) == 4
    assert sources.main(options) == 0
    assert len(asked) == 1
    assert capsys.readouterr().out == said


def test_lessons_of_two_seeds_do_not_meet(tmp_path: Path) -> None:
    assert lessons.lessons_folder(tmp_path, 0) != lessons.lessons_folder(tmp_path, 1)


# --- teachers ------------------------------------------------------------------------------------


def test_the_trunk_is_efficientnet_lite0_with_its_norms_folded(tmp_path: Path) -> None:
    import clip_model._torchvision  # noqa: F401, I001
    import timm

    torch.manual_seed(0)
    theirs = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    for name, buffer in theirs.named_buffers():
        if buffer.is_floating_point():
            buffer.copy_(torch.rand_like(buffer) + (0.5 if name.endswith("var") else -0.5))
    ours_of = {timm_name(name): name for name in package_names()}
    tensors = {ours_of[name]: tensor for name, tensor in theirs.state_dict().items()}
    torch.save(tensors, tmp_path / "efficientnet-lite0-57934424.pth")
    tower = EfficientNet(EfficientNetConfig(), 64, 8)
    teachers.load_trunk(tower, tmp_path)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = theirs.forward_head(theirs.forward_features(images), pre_logits=True)
        hidden = tower.eval().hidden(images)
        torch.testing.assert_close(hidden[:, -HEAD_WIDTH:], expected, rtol=1e-4, atol=1e-4)
        logits = tower.classifier(hidden[:, -HEAD_WIDTH:])
        torch.testing.assert_close(logits, theirs(images), rtol=1e-4, atol=1e-4)


def package_names() -> Iterator[str]:
    """What PyPI's package calls the tensors of EfficientNet-Lite0."""
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    yield from ("_conv_stem.weight", "_conv_head.weight", "_fc.weight", "_fc.bias")
    yield from (f"{name}.{tensor}" for name in ("_bn0", "_bn1") for tensor in norm)
    for block in range(16):
        parts = ("_depthwise_conv", "_project_conv") + ("_expand_conv",) * (block > 0)
        yield from (f"_blocks.{block}.{part}.weight" for part in parts)
        norms = ("_bn1", "_bn2") + ("_bn0",) * (block > 0)
        yield from (f"_blocks.{block}.{name}.{tensor}" for name in norms for tensor in norm)


# --- words ---------------------------------------------------------------------------------------

NOUNS = """  1 This software and database is being provided to you, the LICENSEE, by
00001930 03 n 01 physical_entity 0 000 | an entity that has physical existence
02084071 05 n 02 dog 0 Canis_familiaris 0 001 @ 00001930 n 0000 | a member of the genus Canis; "it"
02110341 05 n 01 dalmatian 0 001 @ 02084071 n 0000 | a large breed having a smooth coat; spotted
00023271 09 n 01 cognition 0 000 | the psychological result of perception
"""


def test_wordnet_is_read_and_texts_are_the_same_for_a_seed(tmp_path: Path) -> None:
    (tmp_path / "data.noun").write_text(NOUNS)
    (tmp_path / "data.verb").write_text(
        "00001740 29 v 01 breathe 0 000 01 + 02 00 | draw air into the lungs\n"
    )
    (tmp_path / "data.adj").write_text("00001740 00 a 01 able(p) 0 000 | having the means\n")
    nouns = words.read_synsets(tmp_path, "noun")
    assert nouns["02084071"] == words.Synset(
        ("dog", "Canis familiaris"), "a member of the genus Canis", ("00001930",)
    )
    assert words.read_synsets(tmp_path, "adj")["00001740"].words == ("able",)
    found = words.texts(tmp_path, ["red apple"], seed=1)
    assert found == words.texts(tmp_path, ["red apple"], seed=1)
    assert len(found) == len(set(found))
    assert {"dalmatian", "red apple", "breathe", "dalmatian, a kind of dog"} <= set(found)
    assert any("able dog" in text for text in found)
    assert not any("photo of a cognition" in text for text in found)


# --- command line --------------------------------------------------------------------------------


def test_every_option_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        command.parse_arguments(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for option in ("--cache", "--out", "--only", "--steps", "--processes"):
        assert option in text
    assert command.parse_arguments(["--steps", "7"]).steps == 7


# --- pairs ---------------------------------------------------------------------------------------


def test_emoji_are_laid_out_as_pairs_and_twemoji_as_what_judges_them(tmp_path: Path) -> None:
    index = data.EmojiIndex()
    drawings = [
        data.emoji_drawing(style, codes, index, png=png(colour, "disc"))
        for codes, colour in (("1f34e", "red"), ("1f34f", "green"), ("1f44b-1f3fb", "grey"))
        for style in ("openmoji", "noto")
    ]
    drawings.append(Drawing("made", "name:disc", "other", ("disc",), png=png("blue", "disc")))
    images, concepts = data.group(drawings, data.render_all(drawings, processes=1))
    cache = tmp_path / "cache"
    cache.mkdir()
    np.save(cache / "images.npy", images)
    (cache / "concepts.json").write_text(json.dumps([vars(concept) for concept in concepts]))
    assert pairs.main([str(tmp_path / "out"), "--cache", str(cache)]) == 0
    table = pq.read_table(tmp_path / "out" / pairs.PAIRS)
    rows = {row["pair_id"]: row for row in table.to_pylist()}
    assert sorted(rows) == [
        f"emoji:{codes}" for codes in ("1f34e.0", "1f34e.1", "1f34f.2", "1f34f.3")
    ]
    assert rows["emoji:1f34e.1"]["caption"][0] == "red apple"
    picture = np.asarray(Image.open(io.BytesIO(rows["emoji:1f34e.0"]["jpg"])).convert("RGB"))
    assert picture.shape == (data.SIDE, data.SIDE, 3)
    assert picture[1, 1].min() > 240  # white
    red, green, _ = picture[data.SIDE // 2, data.SIDE // 2]
    assert red > 200
    assert green < 80
    judges = pq.read_table(tmp_path / "out" / pairs.TEST)
    assert sorted(judges["name"].to_pylist()) == ["green apple", "red apple"]
    assert not set(judges["image"].to_pylist()) & set(table["jpg"].to_pylist())
    assert pairs.main([str(tmp_path / "one"), "--cache", str(cache), "--concepts", "1"]) == 0
    (name,) = pq.read_table(tmp_path / "one" / pairs.TEST)["name"].to_pylist()
    captions = pq.read_table(tmp_path / "one" / pairs.PAIRS)["caption"].to_pylist()
    assert [caption[0] for caption in captions] == [name, name]


def test_pairs_without_drawings_say_what_makes_them(tmp_path: Path, capsys) -> None:
    assert pairs.main([str(tmp_path / "out"), "--cache", str(tmp_path)]) == 2
    assert "examples.starter_model --only prepare" in capsys.readouterr().err
