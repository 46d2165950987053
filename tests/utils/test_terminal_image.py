"""What reaches the terminal decodes to the picture; which terminal gets what."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from laur.utils.terminal_image import Protocol, detect, encode_sixel, show


@pytest.mark.parametrize(
    ("env", "protocol"),
    [
        ({"TERM": "xterm-kitty"}, Protocol.KITTY),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, Protocol.KITTY),
        ({"TERM": "xterm-ghostty"}, Protocol.KITTY),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, Protocol.ITERM2),
        ({"TERM": "xterm-256color", "LC_TERMINAL": "iTerm2"}, Protocol.ITERM2),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "WezTerm"}, Protocol.ITERM2),
        ({"TERM": "foot"}, Protocol.SIXEL),
        ({"TERM": "xterm-sixel"}, Protocol.SIXEL),
        ({"TERM": "xterm-256color", "COLORTERM": "truecolor"}, Protocol.BLOCKS),
        ({"TERM": "xterm-256color", "WT_SESSION": "x"}, Protocol.BLOCKS),
        ({"TERM": "xterm-256color"}, Protocol.BLOCKS_256),
        ({"TERM": "tmux-256color", "TMUX": "/tmp/x", "KITTY_WINDOW_ID": "1"}, Protocol.BLOCKS_256),
        ({"TERM": "screen-256color", "TERM_PROGRAM": "iTerm.app", "COLORTERM": "24bit"}, Protocol.BLOCKS),
        ({"TERM": "xterm"}, None),
        ({"TERM": "linux"}, None),
        ({"TERM": "dumb", "COLORTERM": "truecolor"}, None),
        ({"TERM": "xterm-kitty", "NO_COLOR": "1"}, None),
        ({}, None),
    ],
)
def test_the_environment_tells_the_protocol(env, protocol):
    assert detect(env, True) is protocol
    assert detect(env, False) is None


def picture(width=50, height=31):
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 255 // width, y * 255 // height, (x // 10 + y // 10) % 2 * 200], -1)
    return Image.fromarray(pixels.astype(np.uint8))


def shown(image, protocol, **options):
    stream = io.StringIO()
    show(image, stream, protocol, **options)
    return stream.getvalue()


def test_kitty_gets_a_png_in_pieces_of_at_most_4096_bytes():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    pieces = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", shown(image, Protocol.KITTY))
    assert len(pieces) > 2
    assert pieces[0][0] == "a=T,f=100,q=2,m=1"
    assert [control for control, _ in pieces[1:]] == ["m=1"] * (len(pieces) - 2) + ["m=0"]
    assert all(len(data) <= 4096 for _, data in pieces)
    png = base64.b64decode("".join(data for _, data in pieces))
    assert Image.open(io.BytesIO(png)).convert("RGB").tobytes() == image.tobytes()


def test_iterm2_gets_a_png():
    match = re.fullmatch(
        r"\x1b\]1337;File=inline=1;size=(\d+);width=50px;height=31px:(.*)\x07\n", shown(picture(), Protocol.ITERM2)
    )
    png = base64.b64decode(match[2])
    assert len(png) == int(match[1])
    assert Image.open(io.BytesIO(png)).tobytes() == picture().tobytes()


def unsixel(text):
    """A decoder of its own, by DEC's rules."""
    body = re.fullmatch(r'\x1bPq"1;1;(\d+);(\d+)(.*)\x1b\\', text, re.DOTALL)
    width, height = int(body[1]), int(body[2])
    percent, pixels = {}, np.full((height + 6, width, 3), -1)
    x = y = colour = 0
    for token in re.finditer(r"#(\d+);2;(\d+);(\d+);(\d+)|#(\d+)|!(\d+)(.)|([$-])|(.)", body[3]):
        if token[1]:
            percent[int(token[1])] = [int(token[i]) for i in (2, 3, 4)]
        elif token[5]:
            colour = int(token[5])
        elif token[8]:
            x, y = 0, y + 6 * (token[8] == "-")
        else:
            bits = ord(token[7] or token[9]) - 63
            run = slice(x, x + int(token[6] or 1))
            for row in range(6):
                if bits >> row & 1:
                    assert (pixels[y + row, run] == -1).all(), "drawn twice"
                    pixels[y + row, run] = percent[colour]
            x = run.stop
    assert (pixels[height:] == -1).all()
    return pixels[:height]


@pytest.mark.parametrize("size", [(50, 31), (1, 1), (3, 6), (7, 13)])
def test_sixels_are_the_picture(size):
    image = picture(*size)
    percent = unsixel(encode_sixel(image))
    assert (percent >= 0).all()
    expected = image.quantize(256, dither=Image.Dither.NONE).convert("RGB")
    assert np.abs(percent * 255 / 100 - np.asarray(expected)).max() <= 1.3
    assert shown(image, Protocol.SIXEL).startswith("\x1bPq")


def unblock(text):
    """Half blocks back to pixels."""
    rows = []
    for line in text.removesuffix("\n").split("\n"):
        assert line.endswith("\x1b[0m")
        upper, lower, now = [], [], None
        for m in re.finditer(r"\x1b\[38;2;(\d+);(\d+);(\d+);48;2;(\d+);(\d+);(\d+)m|▀", line):
            if m[1]:
                now = [int(value) for value in m.groups()]
            else:
                upper.append(now[:3])
                lower.append(now[3:])
        rows += [upper, lower]
    return np.array(rows)


def test_half_blocks_are_the_picture():
    image = picture(32, 24)
    pixels = unblock(shown(image, Protocol.BLOCKS))
    assert pixels.shape == (24, 32, 3)
    assert np.array_equal(pixels, np.asarray(image))
    assert unblock(shown(picture(256, 128), Protocol.BLOCKS, columns=16)).shape == (8, 16, 3)


@pytest.mark.parametrize(
    ("rgb", "code"),
    [
        ((0, 0, 0), 16),
        ((255, 255, 255), 231),
        ((128, 128, 128), 244),
        ((255, 0, 0), 196),
        ((0, 95, 135), 24),
        ((95, 175, 255), 75),
    ],
)
def test_256_colours_are_the_nearest(rgb, code):
    assert shown(Image.new("RGB", (1, 2), rgb), Protocol.BLOCKS_256) == f"\x1b[38;5;{code};48;5;{code}m▀\x1b[0m\n"


def test_a_stream_without_the_character_gets_nothing():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="latin-1")
    show(picture(), stream, Protocol.BLOCKS)
    assert raw.getvalue() == b""
