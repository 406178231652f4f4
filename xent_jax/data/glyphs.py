"""Printed glyphs: letters of many scripts, drawn from fonts, for few-shot learning offline.

A class is a letter and its examples are its drawings in different fonts, white on black. They are
printed and not handwritten, and so easier to tell apart than Omniglot's.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xent_jax.typing import UInt8

SIDE = 28
"""Pixels, of a drawing's height and width."""

_EM = 24  # pixels: of this size nearly all letters fit, and small ones keep their details
_FEWEST_DRAWINGS = 8  # five to learn from, three to be tested by

_SPLITS = {"MODIFIER": "validation", "ARMENIAN": "test", "GEORGIAN": "test"}

# They draw the same box for every character of a block, or order their glyphs as TeX does.
_NOT_UNICODE = ("LastResort", "cmb10", "cmex10", "cmmi10", "cmr10", "cmss10", "cmsy10")
_NOT_UNICODE += ("cmti10", "cmtt10")


def split_of(name: str) -> str:
    """Returns the split of a letter, by its script: the first word of its Unicode name.

    'test' has Armenian and Georgian, 'validation' modifier letters, 'train' all other scripts:
    with matplotlib's fonts Greek, Cyrillic and Lao.
    """
    return _SPLITS.get(name.split()[0], "train")


def fonts_in(folder: str | Path) -> list[Path]:
    """Returns the TrueType and OpenType fonts in a folder and its folders, sorted by name."""
    paths = (path for path in Path(folder).rglob("*") if path.suffix.lower() in (".ttf", ".otf"))
    return sorted(path for path in paths if not path.name.startswith(_NOT_UNICODE))


def matplotlib_fonts() -> list[Path]:
    """Returns the fonts that come with matplotlib."""
    import matplotlib  # Only where the letters are drawn, which is once.

    return fonts_in(Path(matplotlib.get_data_path()) / "fonts" / "ttf")


def draw_letters(fonts: Sequence[Path]) -> dict[str, UInt8[np.ndarray, "drawings 28 28 1"]]:
    """Returns the drawings of every letter that has at least 8 different ones, by its name.

    A letter is a character whose Unicode name says so, such as 'GREEK SMALL LETTER ALPHA'; Latin
    ones are left out. No drawing occurs twice, not even in two letters: what the Greek Alpha
    shares with the Cyrillic A, which comes before it, is the latter's alone. It keeps its size,
    by which many capital letters differ from small ones, and its ink is centred.
    """
    drawings: dict[str, list[np.ndarray]] = {}
    for path in fonts:
        for name, image in _letters(path):
            drawings.setdefault(name, []).append(image)
    letters, drawn = {}, set()
    for name in sorted(drawings):
        new = {image.tobytes(): image for image in drawings[name] if image.tobytes() not in drawn}
        drawn |= new.keys()
        if len(new) >= _FEWEST_DRAWINGS:
            letters[name] = np.stack(list(new.values()))
    return letters


def _letters(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the name and the drawing of each letter that a font has."""
    from matplotlib.ft2font import FT2Font
    from PIL import ImageFont

    font = ImageFont.truetype(str(path), _EM, layout_engine=ImageFont.Layout.BASIC)
    for code, glyph in sorted(FT2Font(str(path)).get_charmap().items()):
        name = unicodedata.name(chr(code), "")
        # Glyph 0 is the box that stands for all that a font lacks.
        if glyph and " LETTER " in name and "LATIN" not in name:
            image = _drawing(chr(code), font)
            if image.any():
                yield name, image


def _drawing(letter: str, font: Any) -> np.ndarray:
    from PIL import Image, ImageDraw

    page = Image.new("L", (6 * _EM, 6 * _EM))
    ImageDraw.Draw(page).text((3 * _EM, 3 * _EM), letter, fill=255, font=font, anchor="mm")
    ink = page.crop(page.getbbox())
    ink.thumbnail((SIDE, SIDE), Image.Resampling.BOX)  # where it is larger
    image = Image.new("L", (SIDE, SIDE))
    image.paste(ink, ((SIDE - ink.width) // 2, (SIDE - ink.height) // 2))
    return np.asarray(image)[..., None]
