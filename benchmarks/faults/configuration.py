"""Configurations and options that cannot be used: refused at once, with exit code 2."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.faults.fault import ROOT, Fault, Place

#: Options of `pipelines.build_dataset` on the sample, and what it says of them. The tests try them,
#: too (tests/pipelines/test_command_line.py).
REFUSED: list[tuple[list[str], str]] = [
    (["absent.yaml"], "cannot read the configuration absent.yaml"),
    (["--set", "seeed=1"], "seeed: there is no such key"),
    (["--set", "queries.dumps=[absent.xml]"], "queries.dumps: "),
    (["--set", "queries.views=[absent.gz]"], "queries.views: there is no file /"),
    (["--set", "queries.wordnet=/"], "queries.wordnet: / has no data.noun"),
    (["--set", "queries.shares={word: 0.9}"], "add up to 1.4"),
    (["--set", "embeddings.model=absent"], "/absent not found; available models"),
    (["--set", "pages.seeds=[ftp://a/]"], "is not an http or https URL"),
    (["--set", "gates.pears={}"], "there is no stage 'pears'"),
    (["--set", "pairs.inputs=[absent.warc]"], "pairs.inputs: "),
    (["--set", "pages.seeds=[]"], "pairs.inputs: there is nothing to read; name what you have"),
    (["--set", "queries.dumps=[]"], "queries.dumps: there is nothing to read; name a dump"),
    (
        ["--set", "pairs.captions.language.allowed=[english]"],
        "pairs.captions.language.allowed: the model knows no english",
    ),
    (
        ["--set", "selection.steps=[{filter: language, allowed: [english]}]"],
        "selection.steps.0.allowed: the model knows no english",
    ),
    (
        ["--set", "pairs.captions.redact.phone_regions=[UK]"],
        "pairs.captions.redact.phone_regions.0: there is no region UK; write a country's code "
        "in ISO 3166: it is GB",
    ),
    (["--set", "pairs.captions.too_shrot.chars=3"], "boilerplate, file_name, garbled"),
    (["--set", "beam.options=[--runner=Nosuch]"], "beam.options: "),
    (["--set", "beam.options=[runner=Nosuch]"], "is no option: write it as --name=value"),
    (["--stage", "embeddings"], "stage embeddings reads images, not complete"),
    (["--run-dir", ""], "--run-dir '': an empty name is no folder's; choose another"),
    (
        ["--run-dir", "s3://bucket/run?X-Amz-Signature=S3CRET"],
        "credentials come from the environment",
    ),
    (["--run-dir", "ftp://host/run"], "--run-dir ftp://host/run: only a local or mounted"),
    (["--run-dir", "/dev/null/run"], "/dev/null/run cannot be a folder: /dev/null is a file"),
    (["--run-dir", "x" * 300], "File name too long; choose another"),
    (["--set", "pairs.inputs=[s3://b/x.parquet]"], "pairs.inputs: s3://b/x.parquet: Install"),
    (["--set", "queries.dumps=[s3://b/x.bz2]", "--plan"], "s3://b/x.bz2: Install s3fs"),
]

#: The same, tried here alone.
_MORE: list[tuple[list[str], str]] = [
    (["--set", "seed"], "write it as key.sub=value"),
    (["--set", "seed.sub=1"], "'seed' holds a value, not further keys"),
    (["--set", "seed=[1"], "the value is not valid YAML"),
    (["--set", "name=2026-13-45"], "the value is not valid YAML"),
    (["--set", f"name={'[' * 5000}"], "the value is not valid YAML"),
    (["--set", "name=a/b"], "name: must be made of the characters A-Za-z0-9._-"),
    (["--set", "pairs.shards=many"], "pairs.shards: must be a whole number"),
    (["--set", 'queries.dumps=["a\\0b"]'], "queries.dumps"),
    (["--set", 'pairs.inputs=["a\\0b.csv"]'], "pairs.inputs"),
    (["--stage", "pears"], "invalid choice: 'pears'"),
    (["--plan", "--set", "selection.steps=[{filter: score, score: photo, min: 0.5}]"],
     "selection.steps.0.score: 'photo' is not in embeddings.attributes"),
    (["--plan", "--set", "selection.steps=[{filter: label, set: nosuch, keep: [x]}]"],
     "selection.steps.0.set: 'nosuch' is not in embeddings.label_sets"),
    (["--set", "selection.steps=[{filter: agreement, embeddings: [absent.parquet], min: 0.3}]"],
     "selection.steps.0.embeddings: there is no file /"),
    (["--set", "selection.steps=[{filter: nosuch}]"], "selection.steps.0"),
    (["--set", "embeddings.label_sets.subject.templates=[a photo]"], "templates without {}"),
    (["--set", "embeddings.heads={a: {path: absent.safetensors}}"],
     "embeddings.heads.a.path: there is no file /"),
    (["--set", "services.site.stages=[imges]"], "services.site.stages: there is no stage 'imges'"),
    (["--set", "report.truth=absent.parquet"], "report.truth: there is no file"),
]  # fmt: skip


def _refused(options: Sequence[str], says: str) -> Fault:
    def prepare(place: Place) -> list[str]:
        place.without_module("s3fs")
        return place.build(*options)

    name = " ".join(option for option in options if option != "--set")
    return Fault(name if len(name) < 80 else f"{name[:60]}...", prepare, says)


def _file(name: str, content: str | bytes, says: str) -> Fault:
    return Fault(name, lambda place: place.configured(content), says)


def _with(make: Callable[[Place], Any], *more: str) -> Callable[[Place], list[str]]:
    def prepare(place: Place) -> list[str]:
        make(place)
        return place.build(*more)

    return prepare


def _a_folder(place: Place) -> list[str]:
    return [sys.executable, "-m", "pipelines.build_dataset", str(place.folder)]


def _link_to_nowhere(place: Place) -> None:
    place.run_dir.symlink_to(place.folder / "gone" / "away")


def _a_file(place: Place) -> None:
    place.run_dir.write_text("a file")


def _without_the_sample(place: Place) -> list[str]:
    """As in a wheel."""
    for name in ("clip_model", "pipelines", "query_builder", "workers"):
        ignored = shutil.ignore_patterns("__pycache__", "*.safetensors")
        shutil.copytree(ROOT / name, place.folder / name, ignore=ignored)
    code = "import sys; sys.path.remove(''); from pipelines.build_dataset import *; start(main)"
    place.environment["PYTHONPATH"] = str(place.folder)
    return [sys.executable, "-c", code]


def _without_a_python(place: Place) -> list[str]:
    shutil.copy(ROOT / "Makefile", place.folder)
    (place.folder / "pyproject.toml").touch()
    (place.folder / "requirements.lock").touch()
    return ["make", "--directory", str(place.folder), "PYTHON=/bin/false", "run"]


_QUERIES = "queries: {dumps: [x.xml]}\n"

FAULTS = [
    *(_refused(options, says) for options, says in [*REFUSED, *_MORE]),
    Fault("a folder in its place", _a_folder, "Is a directory"),
    _file("no YAML", "name: [", "is not valid YAML"),
    _file("a date that is none", "name: 2026-13-45\n", "is not valid YAML"),
    _file("brackets without end", "name: " + "[" * 5000, "is not valid YAML"),
    _file("UTF-16", "name: x\n".encode("utf-16"), "queries: say what captions"),
    _file("UTF-16 without a mark", "name: x\n".encode("utf-16-le"), "save the file as UTF-8"),
    _file("Latin-1", "name: caf\xe9\n".encode("latin-1"), "save the file as UTF-8"),
    _file("empty", "", "must hold a mapping of keys to values"),
    _file("a list", "- name\n", "must hold a mapping of keys to values"),
    _file("keys that are numbers", f"name: x\n1: 2\n{_QUERIES}", "cannot be used"),
    _file("a section that is a text", "name: x\nqueries: all\n", "queries: "),
    Fault("the run directory is a file", _with(_a_file), "is a file; choose another"),
    Fault("the run directory is a link to nowhere", _with(_link_to_nowhere), "choose another"),
    Fault("no sample beside the package", _without_the_sample, "name a configuration"),
    Fault("make without a suitable Python", _without_a_python, "none of /bin/false is a Python"),
]
