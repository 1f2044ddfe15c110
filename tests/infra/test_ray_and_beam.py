"""The cluster file for `ray up`, submitting to it, options of Beam; docs/cluster.md's commands."""

import json
import re
import runpy
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import apache_beam.options.pipeline_options as beam_options
import jsonschema
import pytest
import yaml
from ray.job_submission import JobStatus

from pipelines.console import MODULES
from pipelines.run.config import load_config
from tests.infra.commands import INFRA, ROOT, blocks, expand, on_a_run, parse
from workers.base.beam_pipeline import check_options

CLUSTER = yaml.safe_load((INFRA / "ray/cluster.yaml").read_text())
DOCUMENT = (ROOT / "docs/cluster.md").read_text()
OPTIONS = {path.stem: path for path in (INFRA / "beam").iterdir()}
#: Whose words no parser of the project's environment reads.
OTHERS = {"docker", "kubectl", "export"}


def test_the_cluster_file_is_one():
    from ray.autoscaler._private.util import prepare_config, validate_config

    jsonschema.validate(
        CLUSTER, json.loads(files("ray").joinpath("autoscaler/ray-schema.json").read_text())
    )
    whole = prepare_config(CLUSTER)
    validate_config(whole)
    # What Ray adds to it for this cloud, packages of its own, must not be run in the image.
    assert not [key for key in whole if key.endswith("setup_commands") and whole[key]]


def test_the_cluster_has_a_head_that_does_no_task_and_workers_that_come_and_go():
    nodes = CLUSTER["available_node_types"]
    head = nodes.pop(CLUSTER["head_node_type"])
    assert head["resources"] == {"CPU": 0}
    assert "InstanceMarketOptions" not in head["node_config"]
    for worker in nodes.values():
        assert worker["min_workers"] == 0 < worker["max_workers"]
        assert worker["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert sum(worker["max_workers"] for worker in nodes.values()) == CLUSTER["max_workers"]


def test_the_cluster_has_the_image_and_the_token():
    kustomization = yaml.safe_load((INFRA / "kubernetes/base/kustomization.yaml").read_text())
    (image,) = kustomization["images"]
    assert CLUSTER["docker"]["image"] == f"{image['newName']}:{image['newTag']}"
    assert "--env RAY_AUTH_MODE=token" in CLUSTER["docker"]["run_options"]
    file = (INFRA / "container/Containerfile").read_text()
    (home,) = re.findall(r"ENV HOME=(\S+)", file)
    assert CLUSTER["file_mounts"] == {f"{home}/.ray/auth_token": "~/.ray/auth_token"}


def test_ray_takes_the_commands_that_start_it():
    started = [
        parse(expand(line, {"RAY_HEAD_IP": "10.0.0.1"}))
        for key in ("head_start_ray_commands", "worker_start_ray_commands")
        for line in CLUSTER[key]
    ]
    _, head, _, worker = started
    assert (head["head"], head["num_cpus"], head["dashboard_host"]) == (True, 0, "127.0.0.1")
    assert worker["address"] == f"10.0.0.1:{head['port']}"


@pytest.fixture(scope="module")
def submit():
    return SimpleNamespace(**runpy.run_path(str(INFRA / "ray/submit.py")))


def test_submitting_gives_ray_a_command_that_it_takes(submit):
    words = submit.command(
        "a-name", Path("folder/birds.yaml"), "s3://b/p", ["--set", "ray.actors=4"]
    )
    options = parse(words)
    assert (options["submission_id"], options["working_dir"]) == ("a-name", "folder")
    assert not options["no_wait"]
    parse(options["entrypoint"])
    arguments = on_a_run(options["entrypoint"])
    assert (str(arguments.config), arguments.run_dir) == ("birds.yaml", "s3://b/p")
    assert arguments.overrides == ["ray.address=auto", "ray.actors=4"]


@pytest.mark.parametrize(
    ("status", "told", "code"),
    [
        (JobStatus.SUCCEEDED, 0, 0),
        *((JobStatus.FAILED, code, code) for code in (2, 3, 4, 70, 75, 143)),
        (JobStatus.FAILED, -9, 137),
        (JobStatus.FAILED, None, 3),
        (JobStatus.STOPPED, None, 143),
        (JobStatus.RUNNING, None, 75),
    ],
)
def test_submitting_ends_with_the_exit_code_of_the_run(status, told, code, submit):
    assert submit.exit_code(status, told) == code


def test_a_cluster_that_does_not_answer_is_said():
    result = subprocess.run(
        [sys.executable, INFRA / "ray/submit.py", "a.yaml", "s3://b/p"],
        env={
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "PYTHONPATH": str(ROOT),
            "RAY_API_SERVER_ADDRESS": "http://127.0.0.1:9",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert "the cluster cannot be asked: Failed to connect" in result.stderr.splitlines()[-1]


def beam_parser():
    """Beam's own, of all the options that it has."""
    parser = beam_options._BeamArgumentParser()
    kinds: list[Any] = [kind for kind in vars(beam_options).values() if isinstance(kind, type)]
    for kind in kinds:
        if issubclass(kind, beam_options.PipelineOptions):
            kind._add_argparse_args(parser)
    return parser


@pytest.mark.parametrize("name", OPTIONS)
def test_beam_knows_the_options(name):
    options = yaml.safe_load(OPTIONS[name].read_text())
    check_options(options)  # as a run does before it begins
    assert beam_parser().parse_known_args(options)[1] == []


@pytest.mark.parametrize("name", OPTIONS)
def test_a_configuration_takes_the_options(name):
    text = OPTIONS[name].read_text()
    config = load_config(ROOT / "examples/sample/sample.yaml", [f"beam.options={text}"])
    assert list(config.beam.options) == yaml.safe_load(text)


def test_options_of_beam_name_the_ports_of_one_job_server():
    flink = yaml.safe_load(OPTIONS["flink"].read_text())
    hosts = {o.split("=")[1].split(":")[0] for o in flink if "_endpoint=" in o}
    assert len(hosts) == 1


def test_every_command_of_the_page_is_one(submit):
    commands = [words for words in blocks(DOCUMENT) if words]
    assert {words[0] for words in commands if words[0] not in OTHERS} == {
        *("ray", "python", "wit-build"),
    }
    for words in commands:
        if words[0] in {"ray", *MODULES}:
            parse([word for word in words if word != "&"])
        if words[0] == "python":
            assert words[1] == "infra/ray/submit.py"
            options = submit.parser().parse_args(words[2:])
            words = submit.command("a-name", options.config, options.run_dir, options.options)
        if words[:3] == ["ray", "job", "submit"]:
            parse(parse(words)["entrypoint"])


def test_every_file_that_the_page_names_is_there():
    for words in blocks(DOCUMENT):
        for name in re.findall(r"infra/[\w./-]+", " ".join(words)):
            assert (ROOT / name).exists(), name
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", DOCUMENT)
    assert targets
    for target in targets:
        assert target.startswith("https://") or (ROOT / "docs" / target).exists(), target


def test_every_file_of_the_folder_is_named():
    page = DOCUMENT + (INFRA / "kubernetes/base/kustomization.yaml").read_text()
    for path in INFRA.rglob("*"):
        if (
            path.is_file()
            and path.name != "kustomization.yaml"
            and "observability" not in str(path)
        ):
            assert path.name in page, path
