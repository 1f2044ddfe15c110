"""YAML as people write it: each key once, errors in one line."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any

import yaml
from yaml.representer import SafeRepresenter


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
