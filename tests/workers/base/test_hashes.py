"""Hashes of columns, pair_ids and draws are those of hashlib."""

import hashlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workers.base.hashes import hash_rows
from workers.base.pair_ids import make_pair_id, make_pair_ids
from workers.base.sampling import draw, draws, hashes

URLS = ["http://a/1?x=1", "http://a/1?utm_source=b"]


@pytest.fixture(autouse=True, params=[0, 10**6], ids=["in machine code", "by hashlib"])
def few(request, monkeypatch):
    """How many are too few for machine code."""
    monkeypatch.setattr("workers.base.hashes._FEW", request.param)


def by_hashlib(texts, prefix=b""):
    digests = [hashlib.blake2b(prefix + text, digest_size=8).digest() for text in texts]
    return [int.from_bytes(digest, "big") for digest in digests]


@pytest.mark.parametrize("prefix", [b"", b"7\x1f", b"x" * 127, b"x" * 128, b"x" * 300])
def test_of_every_length_around_a_block(prefix):
    random = np.random.default_rng(0)
    texts = [random.bytes(n) for n in (*range(132), 255, 256, 257, 1_000)]
    assert hash_rows(pa.array(texts), prefix).tolist() == by_hashlib(texts, prefix)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=300), max_size=20), st.binary(max_size=200), st.integers(0, 5))
def test_of_any_bytes_and_of_a_slice(texts, prefix, start):
    column = pa.array(texts, pa.binary()).slice(start)
    assert hash_rows(column, prefix).tolist() == by_hashlib(texts[start:], prefix)
    chunks = pa.chunked_array([texts, texts], pa.binary())
    assert hash_rows(chunks, prefix).tolist() == 2 * by_hashlib(texts, prefix)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(URLS), st.text())))
def test_pair_ids_of_columns_are_those_of_pairs(pairs):
    pairs = [(url, text.encode(errors="ignore").decode()) for url, text in pairs]
    urls, captions = (pa.array([pair[k] for pair in pairs], pa.string()) for k in (0, 1))
    made = make_pair_ids(urls, captions)
    assert made.to_pylist() == [make_pair_id(*pair) for pair in pairs]
    assert make_pair_ids(urls.slice(1), captions.slice(1)).to_pylist() == made.to_pylist()[1:]


def test_draws_of_keys_are_those_of_each():
    keys = [f"{n:032x}" for n in range(300)]
    wanted = [draw(3, key) for key in keys]
    for column in (keys, pa.array(keys), pa.chunked_array([keys[:100], keys[100:]])):
        assert draws(3, column).tolist() == wanted
    assert len(set(hashes(3, keys).tolist())) == len(keys)
