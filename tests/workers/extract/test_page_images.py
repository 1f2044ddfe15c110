"""Which version of an image is the real one, where a page has several or shows none at first."""

from __future__ import annotations

import pytest

from workers.extract.page_images import LAZY_SETS, LAZY_SOURCES, images_of
from workers.extract.tags import Document


def references(html: str) -> list[str]:
    return [image.reference() for image in images_of(Document(html.encode()))]


@pytest.mark.parametrize(
    ("attributes", "reference"),
    [
        # The largest width of all sets.
        ("srcset='lq-100 100w' data-srcset='a-800 800w, a-1600 1600w'", "a-1600"),
        ("srcset='a-1600 1600w' data-srcset='a-800 800w'", "a-1600"),
        ("data-srcset='a-800 800w' data-lazy-srcset='a-1600 1600w'", "a-1600"),
        ("srcset='a 300w 200h, b 400w 100h'", "b"),
        # Densities of two sets cannot be compared: what a script would show counts.
        ("srcset='lq 2x' data-srcset='a 1x'", "a"),
        ("srcset='lq 100w' data-srcset='a 2x'", "a"),
        ("srcset=lq data-srcset=a", "a"),
        ("srcset='a 1x' src=b", "a"),
        # Placeholders.
        ("srcset='/i/placeholder.gif 3000w' data-srcset='a 800w'", "a"),
        ("srcset='lq-100.jpg 3000w' data-srcset='a 800w'", "a"),
        ("srcset='/1x1.gif 3000w' data-srcset='a 800w'", "a"),
        ("srcset='data:image/gif;base64,R0lG 3000w' data-srcset='a 800w'", "a"),
        ("src=blank.gif data-src=a", "a"),
        ("src=a data-src='data:image/gif;base64,R0lG'", "a"),
        ("src=a srcset='data:image/gif;base64,R0lG 1x'", "a"),
        ("src=loading.gif", "loading.gif"),  # there is no other
        ("src='data:image/gif;base64,R0lG'", "data:image/gif;base64,R0lG"),
        # Switches, and what a script fills in, are no addresses.
        ("src=a loading=lazy", "a"),
        ("src=a data-lazy=true", "a"),
        ("src=a data-lazy-src=1 data-original=b", "b"),
        ("src=a data-src='//cdn.example/a_{width}x.jpg'", "a"),
        ("src=a data-srcset='{{ sizes }}'", "a"),
        ("src=a data-src=''", "a"),
        ("src=' a '", "a"),
        ("src=a data-src=true.jpg", "true.jpg"),
    ],
)
def test_the_real_version_of_an_image(attributes, reference):
    assert references(f"<img {attributes}>") == [reference]


@pytest.mark.parametrize("name", [*LAZY_SOURCES, *LAZY_SETS])
def test_what_scripts_put_into_src_and_srcset_is_found(name):
    assert references(f"<img src=lq.jpg {name}=a.jpg>") == ["a.jpg"]


@pytest.mark.parametrize(
    ("html", "reference"),
    [
        ("<source srcset='a 800w'><source srcset='b 1600w'><img srcset='c 400w'>", "b"),
        ("<source data-srcset='a 800w'><img srcset='lq 100w'>", "a"),
        ("<source srcset='lq 1x' data-srcset='a 1x'><img src=lq data-src=b>", "a"),
        ("<source data-srcset='a 800w' type=image/avif><img src=b>", "b"),
        ("<source srcset='data:image/gif,A 1x'><img src=data:, data-src=b>", "b"),
    ],
)
def test_the_real_version_of_an_image_with_sources(html, reference):
    assert references(f"<picture>{html}</picture>") == [reference]


def test_what_a_page_shows_without_scripts_is_found_as_well():
    """As Next.js writes it: a placeholder, and the image for those without scripts."""
    page = "<img src='data:image/gif;base64,R0lG' alt=a><noscript><img src=a alt=a></noscript>"
    assert references(page) == ["data:image/gif;base64,R0lG", "a"]


def test_what_is_in_a_template_is_no_part_of_the_page():
    page = "<figure><template><img src=a><figcaption>A</template><img src=b></figure>"
    (image,) = images_of(Document(page.encode()))
    assert (image.reference(), image.texts()) == ("b", [])
