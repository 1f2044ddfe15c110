"""Functions compiled to machine code by Numba, as this project compiles them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(function: Function) -> Function:
    """``function`` in machine code that lets go of the GIL; compiled at its first call.

    The code is kept beside the module, or else in the user's cache folder, so that the next
    process only loads it. Where neither can be written to, each process compiles for itself.
    Numba looks at the module alone to see whether the code is out of date: a compiled function
    calls only compiled and inlined functions of its own module.
    """
    try:
        return cast(Function, numba.njit(cache=True, nogil=True)(function))
    except RuntimeError:  # Numba found no folder for it
        return cast(Function, numba.njit(nogil=True)(function))


def inlined(function: Function) -> Function:
    """``function`` as part of the machine code of each compiled one that calls it.

    For what is called from inner loops: an array costs a call seven arguments.
    """
    return cast(Function, numba.njit(forceinline=True, nogil=True)(function))
