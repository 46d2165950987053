"""Pictures from outside: one canonical form and one name, whatever file they came in; what is too large is refused."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from laur.core.errors import LaurError, NotFoundError, OutputError, PictureError, RecipeError
from laur.input.fit import check_mask, filled_up, fit, natural_size
from laur.input.image import FILE_LIMIT, PIXEL_LIMIT, InputPicture, read_mask, read_picture
from laur.input.store import PictureFolder, PictureStore


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


@pytest.fixture
def colours() -> Image.Image:
    """Four flat quarters, so that rotation and palettes show."""
    image = Image.new("RGB", (40, 24), (255, 0, 0))
    image.paste((0, 255, 0), (20, 0, 40, 12))
    image.paste((0, 0, 255), (0, 12, 20, 24))
    image.paste((20, 30, 40), (20, 12, 40, 24))
    return image


def test_one_picture_has_one_name_in_every_file(colours: Image.Image, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(colours))
    quarter_turned = colours.transpose(Image.Transpose.ROTATE_90)  # 6: turn it back clockwise
    exif = Image.Exif()
    exif[0x0112] = 6
    sources = [
        colours,
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        encoded(colours),
        encoded(colours.quantize(8)),
        encoded(colours, "WEBP", lossless=True),
        encoded(colours, "TIFF"),
        encoded(colours, "BMP"),
        encoded(quarter_turned, "PNG", exif=exif),
        encoded(colours.convert("RGBA")),
    ]
    assert len({read_picture(source).ref for source in sources}) == 1
    assert read_picture(colours.crop((0, 0, 39, 24))).ref != read_picture(colours).ref


def test_the_shape_is_part_of_the_name() -> None:
    refs = {read_picture(Image.new("RGB", size, "red")).ref for size in [(4, 6), (6, 4), (24, 1)]}
    assert len(refs) == 3
    grey = Image.new("L", (4, 6), 9)
    assert read_mask(grey).ref != read_picture(grey).ref


def test_transparency_is_over_white_in_every_mode() -> None:
    clear = Image.new("RGBA", (4, 4), (200, 0, 0, 0))
    half = Image.new("RGBA", (4, 4), (0, 0, 0, 128))
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([9, 9, 9, 200, 0, 0])
    assert (read_picture(clear).pixels == 255).all()
    assert (read_picture(encoded(palette, transparency=1)).pixels == 255).all()
    assert (read_picture(encoded(palette, transparency=0)).pixels == (200, 0, 0)).all()
    assert (read_picture(half).pixels == 127).all()
    assert (read_picture(Image.new("LA", (4, 4), (0, 0))).pixels == 255).all()


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    deep = np.array([[0, 257 * 100, 65_535]], dtype=np.uint16)
    assert read_picture(encoded(Image.fromarray(deep))).pixels[0, :, 0].tolist() == [0, 100, 255]
    assert read_mask(encoded(Image.fromarray(deep), "TIFF")).pixels[0].tolist() == [0, 100, 255]
    light = Image.fromarray(np.array([[0.0, 0.5, 7.0, np.nan]], dtype=np.float32))
    assert read_picture(light).pixels[0, :, 1].tolist() == [0, 128, 255, 0]


@pytest.mark.parametrize("mode", ["1", "L", "CMYK", "YCbCr", "LAB", "HSV"])
def test_other_modes_become_rgb(mode: str) -> None:
    assert read_picture(Image.new(mode, (8, 8))).pixels.shape == (8, 8, 3)


def test_a_mask_is_light_or_hole() -> None:
    hole = Image.new("RGBA", (4, 2), (255, 255, 255, 255))
    hole.paste((0, 0, 0, 0), (0, 0, 2, 2))
    drawn = Image.new("L", (4, 2), 0)
    drawn.paste(255, (0, 0, 2, 2))
    assert read_mask(hole).ref == read_mask(drawn).ref == read_mask(drawn.convert("RGB")).ref


def bomb(width: int, height: int) -> bytes:
    """A tiny PNG that says it is huge."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (bomb(50_000, 50_000), f"{PIXEL_LIMIT:,} pixels"),
        (bomb(9_000, 9_000), "9000x9000; at most 67,108,864 pixels are read"),
        (b"", "is not a picture that can be read"),
        (b"<svg/>", "is not a picture that can be read; known are PNG"),
        (encoded(Image.effect_noise((64, 64), 50))[:500], "damaged or cut short"),
        (b"x" * (FILE_LIMIT + 1), "bytes; at most"),
        ("no-such.png", "there is no picture 'no-such.png'; check the path"),
        ("a\0b", "cannot read the picture"),
        (".", "is a folder"),
        (5, "not int"),
    ],
    ids=str,
)
def test_what_cannot_be_read_is_one_line(source: object, says: str) -> None:
    for read in (read_picture, read_mask):
        with pytest.raises(PictureError, match=says) as caught:
            read(source)  # pyright: ignore[reportArgumentType]
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 300


def test_memory_is_bounded_but_what_is_held_is_found() -> None:
    store = PictureStore(max_bytes=3 * 16 * 16 * 2)
    refs = [store.add(Image.new("RGB", (16, 16), (shade, 0, 0))).ref for shade in range(4)]
    assert [ref in store for ref in refs] == [False, False, True, True]
    held = store.add(Image.new("RGB", (16, 16), (9, 0, 0)))
    store.add(Image.new("RGB", (16, 16), (10, 0, 0)))
    store.add(Image.new("RGB", (16, 16), (11, 0, 0)))
    assert store.get(held.ref) is held
    with pytest.raises(
        NotFoundError, match=r"the recipe's mask, sha256:.{10}…, is not at hand; give the file again \("
    ):
        store.get(refs[0], "mask")


def test_a_folder_gives_back_what_it_keeps_and_nothing_else(colours: Image.Image, tmp_path: Path) -> None:
    folder = PictureFolder(tmp_path / "in")
    picture, mask = read_picture(colours), read_mask(colours)
    for one in (picture, mask):
        folder.save(one)
        found = PictureStore([folder]).get(one.ref)
        assert np.array_equal(found.pixels, one.pixels)
    assert folder("sha256:" + "0" * 64) is None
    assert folder("sha256:../../etc/passwd") is None
    folder.path(picture.ref).write_bytes(encoded(Image.new("RGB", (3, 3))))
    with pytest.raises(PictureError, match="is not the picture that its name says"):
        folder(picture.ref)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot keep a copy"):
        PictureFolder(tmp_path / "file").save(mask)


def test_a_picture_covers_the_size_and_is_cut_at_the_centre() -> None:
    wide = np.zeros((100, 300, 3), dtype=np.uint8)
    wide[:, 100:200] = 200
    fitted = fit(InputPicture(wide), (300, 100), 64, 64)
    assert fitted.shape == (64, 64, 3)
    assert (fitted == 200).mean() > 0.9
    same = InputPicture(wide[:, :96])
    assert fit(same, same.size, 96, 100) is same.pixels
    # a mask at half the size says the same of the picture's middle
    mask = InputPicture(np.ascontiguousarray(wide[::2, ::2, 0]))
    assert (fit(mask, (300, 100), 64, 64) >= 128).mean() > 0.9


def test_filling_up_keeps_the_centre() -> None:
    pixels = np.arange(3 * 5 * 3, dtype=np.uint8).reshape(3, 5, 3)
    full = filled_up(pixels, 8, 8)
    assert np.array_equal(full[2:5, 1:6], pixels)
    assert np.array_equal(full[0, 1:6], pixels[0])


@pytest.mark.parametrize(
    ("size", "chosen"),
    [
        ((256, 256), (256, 256)),
        ((320, 200), (320, 200)),
        ((512, 512), (256, 256)),
        ((4000, 3000), (296, 224)),
        ((250, 250), (256, 256)),
        ((20, 20), (256, 256)),
        ((5000, 100), (512, 128)),
    ],
)
def test_without_a_size_a_picture_chooses_it(size: tuple[int, int], chosen: tuple[int, int]) -> None:
    picture = InputPicture(np.zeros((size[1], size[0], 3), dtype=np.uint8))
    assert natural_size(picture, 256, 8) == chosen


@pytest.mark.parametrize(
    ("shape", "value", "says"), [((10, 20), 255, "of the picture's proportions"), ((50, 50), 0, "black all over")]
)
def test_a_mask_must_be_one_of_its_picture(shape: tuple[int, int], value: int, says: str) -> None:
    picture = InputPicture(np.zeros((100, 100, 3), dtype=np.uint8))
    with pytest.raises(RecipeError, match=says):
        check_mask(InputPicture(np.full(shape, value, dtype=np.uint8)), picture)
    assert issubclass(RecipeError, LaurError)
