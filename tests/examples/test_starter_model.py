"""The starter model's recipe on a handful of made images: no network, no rendering of SVG."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageDraw

import clip_model
from clip_model.config import ClipConfig, ModifiedResNetConfig, TextConfig
from examples.starter_model import __main__ as command
from examples.starter_model import augment, data, pairs, train
from examples.starter_model.data import Concept, Drawing

SMALL = ClipConfig(
    32, 64, ModifiedResNetConfig((1, 1, 1, 1), 8), TextConfig(width=32, layers=1, heads=1)
)
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
    assert not any("twemoji" in name for name in (*trained, *data.NPM_PACKAGES))


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


@pytest.fixture
def threads() -> Iterator[None]:
    """`train_process` sets the number of threads; put it back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def run(cache: Path, config: train.TrainConfig) -> dict[str, torch.Tensor]:
    rendezvous = f"file://{cache}/rendezvous-{random.random()}"
    train.train_process(0, rendezvous, cache, SMALL, config)
    return train.averaged_model(cache / train.CHECKPOINT, SMALL).state_dict()


@pytest.mark.usefixtures("threads")
def test_a_killed_run_ends_as_an_unbroken_one(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = train.TrainConfig(steps=6, batch_size=8, processes=1, warmup=2, checkpoint_every=3)
    unbroken = run(cache, config)
    (cache / train.CHECKPOINT).unlink()

    save = train.save_checkpoint

    def save_and_die(*arguments: Any) -> None:
        save(*arguments)
        torch.distributed.destroy_process_group()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(train, "save_checkpoint", save_and_die)
        with pytest.raises(KeyboardInterrupt):
            run(cache, config)
    resumed = run(cache, config)
    for name, expected in unbroken.items():
        assert torch.equal(resumed[name], expected), name


def test_two_processes_learn_and_the_file_is_usable(cache: Path, tmp_path: Path) -> None:
    config = train.TrainConfig(steps=12, batch_size=16, processes=2, warmup=2, peak_lr=3e-3)
    model = train.train(cache, SMALL, config)
    assert not model.training
    clip_model.save(model, tmp_path / "model.safetensors")
    loaded, _ = clip_model.load(tmp_path / "model.safetensors", device="cpu")
    assert loaded.config == SMALL
    start = clip_model.CLIP(SMALL).state_dict()
    moved = [n for n, value in loaded.state_dict().items() if not torch.equal(value, start[n])]
    assert len(moved) > len(start) // 2


# --- command line --------------------------------------------------------------------------------


def test_every_option_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        command.parse_arguments(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for option in ("--cache", "--out", "--only", "--steps", "--batch-size", "--processes"):
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
