"""Units as characters of a text and back, so that text tools can work on them.

Only CJK unified ideographs: letters that no Unicode normalisation, case folding or whitespace rule touches, and that
are no surrogates, controls or private characters. Only those that Unicode 8.0 (2015) had, which every library knows.
"""

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

_RANGES = (  # first and last, ascending
    (0x3400, 0x4DB5),
    (0x4E00, 0x9FA5),
    (0x20000, 0x2A6D6),
    (0x2A700, 0x2B734),
    (0x2B740, 0x2B81D),
    (0x2B820, 0x2CEA1),
)
_POINTS: NDArray[np.uint32] = np.concatenate([np.arange(first, last + 1) for first, last in _RANGES]).astype("<u4")

#: Most units that have a character.
MAX_UNITS = len(_POINTS)


def units_to_characters(units: NDArray[np.int64]) -> str:
    """The text with a character for each unit, ascending with the units.

    Args:
        units: [N], 0 to `MAX_UNITS` - 1.

    Example:
        >>> units_to_characters(np.array([0, 6582, 80327])).encode("unicode-escape")
        b'\\\\u3400\\\\u4e00\\\\U0002cea1'
    """
    return _POINTS[units].tobytes().decode("utf-32-le")


def characters_to_units(text: str) -> NDArray[np.int64]:
    """The units [N] of a text, inverse of `units_to_characters`.

    Raises:
        InputError: a character that stands for no unit.
    """
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    units = np.searchsorted(_POINTS, points).clip(max=MAX_UNITS - 1)
    wrong = np.flatnonzero(_POINTS[units] != points)
    if len(wrong):
        raise InputError(f"character {wrong[0]}, {text[wrong[0]]!r}, stands for no unit")
    return units
