"""Selections of a run's pairs compared by models that are trained on them."""

import json
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
import yaml

from tests.shards import jpeg
from workers.base.storage import file_hash

COLOURS = {"red": (200, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 200)}


@pytest.fixture
def choices(finished, tmp_path):
    """A comparison of two selections, as a file."""
    for name, colour in COLOURS.items():
        folder = tmp_path / "colours" / name
        folder.mkdir(parents=True)
        for number in range(4):
            (folder / f"{number}.jpg").write_bytes(jpeg(tuple(level + number for level in colour)))
    suite = {
        "sets": {"colours": {"format": "folder", "test": "colours"}},
        "protocols": {"prompts": ["bare"], "probe": False},
    }
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(suite))
    tree = {
        "pool": str(finished),
        "suite": "suite.yaml",
        "seeds": [0, 1],
        "model": {"start_from": "starter", "steps": 2, "batch_size": 16},
        "scorers": {"dfn": {"steps": [{"filter": "top_fraction", "share": 0.3}]}},
        "choices": {
            "similar": {"steps": [{"filter": "similarity", "min": 0.13}]},
            "drawn": {"steps": [], "as_many_as": "similar"},
            "rescored": {"scorer": "dfn", "steps": [{"filter": "top_fraction", "share": 0.5}]},
        },
    }
    path = tmp_path / "choices.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


def pairs_in(folder):
    """The similarity of each pair of a stage."""
    tables = [pq.read_table(path) for path in folder.glob("*.parquet")]
    return {row["pair_id"]: row["similarity"] for table in tables for row in table.to_pylist()}


def compare(choices, out):
    command = [sys.executable, "-m", "pipelines.proxy", str(choices), "--out", str(out)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def test_a_choice_that_refers_to_nothing_is_refused_before_any_training(choices, tmp_path):
    step = {"filter": "norm_sim", "target": ["absent/*.parquet"], "share": 0.5}
    tree = yaml.safe_load(choices.read_text())
    tree["choices"]["rescored"] = {"steps": [step]}
    choices.write_text(yaml.safe_dump(tree, sort_keys=False))
    done = compare(choices, tmp_path / "out")
    assert done.returncode == 2
    assert "choices.rescored: selection.steps.0.target: there is no file" in done.stderr
    assert not list((tmp_path / "out").rglob("*.parquet"))


def test_choices_are_compared_and_the_pool_stays_as_it_is(finished, choices, tmp_path):
    before = {path: file_hash(path) for path in finished.rglob("*") if path.is_file()}
    done = compare(choices, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert {path: file_hash(path) for path in before} == before
    found = json.loads((tmp_path / "out" / "proxy.json").read_text())
    assert found["pairs"]["similar"] == found["pairs"]["drawn"] > 0
    assert found["seen"] == 32
    assert {choice: sorted(sets["colours"]) for choice, sets in found["scores"].items()} == {
        "similar": ["0", "1"],
        "drawn": ["0", "1"],
        "rescored": ["0", "1"],
    }
    assert (
        found["differences"]["drawn"]["average"]["verdict"] in done.stdout + "no difference shown"
    )
    weights = {
        file_hash(path)
        for path in (tmp_path / "out" / "choices").glob("*/seed-*/model/*.safetensors")
    }
    assert len(weights) == 6
    scorer = tmp_path / "out" / "scorers" / "dfn"
    trusted, all_pairs = pairs_in(scorer / "dataset"), pairs_in(finished / "embeddings")
    assert len(trusted) == round(0.3 * len(all_pairs))
    assert pairs_in(scorer / "embeddings").keys() == all_pairs.keys()
    made_by = pq.read_schema(next((scorer / "embeddings").glob("*.parquet"))).metadata[b"model"]
    assert made_by.decode() == f"sha256:{file_hash(scorer / 'model' / 'model.safetensors')}"
    rescored = pairs_in(tmp_path / "out" / "choices" / "rescored" / "dataset")
    theirs = pairs_in(scorer / "embeddings")
    best = sorted(theirs.values())[-len(rescored) :]
    assert sorted(rescored.values()) == best
    assert all(theirs[name] == similarity for name, similarity in rescored.items())
    again = compare(choices, tmp_path / "out")
    assert again.returncode == 0
    assert again.stdout == done.stdout
    assert "model: complete, nothing to do" in again.stderr
    assert "shards to do" not in again.stderr
