"""A 3 x 5 pixel font for the demo world, so that drawings do not depend on installed fonts."""

from __future__ import annotations

import numpy as np

# Five octal digits per character, one per row from the top; 4 is the left pixel, 1 the right one.
ROWS = {
    "a": "25755", "b": "65656", "c": "34443", "d": "65556", "e": "74647", "f": "74644",
    "g": "34553", "h": "55755", "i": "72227", "j": "11152", "k": "55655", "l": "44447",
    "m": "57755", "n": "65555", "o": "25552", "p": "65644", "q": "25573", "r": "65655",
    "s": "34216", "t": "72222", "u": "55557", "v": "55552", "w": "55775", "x": "55255",
    "y": "55222", "z": "71247",
    "0": "75557", "1": "26227", "2": "71747", "3": "71717", "4": "55711", "5": "74717",
    "6": "74757", "7": "71122", "8": "75757", "9": "75717",
}  # fmt: skip


def bitmap(text: str, scale: int) -> np.ndarray:
    """Render a text as a grid of ones and zeros.

    Args:
        text: Lower-case letters and digits; drawn as capitals.
        scale: Edge of one font pixel, in picture pixels.

    Returns:
        ``[5 * scale, (4 * len(text) - 1) * scale]`` uint8, 1 where there is ink.
    """
    grid = np.zeros((5, 4 * len(text) - 1), dtype=np.uint8)
    for place, character in enumerate(text):
        for row, digit in enumerate(ROWS[character]):
            for column in range(3):
                grid[row, 4 * place + column] = int(digit) >> (2 - column) & 1
    return grid.repeat(scale, axis=0).repeat(scale, axis=1)
