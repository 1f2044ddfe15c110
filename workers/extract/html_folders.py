"""Pages from folders of HTML files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from urllib.parse import quote

from workers.base.credentials import shown
from workers.base.file_systems import is_away, open_file
from workers.base.settings import printable
from workers.base.tally import Tally
from workers.extract.inputs import Input
from workers.extract.page import XHTML
from workers.extract.pages import MAX_PAGE_BYTES, Page
from workers.fetch.local_images import LocalBase


def read_html(source: Input, pages: Tally) -> Iterator[Page]:
    """The pages of some HTML files; one that cannot be read is counted into ``pages``.

    A page's URL is the input's ``root_url`` with the path below the folder, or "" without one.
    The page's own word on where it belongs (canonical link, og:url, <base>) is heard later.
    """
    for name, path in zip(source.files, source.paths(), strict=True):
        place = f"{printable(name)}@0"
        try:
            with open_file(path) as file:
                body = file.read(MAX_PAGE_BYTES + 1)
        except OSError as error:
            if is_away(path, error):
                raise
            row = {"source": shown(path), "error": shown(str(error))}
            pages.fail("damaged_file", place, row)
            continue
        url = f"{source.root_url.rstrip('/')}/{quote(os.fsencode(name))}" if source.root_url else ""
        content_type = XHTML if name.lower().endswith(".xhtml") else ""
        base = LocalBase(source.folder, os.fsdecode(name)) if source.folder else None
        yield Page(url, body, content_type, (), place, local=True, base=base)
