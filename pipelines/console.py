"""The installed commands: ``wit-build`` is ``python -m pipelines.build_dataset``, and so on."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from workers.base.processes import end_at_interrupts

MODULES = {
    "wit-build": "pipelines.build_dataset",
    "wit-calibrate": "pipelines.calibrate",
    "wit-compact": "pipelines.compact",
    "wit-embed": "pipelines.embed",
    "wit-evaluate": "pipelines.evaluate",
    "wit-proxy": "pipelines.proxy",
    "wit-queries": "query_builder",
    "wit-takedown": "pipelines.takedown",
    "wit-train": "pipelines.train",
    "wit-verify": "pipelines.verify",
}


def main() -> None:
    """Run the module of the command that this process was started as."""
    end_at_interrupts()
    runpy.run_module(MODULES[Path(sys.argv[0]).name], run_name="__main__", alter_sys=True)
