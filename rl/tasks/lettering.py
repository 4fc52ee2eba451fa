"""Where the characters of a drawn text are.

A character's box is what anybody sees of it, for what a tower is asked about it must be told from its pixels: as wide
as its ink, from the baseline up to the height of a capital, the same for all characters of a line. Advance widths and
the ink of a whole line depend on the font's bearings and on a "g" at the line's other end (docs/log.md).
"""

from functools import lru_cache

from PIL import ImageFont

from foveate.rl.tasks.scene import Glyph

CAPITAL = 0.7
"""Height of a capital as a share of the font size."""


def lettering(text: str, at: tuple[float, float], face: ImageFont.FreeTypeFont, align: str = "la") -> list[Glyph]:
    """The characters of a text drawn at a point; `align` is Pillow's anchor. A space is as wide as it advances."""
    left = at[0] - {"l": 0.0, "m": 0.5, "r": 1.0}[align[0]] * face.getlength(text)
    baseline = at[1] + face.getbbox(text, anchor=align)[1] - face.getbbox(text, anchor=f"{align[0]}s")[1]
    top = baseline - CAPITAL * face.size
    glyphs = []
    for index, character in enumerate(text):
        start = left + face.getlength(text[:index])
        x0, x1 = _ink(face, character)
        glyphs.append(Glyph(character, (start + x0, top, start + x1, baseline)))
    return glyphs


@lru_cache(maxsize=20_000)
def _ink(face: ImageFont.FreeTypeFont, character: str) -> tuple[float, float]:
    """Where the ink of a character begins and ends, from where the character begins."""
    if character == " ":
        return 0.0, face.getlength(character)
    mask, offset = face.getmask2(character, mode="L", anchor="ls")
    x0, _, x1, _ = mask.getbbox() or (0, 0, round(face.getlength(character)), 0)
    return offset[0] + x0, offset[0] + x1
