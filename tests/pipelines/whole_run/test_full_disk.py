"""A disk with no byte left, for real: what is finished stays so, what is not is said."""

import json
import shutil
import subprocess

import pytest

from benchmarks.commands import fill
from tests.pipelines.whole_run.test_end_to_end import BUILD, shard_hashes


@pytest.fixture
def disk(tmp_path):
    """Mounts a disk of some bytes, if this user may."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = []

    def mount(size):
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("this user may not mount a disk")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_ends_no_finished_run_and_stops_another_with_what_to_do(
    finished, commands, disk
):
    size = sum(path.stat().st_size for path in finished.rglob("*") if path.is_file())
    place = disk(2 * size + (32 << 20))
    run_dir = place / "run"
    shutil.copytree(finished, run_dir)
    # As if by another release: there is something to write down, though nothing to do.
    record = json.loads((run_dir / "run.json").read_text())
    record["code"]["commit"] = "another"
    (run_dir / "run.json").write_text(json.dumps(record))
    fill(place)
    result = commands.run(BUILD, run_dir)
    assert result.returncode == 0, result.stderr
    assert "nothing to do" in result.stderr
    assert "Traceback" not in result.stderr

    step = "selection.steps=[{filter: similarity, min: 0.3}]"
    result = commands.run(BUILD, run_dir, "--set", step)
    assert result.returncode == 3, result.stderr
    assert "No space left" in result.stderr
    assert "Traceback" not in result.stderr

    (place / "filler").unlink()
    assert commands.run(BUILD, run_dir, "--set", step).returncode == 0
    assert shard_hashes(run_dir, ["embeddings"]) == shard_hashes(finished, ["embeddings"])
