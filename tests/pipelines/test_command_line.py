import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.faults.configuration import REFUSED
from pipelines.console import MODULES
from tests.shards import jpeg

COMMANDS = [
    *("pipelines.build_dataset", "pipelines.train", "pipelines.evaluate"),
    *("pipelines.calibrate", "pipelines.verify"),
]


def run(*arguments, **options):
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_every_option(command):
    result = run(command, "--help")
    assert result.returncode == 0
    for phrase in ("CONFIG.yaml", "--run-dir", "--set KEY.SUB=VALUE", "exit codes", "75"):
        assert phrase in result.stdout


#: They take longer to be there than all that a command does which has nothing to do.
HEAVY = {"apache_beam", "altair", "img2dataset", "numba", "ray", "scipy", "scrapy", "torch"}


def imported(program):
    """Of the heavy libraries, those that a program takes."""
    program = f"import sys; {program}; print(*{HEAVY} & sys.modules.keys(), file=sys.stderr)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return set(result.stderr.splitlines()[-1].split())


@pytest.mark.parametrize("module", sorted({*MODULES.values()}))
def test_commands_begin_without_what_only_their_work_takes(module):
    main = f"{module}.__main__" if module == "query_builder" else module
    assert imported(f"import {main}") == set()


def test_a_plan_takes_none_of_it_either(tmp_path):
    plan = ["--plan", "--run-dir", str(tmp_path / "run")]
    assert imported(f"import pipelines.build_dataset as b; assert b.main({plan}) == 0") == set()


def test_the_status_of_an_evaluation_neither(tmp_path):
    (tmp_path / "pictures" / "red").mkdir(parents=True)
    (tmp_path / "pictures" / "red" / "0.jpg").write_bytes(jpeg((200, 20, 20)))
    place = ["--data", str(tmp_path / "pictures"), "--out", str(tmp_path / "out")]
    status = ["--status", "--model", "starter", *place]
    assert imported(f"import pipelines.evaluate as e; assert e.main({status}) == 0") == set()


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_what_cannot_work_is_refused_before_any_work(tmp_path, arguments, message):
    (tmp_path / "s3fs.py").write_text("raise ImportError")  # as where it is not installed
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path.cwd()}"}
    command = ["pipelines.build_dataset", "--run-dir", str(tmp_path / "run"), *arguments]
    result = run(*command, env=environment)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_run_directory_that_cannot_be_made_is_refused(tmp_path):
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "gone" / "away")
    result = run("pipelines.build_dataset", "--run-dir", str(link))
    assert result.returncode == 2, result.stderr
    assert f"{link} cannot be written to: File exists; choose another --run-dir" in result.stderr
    assert "Traceback" not in result.stderr


def test_noise_is_planted_in_whole_runs_alone(tmp_path):
    result = run("pipelines.calibrate", "--run-dir", str(tmp_path))
    assert result.returncode == 2, result.stderr
    assert "no pairs embedded in full with this configuration; run pipelines" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("module", ["pipelines.build_dataset", "query_builder"])
def test_an_interrupt_while_modules_are_imported_leaves_no_trace(tmp_path, module):
    kill = "import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(60)"
    (tmp_path / "pydantic.py").write_text(kill)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path.cwd()}"}
    result = run(
        module,
        env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert result.returncode == -signal.SIGINT  # 130 to a shell
    assert not result.stderr


def test_an_unknown_stage_is_refused_by_name(tmp_path):
    result = run("pipelines.build_dataset", "--stage", "pears")
    assert result.returncode == 2
    assert "invalid choice: 'pears'" in result.stderr


def test_plan_and_status_do_nothing(tmp_path):
    run_dir = tmp_path / "run"
    plan = run("pipelines.build_dataset", "--run-dir", str(run_dir), "--plan")
    assert plan.returncode == 0
    assert "queries     1 shards to do, 0 done" in plan.stdout
    assert "embeddings  to be planned once images is complete" in plan.stdout
    status = run("pipelines.build_dataset", "--run-dir", str(run_dir), "--status")
    assert status.returncode == 0
    assert not run_dir.exists()


def test_a_plan_of_a_run_in_a_bucket_does_nothing(store):
    url = f"{store.new_bucket()}/run"
    plan = run("pipelines.build_dataset", "--run-dir", url, "--plan")
    assert plan.returncode == 0, plan.stderr
    assert f"plan of {url}" in plan.stdout
    assert "queries     1 shards to do, 0 done" in plan.stdout
    assert {method for method, _ in store.requests[1:]} <= {"GET", "HEAD"}


def test_what_is_no_run_cannot_be_verified(tmp_path):
    result = run("pipelines.verify", str(tmp_path))
    assert result.returncode == 2
    assert f"{tmp_path} is no run" in result.stderr
