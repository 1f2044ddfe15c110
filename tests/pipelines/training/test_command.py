"""`python -m pipelines.training`: on anybody's shards, into a folder or a bucket."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from pipelines.run.lock import hold_folder
from pipelines.training import CHECKPOINT, METRICS
from pipelines.training.__main__ import STATE, Sigterm, main
from pipelines.training.checkpoints import LIST
from pipelines.training.held_out import is_held_out
from pipelines.training.job import TrainingJob
from pipelines.training.loop import Unnoticed
from pipelines.training.parallel import Workers
from tests.object_store import objects_below, send_folder
from tests.pipelines.training.test_training import settings
from tests.shards import images, write_dataset
from workers.base.bucket import Bucket
from workers.base.lease import holding

ROOT = Path(__file__).parents[3]
ALONE = Workers(torch.device("cpu"))


@pytest.fixture
def job(tmp_path):
    (tmp_path / "shards").mkdir()
    shard = tmp_path / "shards/00000.parquet"
    write_dataset(list(images(60)), shard)
    return TrainingJob((shard,), settings(tmp_path, epochs=1), 0, tmp_path / "training")


@pytest.fixture
def errors(caplog, capsys):
    return lambda: caplog.text + capsys.readouterr().err


def options_of(job, **more):
    """The command's, by which it does what the job does."""
    given = job.settings.model_dump(mode="json") | {"start_from": str(job.settings.start_from)}
    file = job.folder.with_name("model.yaml")
    file.write_text(json.dumps(given | more))
    return ["--config", str(file)]


#: The command where neither Ray nor Beam can be imported.
WITHOUT_RAY = """
import runpy, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("ray", "apache_beam"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
sys.argv[0] = "training"
runpy.run_module("pipelines.training", run_name="__main__")
"""


def test_the_command_needs_neither_ray_nor_beam_and_gives_what_the_job_does(job, tmp_path):
    shards, out = str(job.shards[0]), tmp_path / "out"
    command = [sys.executable, "-c", WITHOUT_RAY, shards, "--out", str(out)]
    done = subprocess.run(
        [*command, *options_of(job), "--set", "epochs=1"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert (done.returncode, done.stdout) == (0, f"{out / CHECKPOINT}: trained on 43 of 60 pairs\n")
    job.work(ALONE, lambda _note, _share: None, Unnoticed())
    job.collect(tmp_path / "here")
    names = (CHECKPOINT, "metrics.jsonl")
    same = [(out / name).read_bytes() == (tmp_path / "here" / name).read_bytes() for name in names]
    assert all(same)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--set", "epoch=1"], "epoch"),
        (["--out", "ftp://bucket/x"], "--out ftp://bucket/x: only a local or mounted path"),
        (["--set", "precision=fp16"], "precision"),
    ],
)
def test_what_cannot_be_used_is_refused(job, capsys, options, said):
    assert main([str(job.shards[0]), "--out", str(job.folder), *options]) == 2
    errors = capsys.readouterr().err
    assert said in errors
    assert "Traceback" not in errors


def test_what_a_list_names_is_not_trained_on(job, tmp_path, capsys, errors):
    rows = pq.read_table(job.shards[0]).to_pylist()
    held_out = [is_held_out(row["jpg"], 0, job.settings.held_out) for row in rows]
    listed = [row["url"] for row, is_out in zip(rows, held_out, strict=True) if not is_out][:3]
    (tmp_path / "urls.txt").write_text("\n".join(listed))
    lists = tmp_path / "lists.yaml"
    lists.write_text("urls: [urls.txt]\n")
    command = [str(job.shards[0]), "--out", str(tmp_path / "out"), *options_of(job)]
    assert main([*command, "--opt-outs", str(lists)]) == 0
    assert "trained on 40 of 60 pairs" in capsys.readouterr().out
    assert main(command) == 2
    assert "other --opt-outs" in errors()
    (tmp_path / "urls.txt").write_text("http://[\n")
    assert main([*command, "--opt-outs", str(lists)]) == 2
    assert "lists.yaml: " in errors()


def test_a_training_that_refuses_ends_with_3(job, capsys):
    options = [f"start_from={job.settings.start_from}", "held_out=0", "evaluate_every=1"]
    flags = [word for option in options for word in ("--set", option)]
    assert main([str(job.shards[0]), "--out", str(job.folder), *flags]) == 3
    assert "raise model.held_out" in capsys.readouterr().err


def test_sigterm_is_a_notice_and_obeyed_it_ends_the_process():
    before = signal.getsignal(signal.SIGTERM)
    try:
        notice = Sigterm()
        assert not notice.given()
        os.kill(os.getpid(), signal.SIGTERM)
        assert notice.given()
        with pytest.raises(SystemExit) as end:
            notice.obeyed()
        assert end.value.code == 143
    finally:
        signal.signal(signal.SIGTERM, before)


def test_into_a_bucket_goes_what_goes_into_a_folder_whatever_is_killed(
    job, bucket_of, store, tmp_path, capsys, errors, monkeypatch
):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "copies"))
    url = f"{store.new_bucket()}/models/first"
    shards = f"{store.new_bucket()}/laion"
    send_folder(job.shards[0].parent, shards)
    options = options_of(job, batch_size=8, checkpoints={"every_steps": 2})
    assert main([str(job.shards[0]), "--out", str(tmp_path / "out"), *options]) == 0
    with holding(Bucket(url)):
        assert main([shards, "--out", url, *options]) == 75
    assert f"{url} is held by process" in errors()

    command = [sys.executable, "-m", "pipelines.training", shards, "--out", url, *options]
    started: list[subprocess.Popen[bytes]] = []

    def kill_at_the_second_list(environ, _start, _application):
        lists = [path for method, path in store.requests if method == "PUT" and LIST in path]
        if len(lists) == 2:
            for process in started:
                process.kill()
                process.wait()

    store.fault = kill_at_the_second_list
    started.append(subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL))
    assert started[0].wait() == -signal.SIGKILL
    store.fault = None
    there = objects_below(url)
    assert f"{STATE}/step-000000002.pt" in there
    assert CHECKPOINT not in there
    assert [name for name in there if name.startswith(f"{STATE}/index/")]
    assert list((tmp_path / "copies").glob("clip-*")), "the killed one could not remove it"
    asked = len(store.requests)
    assert main([shards, "--out", url, *options]) == 0
    assert f"{url}/{CHECKPOINT}: trained on 43 of 60 pairs" in capsys.readouterr().out
    sent = [path for method, path in store.requests[asked:] if method == "PUT"]
    assert not [path for path in sent if "step-000000002" in path or "/index/" in path]
    there = objects_below(url)
    for name in (CHECKPOINT, METRICS):
        assert there[name] == (tmp_path / "out" / name).read_bytes()
    assert main([shards, "--out", url, *options, "--seed", "1"]) == 2
    assert f"--out {url}: it has a training with other --seed" in errors()
    assert objects_below(url).keys() == there.keys()
    assert not list((tmp_path / "copies").glob("c*-*")), "what was here of the buckets is removed"


def test_a_place_that_is_not_this_trainings_is_left_alone(job, bucket_of, store, tmp_path, errors):
    """Nothing is taken for its own, and nothing written over."""
    url, out = f"{store.new_bucket()}/models", tmp_path / "out"
    options = options_of(job)
    Bucket(url).write(CHECKPOINT, b"mine", None)
    out.mkdir()
    (out / CHECKPOINT).write_bytes(b"mine")
    for place in (url, str(out)):
        assert main([str(job.shards[0]), "--out", place, *options]) == 2
        assert f"--out {place}: it holds {CHECKPOINT} of who knows what" in errors()
    assert objects_below(url) == {CHECKPOINT: b"mine"}
    assert [path.name for path in out.iterdir()] == [CHECKPOINT]


def test_one_command_at_a_time_and_of_one_training(job, tmp_path, errors):
    """Another one, of other shards, settings or weights to begin with, is refused."""
    out, shard, options = tmp_path / "out", str(job.shards[0]), options_of(job)
    with hold_folder(out, "wait"):
        assert main([shard, "--out", str(out), *options]) == 75
    assert f"{out} is being worked on by another process" in errors()
    command = [shard, "--out", str(out), *options]
    assert main(command) == 0
    before = (out / CHECKPOINT).read_bytes()
    assert main([*command, "--set", "cpus=2"]) == 0, "it changes the time alone"
    model = Path(str(job.settings.start_from))
    kept = model.read_bytes()
    for change, key in ((["--set", "epochs=2"], "epochs"), (["--seed", "3"], "--seed")):
        assert main([*command, *change]) == 2
        assert f"it has a training with other {key} (" in errors()
    model.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    assert main(command) == 2
    assert "it has a training with other start_from (" in errors()
    model.write_bytes(kept)
    os.utime(shard, (0, 0))
    assert main(command) == 2
    assert "it has a training with other SHARDS (" in errors()
    assert (out / CHECKPOINT).read_bytes() == before
