"""Which of a checkpoint's tensors are the model's, and what they are called.

Training programs wrap a model's state dict in tables and its names in prefixes: data-parallel
training writes `module.`, torch.compile `_orig_mod.`, Lightning the name of an attribute, `model.`.
What is known is taken off; what is ambiguous is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from torch import Tensor

from clip_model.torch_file import View

# Where a state dict may be in a training checkpoint; the first that is there.
TABLES = ("state_dict", "model_state_dict", "model", "module")
MOST_TABLES = 4  # one inside of the other
WRAPPERS = re.compile(r"(^|(?<=\.))(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
DATA_PARALLEL = "module."
# By this tensor a CLIP's place among other names is found: Hugging Face's, open_clip's, OpenAI's.
LANDMARK = re.compile(r"(.*?)(text_model\.embeddings\.|text\.)?token_embedding\.weight", re.DOTALL)
NAMES_SHOWN = 3

Value = TypeVar("Value")


def state_views(content: Any) -> dict[str, View]:
    """The tensors of what `torch.save` wrote, out of the tables that they may be in.

    Raises:
        RuntimeError: there is no table of tensors; it says what there is.
    """
    for _ in range(MOST_TABLES):
        if not isinstance(content, dict):
            break
        views = {name: view for name, view in content.items() if _is_named_view(name, view)}
        inner = next((name for name in TABLES if isinstance(content.get(name), dict)), None)
        if inner is None and (views or not content):
            return without_wrappers(views)
        if inner is None:
            raise RuntimeError(
                f"no table of tensors is in the file, which has {shown(content)}; it would be "
                f"at the top or under {', '.join(TABLES)}"
            )
        content = content[inner]
    raise RuntimeError(
        f"the file holds a {type(content).__name__}, not a table of tensors"
        if not isinstance(content, dict)
        else "the file holds tables in tables in tables"
    )


def without_wrappers(tensors: Mapping[str, Value]) -> dict[str, Value]:
    """The same under the names that they had before they were trained in parallel or compiled.

    Raises:
        RuntimeError: two tensors would have one name.
    """
    named = {name: WRAPPERS.sub("", name) for name in tensors}
    while named and all(name.startswith(DATA_PARALLEL) for name in named.values()):
        named = {old: new.removeprefix(DATA_PARALLEL) for old, new in named.items()}
    if len(set(named.values())) < len(named):
        raise RuntimeError("two tensors would have one name without torch.compile's '_orig_mod.'")
    return {new: tensors[old] for old, new in named.items()}


def clip_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same without what stands before every name of a CLIP that is part of another module.

    Raises:
        RuntimeError: there are two CLIPs, or there is something beside the CLIP.
    """
    tensors = without_wrappers(tensors)
    prefixes = {match[1] for name in tensors if (match := LANDMARK.fullmatch(name))}
    if len(prefixes) > 1:
        raise RuntimeError(f"the file holds several text towers, at {shown(sorted(prefixes))}")
    prefix = prefixes.pop() if prefixes else ""
    if others := [name for name in tensors if not name.startswith(prefix)]:
        raise RuntimeError(
            f"the file holds a CLIP under {prefix[:100]!r} and besides it {shown(others)}"
        )
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def shown(names: Iterable[object]) -> str:
    """The first few of some names, for an error."""
    listed = list(names)
    first = ", ".join(repr(name)[:100] for name in listed[:NAMES_SHOWN])
    more = len(listed) - NAMES_SHOWN
    return f"{first} and {more:,} more" if more > 0 else first or "nothing"


def _is_named_view(name: object, value: object) -> bool:
    return isinstance(name, str) and isinstance(value, View)
