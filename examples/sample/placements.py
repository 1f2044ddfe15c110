"""Which picture stands on which host under which URL, with which caption and noise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from examples.sample.captions import write_caption, write_file_name
from examples.sample.markup import FORM_SHARES, Form
from examples.sample.noise import (
    Kind,
    NoiseShares,
    allot,
    assign_kinds,
    duplicated,
    quota,
    wrong_name_finder,
)
from examples.sample.pictures import Picture
from workers.base.sampling import draw


@dataclass(frozen=True)
class Placement:
    """One image on one page. Hosts are numbers: their addresses come with the server."""

    picture: Picture
    kind: Kind
    caption: str  # as a reader sees it; "" where there is none
    file_host: int
    target: str  # the picture's path and query on its host
    page_host: int
    form: Form = Form.PLAIN


def place(
    pictures: Sequence[Picture], shares: NoiseShares, seed: int, hosts: int
) -> list[Placement]:
    """Every image of the site, in the order of the pictures."""
    kinds = assign_kinds(pictures, shares, seed)
    wrong_name = wrong_name_finder(pictures, seed)
    first = [_own(picture, kinds[picture.code], wrong_name, seed, hosts) for picture in pictures]
    by_code = {placement.picture.code: placement for placement in first}
    second = [
        _duplicate(by_code[code], variant, seed, hosts)
        for variant, code in enumerate(duplicated(kinds, shares, seed))
    ]
    return _with_forms([*first, *second], seed, hosts)


def _own(
    picture: Picture, kind: Kind, wrong_name: Callable[[Picture], str], seed: int, hosts: int
) -> Placement:
    """A picture under its own URL."""
    host = int(draw(seed, "host", picture.code) * hosts)
    caption = _caption(picture, kind, wrong_name, seed)
    return Placement(picture, kind, caption, host, f"/pictures/{picture.code}.png", host)


def _caption(picture: Picture, kind: Kind, wrong_name: Callable[[Picture], str], seed: int) -> str:
    if kind == Kind.FILE_NAME_ALT:
        return write_file_name(picture.code, seed)
    if kind == Kind.MISSING_ALT or picture.name is None:
        return ""
    name = picture.name
    if kind == Kind.WRONG_CAPTION:
        name = wrong_name(picture)
    elif kind == Kind.ALIAS:
        name = picture.aliases[int(draw(seed, "alias", picture.code) * len(picture.aliases))]
    return write_caption(name, seed, picture.code)


def _duplicate(own: Placement, variant: int, seed: int, hosts: int) -> Placement:
    """The same picture again: in another folder, with a query that tracks, on another host."""
    assert own.picture.name is not None
    again = replace(
        own,
        kind=Kind.DUPLICATE_URL,
        caption=write_caption(own.picture.name, seed, f"{own.picture.code} again"),
    )
    name = own.target.rpartition("/")[2]
    match variant % 3:
        case 0:
            return replace(again, target=f"/mirror/{name}")
        case 1:
            query = "utm_source=newsletter&utm_medium=email"
            return replace(again, target=f"{own.target}?{query}")
        case _:
            other = (own.file_host + 1) % hosts
            return replace(again, target=f"/copies/{name}", file_host=other, page_host=other)


def _with_forms(placements: Iterable[Placement], seed: int, hosts: int) -> list[Placement]:
    by_url = {f"{p.file_host} {p.target}": p for p in placements}
    captioned = {url for url, p in by_url.items() if p.caption and p.kind != Kind.DISALLOWED}
    forms = {url: _form_without_caption(p, seed) for url, p in by_url.items() if not p.caption}
    total = len(captioned)
    for form, share in FORM_SHARES.items():
        chosen = allot(captioned, quota(share, total), seed, form)
        captioned -= set(chosen)
        forms |= dict.fromkeys(chosen, form)
    return [_in_form(p, forms.get(url, Form.PLAIN), hosts) for url, p in by_url.items()]


def _form_without_caption(placement: Placement, seed: int) -> Form:
    is_empty = draw(seed, "empty alt", placement.picture.code) < 0.5
    return Form.EMPTY_ALT if is_empty else Form.NO_ALT


def _in_form(placement: Placement, form: Form, hosts: int) -> Placement:
    if form == Form.CROSS_HOST:
        return replace(placement, form=form, page_host=(placement.file_host + 1) % hosts)
    return replace(placement, form=form)
