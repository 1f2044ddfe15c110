"""The container file, as far as that can be told without building it."""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from fnmatch import fnmatch

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tests.infra.commands import ROOT, parse

FILE = ROOT / "infra/container/Containerfile"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = (ROOT / "requirements.lock").read_text().splitlines()
IGNORE = (ROOT / ".dockerignore").read_text().splitlines()
#: What only compiles: it has no place where the programs run.
BUILD_TOOLS = re.compile(r"build-essential|\bgcc|\bg\+\+|\bmake\b|-dev\b|\bgit\b|pip install")


def instructions():
    """(name, arguments) of each instruction, in the order of the file."""
    lines = [line for line in FILE.read_text().splitlines() if not line.lstrip().startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def stages():
    """The instructions of each stage by its name, "" for the last one."""
    found: dict[str, list[tuple[str, str]]] = {}
    for name, arguments in instructions():
        if name == "FROM":
            stage = arguments.partition(" AS ")[2]
            stage_lines = found.setdefault(stage, [])
        if found:
            stage_lines.append((name, arguments))
    return found


def arguments_of(name, lines):
    return [arguments for each, arguments in lines if each == name]


def defaults():
    """The build's arguments and what they are if nobody says."""
    pairs = [text.partition("=") for text in arguments_of("ARG", instructions())]
    return {name: shlex.split(value)[0] for name, _, value in pairs}


def bases():
    for lines in stages().values():
        (text,) = arguments_of("FROM", lines)
        yield re.sub(r"\$\{(\w+)\}", lambda name: defaults()[name[1]], text.split()[0])


def copied():
    """What is copied out of the repository."""
    for text in arguments_of("COPY", instructions()):
        words = text.split()
        if not words[0].startswith("--from="):
            yield from words[:-1]


def is_ignored(path):
    """As the builder reads .dockerignore: the last pattern that fits says it."""
    ignored = False
    for pattern in IGNORE:
        if pattern and not pattern.startswith("#"):
            name = pattern.removeprefix("!")
            parts = [name.removeprefix("**/")] if name.startswith("**/") else [name]
            tails = path.split("/") if name.startswith("**/") else [path.split("/")[0]]
            if any(fnmatch(tail, part) for tail in tails for part in parts):
                ignored = not pattern.startswith("!")
    return ignored


def locked(name):
    (line,) = [line for line in LOCK if line.startswith(f"{name}==")]
    return line.split(";")[0].strip().partition("==")[2]


def test_every_base_is_a_stage_or_an_image_of_one_version():
    for base in bases():
        assert base in stages() or re.fullmatch(r"[\w./-]+:\d+\.\d+\.\d+[\w.-]*", base), base


def test_versions_are_those_of_the_project():
    _, python, *_ = bases()
    version = python.split(":")[1].split("-")[0]
    assert version in SpecifierSet(PROJECT["project"]["requires-python"])
    minor = ".".join(version.split(".")[:2])
    sdk, *_ = bases()
    assert sdk == f"apache/beam_python{minor}_sdk:{locked('apache-beam')}"


def test_what_is_copied_is_there_and_is_all_that_the_package_is_made_of():
    assert all((ROOT / name).exists() for name in copied())
    assert not [name for name in copied() if is_ignored(name)]
    setuptools = PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    packages = {name.rstrip("*") for name in setuptools}
    metadata = {PROJECT["project"]["readme"], *PROJECT["project"]["license-files"]}
    assert set(copied()) == packages | metadata | {"pyproject.toml", "requirements.lock"}
    assert not is_ignored("clip_model/starter/model.safetensors")


def test_nothing_else_goes_to_the_builder():
    others = {path.name for path in ROOT.iterdir()} - set(copied())
    assert [name for name in others if not is_ignored(name)] == []
    assert is_ignored("pipelines/__pycache__/cli.cpython-311.pyc")


def test_stages_copy_from_stages_that_are_there():
    sources = re.findall(r"--from=(\S+)", FILE.read_text())
    assert sources
    assert set(sources) <= set(stages())


@pytest.mark.parametrize("shell", ["bash", "sh"])
def test_the_shell_lines_are_shell(shell):
    for line in arguments_of("RUN", instructions()):
        subprocess.run([shell, "-n", "-c", line], check=True)


def pip_commands():
    for line in arguments_of("RUN", instructions()):
        for command in re.findall(r"pip install[^;&]*", line):
            yield shlex.split(command.replace("${TORCH_INDEX}", "https://index.example/cpu"))


def test_pip_takes_its_options_and_all_are_held_to_the_lock():
    commands = list(pip_commands())
    assert len(commands) == 2
    for command in commands:
        assert command[command.index("--constraint") + 1] == "requirements.lock"
        assert "--editable" not in command
        # Help is shown only if every option before it is one.
        subprocess.run([sys.executable, "-m", *command, "--help"], check=True, capture_output=True)


def test_the_image_has_a_user_of_a_fixed_id_and_no_build_tools():
    lines = stages()["run"]
    (user,) = arguments_of("USER", lines)
    (number, group) = user.split(":")
    assert number == group != "0"
    (installed,) = arguments_of("RUN", lines)
    assert f"useradd --uid {number} --user-group " in installed
    assert not BUILD_TOOLS.search(installed)
    assert BUILD_TOOLS.search(str(stages()["builder"]))
    assert list(stages())[-1] == ""  # what is built unless another target is named
    assert stages()[""] == [("FROM", "run")]


def test_the_home_of_the_user_is_said_to_ray_up():
    lines = stages()["run"]
    (environment,) = arguments_of("ENV", lines)
    values = dict(pair.split("=") for pair in environment.split())
    assert [values["HOME"]] == arguments_of("WORKDIR", lines)


def test_its_command_is_one_of_the_project():
    (words,) = map(json.loads, arguments_of("CMD", stages()["run"]))
    with pytest.raises(SystemExit) as ended:
        parse(words)
    assert ended.value.code == 0
    assert words[0] in PROJECT["project"]["scripts"]


def test_the_extras_that_are_installed_are_there_and_locked():
    (package,) = {word for command in pip_commands() for word in command if word.startswith(".[")}
    extras = Requirement(f"it{package[1:]}").extras
    assert extras
    for extra in extras:
        for text in PROJECT["project"]["optional-dependencies"][extra]:
            assert locked(Requirement(text).name)
