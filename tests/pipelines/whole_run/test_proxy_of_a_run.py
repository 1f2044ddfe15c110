"""Selections of a run's pairs compared by models that are trained on them."""

import json
import subprocess
import sys

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
        "choices": {
            "similar": {"steps": [{"filter": "similarity", "min": 0.28}]},
            "drawn": {"steps": [], "as_many_as": "similar"},
        },
    }
    path = tmp_path / "choices.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


def compare(choices, out):
    command = [sys.executable, "-m", "pipelines.proxy", str(choices), "--out", str(out)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


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
    }
    assert (
        found["differences"]["drawn"]["average"]["verdict"] in done.stdout + "no difference shown"
    )
    weights = {
        file_hash(path)
        for path in (tmp_path / "out" / "choices").glob("*/seed-*/model/*.safetensors")
    }
    assert len(weights) == 4
    again = compare(choices, tmp_path / "out")
    assert again.returncode == 0
    assert again.stdout == done.stdout
    assert "model: complete, nothing to do" in again.stderr
    assert "shards to do" not in again.stderr
