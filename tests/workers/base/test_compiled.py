"""Machine code where Numba has a folder to keep it in, and where it has none."""

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from numba.core.caching import IndexDataCacheFile

from workers.base.compiled import _FilePerKey

ROOT = Path(__file__).parents[3]
PACKAGES = ("clip_model", "workers", "query_builder", "pipelines")


def sources():
    return [path for name in PACKAGES for path in (ROOT / name).rglob("*.py")]


def with_compiled_functions():
    """The modules whose functions are compiled."""
    users = [path for path in sources() if "from workers.base.compiled import" in path.read_text()]
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
    code += "from workers.base.compiled import compiled\n"
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
    assert {str(path.relative_to(ROOT)) for path in users} == {"workers/base/compiled.py"}


KERNEL = """
import sys
from workers.base.compiled import compiled

@compiled
def successor(x):
    return x + 1

assert successor(1) == 2
print(sum(successor.stats.cache_hits.values()), "loaded")
"""


def test_a_processor_of_another_kind_that_shares_the_folder_makes_code_of_its_own(tmp_path):
    (tmp_path / "kernel.py").write_text(KERNEL)
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    other = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    said = [
        subprocess.run(
            [sys.executable, "-c", "import kernel"],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment | kind,
        ).stdout
        for kind in ({}, other, other)
    ]
    assert said == ["0 loaded\n", "0 loaded\n", "1 loaded\n"]


def test_code_is_made_again_when_a_module_that_it_calls_has_changed(tmp_path):
    head = "from workers.base.compiled import compiled\n\n@compiled\n"
    files = {
        "inner": f"{head}def inner(x):\n    return x + 1\n",
        "middle": f"from inner import inner\n{head}def middle(x):\n    return inner(x) + 10\n",
        "kernel": f"from middle import middle\n{head}def kernel(x):\n    return middle(x)\n\n"
        "print(kernel(1), sum(kernel.stats.cache_hits.values()))\n",
    }
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command, said = [sys.executable, "-c", "import kernel"], []
    for number in ("1", "1", "500"):
        for name, text in files.items():
            path, text = tmp_path / f"{name}.py", text.replace("x + 1", f"x + {number}")
            if not path.exists() or path.read_text() != text:
                path.write_text(text)
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env=environment
        )
        said.append(done.stdout)
    assert said == ["12 0\n", "12 1\n", "511 0\n"]


def test_two_processors_that_compile_at_once_load_each_its_own_code(tmp_path, monkeypatch):
    """Both look for code before either keeps any, and one is the last to keep what it has made."""
    turns = [
        *(("new", "_load_index"), ("old", "_load_index")),
        *(("new", "_save_index"), ("old", "_save_index")),
        *(("old", "_save_data"), ("new", "_save_data")),
    ]
    changed = threading.Condition()

    def in_turn(step, do):
        def wait(self, *arguments):
            turn = (threading.current_thread().name, step)
            with changed:
                assert changed.wait_for(lambda: turns[0] == turn, timeout=60)
            result = do(self, *arguments)
            with changed:
                turns.pop(0)
                changed.notify_all()
            return result

        return wait

    def kept(kind):
        _FilePerKey(str(tmp_path), "kernel", "stamp").save(keys[kind], f"code for the {kind} one")

    keys = {"new": ("int64", "znver4", "bytecode"), "old": ("int64", "generic", "bytecode")}
    with monkeypatch.context() as paced:
        for step in ("_load_index", "_save_index", "_save_data"):
            do = getattr(IndexDataCacheFile, step)
            paced.setattr(IndexDataCacheFile, step, in_turn(step, do))
        threads = [threading.Thread(target=kept, args=(kind,), name=kind) for kind in keys]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for kind, key in keys.items():
        code = _FilePerKey(str(tmp_path), "kernel", "stamp").load(key)
        assert code == f"code for the {kind} one"
