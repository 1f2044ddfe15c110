"""A filter's verdicts follow from the set of pairs: not from tables, nor from their order."""

from itertools import pairwise
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.base.contracts import LABEL
from workers.selection import semantic_duplicates
from workers.selection.duplicate_filters import SemanticDuplicates, near
from workers.selection.semantic_duplicates import _assign
from workers.selection.settings import AnyFilter

DIM = 96
#: Four directions, each five times, nearly the same: a rounding can tell their cosines apart.
VECTORS = np.repeat(np.random.default_rng(0).normal(size=(4, DIM)), 5, axis=0)
VECTORS += np.random.default_rng(1).normal(0, 0.01, VECTORS.shape)
VECTORS = (VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)).astype(np.float16)
#: Cosines of the first five and the first, and the float32 beside each: limits at which a rounding
#: decides.
COSINES = (VECTORS[:5].astype(float) @ VECTORS[0].astype(float)).astype(np.float32)
BORDERS = [float(np.nextafter(COSINES, np.float32(end))[k]) for end in (-1, 1) for k in range(1, 5)]
BORDERS += COSINES[1:].tolist()

CAPTIONS = ["a red cat on the sofa", "ein roter Kater auf dem Sofa", "two"]

#: An example of each filter; None stands for one of these limits.
EXAMPLES: dict[str, dict[str, object]] = {
    "similarity": {"min": 0.25},
    "top_fraction": {"share": 0.4},
    "top_per_query": {"pairs": 4},
    "caption": {},
    "language": {"allowed": ["en"]},
    "size": {},
    "label": {"set": "s", "drop": ["photo"]},
    "score": {"score": "photo", "min": 0.5},
    "placeholder": {"min_urls": 3},
    "exact_duplicates": {},
    "perceptual_duplicates": {"max_distance": 2},
    "semantic_duplicates": {"max_similarity": None, "cluster_rows": 3},
    "contamination": {"max_image_similarity": None, "max_text_similarity": None},
    "agreement": {"min": 0.25},
    "sample": {"pairs": 7},
    "neg_clip_loss": {"share": 0.4, "batch_size": 8, "batches": 2, "temperature": 0.05},
    "norm_sim": {"share": 0.4, "norm": 2},
    "weighted": {
        "share": 0.4,
        "scores": {"photo": -1, "neg_clip_loss": 1},
        "neg_clip_loss": {"batch_size": 8, "temperature": 0.05},
    },
}


def lists(vectors):
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIM)


def pairs(rng, number):
    """All columns of so many pairs, of which many are equal; sorted by pair_id."""

    def some(values, kind=None):
        return pa.array([values[place] for place in rng.integers(0, len(values), number)], kind)

    places = np.sort(rng.permutation(1 << 10)[:number])
    photo = {"set": "s", "label": "photo", "probability": 0.9}
    sides = {side: some([100, 300, 700], pa.int32()) for side in ("width", "height")}
    original = {f"original_{side}": some([None, 100, 900], pa.int32()) for side in sides}
    return pa.table(
        {
            "pair_id": pa.array([f"{place:03x}" for place in places], pa.string()),
            "caption": some(CAPTIONS, pa.string()),
            "query_ids": some([[0], [0, 1], [1, 2]], pa.list_(pa.int32())),
            "labels": some([[], [photo]], pa.list_(LABEL)),
            "sha256": some([None, "x", "y", "z"], pa.string()),
            "image_hash": some([0, 1, 3, 0xFFFF, 0xFFF7, 1 << 63], pa.uint64()),
            "similarity": some([0.1, 0.2, 0.3, np.nan], pa.float32()),
            "score_photo": some([0.4, 0.6], pa.float32()),
            "image_embedding": lists(VECTORS[rng.integers(0, len(VECTORS), number)]),
            "text_embedding": lists(VECTORS[rng.integers(0, len(VECTORS), number)]),
            **sides,
            **original,
            "url": some(["https://a/1", "https://a/2", "https://b/1"], pa.string()),
        }
    )


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Embeddings of other images, and another model's similarity of some of the pairs."""
    path = tmp_path_factory.mktemp("others") / "others.parquet"
    table = pairs(np.random.default_rng(2), 500).select(["pair_id", "similarity"])
    for name in ("image_embedding", "text_embedding"):  # one vector of each direction
        table = table.append_column(name, lists(VECTORS[np.arange(500) % 4 * 5]))
    pq.write_table(table, path)
    return [str(path)]


def verdicts(step, tables, seed=0):
    """Whether each pair stays, by pair_id."""

    def survivors(columns):
        return (table.select(["pair_id", *columns]) for table in tables)

    keeps = step.fit(survivors, seed)
    found: dict[str, bool] = {}
    for table in tables:
        kept = keeps(table.select(["pair_id", *step.reads()]))
        assert kept.dtype == bool
        found |= dict(zip(table["pair_id"].to_pylist(), kept.tolist(), strict=True))
    return found


def parts(table, cuts):
    """The table in ranges of pair_id, some of them empty, and one in memory of its own."""
    ends = sorted([0, *(cut % (len(table) + 1) for cut in cuts), len(table)])
    return [table.slice(start, end - start) for start, end in pairwise(ends)]


@pytest.mark.parametrize("kind", get_args(AnyFilter), ids=lambda kind: kind.__name__)
@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 1 << 32),
    border=st.sampled_from(BORDERS),
    number=st.integers(0, 50),
    cuts=st.lists(st.integers(0, 50), max_size=6),
    shuffled=st.randoms(use_true_random=False),
)
def test_cuts_and_order_never_matter(kind, others, seed, border, number, cuts, shuffled):
    (name,) = get_args(kind.model_fields["filter"].annotation)
    files = dict.fromkeys(kind.file_settings, others)
    example = {key: border if value is None else value for key, value in EXAMPLES[name].items()}
    step = kind.model_validate({"filter": name} | example | files)
    table = pairs(np.random.default_rng(seed), number)
    cut = parts(table, cuts)
    shuffled.shuffle(cut)
    assert verdicts(step, cut) == verdicts(step, [table])


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("border", BORDERS)
def test_a_cosine_at_the_very_limit_is_exact(border, rows):
    """How float32 rounds it depends on how many rows are multiplied at once."""
    images = np.tile(VECTORS[:5], (20, 1)).astype(np.float32)
    references = np.tile(VECTORS[[0, 5, 10]], (50, 1)).astype(np.float32)
    found = [near(images[i : i + rows], references, border) for i in range(0, 100, rows)]
    assert np.concatenate(found).reshape(20, 5).tolist() == [(border <= COSINES).tolist()] * 20


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 100])
def test_copies_of_an_image_share_a_cluster(rows):
    """All centroids are as near, but float32 finds one or the other the nearest."""
    rng = np.random.default_rng(0)
    images = np.full((100, DIM), np.float16(DIM**-0.5), np.float32)
    centroids = np.stack([rng.permutation(VECTORS[0]) for _ in range(64)]).astype(np.float32)
    found = [_assign(images[i : i + rows], centroids) for i in range(0, 100, rows)]
    assert not np.concatenate(found).any()


def test_clusters_follow_from_the_set_of_pairs(monkeypatch):
    """Those of a third of the pairs: which ones must not depend on where they stand."""
    monkeypatch.setattr(semantic_duplicates, "SAMPLE_ROWS", 10)
    rng = np.random.default_rng(0)
    table = pairs(rng, 300)
    loose = rng.normal(size=(300, DIM))
    loose = (loose / np.linalg.norm(loose, axis=1, keepdims=True)).astype(np.float16)
    at = table.schema.get_field_index("image_embedding")
    table = table.set_column(at, "image_embedding", lists(loose))
    step = SemanticDuplicates(filter="semantic_duplicates", max_similarity=0.2, cluster_rows=30)
    whole = verdicts(step, [table])
    assert 30 < sum(whole.values()) < 270
    for cuts in ([], [1], [100, 250], [*range(0, 300, 17)]):
        assert verdicts(step, parts(table, cuts)[::-1]) == whole
