"""A takedown and a compaction of a real run, by the commands."""

import shutil

from tests.pipelines.synthetic_run import where_is
from tests.pipelines.whole_run.test_end_to_end import shard_hashes

HOST = "127.0.0.2"


def test_nothing_of_a_host_is_left_and_the_rest_is_whole(finished, commands, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(finished, run_dir)
    assert where_is(run_dir, HOST.encode())
    result = commands.run("pipelines.takedown", run_dir, "--domain", HOST)
    assert result.returncode == 0, result.stderr
    assert "out of reach: model/ was trained on rows that are removed" in result.stdout
    assert where_is(run_dir, HOST.encode()) == []
    before = shard_hashes(run_dir, ["dataset"])
    assert before != shard_hashes(finished, ["dataset"])
    result = commands.run("pipelines.compact", run_dir)
    assert result.returncode == 0, result.stderr
    assert shard_hashes(run_dir, ["dataset"]) == before
    result = commands.run("pipelines.verify", run_dir)
    assert result.returncode == 0, result.stdout
