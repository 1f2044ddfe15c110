"""How a picture looks: the mean colours of its quarters, and its shape."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

#: Levels that a mean may be away from what was written: JPEGs of JPEGs, and formulas of CMYK.
LEVELS = 6


class Colour(NamedTuple):
    red: int
    green: int
    blue: int

    def __str__(self) -> str:
        return "#" + bytes(self).hex()


RED, GREEN, BLUE = Colour(220, 40, 40), Colour(40, 170, 60), Colour(40, 60, 210)
BLACK, WHITE, GREY = Colour(0, 0, 0), Colour(255, 255, 255), Colour(128, 128, 128)


@dataclass(frozen=True)
class Looks:
    """The colours of the middles of the four quarters, and whether it is wider than high."""

    top_left: Colour
    top_right: Colour
    bottom_left: Colour
    bottom_right: Colour
    is_wide: bool = True

    @classmethod
    def all_over(cls, colour: Colour) -> Looks:
        return cls(colour, colour, colour, colour)

    def problem(self, jpeg: bytes) -> str:
        """What is otherwise in a picture; "" if nothing is."""
        picture = Image.open(io.BytesIO(jpeg)).convert("RGB")
        if (picture.width > picture.height) != self.is_wide:
            return f"it is {picture.width} wide and {picture.height} high"
        for name in ("top_left", "top_right", "bottom_left", "bottom_right"):
            found, wanted = _middle(picture, name), getattr(self, name)
            if max(abs(one - other) for one, other in zip(found, wanted, strict=True)) > LEVELS:
                return f"{name.replace('_', ' ')} is {found}, not {wanted}"
        return ""


def _middle(picture: Image.Image, quarter: str) -> Colour:
    """The mean of the inner part of a quarter, away from what its neighbours bleed into."""
    levels = np.asarray(picture)
    rows, columns = (
        slice(size * (1 + 4 * is_second) // 8, max(1, size * (3 + 4 * is_second) // 8))
        for size, is_second in zip(
            levels.shape[:2], ("bottom" in quarter, "right" in quarter), strict=True
        )
    )
    means = levels[rows, columns].reshape(-1, 3).mean(axis=0)
    return Colour(*(round(float(mean)) for mean in means))
