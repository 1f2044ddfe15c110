"""Create a night's RayJob from a template in the cluster, wait for its end, end with its exit code.

The CronJob's pod runs this, with the standard library alone. The RayJob has the name of the pod's
Job and belongs to it. So a pod that takes the place of a lost one finds the RayJob that is there,
and whoever deletes the Job, by hand or by the CronJob's history limits, deletes the RayJob.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import ssl
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn
from urllib.error import HTTPError
from urllib.request import Request, urlopen

#: Where a pod finds the API server, its token and the server's certificate.
SERVER = "https://kubernetes.default.svc"
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

#: Codes of docs/robustness.md, for what ends a night without a word of the run itself.
CONFIGURATION, PARTIAL, TERMINATED = 2, 3, 143

Manifest = dict[str, Any]


class RefusedError(Exception):
    """The API server has understood, and says no."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"the API server answers {status}: {text}")
        self.status = status


class RayJobs:
    """The RayJobs of a namespace."""

    def __init__(self, server: str, account: Path, namespace: str, pause: float) -> None:
        self._url = f"{server}/apis/ray.io/v1/namespaces/{namespace}/rayjobs"
        self._account, self._pause = account, pause
        certificate = account / "ca.crt"
        self._tls = ssl.create_default_context(cafile=certificate) if certificate.exists() else None

    def get(self, name: str) -> Manifest:
        """Raises RefusedError, with status 404 where there is none."""
        return self._ask(f"{self._url}/{name}")

    def create(self, manifest: Manifest) -> Manifest:
        """Create a RayJob, or return that of the same name. Raises RefusedError."""
        try:
            return self._ask(self._url, manifest)
        except RefusedError as error:
            if error.status != 409:
                raise
        return self.get(manifest["metadata"]["name"])

    def _ask(self, url: str, body: Manifest | None = None) -> Manifest:
        """Ask until there is an answer: the Job's deadline ends what would last for ever."""
        while True:
            try:
                return self._ask_once(url, body)
            except HTTPError as error:
                if error.code != 429 and error.code < 500:
                    raise RefusedError(error.code, _message(error)) from error
                say(f"the API server answers {error.code}; asked again")
            except (OSError, ValueError) as error:
                say(f"the API server cannot be reached: {error}; asked again")
            time.sleep(self._pause)

    def _ask_once(self, url: str, body: Manifest | None) -> Manifest:
        # Read anew each time: a token is good for an hour.
        token = (self._account / "token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        with urlopen(Request(url, data, headers), timeout=30, context=self._tls) as response:
            answer: Manifest = json.load(response)
        return answer


def _message(error: HTTPError) -> str:
    text = error.read(10_000).decode(errors="replace")
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text or str(error.reason)


def tonight(template: Manifest, name: str, uid: str) -> Manifest:
    """The RayJob that a Job of this name and uid owns, like the template but not suspended."""
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": uid}
    return {
        "apiVersion": template["apiVersion"],
        "kind": template["kind"],
        "metadata": {
            "name": name,
            "labels": template["metadata"].get("labels", {}),
            "ownerReferences": [owner],
        },
        "spec": {**template["spec"], "suspend": False},
    }


def exit_code(status: Mapping[str, Any]) -> int | None:
    """The exit code of a RayJob of this status; None while it goes on."""
    stage = status.get("jobDeploymentStatus", "")
    if stage == "ValidationFailed":
        return CONFIGURATION
    if stage not in ("Complete", "Failed"):
        return None
    if status.get("jobStatus") == "SUCCEEDED":
        return 0
    if status.get("jobStatus") == "STOPPED":
        return TERMINATED
    # Ray tells the exit code of the entrypoint nowhere else but in its message.
    message = status.get("message", "")
    told = re.match(r"Job entrypoint command failed with exit code (-?\d+)", message)
    if not told:  # a head that was lost, a deadline: the next night goes on with what is done
        return PARTIAL
    code = int(told[1])
    return code if code > 0 else 128 - code


def run(jobs: RayJobs, template: str, name: str, uid: str, pause: float) -> int:
    """The exit code of the RayJob of this Job, once it has ended. Raises RefusedError."""
    job = jobs.create(tonight(jobs.get(template), name, uid))
    if uid not in [owner["uid"] for owner in job["metadata"].get("ownerReferences", [])]:
        raise RefusedError(409, f"there is a RayJob {name} of another Job; delete it")
    said = ""
    while (code := exit_code(status := job.get("status", {}))) is None:
        stage = f"{status.get('jobDeploymentStatus') or 'New'}, {status.get('jobStatus') or 'none'}"
        if stage != said:
            say(f"RayJob {name}: {stage}")
            said = stage
        time.sleep(pause)
        try:
            job = jobs.get(name)
        except RefusedError as error:
            if error.status != 404:
                raise
            say(f"RayJob {name}: somebody has deleted it")
            return TERMINATED
    say(f"RayJob {name}: exit code {code}; {status.get('reason', '')} {status.get('message', '')}")
    return code


def say(text: str) -> None:
    """A line of the pod's log."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _terminated(*_: object) -> NoReturn:
    """The RayJob goes on: this may be a node that is emptied. A deleted Job takes it along."""
    sys.exit(TERMINATED)


def parser() -> argparse.ArgumentParser:
    """The options."""
    result = argparse.ArgumentParser(description=__doc__)
    result.add_argument("template", help="the name of the RayJob that is the template")
    result.add_argument("--namespace", required=True)
    result.add_argument("--job", required=True, help="the name of the Job that this is a pod of")
    result.add_argument("--uid", required=True, help="that Job's uid")
    result.add_argument("--server", default=SERVER, help="the API server")
    result.add_argument("--account", type=Path, default=ACCOUNT, help="folder of the token")
    result.add_argument("--pause", type=float, default=10.0, help="seconds between two looks")
    return result


def main() -> int:
    """Run the command; return its exit code."""
    options = parser().parse_args()
    signal.signal(signal.SIGTERM, _terminated)  # the first process of a container has no default
    if not (options.account / "token").exists():
        say(f"there is no token in {options.account}: the pod needs a service account")
        return CONFIGURATION
    jobs = RayJobs(options.server, options.account, options.namespace, options.pause)
    try:
        return run(jobs, options.template, options.job, options.uid, options.pause)
    except RefusedError as error:
        say(str(error))
        return CONFIGURATION


if __name__ == "__main__":
    sys.exit(main())
