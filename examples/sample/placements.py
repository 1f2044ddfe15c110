"""Which image stands on which host under which URL, with which caption and noise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from examples.sample.captions import write_caption, write_file_name
from examples.sample.images import NamedImage
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
from workers.base.sampling import draw


@dataclass(frozen=True)
class Placement:
    """One image on one page. Hosts are numbers: their addresses come with the server."""

    image: NamedImage
    kind: Kind
    caption: str  # as a reader sees it; "" where there is none
    file_host: int
    target: str  # the image's path and query on its host
    page_host: int
    form: Form = Form.PLAIN


def place(
    images: Sequence[NamedImage], shares: NoiseShares, seed: int, hosts: int
) -> list[Placement]:
    """Every image of the site, in the order of the images."""
    kinds = assign_kinds(images, shares, seed)
    wrong_name = wrong_name_finder(images, seed)
    first = [_own(image, kinds[image.code], wrong_name, seed, hosts) for image in images]
    by_code = {placement.image.code: placement for placement in first}
    second = [
        _duplicate(by_code[code], variant, seed, hosts)
        for variant, code in enumerate(duplicated(kinds, shares, seed))
    ]
    return _with_forms([*first, *second], seed, hosts)


def _own(
    image: NamedImage, kind: Kind, wrong_name: Callable[[NamedImage], str], seed: int, hosts: int
) -> Placement:
    """An image under its own URL."""
    host = int(draw(seed, "host", image.code) * hosts)
    caption = _caption(image, kind, wrong_name, seed)
    return Placement(image, kind, caption, host, f"/pictures/{image.code}.png", host)


def _caption(
    image: NamedImage, kind: Kind, wrong_name: Callable[[NamedImage], str], seed: int
) -> str:
    if kind == Kind.FILE_NAME_ALT:
        return write_file_name(image.code, seed)
    if kind == Kind.MISSING_ALT or image.name is None:
        return ""
    name = image.name
    if kind == Kind.WRONG_CAPTION:
        name = wrong_name(image)
    elif kind == Kind.ALIAS:
        name = image.aliases[int(draw(seed, "alias", image.code) * len(image.aliases))]
    return write_caption(name, seed, image.code)


def _duplicate(own: Placement, variant: int, seed: int, hosts: int) -> Placement:
    """The same image again: in another folder, with a query that tracks, on another host."""
    assert own.image.name is not None
    again = replace(
        own,
        kind=Kind.DUPLICATE_URL,
        caption=write_caption(own.image.name, seed, f"{own.image.code} again"),
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
    is_empty = draw(seed, "empty alt", placement.image.code) < 0.5
    return Form.EMPTY_ALT if is_empty else Form.NO_ALT


def _in_form(placement: Placement, form: Form, hosts: int) -> Placement:
    if form == Form.CROSS_HOST:
        return replace(placement, form=form, page_host=(placement.file_host + 1) % hosts)
    return replace(placement, form=form)
