import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import clip_model
from benchmarks.photographs import photographs
from clip_model.config import ModifiedResNetConfig
from clip_model.preprocess import image_bytes_transform, normalised
from clip_model.probe import image_features
from tests.processors import PRECISIONS, hide_bfloat16
from tests.shards import TINY, images, save_tiny_model, write_images, write_tar
from workers.base.contracts import embeddings_schema
from workers.base.storage import file_hash, remove_leftovers
from workers.embedding.embedder import Embedder
from workers.embedding.encoders import PrecisionError
from workers.embedding.labels import Labels
from workers.embedding.settings import EmbedSettings, Head, InputSettings, LabelSet
from workers.embedding.windows import Row, Window, window_table

COLOURS = LabelSet(classes=("red", "green", "blue"), templates=("{}", "a {} picture"), top_k=2)
SIZES = LabelSet(classes=("large", "small"))


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "00000.parquet"
    return path, write_images(images(50), path)


EMBEDDED = """
import sys
from pathlib import Path
import torch
from workers.embedding.embedder import Embedder
from workers.embedding.settings import EmbedSettings

assert torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "NO AVX")
Embedder(EmbedSettings(precision="fp32")).embed_shard(*map(Path, sys.argv[1:]))
"""

KILLED = """
import os, signal, sys
from pathlib import Path
from workers.embedding import embedder as embed
from workers.embedding.settings import EmbedSettings

def until_killed(*arguments):
    for number, sample in enumerate(read_shard(*arguments)):
        if number == 4_500:
            os.kill(os.getpid(), signal.SIGKILL)
        yield sample

read_shard, embed.read_shard = embed.read_shard, until_killed
model, images, out = sys.argv[1:]
embed.Embedder(EmbedSettings(model=model)).embed_shard(Path(images), Path(out))
"""


def matrix(table, name):
    """A column of embeddings: float32 [N, D]."""
    values = table[name].combine_chunks()
    flat = values.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    return flat.reshape(len(values), -1)


def embed(model, images, out, **settings):
    tally = Embedder(EmbedSettings(model=model, **settings)).embed_shard(images, out)["images"]
    tally.check()
    return tally, pq.read_table(out)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_embeddings_and_similarity_are_the_models_own(model_path, shard, tmp_path, precision):
    """To the last place of float16 in fp32; to what bfloat16's 8 bits leave in bf16."""
    path, rows = shard
    tally, table = embed(
        model_path, path, tmp_path / "e.parquet", batch_size=16, precision=precision
    )
    assert tally.kept == 50
    assert table.schema.equals(embeddings_schema(32))
    assert table["pair_id"].to_pylist() == [row["pair_id"] for row in rows]

    model, preprocess = clip_model.load(model_path)
    with torch.inference_mode():
        pixels = torch.stack([preprocess(Image.open(BytesIO(row["jpg"]))) for row in rows])
        image = F.normalize(model.encode_image(pixels), dim=-1)
        text = F.normalize(
            model.encode_text(clip_model.tokenize([row["caption"] for row in rows])), dim=-1
        )
    stored = np.array(table["image_embedding"].to_pylist(), dtype=np.float32)
    atol = {"fp32": 1e-3, "bf16": 2e-2}[precision]
    np.testing.assert_allclose(stored, image.numpy(), atol=atol)
    similarity = (image * text).sum(dim=-1).numpy()
    atol = {"fp32": 1e-5, "bf16": 1e-2}[precision]
    np.testing.assert_allclose(table["similarity"].to_numpy(), similarity, atol=atol)


@pytest.mark.parametrize("vision", [None, ModifiedResNetConfig((1, 1, 1, 1), 8)])
def test_features_before_the_projection_stand_beside_the_same_bytes(shard, tmp_path, vision):
    """Of a ViT another 64 numbers, of a ResNet the embedding before it has unit length."""
    config = TINY if vision is None else replace(TINY, vision=vision)
    path = save_tiny_model(tmp_path / "m.safetensors", config=config)
    settings = EmbedSettings(model=path, precision="fp32")
    tables = []
    for hidden in (False, True):
        out = tmp_path / f"{hidden}.parquet"
        Embedder(settings, hidden=hidden).embed_shard(shard[0], out, rounded=False)
        tables.append(pq.read_table(out))
    plain, both = tables
    assert both.drop_columns("image_hidden").equals(plain)
    model, _ = clip_model.load(path)
    with torch.inference_mode():
        levels = torch.stack([image_bytes_transform(32)(row["jpg"]) for row in shard[1]])
        images = normalised(levels)
        expected = image_features(model, images, projected=False)
        found = torch.from_numpy(matrix(both, "image_hidden"))
        assert found.shape == (50, 64 if vision is None else 32)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        joint = F.normalize(model.project_image(found), dim=-1)
    np.testing.assert_allclose(joint.numpy(), matrix(both, "image_embedding"), atol=1e-6)


def test_a_row_whose_features_before_the_projection_are_not_finite_fails():
    hidden = torch.tensor([[1.0, 2.0], [math.inf, 0.0]])
    window = Window([Row("a", None), Row("b", None)], torch.eye(2, 4), hidden)
    schema = embeddings_schema(4, texts=False, rounded=False, hidden=2)
    table, not_finite = window_table(window, None, Labels(), schema)
    assert table["image_hidden"].to_pylist() == [[1.0, 2.0]]
    assert [(row.id, what) for row, what in not_finite] == [("b", "image features")]


def test_labels_are_the_most_probable_classes_of_each_set(model_path, shard, tmp_path):
    path, _ = shard
    label_sets = {"colour": COLOURS, "size": SIZES}
    _, table = embed(model_path, path, tmp_path / "e.parquet", label_sets=label_sets)
    for labels in table["labels"].to_pylist():
        assert [label["set"] for label in labels] == ["colour", "colour", "size"]
        assert {label["label"] for label in labels[:2]} <= set(COLOURS.classes)
        assert labels[0]["probability"] >= labels[1]["probability"]
        assert labels[2]["probability"] >= 0.5


def test_damaged_images_fail_with_a_reason_and_the_others_go_on(model_path, tmp_path):
    pairs = list(images(20))
    for number in (3, 4):
        caption, jpg = pairs[number]
        pairs[number] = (caption, jpg[: len(jpg) // 2])
    pairs[7] = (pairs[7][0], b"not a picture")
    write_images(pairs, tmp_path / "00000.parquet")
    tally, table = embed(model_path, tmp_path / "00000.parquet", tmp_path / "e.parquet")
    assert tally.counts() == {
        "in": 20,
        "kept": 17,
        "rejected": {},
        "failed": {"broken": 2, "not_an_image": 1},
    }
    assert table.num_rows == 17


def test_a_shard_of_nothing_but_damage_is_an_empty_shard(model_path, tmp_path):
    write_images([("a", b"x"), ("b", b"")], tmp_path / "00000.parquet")
    tally, table = embed(model_path, tmp_path / "00000.parquet", tmp_path / "e.parquet")
    assert (tally.kept, table.num_rows) == (0, 0)
    assert table.schema.equals(embeddings_schema(32))


def test_a_tenth_of_damage_is_a_tenth_of_failed_rows_and_not_one_lost(model_path, tmp_path):
    rng = np.random.default_rng(0)
    pairs = list(images(200))
    damaged = set(rng.choice(200, 20, replace=False).tolist())
    for number in damaged:
        caption, jpg = pairs[number]
        cut, noise = jpg[: int(rng.integers(4, len(jpg) - 4))], rng.bytes(100)
        pairs[number] = caption, (cut, noise)[number % 2]
    rows = write_images(pairs, tmp_path / "00000.parquet")
    tally, table = embed(model_path, tmp_path / "00000.parquet", tmp_path / "e.parquet")
    assert (tally.rows_in, tally.kept, tally.failed.total()) == (200, 180, 20)
    assert {"not_an_image"} < set(tally.failed) <= {"not_an_image", "truncated", "broken"}
    sample = next(iter(tally.samples["not_an_image"].values()))
    assert sample["error"].startswith("not an image: ")
    damaged_captions = {pairs[number][0] for number in damaged}
    whole = [row["pair_id"] for row in rows if row["caption"] not in damaged_captions]
    assert table["pair_id"].to_pylist() == whole


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_same_shard_gives_the_same_bytes_whatever_the_threads(
    model_path, shard, tmp_path, precision
):
    path, _ = shard
    for threads in (1, 2, 5):
        out = tmp_path / f"{threads}.parquet"
        embed(model_path, path, out, threads=threads, batch_size=8, precision=precision)
    files = {(tmp_path / f"{threads}.parquet").read_bytes() for threads in (1, 2, 5)}
    assert len(files) == 1


def test_batch_sizes_differ_by_no_more_than_float32_rounding(shard, tmp_path):
    """docs/embedding.md states this tolerance; batches of 7 and 64 leave tails, too."""
    path, _ = shard
    tables = [
        embed("starter", path, tmp_path / f"{size}.parquet", batch_size=size, precision="fp32")[1]
        for size in (1, 7, 64)
    ]
    for table in tables[1:]:
        assert_equal_but_for_rounding(table, tables[0])


def test_machines_differ_by_no_more_than_float32_rounding(shard, tmp_path):
    """A machine without AVX, as far as the libraries are told; docs/embedding.md states this."""
    path, _ = shard
    _, here = embed("starter", path, tmp_path / "here.parquet", precision="fp32")
    old = {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_CBWR": "COMPATIBLE",
    }
    command = [sys.executable, "-c", EMBEDDED, str(path), str(tmp_path / "there.parquet")]
    subprocess.run(command, env=os.environ | old, check=True, timeout=120)
    there = pq.read_table(tmp_path / "there.parquet")
    assert_equal_but_for_rounding(there, here)
    assert there["image_hash"].equals(here["image_hash"])


def assert_equal_but_for_rounding(table, other):
    difference = table["similarity"].to_numpy() - other["similarity"].to_numpy()
    assert np.abs(difference).max() < 1e-6
    for name in ("image_embedding", "text_embedding"):  # a unit in the last place of float16
        np.testing.assert_allclose(matrix(table, name), matrix(other, name), atol=2.5e-4)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_fast_path_equals_the_reference_for_photographs(tmp_path, precision):
    """Both towers, from JPEG bytes on, against Pillow, torchvision and untrimmed captions.

    docs/embedding.md states both tolerances, and the cosine of bf16's embeddings with fp32's.
    """
    jpgs = list(photographs(100))
    captions = [f"{'a very ' * (number % 11)}small thing {number}" for number in range(len(jpgs))]
    write_images(zip(captions, jpgs, strict=True), tmp_path / "00000.parquet")
    images, out = tmp_path / "00000.parquet", tmp_path / "e.parquet"
    _, table = embed("starter", images, out, precision=precision)
    rows = pq.read_table(tmp_path / "00000.parquet").to_pylist()
    model, preprocess = clip_model.load("starter", "cpu")
    with torch.inference_mode():
        pixels = torch.stack([preprocess(Image.open(BytesIO(row["jpg"]))) for row in rows])
        image = F.normalize(model.encode_image(pixels), dim=-1)
        text = clip_model.encode_texts(model, [row["caption"] for row in rows])
    stored = [torch.from_numpy(matrix(table, f"{part}_embedding")) for part in ("image", "text")]
    # Every image against every caption: 10,000 pairs.
    tolerance, cosine = {"fp32": (3e-3, 0.9995), "bf16": (6e-2, 0.95)}[precision]
    difference = stored[0] @ stored[1].T - image @ text.T
    assert difference.abs().max() < tolerance
    np.testing.assert_allclose(
        table["similarity"].to_numpy(), (image * text).sum(dim=-1).numpy(), atol=tolerance
    )
    assert F.cosine_similarity(stored[0], image).min() > cosine
    assert F.cosine_similarity(stored[0], image).median() > 0.999
    assert F.cosine_similarity(stored[1], text).min() > 0.9995


@pytest.mark.parametrize("precision", [*PRECISIONS, "auto"])
def test_a_shard_says_of_which_model_it_is_and_in_which_precision(
    model_path, shard, tmp_path, precision
):
    path, _ = shard
    for model in (model_path, "starter"):
        embed(model, path, tmp_path / "e.parquet", precision=precision)
        label = model if model == "starter" else f"sha256:{file_hash(Path(model_path))}"
        concrete = PRECISIONS[-1] if precision == "auto" else precision
        metadata = pq.read_schema(tmp_path / "e.parquet").metadata
        assert metadata == {b"model": label.encode(), b"precision": concrete.encode()}


def test_a_processor_without_bfloat16_refuses_it_and_is_not_slow_in_silence(
    model_path, monkeypatch, tmp_path
):
    hide_bfloat16(monkeypatch, tmp_path)
    with pytest.raises(PrecisionError, match=r"only emulates.*set embeddings\.precision: fp32"):
        Embedder(EmbedSettings(model=model_path, precision="bf16"))
    assert Embedder(EmbedSettings(model=model_path)).metadata["precision"] == "fp32"


@pytest.mark.parametrize("isa", ["AVX2", "AVX512_CORE"])
def test_a_processor_is_of_the_kind_that_onednn_is_held_to(isa):
    program = (
        "import torch; from workers.base.hardware import computes_bfloat16 as computes;"
        "assert not computes(torch.device('cpu'))"
    )
    subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"ONEDNN_MAX_CPU_ISA": isa}, check=True
    )


def test_parquet_and_tar_give_the_same_embeddings(model_path, tmp_path):
    pairs = list(images(50))
    pairs[7] = pairs[7][0], b"damage"
    keys = [f"{number:09d}" for number in range(50)]
    captions, jpgs = zip(*pairs, strict=True)
    columns = {"key": keys, "jpg": jpgs, "caption": captions}
    pq.write_table(pa.table(columns), tmp_path / "00000.parquet")
    members = []
    for key, caption, jpg in zip(keys, captions, jpgs, strict=True):
        members += [(f"{key}.jpg", jpg), (f"{key}.txt", caption.encode())]
    write_tar(members, tmp_path / "00000.tar")
    embedder = Embedder(EmbedSettings(model=model_path))
    for ending in ("parquet", "tar"):
        tallies = embedder.embed_shard(tmp_path / f"00000.{ending}", tmp_path / f"{ending}.out")
        assert (tallies["images"].kept, tallies["images"].failed.total()) == (49, 1)
    assert (tmp_path / "parquet.out").read_bytes() == (tmp_path / "tar.out").read_bytes()
    assert pq.read_table(tmp_path / "tar.out")["pair_id"].to_pylist() == keys[:7] + keys[8:]


def test_one_part_alone_is_what_it_is_with_the_other(model_path, shard, tmp_path):
    path, _ = shard
    embedder = Embedder(EmbedSettings(model=model_path, label_sets={"size": SIZES}))
    embedder.embed_shard(path, tmp_path / "both")
    both = pq.read_table(tmp_path / "both")
    for part in ("image", "text"):
        source = InputSettings.model_validate({"parts": f"{part}s"})
        tallies = embedder.embed_shard(path, tmp_path / part, source)
        assert tallies[f"{part}s"].kept == 50
        table = pq.read_table(tmp_path / part)
        assert table.schema.equals(
            embeddings_schema(
                32, images=part == "image", texts=part == "text", labels=part == "image"
            )
        )
        assert table[f"{part}_embedding"].equals(both[f"{part}_embedding"])


def test_rows_that_lack_a_part_fail_and_say_which(model_path, tmp_path):
    _, jpg = next(images(1))
    columns = {"jpg": [jpg, None, jpg], "caption": ["a", "b", None]}
    pq.write_table(pa.table(columns), tmp_path / "00000.parquet")
    tally, table = embed(model_path, tmp_path / "00000.parquet", tmp_path / "e.parquet")
    assert tally.failed == {"no_image": 1, "no_caption": 1}
    assert table["pair_id"].to_pylist() == ["e/000000000"]  # named after the output


@pytest.mark.parametrize(
    "captions",
    [
        [["a", "b"], None, []],
        [{"en": "a"}, None, {"en": "b"}],
        [7, None, 8],
        [0.5, None, True + 0.5],
        [b"a", None, b"b"],
        pa.array([b"\xff", None, b"\xed\xa0\x80"]).cast(pa.string(), safe=False),
    ],
)
def test_captions_that_are_no_texts_fail_alone(model_path, tmp_path, captions):
    jpgs = [jpg for _, jpg in images(3)]
    pq.write_table(pa.table({"jpg": jpgs, "caption": captions}), tmp_path / "00000.parquet")
    tally, _ = embed(model_path, tmp_path / "00000.parquet", tmp_path / "e.parquet")
    assert tally.counts()["failed"] == {"bad_caption": 2, "no_caption": 1}


def test_images_that_are_no_bytes_fail_alone(model_path, tmp_path):
    jpgs = [jpg for _, jpg in images(1)]
    column = [{"bytes": jpgs[0], "url": "a"}, {"bytes": None, "url": "b"}, None]
    pq.write_table(pa.table({"jpg": column, "caption": ["a"] * 3}), tmp_path / "0.parquet")
    links = [{"url": "a"}, {"url": "b"}, None]
    pq.write_table(pa.table({"jpg": links, "caption": ["a"] * 3}), tmp_path / "1.parquet")
    tally, _ = embed(model_path, tmp_path / "0.parquet", tmp_path / "e.parquet")
    assert (tally.kept, tally.failed) == (1, {"no_image": 2})
    tally, _ = embed(model_path, tmp_path / "1.parquet", tmp_path / "e.parquet")
    assert (tally.kept, tally.failed) == (0, {"bad_image": 2, "no_image": 1})


def test_a_text_that_is_not_utf8_and_half_a_character_cost_their_rows_only(model_path, tmp_path):
    jpgs = [jpg for _, jpg in images(2)]
    texts = pa.array([b"good", b"\xff"]).cast(pa.string(), safe=False)
    pq.write_table(pa.table({"jpg": jpgs, "caption": texts}), tmp_path / "00000.parquet")
    members = [("a.jpg", jpgs[0]), ("a.json", b'{"caption": "\\ud800"}')]
    members += [("b.jpg", jpgs[1]), ("b.json", b'{"caption": "good"}')]
    write_tar(members, tmp_path / "00000.tar")
    for shard in ("00000.parquet", "00000.tar"):
        tally, _ = embed(model_path, tmp_path / shard, tmp_path / "e.parquet")
        assert (tally.kept, tally.failed) == (1, {"bad_caption": 1}), shard


def test_many_windows_keep_order_and_pair_each_image_with_its_own_caption(model_path, tmp_path):
    """The image is one of five, the caption one of seven: 2,500 rows in three windows."""
    some = list(images(7))
    jpgs = [some[number % 5][1] for number in range(2_500)]
    captions = ["word " * (number % 7) for number in range(2_500)]
    pq.write_table(pa.table({"jpg": jpgs, "caption": captions}), tmp_path / "00000.parquet")
    _, table = embed(model_path, tmp_path / "00000.parquet", tmp_path / "e.parquet")
    assert table["pair_id"].to_pylist() == [f"e/{number:09d}" for number in range(2_500)]
    image, text = matrix(table, "image_embedding"), matrix(table, "text_embedding")
    for number in range(5, 2_500):
        assert np.abs(image[number] - image[number % 5]).max() < 1e-3
        assert np.abs(text[number] - text[number % 7]).max() < 1e-3
    assert pq.read_metadata(tmp_path / "e.parquet").row_group(0).num_rows == 256


def test_threads_of_the_embedder_are_alone_and_the_callers_are_left(model_path, shard, tmp_path):
    path, _ = shard
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        embedder = Embedder(EmbedSettings(model=model_path, threads=3))
        embedder.embed_shard(path, tmp_path / "e.parquet")
        inside = [embedder._pool.submit(torch.get_num_threads).result() for _ in range(9)]
        assert inside == [1] * 9
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_kill_in_the_middle_leaves_no_half_shard(model_path, tmp_path):
    """The process is killed when it has read three quarters of the rows, not at its end."""
    some = list(images(10))
    pq.write_table(
        pa.table({"jpg": [jpg for _, jpg in some * 600], "caption": ["a"] * 6_000}),
        tmp_path / "00000.parquet",
    )
    out = tmp_path / "out" / "00000.parquet"
    result = subprocess.run(
        [sys.executable, "-c", KILLED, model_path, str(tmp_path / "00000.parquet"), str(out)],
        capture_output=True,
        text=True,
    )
    assert result.returncode == -signal.SIGKILL, result.stderr
    (left,) = out.parent.iterdir()
    assert left.name.startswith(".tmp-")
    assert left.stat().st_size > 0  # it was writing
    remove_leftovers(out.parent)
    tally, table = embed(model_path, tmp_path / "00000.parquet", out)
    assert (tally.kept, table.num_rows) == (6_000, 6_000)
    assert [path.name for path in out.parent.iterdir()] == ["00000.parquet"]


def spoil_nothing(_):
    pass


def nan_in_the_image_tower(model):
    model.visual.proj[3, 5] = math.nan


def nan_in_the_text_tower(model):
    model.text_projection[0, 0] = math.nan


def features_that_overflow(model):
    model.visual.proj.fill_(3e38)


def features_whose_squares_overflow(model):
    """Their length is infinite, and divided by it they are 0, which is finite."""
    model.visual.proj.fill_(1e30)


def features_of_no_length(model):
    model.text_projection.zero_()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("spoil", "parts"),
    [
        (spoil_nothing, {}),
        (nan_in_the_image_tower, {"images", "both"}),
        (nan_in_the_text_tower, {"texts", "both"}),
        (features_that_overflow, {"images", "both"}),
        (features_whose_squares_overflow, {"images", "both"}),
        (features_of_no_length, {"texts", "both"}),
    ],
)
def test_what_a_broken_model_gives_is_counted_and_not_written(
    model_path, tmp_path, spoil, parts, precision
):
    write_images(images(5), tmp_path / "00000.parquet")
    embedder = Embedder(EmbedSettings(model=model_path, precision=precision))
    with torch.no_grad():
        spoil(embedder.model)
    for part in ("images", "texts", "both"):
        source, out = InputSettings.model_validate({"parts": part}), tmp_path / part
        (tally,) = embedder.embed_shard(tmp_path / "00000.parquet", out, source).values()
        tally.check()
        expected = (0, {"not_finite": 5}) if part in parts else (5, {})
        assert (tally.kept, dict(tally.failed)) == expected, part
        assert pq.read_metadata(out).num_rows == tally.kept


def test_rows_whose_score_or_label_is_not_finite_fail_and_the_others_stay(model_path, tmp_path):
    rows = write_images(images(60), tmp_path / "00000.parquet")
    _, plain = embed(model_path, tmp_path / "00000.parquet", tmp_path / "plain.parquet")
    image = torch.from_numpy(matrix(plain, "image_embedding"))
    # Two layers, of whose product the larger half is above what float32 holds.
    first = 1e6 * torch.randn(1, 32, generator=torch.manual_seed(0))
    scores = image @ first.T
    second = torch.finfo(torch.float32).max / (scores - scores.mean()).abs().median()
    layers = {"0.weight": first, "0.bias": -scores.mean().view(1), "1.weight": second.view(1, 1)}
    torch.save(layers, tmp_path / "head.pt")
    heads = {"steep": Head(path=str(tmp_path / "head.pt"))}
    tally, table = embed(
        model_path, tmp_path / "00000.parquet", tmp_path / "e.parquet", heads=heads
    )
    assert tally.failed == {"not_finite": 60 - tally.kept}
    assert 20 < tally.kept < 40
    assert np.isfinite(table["score_steep"].to_numpy()).all()
    kept = set(table["pair_id"].to_pylist())
    assert table["pair_id"].to_pylist() == [
        row["pair_id"] for row in rows if row["pair_id"] in kept
    ]
    sample = next(iter(tally.samples["not_finite"].values()))
    assert sample["error"].startswith("score_steep: not finite")

    embedder = Embedder(EmbedSettings(model=model_path, label_sets={"size": SIZES}))
    (labels,) = embedder._labels.sets
    with torch.inference_mode():  # in which they were made
        labels.features[0, 0] = math.nan
    tallies = embedder.embed_shard(tmp_path / "00000.parquet", tmp_path / "e.parquet")
    assert tallies["images"].failed == {"not_finite": 60}


def test_captions_longer_than_the_context_are_cut(model_path, tmp_path):
    caption, jpg = next(images(1))
    write_images([(caption * 100, jpg)], tmp_path / "00000.parquet")
    tally, _ = embed(model_path, tmp_path / "00000.parquet", tmp_path / "e.parquet")
    assert tally.kept == 1


def test_neither_ray_nor_beam_nor_a_crawler_is_needed():
    """What embeds on a machine with a GPU and little else."""
    others = {"ray", "apache_beam", "scrapy", "w3lib", "img2dataset", "ftfy", "requests"}
    program = "import sys, workers.embedding.embedder; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert others.isdisjoint(result.stdout.decode().split())


def test_embeddings_are_rounded_unless_they_are_asked_for_as_they_are(model_path, shard, tmp_path):
    embedder = Embedder(EmbedSettings(model=model_path, precision="fp32"))
    tables = {}
    for rounded in (True, False):
        out = tmp_path / f"{rounded}.parquet"
        embedder.embed_shard(shard[0], out, rounded=rounded)
        tables[rounded] = pq.read_table(out)
    types = {key: table.schema.field("image_embedding").type for key, table in tables.items()}
    assert {key: type.value_type for key, type in types.items()} == {
        True: pa.float16(),
        False: pa.float32(),
    }
    for name in ("image_embedding", "text_embedding"):
        exact, rounded = (matrix(tables[key], name) for key in (False, True))
        assert (exact.astype(np.float16) == rounded).all()
        assert (exact != rounded).any()
        np.testing.assert_allclose(np.linalg.norm(exact, axis=1), 1, atol=1e-6)
