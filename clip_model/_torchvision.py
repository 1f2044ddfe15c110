"""Make `import torchvision` work beside a CPU build of torch.

The wheels of torchvision that PyPI carries are built for CUDA; beside a CPU build of torch their
operators do not load. The import then fails, because torchvision registers shape functions for
two of them. Declaring those two, without an implementation, is enough for transforms, models and
data sets. Where torchvision's operators load, nothing is declared.

Import this module before torchvision:

    from clip_model import _torchvision  # noqa: F401
    from torchvision import transforms
"""

from __future__ import annotations

import importlib
import sys

import torch

_OPERATORS = ("nms", "qnms")
_ARGUMENTS = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_library: torch.library.Library | None = None  # the declaration lives as long as this does


def _import_torchvision() -> None:
    global _library
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]  # the halves that the failed import left behind
        _library = torch.library.Library("torchvision", "DEF")
        for operator in _OPERATORS:
            _library.define(operator + _ARGUMENTS)
        importlib.import_module("torchvision")


_import_torchvision()
