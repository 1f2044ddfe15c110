"""Selections of a run's pairs compared by models that are trained on them."""

import json
import re
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


def compare(choices, out, *options):
    command = [sys.executable, "-m", "pipelines.proxy", str(choices), "--out", str(out), *options]
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


def status(choices, out):
    """What is said of each part."""
    done = compare(choices, out, "--status")
    assert done.returncode == 0, done.stderr
    lines = re.findall(r"^  (\S+(?: of \S+)?) +(.+)$", done.stdout, re.MULTILINE)
    return dict(lines)


def once(*parts):
    return f"to be planned once {', '.join(parts)} is complete"


def of_choice(name, selection):
    """The parts of a choice before anything is done."""
    folder = f"choices/{name}"
    yield f"{folder}/selection", selection
    yield f"{folder}/dataset", once(f"{folder}/selection")
    for seed in (0, 1):
        yield f"{folder}/seed-{seed}/model", once(f"{folder}/dataset")
        label = f"{name}.{seed}"
        yield f"features/{label}", once(f"{folder}/seed-{seed}/model", "sets")
        yield f"results of {label}", once("sets", f"features/{label}")


#: Of `choices`.
NOTHING_DONE = {
    "scorers/dfn/selection": "1 shards to do, 0 done",
    "scorers/dfn/dataset": once("scorers/dfn/selection"),
    "scorers/dfn/model": once("scorers/dfn/dataset"),
    "scorers/dfn/embeddings": once("scorers/dfn/model"),
    **dict(of_choice("similar", "1 shards to do, 0 done")),
    **dict(of_choice("drawn", once("choices/similar/dataset"))),
    **dict(of_choice("rescored", once("scorers/dfn/embeddings"))),
    "sets": "1 shards to do, 0 done",
}


def test_choices_are_compared_and_the_pool_stays_as_it_is(finished, choices, tmp_path):
    before = {path: file_hash(path) for path in finished.rglob("*") if path.is_file()}
    assert status(choices, tmp_path / "out") == NOTHING_DONE
    assert not (tmp_path / "out").exists()
    done = compare(choices, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    complete = status(choices, tmp_path / "out")
    assert complete.keys() == NOTHING_DONE.keys()
    assert all(said.startswith("0 shards to do, ") for said in complete.values())
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
    assert found["pairs"]["rescored"] == len(rescored)
    theirs = pairs_in(scorer / "embeddings")
    best = sorted(theirs.values())[-len(rescored) :]
    assert sorted(rescored.values()) == best
    assert all(theirs[name] == similarity for name, similarity in rescored.items())
    again = compare(choices, tmp_path / "out")
    assert again.returncode == 0
    assert again.stdout == done.stdout
    assert "model: complete, nothing to do" in again.stderr
    assert "shards to do" not in again.stderr
