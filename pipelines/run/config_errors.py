"""What pydantic finds wrong in a configuration, in the terms of the YAML that was written."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import Any, get_args

from pydantic import ValidationError

from pipelines.run.yaml_text import as_yaml
from workers.base.credentials import shown_settings
from workers.base.settings import Settings

#: pydantic's types of errors; in braces what it tells of each. For others its own words do.
_MESSAGES = {
    "missing": "is missing",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping of keys to values",
    "model_type": "must be a mapping of keys to values",
    "model_attributes_type": "must be a mapping of keys to values",
    "invalid_key": "must be text, as every key",
    "string_type": "must be text",
    "string_unicode": "must be text",
    "string_pattern_mismatch": "must be made of the characters {pattern}",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a smaller number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "too_short": "must be a list of at least {min_length}",
    "too_long": "must be a list of at most {max_length}",
    "string_too_short": "must not be empty",
    "union_tag_invalid": "must be one of {expected_tags}",
    "union_tag_not_found": "is missing",
    "value_error": "{error}",
}

#: Those whose message needs no value beside it, and those of what must be text.
_TELLS_ALL = ("missing", "union_tag_not_found", "value_error")
_SCALARS = ("string_type", "literal_error")
_TEXTS = ("string_type", "literal_error", "invalid_key")

#: Characters of a value that a message shows.
_SHOWN_CHARS = 100

#: Hints at what YAML makes of a value.
_QUOTE = "; write it in quotes: without them YAML reads no, on and 2026 as other things than text"
_NULL = "; YAML's word for none is null"


def explain(error: ValidationError, kind: type[Settings], tree: Any, source: str) -> str:
    """A line for each key of ``tree``, read from ``source``, that cannot be used, and why."""
    found: dict[str, list[str]] = defaultdict(list)
    for problem in sorted(error.errors(), key=lambda problem: -len(problem["loc"])):
        key = _key(problem, tree)
        # What is wrong inside a list says more than that it is too short without it, or no text.
        if not any(other.startswith(f"{key}.") for other in found) and not (
            key in found and problem["type"] in _SCALARS and _is_nested(problem["input"])
        ):
            found[key].append(_message(problem, kind))
    lines = (
        f"  {key}{': ' if key else ''}{' or '.join(messages)}"
        for key, messages in sorted(found.items())
    )
    return "\n".join([f"{source} cannot be used:", *lines])


def _key(problem: Mapping[str, Any], tree: Any) -> str:
    """The key as it was written: pydantic adds a step's filter, and what kinds a value may be."""
    path: list[str] = []
    depth = len(problem["loc"])
    for number, part in enumerate(problem["loc"], 1):
        if isinstance(tree, dict) and part in tree and (not path or tree.get("filter") != part):
            tree = tree[part]
        elif isinstance(tree, list) and isinstance(part, int):
            tree = tree[part] if part < len(tree) else None
        elif number > 1 and (problem["type"] != "missing" or number < depth):
            continue
        path.append(str(part))
    return ".".join([*path, "filter"] if problem["type"].startswith("union_tag") else path)


def _message(problem: Mapping[str, Any], kind: type[Settings]) -> str:
    error, value = problem["type"], problem["input"]
    if error == "extra_forbidden":
        known = ", ".join(_known_keys(kind, problem["loc"][:-1]))
        return f"there is no such key; there are {known}"
    context = {name: str(what) for name, what in problem.get("ctx", {}).items()}
    if error in ("literal_error", "union_tag_invalid"):  # they quote each choice
        context = {name: what.replace("'", "") for name, what in context.items()}
    if error == "string_pattern_mismatch":  # ours are all of this form
        context["pattern"] = context["pattern"].removeprefix("^[").removesuffix("]+$")
    text = _MESSAGES.get(error, problem["msg"]).format(**context)
    if error in _TELLS_ALL:
        return text
    got = f"{text} (got {_shown(value)})"
    if error == "tuple_type" and isinstance(value, str) and "," not in value:
        return f"{got}; write it as [{_shown(value)}]"
    if value in ("none", "None"):
        return got + _NULL
    is_scalar = isinstance(value, bool | int | float | date)
    return got + _QUOTE if is_scalar and error in _TEXTS else got


def _is_nested(value: Any) -> bool:
    return isinstance(value, list | dict)


def _shown(value: Any) -> str:
    """A value as YAML writes it, without secrets, cut where it is long."""
    text = as_yaml(shown_settings(value))
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}..."


def _known_keys(kind: type[Settings], section: Sequence[int | str]) -> Sequence[str]:
    """The keys of a section of the configuration."""
    models: list[type[Settings]] = [kind]
    for key in section:
        fields = [model.model_fields[key] for model in models if key in model.model_fields]
        inside = [kind for field in fields for kind in settings_in(field.annotation)]
        # What is no field is the key of a mapping, a place in a list, or a step's filter.
        models = inside or [model for model in models if filter_of(model) == key] or models
    return sorted({name for model in models for name in model.model_fields})


def settings_in(annotation: Any) -> Iterator[type[Settings]]:
    """The settings that a field holds: itself, by name, or as kinds of steps."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        yield annotation
    for inside in get_args(annotation):
        yield from settings_in(inside)


def filter_of(model: type[Settings]) -> str | None:
    """What a kind of step says that its ``filter`` is, None for other settings."""
    field = model.model_fields.get("filter")
    return get_args(field.annotation)[0] if field else None
