"""The data set is that of what was given, whatever night it came on."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.pipelines.stages.growing import Nights, image
from tests.shards import save_tiny_model
from tests.workers.web import Answer, serving

#: Two are the same image, and one is none.
PATHS = [f"/{number}.png" for number in range(12)]
IMAGES = {path: image(number) for number, path in enumerate(PATHS)}
ANSWERS = IMAGES | {"/11.png": IMAGES["/3.png"], "/7.png": Answer(b"no picture")}
STAGES = ("pairs", "requests", "images", "embeddings", "selection", "dataset")
STEPS = [
    {"filter": "size", "min_side": 10},
    {"filter": "exact_duplicates"},
    {"filter": "perceptual_duplicates", "max_distance": 2},
    {"filter": "top_fraction", "share": 0.8},
]
BUSY = Answer(status=503)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture
def run_in(model, monkeypatch):
    def _run_in(folder, web, pairs_per_shard):
        sections = {
            "embeddings": {"model": model, "precision": "fp32"},
            "selection": {"steps": STEPS},
            "images": {
                "allow_private_hosts": [web.host],
                "retries": 0,
                "robots": False,
                "retry_hours": [1] * 20,
                "pairs_per_shard": pairs_per_shard,
                "max_unreachable": 1.0,
            },
        }
        return Nights(folder, web, monkeypatch, STAGES, sections)

    return _run_in


def data_set(nights):
    """Its rows, shard for shard."""
    return [pq.read_table(path) for path in nights.run().outputs("dataset")]


def same(some, others):
    assert len(some) == len(others)
    for one, other in zip(some, others, strict=True):
        assert one.drop_columns("similarity").equals(other.drop_columns("similarity"))
        assert np.allclose(one["similarity"], other["similarity"], rtol=0, atol=1e-5)


nights_of_pairs = st.lists(st.sets(st.sampled_from(PATHS), min_size=1), min_size=1, max_size=4)
failures = st.dictionaries(st.sampled_from(PATHS), st.integers(1, 2), max_size=4)


@settings(
    max_examples=6,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(nights_of_pairs, failures, st.integers(1, 12))
def test_the_data_set_does_not_depend_on_history(
    run_in, tmp_path_factory, before, failing, pairs_per_shard
):
    """Pairs come in any order, go and come back; images fail for a while."""
    with serving(ANSWERS) as web:
        whole = run_in(tmp_path_factory.mktemp("whole"), web, 100)
        whole(PATHS)
        assert whole.code == 0
        web.answers |= {path: [BUSY] * n + [ANSWERS[path]] for path, n in failing.items()}
        grown = run_in(tmp_path_factory.mktemp("grown"), web, pairs_per_shard)
        asked: list[str] = []
        for paths in before:
            asked += grown(sorted(paths), after=2)
        for _ in range(3):  # until all has come
            asked += grown(PATHS, after=2)
        assert grown.code == 0
        assert len(asked) == len(PATHS) + sum(failing.values())
    wanted, got = data_set(whole), data_set(grown)
    assert 4 < len(pa.concat_tables(wanted)) < 11
    same(got, wanted)
