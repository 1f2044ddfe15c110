"""The files that a query list is made of: dumps, page views and WordNet's synsets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from query_builder.settings import QuerySettings
from query_builder.sources import find_dumps
from workers.base.credentials import shown
from workers.base.file_systems import find_files
from workers.base.settings import resolve_path

#: WordNet's files of synsets, in its ``dict`` folder.
SYNSET_FILES = ("data.noun", "data.verb", "data.adj", "data.adv")


@dataclass(frozen=True, slots=True)
class Inputs:
    """Files by what they hold."""

    dumps: Sequence[str]  # paths and URLs
    views: Sequence[Path] = ()
    synsets: Sequence[Path] = ()

    def all(self) -> list[str]:
        return [*self.dumps, *map(str, self.views), *map(str, self.synsets)]


def find_inputs(settings: QuerySettings) -> Inputs:
    """The files that the settings name.

    Raises OSError, saying which setting names a file that is not there or cannot be reached.
    """
    return Inputs(
        _find_dumps(settings.dumps),
        _find("views", settings.views),
        find_synsets(settings.wordnet) if settings.wordnet else (),
    )


def check_dumps(dumps: Sequence[str]) -> None:
    """Raise OSError for a dump that cannot give a query, as far as its beginning shows."""
    from query_builder.dump import is_stub  # not for --help

    for dump in dumps:
        if is_stub(dump):
            raise OSError(
                f"dumps: {shown(dump)} is a stub dump: it has the sizes of its pages' texts, not "
                "the texts; name a dump called pages-articles"
            )


def find_synsets(folder: str) -> list[Path]:
    """The data files in WordNet's ``dict`` folder (or ``package:NAME/FOLDER``).

    Raises FileNotFoundError, saying what to do, if one of them is not there.
    """
    path = resolve_path(folder).absolute()
    missing = [name for name in SYNSET_FILES if not (path / name).is_file()]
    if not missing:
        return [path / name for name in SYNSET_FILES]
    hint = "it must be WordNet's dict folder, where data.noun and its like are"
    if all((path / "dict" / name).is_file() for name in SYNSET_FILES):
        hint = f"it must be {path / 'dict'}"
    raise FileNotFoundError(f"wordnet: {folder} has no {', '.join(missing)}; {hint}")


def _find_dumps(patterns: Sequence[str]) -> list[str]:
    try:
        return find_dumps(patterns)
    except OSError as error:
        raise type(error)(f"dumps: {error}") from error


def _find(key: str, patterns: Sequence[str]) -> list[Path]:
    try:
        return find_files(patterns)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{key}: {error}") from error
