"""The program of the CronJob's pod, against a server that speaks as Kubernetes' does."""

from __future__ import annotations

import inspect
import json
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml

from tests.infra.commands import INFRA, nightly

BASE = INFRA / "kubernetes/base"
TEMPLATE = {
    "apiVersion": "ray.io/v1",
    "kind": "RayJob",
    "metadata": {
        "name": "nightly-template",
        "labels": {"a": "b"},
        "uid": "7",
        "resourceVersion": "1",
    },
    "spec": {"suspend": True, "entrypoint": "wit-build"},
    "status": {"jobDeploymentStatus": "Suspended"},
}
FAILED = {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "reason": "AppFailed"}


def failed(code):
    message = f"Job entrypoint command failed with exit code {code}, last available logs"
    return {**FAILED, "message": f"{message} (truncated to 20,000 chars):\nsome shards failed"}


RUNNING = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}
DONE = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED", "message": "Job finished"}


class ApiServer(ThreadingHTTPServer):
    """RayJobs of one namespace; a created one goes through ``statuses``, a look at a time."""

    def __init__(self, statuses=()):
        super().__init__(("127.0.0.1", 0), Handler)
        self.jobs = {"nightly-template": TEMPLATE}
        self.statuses = list(statuses)
        self.asked = []
        self.trouble = []  # codes to answer with first

    def look(self, name):
        job = self.jobs.get(name)
        if job and job is not TEMPLATE and self.statuses:
            status = self.statuses.pop(0)
            if status is None:
                return self.jobs.pop(name) and None
            job["status"] = status
        return job


class Handler(BaseHTTPRequestHandler):
    server: ApiServer

    def do_GET(self):
        if not self.refused("get"):
            *folder, name = self.path.split("/")
            assert "/".join(folder) == "/apis/ray.io/v1/namespaces/clip/rayjobs"
            job = self.server.look(name)
            self.answer(200, job) if job else self.answer(404, {"message": f"{name} not found"})

    def do_POST(self):
        job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.refused("create"):
            name = job["metadata"]["name"]
            if name in self.server.jobs:
                self.answer(409, {"message": "already exists"})
            else:
                self.server.jobs[name] = job
                self.answer(201, job)

    def refused(self, verb):
        self.server.asked.append(verb)
        if self.headers["Authorization"] != "Bearer the-token":
            self.answer(401, {"message": "Unauthorized"})
        elif self.server.trouble:
            self.answer(self.server.trouble.pop(0), {"message": "not now"})
        else:
            return False
        return True

    def answer(self, code, body):
        text = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *args):
        pass


@pytest.fixture
def account(tmp_path):
    (tmp_path / "token").write_text("the-token\n")
    return tmp_path


@pytest.fixture
def server():
    server = ApiServer()
    thread = threading.Thread(target=server.serve_forever, args=[0.01])
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def start(server, account, template="nightly-template", uid="uid-1"):
    command = [sys.executable, "-IS", BASE / "nightly.py", template, "--namespace=clip"]
    command += ["--job=nightly-29381640", f"--uid={uid}", "--account", account, "--pause=0.01"]
    command += ["--server", f"http://127.0.0.1:{server.server_port}"]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def run(server, account, **more):
    process = start(server, account, **more)
    _, said = process.communicate(timeout=60)
    return process.returncode, said


def test_a_night_is_created_from_the_template_and_its_exit_code_carried(server, account):
    server.statuses = [RUNNING, RUNNING, failed(3)]
    server.trouble = [503, 429, 500]
    code, said = run(server, account)
    assert code == 3
    assert "RayJob nightly-29381640: exit code 3; AppFailed" in said
    assert "some shards failed" in said
    assert said.count("Running, RUNNING") == 1
    assert server.jobs["nightly-29381640"]["spec"] == {"suspend": False, "entrypoint": "wit-build"}
    metadata = server.jobs["nightly-29381640"]["metadata"]
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "nightly-29381640", "uid": "uid-1"}
    assert metadata == {
        "name": "nightly-29381640",
        "labels": {"a": "b"},
        "ownerReferences": [owner],
    }


def test_it_asks_for_no_more_than_its_role_allows(server, account):
    server.statuses = [DONE]
    assert run(server, account)[0] == 0
    _, role, _ = yaml.safe_load_all((BASE / "accounts.yaml").read_text())
    assert [rule["resources"] for rule in role["rules"]] == [["rayjobs"]]
    assert set(role["rules"][0]["verbs"]) == set(server.asked)


def test_a_pod_in_the_place_of_a_lost_one_waits_for_the_same_night(server, account):
    first = start(server, account)
    while "nightly-29381640" not in server.jobs:
        assert first.poll() is None
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=60)
    assert first.returncode == 143
    server.statuses = [RUNNING, failed(4)]
    assert run(server, account)[0] == 4
    assert set(server.jobs) == {"nightly-template", "nightly-29381640"}


def test_the_night_of_another_job_is_not_taken_for_ones_own(server, account):
    server.statuses = [DONE]
    assert run(server, account)[0] == 0
    code, said = run(server, account, uid="uid-2")
    assert code == 2
    assert "there is a RayJob nightly-29381640 of another Job; delete it" in said


def test_what_the_server_refuses_is_said(server, account):
    assert run(server, account, template="another") == (
        2,
        "the API server answers 404: another not found\n",
    )
    server.trouble = [403]
    assert run(server, account) == (2, "the API server answers 403: not now\n")
    (account / "token").write_text("a stale one")
    assert run(server, account) == (2, "the API server answers 401: Unauthorized\n")
    (account / "token").unlink()
    code, said = run(server, account)
    assert (code, said.count("\n")) == (2, 1)
    assert "needs a service account" in said


def test_a_night_that_somebody_deletes_was_interrupted(server, account):
    server.statuses = [RUNNING, None]
    code, said = run(server, account)
    assert code == 143
    assert "somebody has deleted it" in said


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ({}, None),
        ({"jobDeploymentStatus": "Initializing", "jobStatus": ""}, None),
        ({"jobDeploymentStatus": "Running", "jobStatus": "FAILED"}, None),
        ({**failed(3), "jobDeploymentStatus": "Retrying"}, None),
        (DONE, 0),
        *((failed(code), code) for code in (2, 3, 4, 70, 75, 130, 143)),
        (failed(-15), 143),
        (failed(-9), 137),
        ({"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED"}, 143),
        ({"jobDeploymentStatus": "Failed", "reason": "DeadlineExceeded", "message": "passed"}, 3),
        ({"jobDeploymentStatus": "Failed", "reason": "SubmissionFailed"}, 3),
        ({**FAILED, "message": "The head was lost"}, 3),
        ({"jobDeploymentStatus": "ValidationFailed", "message": "no"}, 2),
    ],
)
def test_the_exit_code_of_each_end(status, code):
    assert nightly().exit_code(status) == code


def test_ray_tells_the_exit_code_as_it_is_read():
    from ray.dashboard.modules.job import job_supervisor

    source = inspect.getsource(job_supervisor)
    assert '"Job entrypoint command "' in source
    assert 'f"failed with exit code {return_code}, "' in source
