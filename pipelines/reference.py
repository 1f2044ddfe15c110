"""``python -m pipelines.reference``: docs/configuration.md, made from the settings themselves."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, get_origin

from pydantic.fields import FieldInfo

from pipelines.run.config import Config
from pipelines.run.config_errors import filter_of, settings_in
from pipelines.run.yaml_text import as_yaml
from workers.base.settings import Settings

HEAD = """\
# Configuration

One YAML file configures a run, in UTF-8 or in UTF-16 with its byte order mark. Unknown keys are
refused, and a key that stands twice. `--set key.sub=value` overrides a key for one command, with
`value` in YAML. The section of a stage has the name of its folder in the run. A file may be written
as `package:NAME/FILE`: a file inside an installed Python package.

A relative path is relative to the folder of the configuration's file, so that a folder with both
can be moved; one in `--set`, like all that the command line says, to the working directory. The
words of a service's command are left as they are. Where files lie is part of no shard's key: what
is in them is.

This page is made by `python -m pipelines.reference > docs/configuration.md`.
"""


def configuration_reference() -> str:
    """The page: a table of keys, defaults and meanings for each section."""
    return "\n".join([HEAD, *_section("", Config)])


def _section(prefix: str, model: type[Settings]) -> Iterator[str]:
    yield f"## `{prefix}`" if prefix else "## Top level"
    yield ""
    yield (model.__doc__ or "").strip().split("\n\n")[0].replace("\n    ", " ")
    yield ""
    yield "| key | default | meaning |"
    yield "|---|---|---|"
    nested = []
    for name, field in model.model_fields.items():
        path = f"{prefix}.{name}" if prefix else name
        sections = list(settings_in(field.annotation))
        nested += [(f"{path}{_place(field, section)}", section) for section in sections]
        if len(sections) != 1 and name != "filter":  # it stands in the heading
            yield f"| `{name}` | {_default(field)} | {field.description or ''} |"
    yield ""
    for path, section in nested:
        yield from _section(path, section)


def _place(field: FieldInfo, section: type[Settings]) -> str:
    """Where among a field's values a section stands."""
    if name := filter_of(section):
        return f"[filter: {name}]"
    return ".NAME" if get_origin(field.annotation) is dict else ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return f"`{as_yaml(_plain(value))}`"


def _plain(value: Any) -> Any:
    if isinstance(value, Settings):
        return value.model_dump(exclude_defaults=True)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


if __name__ == "__main__":
    sys.stdout.write(configuration_reference())
