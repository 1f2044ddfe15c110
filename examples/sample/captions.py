"""The ways in which a web page words the caption of an image."""

from __future__ import annotations

from workers.base.sampling import draw

#: (share, template); most are plain, because most of the pairs must be plainly true.
STYLES: tuple[tuple[float, str], ...] = (
    (0.40, "{name}"),
    (0.20, "{capitalised}"),
    (0.08, "a picture of {name}"),
    (0.07, "{name} emoji"),
    (0.05, "Picture of {name}"),
    (0.05, "{capitalised} - small pictures"),
    (0.05, "{capitalised} | Free Picture Library"),
    (0.05, "a small drawing of {name} in flat colours"),
    (0.05, "{capitalised}, icon, {size} x {size} pixels"),
)

#: Alts that programs and hurried people write; they say nothing of the image.
FILE_NAMES = (
    "{code}.png",
    "IMG_{number:04d}.jpg",
    "DSC{number:05d}.JPG",
    "logo",
    "image",
    "untitled-{number}",
    "banner_{number}.gif",
)

IMAGE_SIZE = 72


def write_caption(name: str, seed: int, key: str) -> str:
    """The name in one of the styles, always the same one for the same seed and key."""
    template = _style(draw(seed, "style", key))
    return template.format(name=name, capitalised=name[:1].upper() + name[1:], size=IMAGE_SIZE)


def _style(point: float) -> str:
    for share, template in STYLES:
        if point < share:
            return template
        point -= share
    return STYLES[0][1]  # the shares add up to one but for rounding


def write_file_name(code: str, seed: int) -> str:
    """What stands in an alt that is only a file's name."""
    template = FILE_NAMES[int(draw(seed, "file name", code) * len(FILE_NAMES))]
    return template.format(code=code, number=int(draw(seed, "number", code) * 10_000))
