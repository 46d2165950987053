"""Contact sheets: pictures in rows and columns, with words beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import cast

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Cell = Image.Image | np.ndarray | None
"""A picture, (H, W, 3) uint8 or Pillow's; None leaves the place empty."""

LONGEST_LABEL = 300
"""Characters of a label; of a longer one the beginning stands."""

_SYSTEM_FONTS = ("NotoSansCJK-Regular.ttc", "DejaVuSans.ttf", "Arial Unicode.ttf", "arial.ttf", "NotoSans-Regular.ttf")
_INK = (32, 32, 32)
_PAPER = (255, 255, 255)


@dataclass(frozen=True, slots=True, kw_only=True)
class SheetStyle:
    """How a sheet looks."""

    cell: tuple[int, int] | None = None
    """(width, height) that each picture is fitted into, its proportions kept; None takes the largest one's."""
    gap: int = 8
    """Pixels between pictures and around them."""
    font_size: int = 14
    row_label_width: int = 140
    """Pixels at most; longer words are broken."""
    ink: tuple[int, int, int] = _INK
    paper: tuple[int, int, int] = _PAPER


@dataclass(frozen=True, slots=True)
class _Text:
    """Wrapped lines and the room that they take."""

    lines: list[str] = field(default_factory=list)
    width: int = 0
    height: int = 0


def contact_sheet(
    rows: Sequence[Sequence[Cell]],
    *,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    captions: Sequence[Sequence[str]] = (),
    title: str = "",
    style: SheetStyle | None = None,
) -> Image.Image:
    """A sheet of `rows`, which may differ in length; empty labels take no room.

    Row labels stand left of their row, column labels above their column, captions (by row and column) under their
    picture, the title above all; each is wrapped. Raises ValueError if there is no picture at all.
    """
    style = style or SheetStyle()
    pictures = [[_picture(cell) for cell in row] for row in rows]
    cell = style.cell or _largest(pictures)
    font = _font(style.font_size, "".join([title, *row_labels, *column_labels, *chain.from_iterable(captions)]))
    left = [wrap(label, font, style.row_label_width) for label in row_labels]
    top = [wrap(label, font, cell[0]) for label in column_labels]
    below = [[wrap(caption, font, cell[0]) for caption in row] for row in captions]
    label_width = max((text.width for text in left), default=0)
    x0 = style.gap + (label_width + style.gap if label_width else 0)
    total = x0 + max(map(len, pictures)) * (cell[0] + style.gap)
    head = wrap(title, font, total - 2 * style.gap)
    y_labels = style.gap + _room(head, style)
    tops, bottom = _row_tops(
        len(pictures), y_labels + _room(_tallest(top), style), cell[1], left=left, below=below, style=style
    )
    page = _Page(Image.new("RGB", (total, bottom), style.paper), font, style, cell)
    page.write(head, (style.gap, style.gap))
    xs = range(x0, total, cell[0] + style.gap)
    for x, text in zip(xs, top, strict=False):
        page.write(text, (x, y_labels), centred=True)
    for index, (y, row) in enumerate(zip(tops, pictures, strict=True)):
        if index < len(left):
            page.write(left[index], (style.gap, y + max(0, (cell[1] - left[index].height) // 2)))
        for x, picture in zip(xs, row, strict=False):
            page.paste(picture, (x, y))
        for x, text in zip(xs, below[index] if index < len(below) else [], strict=False):
            page.write(text, (x, y + cell[1] + style.gap // 2), centred=True)
    return page.sheet


def grid(pictures: Sequence[Cell], *, columns: int | None = None, style: SheetStyle | None = None) -> Image.Image:
    """Pictures in reading order, nearly square unless `columns` says otherwise, without words."""
    count = columns or max(1, int(np.ceil(np.sqrt(len(pictures)))))
    rows = [pictures[start : start + count] for start in range(0, len(pictures), count)]
    return contact_sheet(rows, style=style)


def wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> _Text:
    """Break text into lines of at most `width` pixels: between words, and inside words that are longer alone.

    Of text beyond `LONGEST_LABEL` the beginning stands.
    """
    text = text if len(text) <= LONGEST_LABEL else text[: LONGEST_LABEL - 3] + "..."
    lines: list[str] = []
    for paragraph in text.split("\n") if text else []:
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}".strip()
            if not line or font.getlength(longer) <= width:
                line = longer
            else:
                lines.append(line)
                line = word
            while font.getlength(line) > width and len(line) > 1:
                fits = _fitting(line, font, width)
                lines.append(line[:fits])
                line = line[fits:]
        lines.append(line)
    longest = max((font.getlength(line) for line in lines), default=0)
    return _Text(lines, int(np.ceil(longest)), len(lines) * _line_height(font))


class _Page:
    """A sheet being filled."""

    def __init__(
        self, sheet: Image.Image, font: ImageFont.FreeTypeFont, style: SheetStyle, cell: tuple[int, int]
    ) -> None:
        self.sheet = sheet
        self._draw = ImageDraw.Draw(sheet)
        self._font = font
        self._style = style
        self._cell = cell

    def write(self, text: _Text, place: tuple[int, int], *, centred: bool = False) -> None:
        """Lines from `place` down, centred over a cell if asked."""
        x, y = place
        for line in text.lines:
            indent = max(0, int(self._cell[0] - self._font.getlength(line)) // 2) if centred else 0
            self._draw.text((x + indent, y), line, fill=self._style.ink, font=self._font)
            y += _line_height(self._font)

    def paste(self, picture: Image.Image | None, place: tuple[int, int]) -> None:
        """A picture fitted into the cell at `place`."""
        if picture is None:
            return
        width, height = self._cell
        fitted = fit(picture, width, height)
        self.sheet.paste(fitted, (place[0] + (width - fitted.width) // 2, place[1] + (height - fitted.height) // 2))


def _row_tops(
    count: int, y: int, height: int, *, left: list[_Text], below: list[list[_Text]], style: SheetStyle
) -> tuple[list[int], int]:
    """Where each row begins, and where the last one ends."""
    tops: list[int] = []
    for index in range(count):
        tops.append(y)
        under = _tallest(below[index]).height if index < len(below) else 0
        beside = left[index].height if index < len(left) else 0
        y += max(height + (under + style.gap // 2 if under else 0), beside) + style.gap
    return tops, y


def fit(picture: Image.Image, width: int, height: int) -> Image.Image:
    """Scaled to fit, proportions kept; small pictures are enlarged with their pixels showing."""
    scale = min(width / picture.width, height / picture.height)
    if scale == 1:
        return picture
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)


def _picture(cell: Cell) -> Image.Image | None:
    if cell is None:
        return None
    return (Image.fromarray(np.ascontiguousarray(cell)) if isinstance(cell, np.ndarray) else cell).convert("RGB")


def _largest(rows: list[list[Image.Image | None]]) -> tuple[int, int]:
    sizes = [picture.size for row in rows for picture in row if picture is not None]
    if not sizes:
        raise ValueError("a sheet needs at least one picture")
    return max(width for width, _ in sizes), max(height for _, height in sizes)


def _font(size: int, words: str) -> ImageFont.FreeTypeFont:
    """Pillow's own font, so that sheets look alike everywhere; it has ASCII only, so other words need the system's."""
    for name in () if words.isascii() else _SYSTEM_FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return cast("ImageFont.FreeTypeFont", ImageFont.load_default(size))


def _fitting(text: str, font: ImageFont.FreeTypeFont, width: int) -> int:
    """How many characters fit, one at least."""
    low, high = 1, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if font.getlength(text[:middle]) <= width:
            low = middle
        else:
            high = middle - 1
    return low


def _line_height(font: ImageFont.FreeTypeFont) -> int:
    ascent, descent = font.getmetrics()
    return ascent + descent + 2


def _tallest(texts: list[_Text]) -> _Text:
    return max(texts, key=lambda text: text.height, default=_Text())


def _room(text: _Text, style: SheetStyle) -> int:
    return text.height + style.gap if text.height else 0
