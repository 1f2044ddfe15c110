"""YAML as people write it: in any of Unicode's encodings, each key once; errors in one line."""

from __future__ import annotations

import codecs
import math
from collections.abc import Hashable
from typing import Any

import yaml
from yaml.representer import SafeRepresenter

#: Byte order marks, with which Windows writes; those of UTF-32 before those that they begin with.
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def decode(content: bytes) -> str:
    """The text of a file in UTF-8, or in UTF-16 or UTF-32 with their mark.

    Raises ValueError, saying where and what to do.
    """
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise _no_text(content[: error.start], encoding) from error
    if "\0" in text:
        raise _no_text(text[: text.index("\0")].encode(encoding), encoding)
    return text


def _no_text(before: bytes, encoding: str) -> ValueError:
    lines = before.decode(encoding, "replace").split("\n")
    place = f"line {len(lines)}, character {len(lines[-1]) + 1}"
    return ValueError(f"{place}: this is no text in {encoding.upper()}; save the file as UTF-8")


def parse(text: str) -> Any:
    """A value in YAML. Raises ValueError; PyYAML raises others, too: for dates such as 2026-13-45,
    for what is nested without end."""
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        raise ValueError(_in_one_line(error)) from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from error


def _in_one_line(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    what = ", ".join(filter(None, (error.context, error.problem)))
    return place + " ".join(what.split())


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice: PyYAML takes the last one without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    problem = f"the key {key.value!r} stands there twice"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Writes kinds of ``str``, too."""


_Dumper.add_multi_representer(str, SafeRepresenter.represent_str)


def as_yaml(value: Any) -> str:
    """Plain data as YAML writes it, in one line."""
    text = yaml.dump(
        [value],
        Dumper=_Dumper,
        default_flow_style=True,
        sort_keys=False,
        allow_unicode=True,
        width=math.inf,
    )
    return text.strip()[1:-1]
