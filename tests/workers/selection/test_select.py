"""Every filter by itself, and what steps one after the other do."""

import random
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from workers.base.contracts import (
    DATASET,
    IMAGES,
    PAIRS,
    SELECTION,
    embeddings_schema,
    labels_schema,
)
from workers.base.opt_outs import Kind, OptOuts
from workers.base.storage import write_table
from workers.selection.assemble import assemble_shard
from workers.selection.select import EmbeddedShard, select
from workers.selection.settings import SelectionSettings

IMAGE = {"key": "0", "status": "success", "width": 300, "height": 300, "jpg": b"jpg"}


def make_shard(folder, name, rows):
    """A shard of the three stages; a row has what differs from the defaults."""
    rows = sorted(
        (
            {
                "pair_id": f"{name}{number:03d}",
                "url": f"http://a/{name}{number}",
                "caption": "two dogs in the snow",
                "similarity": 0.5,
                "image_embedding": unit(0.0),
                "text_embedding": unit(0.0),
                "image_hash": 0,
                "labels": [],
                "query_ids": [0],
                "source": "test@0",
                **row,
            }
            for number, row in enumerate(rows)
        ),
        key=lambda row: row["pair_id"],
    )
    stages = ("pairs", "embeddings", "images", "labels")
    paths = [folder / stage / f"{name}.parquet" for stage in stages]
    schemas = [PAIRS, embeddings_schema(2), IMAGES, labels_schema()]
    for path, schema in zip(paths, schemas, strict=True):
        known = [{**IMAGE, **row} for row in rows]
        write_table(pa.Table.from_pylist(known, schema=schema), path)
    pairs, embeddings, images, labels = paths
    return EmbeddedShard(pairs, [embeddings], [images], [labels])


def unit(angle):
    return [float(np.cos(angle)), float(np.sin(angle))]


def run_steps(shards, folder, *steps, seed=0):
    """The reasons by pair_id, and the counts."""
    out = folder / "selection"
    tally = select(shards, out, SelectionSettings.model_validate({"steps": steps}), seed)["pairs"]
    tally.check()
    tables = [pq.read_table(path) for path in sorted(out.glob("*.parquet"))]
    assert all(table.schema.equals(SELECTION) for table in tables)
    rows = pa.concat_tables(tables).to_pylist()
    return {row["pair_id"]: row["reason"] for row in rows}, tally


def kept_by(folder, rows, *steps):
    """The numbers of the rows of one shard that stay."""
    reasons, _ = run_steps([make_shard(folder, "s", rows)], folder, *steps)
    return [int(pair_id[1:]) for pair_id, reason in reasons.items() if reason is None]


def test_a_pair_on_the_threshold_stays(tmp_path):
    rows = [{"similarity": value} for value in (0.1, 0.28, 0.9)]
    assert kept_by(tmp_path, rows, {"filter": "similarity", "min": 0.28}) == [1, 2]


@pytest.mark.parametrize(("share", "kept"), [(0.0, 0), (0.3, 3), (1.0, 10)])
def test_the_top_fraction_is_exact_over_all_shards(share, kept, tmp_path):
    values = random.Random(0).sample(range(100), 10)
    shards = [
        make_shard(tmp_path, "a", [{"similarity": value / 100} for value in values[:3]]),
        make_shard(tmp_path, "b", [{"similarity": value / 100} for value in values[3:]]),
    ]
    reasons, tally = run_steps(shards, tmp_path, {"filter": "top_fraction", "share": share})
    by_value = dict(zip(reasons, values, strict=True))
    best = sorted(values, reverse=True)[:kept]
    assert sorted((by_value[i] for i, r in reasons.items() if r is None), reverse=True) == best
    assert tally.counts()["kept"] == kept


@pytest.mark.parametrize(
    ("step", "kept"),
    [({"pairs": 3}, 3), ({"pairs": 99}, 10), ({"share": 0.5}, 5), ({"share": 0.0}, 0)],
)
def test_a_sample_has_the_size_that_is_asked_for_and_others_have_another(step, kept, tmp_path):
    rows = [{"similarity": value / 100} for value in range(10)]
    step = {"filter": "sample", **step}
    drawn = {}
    for seed in range(20):
        shards = [make_shard(tmp_path, "a", rows[:4]), make_shard(tmp_path, "b", rows[4:])]
        reasons, tally = run_steps(shards, tmp_path, step, seed=seed)
        drawn[seed] = {pair_id for pair_id, reason in reasons.items() if reason is None}
        assert tally.counts()["kept"] == len(drawn[seed]) == kept
        assert set(reasons.values()) <= {None, "not_in_sample"}
    if 0 < kept < 10:
        assert len(set(map(frozenset, drawn.values()))) > 10
        assert set().union(*drawn.values()) == set(reasons)


@pytest.mark.parametrize("step", [{}, {"pairs": 3, "share": 0.5}])
def test_a_sample_has_one_size(step):
    with pytest.raises(ValueError, match="one of the two"):
        SelectionSettings.model_validate({"steps": [{"filter": "sample", **step}]})


def test_each_query_keeps_its_best_pairs(tmp_path):
    rows = [
        {"similarity": 0.9, "query_ids": [1]},
        {"similarity": 0.8, "query_ids": [1]},
        {"similarity": 0.7, "query_ids": [1, 500]},  # third of query 1, first of query 500
        {"similarity": 0.6, "query_ids": [1]},
    ]
    assert kept_by(tmp_path, rows, {"filter": "top_per_query", "pairs": 2}) == [0, 1, 2]


@pytest.mark.parametrize(
    ("step", "kept"),
    [
        ({"filter": "top_fraction", "share": 0.1}, 2),
        ({"filter": "top_fraction", "share": 0.45}, 9),
        ({"filter": "top_per_query", "pairs": 1}, 2),
        ({"filter": "top_per_query", "pairs": 7}, 14),
    ],
)
def test_of_equals_as_many_stay_as_are_asked_for(step, kept, tmp_path):
    """Two queries have ten equal pairs each, in two shards; other seeds keep others."""

    def kept_with(seed, names="ab"):
        rows = [{"query_ids": [number % 2]} for number in range(10)]
        shards = [make_shard(tmp_path, name, rows) for name in names]
        reasons, _ = run_steps(shards, tmp_path, step, seed=seed)
        return {pair_id for pair_id, reason in reasons.items() if reason is None}

    assert len(kept_with(0)) == len(kept_with(1)) == kept
    assert kept_with(0) == kept_with(0, "ba") != kept_with(1)


def test_equals_below_the_border_go_and_above_it_stay(tmp_path):
    values = (0.9, 0.5, 0.5, 0.5, 0.1, float("nan"))
    rows = [{"similarity": value} for value in values]
    for share, least in ((1 / 6, 0.9), (3 / 6, 0.5), (4 / 6, 0.5), (5 / 6, 0.1), (1.0, 0.1)):
        kept = kept_by(tmp_path, rows, {"filter": "top_fraction", "share": share})
        assert len(kept) == min(5, round(6 * share))
        assert min(values[row] for row in kept) == least


def test_short_captions_go(tmp_path):
    rows = [
        {"caption": text} for text in ("a dog", "a b c", "three whole words", "  an  ice cube ")
    ]
    assert kept_by(tmp_path, rows, {"filter": "caption"}) == [2, 3]
    assert kept_by(tmp_path, rows, {"filter": "caption", "min_words": 2, "min_chars": 0}) == [
        *range(4)
    ]


def test_captions_in_other_languages_go(tmp_path):
    captions = ["a red cat on the sofa", "ein roter Kater auf dem Sofa", "facade", "写真の猫"]
    rows = [{"caption": text} for text in captions]
    step = {"filter": "language", "allowed": ["en"]}
    assert kept_by(tmp_path, rows, step) == [0, 2]  # nobody is sure of one word
    assert kept_by(tmp_path, rows, {**step, "allowed": ["en", "de"]}) == [0, 1, 2]
    with pytest.raises(ValidationError, match="allowed"):
        SelectionSettings.model_validate({"steps": [{"filter": "language"}]})


def test_the_basic_rules_of_datacomp(tmp_path):
    text = "a red cat on the sofa"
    rows = [
        {"caption": text, "width": 200, "height": 600},
        {"caption": "red cat", "width": 300, "height": 300},  # 2 words
        {"caption": "a b c", "width": 300, "height": 300},  # 5 characters
        {"caption": "ein roter Kater auf dem Sofa", "width": 300, "height": 300},
        {"caption": text, "width": 199, "height": 300},
        {"caption": text, "width": 200, "height": 601},
    ]
    reasons, tally = run_steps(
        [make_shard(tmp_path, "s", rows)],
        tmp_path,
        {"filter": "caption", "min_words": 3, "min_chars": 0, "name": "words"},
        {"filter": "caption", "min_words": 0, "min_chars": 6, "name": "chars"},
        {"filter": "language", "allowed": ["en"], "min_probability": 0},
        {"filter": "size", "min_side": 200, "max_aspect": 3},
    )
    assert list(reasons.values()) == [
        *(None, "words", "chars", "other_language", "wrong_size", "wrong_size")
    ]
    assert tally.kept == 1


def test_small_and_long_images_go_by_their_own_size(tmp_path):
    rows = [
        {"width": 200, "height": 600},
        {"width": 199, "height": 300},
        {"width": 200, "height": 601},
        {"width": 64, "height": 64, "original_width": 640, "original_height": 640},
    ]
    assert kept_by(tmp_path, rows, {"filter": "size"}) == [0, 3]


def test_labels_wanted_and_unwanted(tmp_path):
    def labels(*names):
        return {"labels": [{"set": "s", "label": n, "probability": p} for n, p in names]}

    rows = [
        labels(("photo", 0.9)),
        labels(("drawing", 0.8), ("photo", 0.2)),
        labels(("text", 0.7)),
        labels(),
    ]
    step = {"filter": "label", "set": "s"}
    assert kept_by(tmp_path, rows, {**step, "drop": ["text"]}) == [0, 1, 3]
    assert kept_by(tmp_path, rows, {**step, "keep": ["photo"]}) == [0, 1]
    assert kept_by(tmp_path, rows, {**step, "keep": ["photo"], "min_probability": 0.5}) == [0]
    assert kept_by(tmp_path, rows, {**step, "set": "other", "keep": ["photo"]}) == []


def test_scores_of_attributes_and_heads_have_limits(tmp_path):
    shard = make_shard(tmp_path, "s", [{}, {}, {}])
    table = pq.read_table(shard.labels[0])
    scores = pa.array([0.1, 0.5, 0.9], pa.float32())
    write_table(table.append_column("score_watermark", scores), shard.labels[0])
    step = {"filter": "score", "score": "watermark"}
    cases = [({"max": 0.5}, "01"), ({"min": 0.5}, "12"), ({"min": 0.2, "max": 0.6}, "1")]
    for limits, kept in cases:
        reasons, _ = run_steps([shard], tmp_path, {**step, **limits})
        assert [name[-1] for name, reason in reasons.items() if reason is None] == list(kept)
        shard.verdicts[:] = 0
    with pytest.raises(ValueError, match=r"no stage has the columns \['score_beauty'\]"):
        run_steps([shard], tmp_path, {"filter": "score", "score": "beauty"})


def test_one_pair_a_file_the_most_similar(tmp_path):
    rows = [
        {"sha256": "x", "similarity": 0.3},
        {"sha256": "x", "similarity": 0.4},
        {"sha256": "y", "similarity": 0.1},
        {"sha256": "x", "similarity": 0.4},
        {"sha256": None},
        {"sha256": None},  # a file that is not known is nobody's duplicate
    ]
    assert kept_by(tmp_path, rows, {"filter": "exact_duplicates"}) == [1, 2, 4, 5]


def test_no_pair_of_a_placeholder(tmp_path):
    gone = [
        {"sha256": "gone", "url": f"http://{n}/x.png", "caption": f"the city of {n}"}
        for n in range(10)
    ]
    shared = [
        {"sha256": "news", "url": f"http://{n}/x.png", "caption": "rain in the north"}
        for n in range(10)
    ]
    rows = [*gone, *shared, {"sha256": "own"}, {"sha256": None}]
    assert kept_by(tmp_path, rows, {"filter": "placeholder"}) == list(range(10, 22))
    step = {"filter": "placeholder", "min_urls": 11}
    assert kept_by(tmp_path, rows, step) == list(range(22))


def test_one_pair_a_group_of_near_images_the_most_similar(tmp_path):
    hashes = [0xFFFF0000FFFF0000, 0xFFFF0000FFFF000F, 0xFFFF0000FFF00FFF, 0, 0]
    similarities = [0.3, 0.4, 0.5, 0.6, 0.6]
    rows = [
        {"image_hash": value, "similarity": similarity}
        for value, similarity in zip(hashes, similarities, strict=True)
    ]
    step = {"filter": "perceptual_duplicates"}
    assert kept_by(tmp_path, rows, step) == [1, 2, 3, 4]  # without a hash: nobody's duplicate
    assert kept_by(tmp_path, rows, {**step, "max_distance": 3}) == [0, 1, 2, 3, 4]
    assert kept_by(tmp_path, rows, {**step, "max_distance": 12}) == [2, 3, 4]


@pytest.mark.parametrize("cluster_rows", [1_000, 10])
def test_planted_near_duplicates_are_found_across_shards(cluster_rows, tmp_path):
    angles = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    originals = [{"image_embedding": unit(angle), "similarity": 0.6} for angle in angles]
    copies = [{"image_embedding": unit(angle + 1e-3), "similarity": 0.4} for angle in angles[::2]]
    shards = [make_shard(tmp_path, "a", originals), make_shard(tmp_path, "b", copies)]
    step = {"filter": "semantic_duplicates", "max_similarity": 0.999, "cluster_rows": cluster_rows}
    reasons, tally = run_steps(shards, tmp_path, step)
    assert [name for name, reason in reasons.items() if reason is None] == [
        f"a{number:03d}" for number in range(20)
    ]
    assert tally.rejected == {"duplicate_image": 10}


def test_pairs_of_an_evaluation_set_go(tmp_path):
    reference = tmp_path / "evaluation"
    make_shard(reference, "e", [{"image_embedding": unit(1.0), "text_embedding": unit(2.0)}])
    rows = [
        {"image_embedding": unit(1.0)},
        {"image_embedding": unit(0.5)},
        {"image_embedding": unit(3.0), "text_embedding": unit(2.0)},
    ]
    step = {
        "filter": "contamination",
        "embeddings": [str(reference / "embeddings" / "*.parquet")],
        "max_image_similarity": 0.99,
    }
    assert kept_by(tmp_path, rows, step) == [1, 2]
    assert kept_by(tmp_path, rows, {**step, "max_text_similarity": 0.99}) == [1]


def test_another_model_must_agree_and_know_the_pair(tmp_path):
    other = make_shard(tmp_path / "other", "s", [{"similarity": 0.2}, {"similarity": 0.4}])
    rows = [{"similarity": 0.9}] * 3
    step = {"filter": "agreement", "embeddings": [str(other.embeddings[0])], "min": 0.3}
    assert kept_by(tmp_path, rows, step) == [1]


def test_agreement_knows_many_pairs_in_any_order_and_files(tmp_path):
    values = [(number * 37 % 100) / 100 for number in range(100)]
    others = [
        make_shard(tmp_path / f"other{half}", "s", [{"similarity": value} for value in values])
        for half in (0, 1)
    ]
    tables = [pq.read_table(other.embeddings[0]) for other in others]
    pq.write_table(tables[0].sort_by([("pair_id", "descending")])[:60], others[0].embeddings[0])
    pq.write_table(tables[1].sort_by([("pair_id", "descending")])[60:], others[1].embeddings[0])
    files = [str(other.embeddings[0]) for other in others]
    step = {"filter": "agreement", "embeddings": files, "min": 0.5}
    kept = kept_by(tmp_path, [{"similarity": 0.9}] * 110, step)
    assert kept == [number for number, value in enumerate(values) if value >= 0.5]


def test_steps_see_what_the_ones_before_them_left_and_name_their_reasons(tmp_path):
    rows = [{"similarity": value, "caption": text} for value, text in [
        (0.9, "no"), (0.8, "a long caption"), (0.7, "a long caption"), (0.1, "no"),
    ]]  # fmt: skip
    shards = [make_shard(tmp_path, "s", rows)]
    reasons, tally = run_steps(
        shards,
        tmp_path,
        {"filter": "caption"},
        {"filter": "top_fraction", "share": 0.5, "name": "worse_half"},
    )
    assert list(reasons.values()) == ["short_caption", None, "worse_half", "short_caption"]
    assert tally.counts()["rejected"] == {"short_caption": 2, "worse_half": 1}
    (sample,) = tally.samples["worse_half"].values()
    assert sample["caption"] == "a long caption"
    assert sample["url"] == "http://a/s2"


ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "similarity": st.sampled_from([0.1, 0.2, 0.3]),
            "caption": st.sampled_from(["a", "a b c d"]),
            "sha256": st.sampled_from("xyz"),
            "image_hash": st.sampled_from([0, 1, 3, 0xFFFF, 0xFFFE, 1 << 63]),
            "query_ids": st.sampled_from([[0], [0, 1], [2]]),
            "image_embedding": st.sampled_from([unit(0), unit(0.01), unit(2)]),
        }
    ),
    max_size=12,
)
STEPS = st.lists(
    st.sampled_from(
        [
            {"filter": "similarity", "min": 0.2},
            {"filter": "top_fraction", "share": 0.5},
            {"filter": "caption"},
            {"filter": "exact_duplicates"},
            {"filter": "perceptual_duplicates", "max_distance": 1},
            {"filter": "top_per_query", "pairs": 2},
            {"filter": "semantic_duplicates", "cluster_rows": 2},
        ]
    ),
    max_size=4,
)


@settings(max_examples=10, deadline=None)
@given(
    rows=ROWS,
    steps=STEPS,
    cuts=st.lists(st.integers(0, 12), max_size=3),
    order=st.permutations(range(4)),
)
def test_sharding_never_matters_and_every_row_has_one_fate(
    tmp_path_factory, rows, steps, cuts, order
):
    rows = [{**row, "pair_id": f"{n:03d}", "url": f"http://a/{n}"} for n, row in enumerate(rows)]
    results = []
    for ends in ([], sorted(cuts)):
        folder = tmp_path_factory.mktemp("selection")
        parts = [rows[start:end] for start, end in pairwise([0, *ends, len(rows)])]
        shards = [make_shard(folder, name, part) for name, part in zip("abcd", parts, strict=False)]
        given_in = sorted(range(len(shards)), key=order.index)
        reasons, tally = run_steps([shards[number] for number in given_in], folder, *steps)
        results.append((reasons, tally.counts(), tally.samples))
    assert results[0] == results[1]
    assert len(results[0][0]) == len(rows)


def test_selected_pairs_are_joined_with_what_every_stage_knows(tmp_path):
    rows = [{"similarity": number / 10, "page_url": f"http://p/{number}"} for number in range(4)]
    shard = make_shard(tmp_path, "s", rows)
    run_steps([shard], tmp_path, {"filter": "similarity", "min": 0.15})
    tally = assemble_shard(shard, tmp_path / "selection" / "s.parquet", tmp_path / "out.parquet")
    assert tally["pairs"].counts() == {"in": 2, "kept": 2, "rejected": {}, "failed": {}}
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.schema.equals(DATASET)
    assert table["page_url"].to_pylist() == ["http://p/2", "http://p/3"]


def test_shards_of_different_pairs_are_refused(tmp_path):
    shard = make_shard(tmp_path, "s", [{}, {}])
    make_shard(tmp_path / "other", "s", [{}])
    shard.images = [tmp_path / "other" / "images" / "s.parquet"]
    with pytest.raises(ValueError, match="1 embedded pairs are not in"):
        run_steps([shard], tmp_path, {"filter": "size"})


@pytest.mark.parametrize(
    "step", [{"filter": "beauty"}, {"filter": "similarity"}, {"filter": "caption", "words": 3}]
)
def test_a_misspelt_step_is_an_error(step):
    with pytest.raises(ValidationError):
        SelectionSettings.model_validate({"steps": [step]})


@pytest.mark.parametrize(
    "entry",
    [
        (Kind.URL, "a/s1"),
        (Kind.DOMAIN, "birds.example"),
        (Kind.SHA256, "f" * 64),
        (Kind.URL, "store.example/7.jpg"),
        (Kind.IMAGE_HASH, "18446744073709551615"),
    ],
)
def test_what_is_listed_is_no_ones_duplicate_and_not_in_the_data_set(tmp_path, entry):
    listed = {
        "page_url": "https://www.birds.example/",
        "final_url": "https://store.example/7.jpg",
        "sha256": "f" * 64,
    }
    mine = {"sha256": "f" * 64 if entry[0] is not Kind.SHA256 else "0" * 64}
    rows = [mine, listed | {"image_hash": 2**64 - 1, "similarity": 0.9}]
    shard = make_shard(tmp_path, "s", rows)
    steps = SelectionSettings.model_validate({"steps": [{"filter": "exact_duplicates"}]})
    tally = select([shard], tmp_path / "out", steps, 0, [OptOuts.of([entry])])["pairs"]
    assert tally.counts()["rejected"] == {"opted_out": 1}
    assemble_shard(shard, tmp_path / "out/s.parquet", tmp_path / "dataset.parquet")
    assert pq.read_table(tmp_path / "dataset.parquet")["pair_id"].to_pylist() == ["s000"]


def test_a_pair_without_labels_is_left_out_and_without_a_labels_stage_all_stay(tmp_path):
    shard = make_shard(tmp_path, "s", [{}, {}, {}])
    write_table(pq.read_table(shard.labels[0])[1:], shard.labels[0])
    shard = EmbeddedShard(shard.pairs, shard.embeddings, shard.images, shard.labels)
    reasons, _ = run_steps([shard], tmp_path)
    assert list(reasons) == ["s001", "s002"]
    bare = EmbeddedShard(shard.pairs, shard.embeddings, shard.images)
    reasons, _ = run_steps([bare], tmp_path)
    assert list(reasons) == ["s000", "s001", "s002"]
    assemble_shard(bare, tmp_path / "selection/s.parquet", tmp_path / "d.parquet")
    table = pq.read_table(tmp_path / "d.parquet")
    assert table.schema.equals(DATASET)
    assert table["labels"].to_pylist() == [[], [], []]
