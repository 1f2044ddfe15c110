"""A run that lives in a bucket: the same bytes as one in a folder, killed or not."""

import hashlib
import time

import pytest

from pipelines.run.receipts import Receipts
from pipelines.stages import DATASET_STAGES
from workers.base.bucket import Bucket
from workers.base.lease import holding

BUILD, VERIFY = "pipelines.build_dataset", "pipelines.verify"


def wait_for_request(store, process, method, part, seconds=120.0):
    deadline = time.monotonic() + seconds
    while not any(asked == method and part in path for asked, path in store.requests):
        assert process.poll() is None
        assert time.monotonic() < deadline, part
        time.sleep(0.05)


def rerun(commands, url):
    """What follows a kill: its workers need a moment to end, and hold the lease until then."""
    for _ in range(20):
        result = commands.run(BUILD, url)
        if result.returncode != 75:
            break
        assert "is held by process" in result.stderr
        time.sleep(0.5)
    return result


@pytest.mark.parametrize("when", ["_receipts/images/"])
def test_a_run_in_a_bucket_has_the_bytes_of_one_in_a_folder(
    finished, commands, store, tmp_path, when
):
    url = f"{store.make_bucket('runs')}/nightly/sample"
    with (tmp_path / "out").open("wb") as output:
        process = commands.start(BUILD, url, output=output)
        wait_for_request(store, process, "PUT", when)
        process.kill()
        process.wait()
    result = rerun(commands, url)
    assert result.returncode == 0, result.stderr
    assert str(tmp_path) not in result.stderr
    bucket = Bucket(url)
    names = bucket.list().keys()
    wanted = {
        f"{stage}/{output.file}": output
        for stage in DATASET_STAGES
        for receipt in Receipts(finished / stage).all()
        for output in receipt.outputs
        if not output.file.startswith("..")
    }
    assert {name for name in names if name.split("/")[0] in DATASET_STAGES} == wanted.keys()
    for name, output in wanted.items():
        content, _ = bucket.read(name)
        if output.content is None:  # a WARC has its dates
            assert hashlib.sha256(content).hexdigest() == output.sha256, name

    store.requests.clear()
    again = commands.run(BUILD, url)
    assert again.returncode == 0, again.stderr
    assert f"nothing to do: {url} is complete" in again.stderr
    shards = tuple(f"/runs/nightly/sample/{stage}/" for stage in DATASET_STAGES)
    assert not [path for method, path in store.requests if method == "PUT" and path in shards]
    verified = commands.run(VERIFY, url)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert f"verification of {url}" in verified.stdout

    with holding(bucket):
        held = commands.run(BUILD, url)
    assert held.returncode == 75
    assert f"{url} is held by process" in held.stderr
