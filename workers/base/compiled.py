"""Functions compiled to machine code by Numba, as this project compiles them."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.dispatcher import Dispatcher

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(function: Function) -> Function:
    """``function`` in machine code that lets go of the GIL; compiled at its first call.

    The code is kept beside the module, or else in the user's cache folder, so that the next
    process only loads it. Where neither can be written to, each process compiles for itself.
    It is out of date when the module has changed, or one whose compiled functions it imports.
    """
    dispatcher = numba.njit(nogil=True)(function)
    with contextlib.suppress(RuntimeError):  # Numba found no folder for it
        dispatcher._cache = _Cache(function)  # as `cache=True` does it with Numba's own class
    return cast(Function, dispatcher)


def inlined(function: Function) -> Function:
    """``function`` as part of the machine code of each compiled one that calls it.

    For what is called from inner loops: an array costs a call seven arguments.
    """
    return cast(Function, numba.njit(forceinline=True, nogil=True)(function))


class _FilePerKey(IndexDataCacheFile):  # type: ignore[misc]
    """Kept code in a file of its own for each processor and types of arguments.

    Numba numbers its files, and two processes that begin together can give two keys one number:
    then a machine that shares the folder runs code that was made for another kind of processor.
    """

    def __init__(self, folder: str, name: str, stamp: object) -> None:
        super().__init__(folder, name, stamp)
        self._name = name

    def save(self, key: object, data: object) -> None:
        self._file(key).save(key, data)

    def load(self, key: object) -> Any:
        return self._file(key).load(key)

    def _file(self, key: object) -> Any:
        """Of a key: types, the processor's name and features, a hash of the bytecode."""
        digest = hashlib.sha256(repr(key).encode()).hexdigest()[:16]
        return IndexDataCacheFile(self._cache_path, f"{self._name}-{digest}", self._source_stamp)


def _imported_sources(function: Any) -> list[tuple[str, int, int]]:
    """Name, time and size of the other modules whose compiled functions a module imports."""
    modules, functions = {function.__module__}, [function]
    for known in functions:  # which grows
        for value in known.__globals__.values():
            if isinstance(value, Dispatcher) and value.py_func.__module__ not in modules:
                modules.add(value.py_func.__module__)
                functions.append(value.py_func)
    files = [Path(known.__code__.co_filename) for known in functions[1:]]
    return sorted((file.name, file.stat().st_mtime_ns, file.stat().st_size) for file in files)


class _Cache(FunctionCache):  # type: ignore[misc]
    """Numba's cache of a function, in such files."""

    def __init__(self, function: Callable[..., object]) -> None:
        super().__init__(function)
        stamp = [self._impl.locator.get_source_stamp(), *_imported_sources(function)]
        self._cache_file: Any = _FilePerKey(self._cache_path, self._impl.filename_base, stamp)
