"""Show a picture in a terminal: kitty's graphics protocol, iTerm2's, sixel, or coloured half blocks.

Which of them a terminal speaks is told from its environment variables alone; asking it and waiting for an answer would
hang in pipes and logs. Whoever knows better passes the protocol.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

BLOCK_COLUMNS = 32
"""Character cells across, for half blocks."""
_KITTY_CHUNK = 4096
"""Bytes of base64 in one escape sequence, at most; sw.kovidgoyal.net/kitty/graphics-protocol."""
_SIXEL_COLOURS = 256


class Protocol(StrEnum):
    """Ways to show a picture, from the best to the plainest."""

    KITTY = "kitty"
    ITERM2 = "iterm2"
    SIXEL = "sixel"
    BLOCKS = "blocks"
    """Half blocks in 24-bit colour."""
    BLOCKS_256 = "blocks-256"
    """Half blocks in xterm's 256 colours."""


def detect(env: Mapping[str, str], isatty: bool) -> Protocol | None:
    """The best that the terminal described by `env` (os.environ) is known to show; None where nothing should be shown.

    Inside tmux and screen, which swallow other sequences, half blocks are taken. NO_COLOR and dumb terminals get
    nothing.
    """
    term, program = env.get("TERM", ""), env.get("TERM_PROGRAM", "")
    if not isatty or term in {"", "dumb", "linux"} or env.get("NO_COLOR"):
        return None
    if not (env.get("TMUX") or term.startswith(("screen", "tmux"))):
        if env.get("KITTY_WINDOW_ID") or term in {"xterm-kitty", "xterm-ghostty"} or program == "ghostty":
            return Protocol.KITTY
        if program in {"iTerm.app", "WezTerm", "rio"} or env.get("LC_TERMINAL") == "iTerm2":
            return Protocol.ITERM2
        if term.startswith(("foot", "mlterm", "contour", "yaft")) or "sixel" in term or program == "mintty":
            return Protocol.SIXEL
    truecolour = env.get("COLORTERM") in {"truecolor", "24bit"} or "direct" in term or bool(env.get("WT_SESSION"))
    if truecolour:
        return Protocol.BLOCKS
    return Protocol.BLOCKS_256 if "256color" in term else None


def show(image: Image, stream: TextIO, protocol: Protocol, *, columns: int = BLOCK_COLUMNS) -> None:
    """Write the picture to `stream`, and to nothing else. `columns` is the width of half blocks in characters.

    A stream that cannot encode half blocks gets nothing.
    """
    picture = image.convert("RGB")
    if protocol is Protocol.KITTY:
        pieces = _kitty(picture)
    elif protocol is Protocol.ITERM2:
        pieces = _iterm2(picture)
    elif protocol is Protocol.SIXEL:
        pieces = iter([encode_sixel(picture), "\n"])
    else:
        try:
            "▀".encode(getattr(stream, "encoding", None) or "utf-8")
        except (UnicodeEncodeError, LookupError):
            return
        pieces = _blocks(picture, columns, truecolour=protocol is Protocol.BLOCKS)
    for piece in pieces:
        stream.write(piece)
    stream.flush()


def encode_sixel(image: Image) -> str:
    """A sixel sequence of at most 256 colours: bands of six rows, each colour of a band a run-length coded line.

    DEC STD 070, chapter 9: a character's code less 63 holds the six pixels of a column, the topmost lowest.
    """
    import numpy as np
    from PIL.Image import Dither

    quantised = image.convert("RGB").quantize(_SIXEL_COLOURS, dither=Dither.NONE)
    indices = np.asarray(quantised)
    palette = np.array(quantised.getpalette() or [], dtype=np.int64).reshape(-1, 3)
    used = np.unique(indices)
    percent = (palette * 100 + 127) // 255
    lines = [f'\x1bPq"1;1;{image.width};{image.height}']
    lines += ["#{};2;{};{};{}".format(colour, *percent[colour]) for colour in used.tolist()]
    for top in range(0, image.height, 6):
        band = indices[top : top + 6]
        rows = [f"#{colour}{_run_lengths(_sixels(band == colour))}" for colour in np.unique(band).tolist()]
        lines.append("$".join(rows) + "-")
    return "".join(lines) + "\x1b\\"


def _sixels(mask: np.ndarray) -> np.ndarray:
    """(rows <= 6, W) bool to (W,) character codes."""
    import numpy as np

    weights = 1 << np.arange(len(mask))
    return (mask * weights[:, None]).sum(0) + 63


def _run_lengths(codes: np.ndarray) -> str:
    import numpy as np

    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    lengths = np.diff(starts, append=len(codes))
    pieces: list[str] = []
    for code, length in zip(codes[starts].tolist(), lengths.tolist(), strict=True):
        pieces.append(f"!{length}{chr(code)}" if length > 3 else chr(code) * length)
    return "".join(pieces)


def _png(image: Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _kitty(image: Image) -> Iterator[str]:
    text = base64.standard_b64encode(_png(image)).decode()
    for start in range(0, len(text), _KITTY_CHUNK):
        more = int(start + _KITTY_CHUNK < len(text))
        # a=T: transmit and display, f=100: PNG, q=2: no answer
        control = f"a=T,f=100,q=2,m={more}" if start == 0 else f"m={more}"
        yield f"\x1b_G{control};{text[start : start + _KITTY_CHUNK]}\x1b\\"
    yield "\n"


def _iterm2(image: Image) -> Iterator[str]:
    data = _png(image)
    text = base64.standard_b64encode(data).decode()
    yield f"\x1b]1337;File=inline=1;size={len(data)};width={image.width}px;height={image.height}px:{text}\x07\n"


def _blocks(image: Image, columns: int, *, truecolour: bool) -> Iterator[str]:
    """Each character shows two pixels: the upper in the ink of ▀, the lower in its background."""
    import numpy as np

    columns = max(1, min(columns, image.width))
    rows = max(1, round(columns * image.height / image.width / 2))
    pixels = np.asarray(image.resize((columns, 2 * rows), resample=3)).tolist()
    colour = _colour_24 if truecolour else _colour_256
    for y in range(rows):
        line = ""
        before: tuple[str, str] | None = None
        for upper, lower in zip(pixels[2 * y], pixels[2 * y + 1], strict=True):
            now = colour(upper), colour(lower)
            line += "▀" if now == before else f"\x1b[38;{now[0]};48;{now[1]}m▀"
            before = now
        yield f"{line}\x1b[0m\n"


def _colour_24(rgb: list[int]) -> str:
    return f"2;{rgb[0]};{rgb[1]};{rgb[2]}"


def _colour_256(rgb: list[int]) -> str:
    """The nearest of xterm's 6x6x6 cube, whose levels are 0 and 95, 135 … 255; greys have a finer ramp of their own."""
    red, green, blue = rgb
    if max(rgb) - min(rgb) < 10:
        level = round((sum(rgb) / 3 - 8) / 10)
        return f"5;{16 if level < 0 else 231 if level > 23 else 232 + level}"
    cube = [0 if v < 48 else 1 if v < 115 else (v - 35) // 40 for v in (red, green, blue)]
    return f"5;{16 + 36 * cube[0] + 6 * cube[1] + cube[2]}"
