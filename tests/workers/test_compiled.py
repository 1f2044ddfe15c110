"""Machine code where Numba has a folder to keep it in, and where it has none."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("clip_model", "workers", "query_builder", "pipelines")


def sources():
    return [path for name in PACKAGES for path in (ROOT / name).rglob("*.py")]


def with_compiled_functions():
    """The modules whose functions are compiled."""
    users = [path for path in sources() if "from workers.compiled import" in path.read_text()]
    return [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in users]


@pytest.fixture
def read_only_install(tmp_path):
    """A copy of the code beside which nobody, root included, can keep a byte."""
    for name in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__", "*.safetensors")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    for folder in {path.parent for path in tmp_path.rglob("*.py")}:
        (folder / "__pycache__").write_text("no folder")
    return tmp_path


@pytest.mark.parametrize("cache", [{}, {"NUMBA_CACHE_DIR": os.devnull}])
def test_every_compiled_module_is_imported_where_no_folder_can_be_written_to(
    read_only_install, cache
):
    modules = with_compiled_functions()
    assert {"query_builder.kernels", "workers.extract.tag_scanner"} < set(modules)
    code = f"import {', '.join(modules)}\n"
    code += "print(workers.selection.perceptual_duplicates.__file__)\n"
    code += "from workers.compiled import compiled\n"
    code += "print(compiled(lambda x: x + 1)(1))"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(read_only_install)}
    environment |= {"HOME": os.devnull, **cache}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        str(read_only_install / "workers/selection/perceptual_duplicates.py"),
        "2",
    ]


def test_there_is_one_way_to_machine_code():
    users = [path for path in sources() if "import njit" in path.read_text()]
    users += [path for path in sources() if "numba.njit" in path.read_text()]
    assert {str(path.relative_to(ROOT)) for path in users} == {"workers/compiled.py"}
