"""One colour per class, the same in pictures, plots and windows."""

from __future__ import annotations

import colorsys

# Okabe and Ito (2008), "Color Universal Design", without black: on imagery it reads as shadow. Ordered so that the
# first few stand out from vegetation, water and tarmac.
_OKABE_ITO = (
    (230, 159, 0),  # orange
    (86, 180, 233),  # sky blue
    (204, 121, 167),  # reddish purple
    (240, 228, 66),  # yellow
    (0, 158, 115),  # bluish green
    (213, 94, 0),  # vermillion
    (0, 114, 178),  # blue
)
# Each the farthest from all before it in CIELAB, the nearest of three views counting: usual sight, protanopia and
# deuteranopia as simulated by Machado et al. (2009). Dark shades were left out.
_FARTHEST = (
    (255, 238, 255),  # near white
    (102, 0, 255),  # violet
    (204, 255, 170),  # pale green
    (136, 102, 255),  # lavender
    (170, 51, 51),  # red
    (204, 170, 102),  # sand
    (51, 102, 102),  # dark teal
    (204, 204, 170),  # stone
    (170, 136, 255),  # lilac
)
_NAMED = _OKABE_ITO + _FARTHEST
_GOLDEN_RATIO = 0.618033988749895


def class_colour(class_id: int) -> tuple[int, int, int]:
    """Return the (red, green, blue) of a class, 0 to 255 each; it depends on nothing but the id.

    The first 16 keep apart for colour-blind people too; beyond them hues are spread by the golden ratio and names must
    help. Raises ValueError for a negative id.
    """
    if class_id < 0:
        raise ValueError(f"class_id must be 0 or above, got {class_id}")
    if class_id < len(_NAMED):
        return _NAMED[class_id]
    step = class_id - len(_NAMED)
    saturation, value = ((0.75, 0.95), (0.5, 1.0), (0.9, 0.7))[step % 3]
    red, green, blue = colorsys.hsv_to_rgb((0.05 + step * _GOLDEN_RATIO) % 1.0, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def text_colour(background: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return near-black or white, whichever reads better on `background` (WCAG 2.1 relative luminance)."""
    linear = [(c / 255 / 12.92) if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in background]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (16, 16, 16) if luminance > 0.179 else (255, 255, 255)
