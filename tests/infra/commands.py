"""Command lines, given to the argument parser of the command that they call, and no further."""

import importlib
import re
import runpy
import shlex
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

from pipelines.cli import parser
from pipelines.console import MODULES
from workers.base.exit_codes import ExitCode

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"


def nightly():
    """What the program of the CronJob's pod defines; it is in no package."""
    return SimpleNamespace(**runpy.run_path(str(INFRA / "kubernetes/base/nightly.py")))


def parse(words):
    """Give the words to the command's own parser. Raises SystemExit or Click's exceptions."""
    name, *arguments = words
    if name == "ray":
        return parse_ray(words)
    if name == "python" and arguments[0] == "/etc/nightly/nightly.py":
        return nightly().parser().parse_args(arguments[1:])
    module = importlib.import_module(MODULES[name])
    if name == "wit-queries":
        return importlib.import_module("query_builder.__main__").parser().parse_args(arguments)
    with patch.object(module, "run_command", lambda command: ExitCode.COMPLETE):
        return module.main(arguments)


def parse_ray(words, command=None):
    """The options of the innermost command, such as ``submit`` of ``ray job submit``."""
    import ray.scripts.scripts

    command = command or ray.scripts.scripts.cli
    context = command.make_context(words[0], list(words[1:]))
    if hasattr(command, "resolve_command"):
        rest = [*context._protected_args, *context.args]
        _, inner, rest = command.resolve_command(context, rest)
        return parse_ray([inner.name, *rest], inner)
    return context.params


def on_a_run(words):
    """What the options of a command on a run say: its configuration, run_dir, overrides."""
    assert words[0] in MODULES
    arguments, _ = parser("any", "").parse_known_args(words[1:])
    return arguments


def expand(line, environment):
    """The words of a shell's line with its variables, all of which must be known."""
    return shlex.split(re.sub(r"\$(\w+)", lambda name: environment[name[1]], line))


def blocks(text, language="bash"):
    """The commands in a page's blocks of code, each as its words; pipes and lists apart."""
    found = []
    for block in re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words:
                ends = [words.index(sign) for sign in ("&&", "|", ";") if sign in words]
                end = min(ends, default=len(words))
                found.append(words[:end])
                words = words[end + 1 :]
    return found
