"""Imports point one way, so that each folder can be read, and used, without those above it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: What each folder may import of the project beside itself.
MAY_IMPORT = {
    "clip_model": [],
    "workers/base": [],
    "query_builder": ["workers.base"],
    "workers": ["clip_model"],
    "pipelines": ["clip_model", "query_builder", "workers"],
}
OURS = ("clip_model", "pipelines", "query_builder", "workers", "benchmarks", "examples", "tests")


def imports(source: str) -> Iterator[str]:
    """The modules of the project that a file's text imports, anywhere in it."""
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from (name for name in names if name.split(".")[0] in OURS)


def is_within(module: str, package: str) -> bool:
    return f"{module}.".startswith(f"{package}.")


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_a_folder_imports_nothing_of_those_above_it(folder):
    allowed = [folder.replace("/", "."), *MAY_IMPORT[folder]]
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    wrong = [
        f"{file.relative_to(ROOT)}: {module}"
        for file in files
        for module in imports(file.read_text())
        if not any(is_within(module, package) for package in allowed)
    ]
    assert not wrong


def test_every_way_to_import_is_seen():
    source = "import workers.a\ndef f():\n    from pipelines.run import config, log\nimport numpy\n"
    assert list(imports(source)) == ["workers.a", "pipelines.run.config", "pipelines.run.log"]
