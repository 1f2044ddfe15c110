"""TorchScript archives, which OpenAI published its weights as: their tensors, not their code.

An archive is a zip: `name/data.pkl` says which tensors the modules hold, `name/data/0`, `1`, ...
are their bytes, `name/code/` is the program. The program is never read here, and `data.pkl` goes
through `inert_pickle`, so opening a file of unknown origin runs nothing of it.
Writing makes an archive of the tensors alone, which `torch.jit.load` and so openai/CLIP take.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from clip_model.inert_pickle import Module, UnsafeCheckpointError
from clip_model.torch_file import View, open_torch_file


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """The tensors of an archive by their dotted names; plain attributes are among them.

    Raises:
        UnsafeCheckpointError: the archive holds what tensors do not need, or is broken. Nothing
            of it has been run.
    """
    with open_torch_file(path) as file:
        if not isinstance(file.content, Module):
            raise UnsafeCheckpointError("the archive holds no module")
        return file.tensors(module_views(file.content))


def module_views(root: Module) -> dict[str, View]:
    """The tensors of a program's modules, by their dotted names."""
    views: dict[str, View] = {}
    seen: set[int] = set()  # a module under two names could stand for any number of modules
    waiting = [("", root)]
    while waiting:
        prefix, module = waiting.pop()
        if id(module) in seen:
            raise UnsafeCheckpointError(f"the module {prefix[:100]!r} is part of the archive twice")
        seen.add(id(module))
        for name, value in module.attributes.items():
            if isinstance(value, View):
                views[f"{prefix}{name}"] = value
            elif isinstance(value, Module):
                waiting.append((f"{prefix}{name}.", value))
    return views


def write_torchscript(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors as an archive of modules without methods, named as the tensors are."""
    root = nn.Module()
    for name, tensor in tensors.items():
        *parents, leaf = name.split(".")
        module = root
        for parent in parents:
            if parent not in module._modules:
                module.add_module(parent, nn.Module())
            module = module.get_submodule(parent)
        if tensor.is_floating_point():
            module.register_parameter(leaf, nn.Parameter(tensor, requires_grad=False))
        else:
            module.register_buffer(leaf, tensor)
    with warnings.catch_warnings():  # torch.jit is deprecated, and what openai/CLIP reads
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(root).save(str(path))
