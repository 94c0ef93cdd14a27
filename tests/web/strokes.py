"""Strokes of a pen along the lines of a digit in an image."""

import numpy as np
from PIL import Image

_FINER = 96  # pixels of the side on which lines are thinned
_STEP = 5  # of these pixels between two points of a stroke
_SHORTEST = 4  # of these pixels; what is shorter is rough edges
_SHARE = 0.6  # of white, from which on a pixel is in a line
# The eight neighbours of a pixel, clockwise from the one above: rows and columns.
_AROUND = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))


def strokes_of(image: np.ndarray) -> list[list[tuple[float, float]]]:
    """Returns the strokes that draw a light digit on a dark image `(height, width)` of bytes.

    Points are shares of the image's width and height.
    """
    sizes = np.array(image.shape) + 2  # with a dark frame, so that lines end before the edges
    finer = [round(_FINER * size / (size - 2)) for size in sizes]
    larger = Image.fromarray(np.pad(image, 1)).resize(finer[::-1], Image.Resampling.LANCZOS)
    lines = thinned(np.asarray(larger) > _SHARE * 255)
    strokes = []
    while lines.any():
        stroke = _walk(lines)
        if len(stroke) > _SHORTEST or not strokes:
            strokes.append(stroke[::_STEP] + stroke[-1:])
    frame = (finer[0] - _FINER) / 2
    return [[((x - frame) / _FINER, (y - frame) / _FINER) for y, x in line] for line in strokes]


def thinned(area: np.ndarray) -> np.ndarray:
    """Returns the middle lines of areas, one pixel wide, by Zhang and Suen's algorithm.

    Reference:

    - [Zhang and Suen, 1984](https://doi.org/10.1145/357994.358023).
    """
    area = area.astype(int)
    is_changing = True
    while is_changing:
        is_changing = False
        for half in (0, 1):
            around = np.stack([np.roll(area, (-y, -x), (0, 1)) for y, x in _AROUND])
            count = around.sum(0)
            begins = ((around == 0) & (np.roll(around, -1, 0) == 1)).sum(0)
            up, right, down, left = around[::2]
            sides = (up * right * down, right * down * left)
            sides = sides if half == 0 else (up * right * left, up * down * left)
            gone = (area == 1) & (count >= 2) & (count <= 6) & (begins == 1)
            gone &= (sides[0] == 0) & (sides[1] == 0)
            area[gone] = 0
            is_changing |= bool(gone.any())
    return area.astype(bool)


def _walk(lines):
    """Walks along a line from one of its ends, as straight on as it can, and removes it."""
    places = np.argwhere(lines)
    ends = [p for p in places if _neighbours(lines, p) == 1]
    place, heading = tuple(ends[0] if ends else places[0]), np.zeros(2)
    walked = []
    while place is not None:
        walked.append((place[0] + 0.5, place[1] + 0.5))
        lines[place] = False
        steps = [s for s in _AROUND if lines[place[0] + s[0], place[1] + s[1]]]
        if not steps:
            break
        step = max(steps, key=lambda s: np.dot(s, heading) / np.hypot(*s))
        heading = 0.7 * heading + 0.3 * np.array(step) / np.hypot(*step)
        place = (place[0] + step[0], place[1] + step[1])
    return walked


def _neighbours(lines, place):
    return sum(lines[place[0] + y, place[1] + x] for y, x in _AROUND)
