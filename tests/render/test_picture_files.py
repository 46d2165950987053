"""Every format tells how its picture was made, and the same comes back."""

import hashlib
import io
import json
import re
import struct

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from laur.core.errors import MissingDependencyError, NotFoundError, PictureError
from laur.core.recipe import AdapterRef, Recipe
from laur.render import registry
from laur.render.metadata import read
from laur.render.picture import AdapterHash, Picture, Provenance
from laur.render.xmp import SOURCE_TYPE

FORMATS = registry.formats()
NASTY = [
    'a "red" fox, it\'s: 100% <b>&amp;</b> {}',
    "first line\nNegative prompt: none\nSteps: 20, Sampler: Euler a, Seed: 1\n",
    "  blanks around \t and\r\nCRLF ",
    "狐狸 🦊👩‍👩‍👧 ñ é \u202e right to left \x00\x01\x1b[31m ]]> <?xpacket end='w'?>",
    "\ufeff\u2028 Steps: 4",
]


def provenance(**changes):
    values = {
        "laur": "0.1.0",
        "torch": "2.15.0",
        "device": "cpu",
        "dtype": "bfloat16",
        "backend": "pytorch",
        "checkpoint": "mini",
        "checkpoint_sha256": "cd" * 32,
        "adapters": (AdapterHash(name="lcm-lora-mini", sha256="ab" * 32, autov3="12" * 32),),
        "plan_key": "ef" * 32,
    }
    return Provenance(**{**values, **changes})


def picture(width=64, height=48, **changes):
    """A smooth picture, so that lossy formats stay near it."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 255 // width, y * 255 // height, 128 + 90 * np.sin(x / 9) * np.cos(y / 7)], -1)
    recipe = Recipe(
        **{
            "prompt": "a red fox",
            "seed": 7,
            "steps": 4,
            "guidance": 1.0,
            "width": width,
            "height": height,
            "sampler": "lcm",
            "adapters": (AdapterRef(name="lcm-lora-mini", weight=0.8, sha256="ab" * 32),),
            **changes,
        }
    )
    return Picture(pixels.astype(np.uint8), recipe, provenance())


def png_chunks(data):
    place, found = 8, []
    while place < len(data):
        (length,) = struct.unpack_from(">I", data, place)
        found.append((data[place + 4 : place + 8].decode(), data[place + 8 : place + 8 + length]))
        place += 12 + length
    return found


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("prompt", NASTY)
def test_recipe_and_provenance_survive_any_prompt(format, prompt):
    made = picture(prompt=prompt, negative_prompt=prompt[::-1])
    found = read(made.encode(format))
    assert found.recipe == made.recipe
    assert found.recipe.hash == made.recipe.hash
    assert found.provenance == made.provenance
    assert found.problem is None
    assert found.format == format


@pytest.mark.parametrize("format", FORMATS)
def test_files_hold_parameters_and_say_that_they_are_synthetic(format):
    found = read(picture(prompt="a fox 🦊, red").encode(format))
    assert found.parameters.startswith("a fox 🦊, red <lora:lcm-lora-mini:0.8>\nSteps: 4, Sampler: LCM, CFG scale: 1,")
    assert found.parsed["Prompt"] == "a fox 🦊, red <lora:lcm-lora-mini:0.8>"
    # A1111's own kind of hash for a LoRA, not sha256
    assert found.parsed["Lora hashes"] == "lcm-lora-mini: 121212121212"
    assert found.parsed["Model hash"] == "cdcdcdcdcd"
    assert found.source_type == SOURCE_TYPE


@pytest.mark.parametrize("format", FORMATS)
def test_pixels_come_back(format):
    made = picture()
    found = read(made.encode(format))
    assert found.recorded_sha256 == hashlib.sha256(made.pixels.tobytes()).hexdigest()
    difference = np.abs(found.pixels.astype(int) - made.pixels)
    if registry.get(format).lossless:
        assert difference.max() == 0
        assert found.untouched
    else:
        assert 0 < difference.mean() < 3
        assert not found.untouched


@pytest.mark.parametrize("format", FORMATS)
def test_the_longest_prompts_fit(format):
    """Far more than one JPEG segment holds."""
    made = picture(prompt="🦊" * 10_000, negative_prompt="\x01" * 10_000)
    found = read(made.encode(format))
    assert found.recipe == made.recipe
    assert found.source_type == SOURCE_TYPE


def test_parameters_too_long_for_a_jpeg_are_left_out_whole():
    made = picture(prompt="🦊" * 10_000, negative_prompt="🐺" * 10_000)
    assert read(made.encode("jpeg")).parameters is None
    assert read(made.encode("webp")).parameters.count("🐺") == 10_000


@pytest.mark.parametrize("format", FORMATS)
def test_without_metadata_nothing_stands_beside_the_pixels(format):
    made = picture(prompt="zebra")
    data = made.encode(format, metadata=False)
    found = read(data)
    assert (found.recipe, found.provenance, found.parameters, found.source_type) == (None, None, None, None)
    for word in (b"zebra", b"laur", b"Laur", b"xmp", b"Exif\0", b"adobe.com", "zebra".encode("utf-16-be")):
        assert word not in data
    assert np.array_equal(found.pixels, read(made.encode(format)).pixels)


def test_a_png_holds_the_chunks_that_others_read():
    chunks = png_chunks(picture(prompt="Füchse, 🦊").encode("png"))
    texts = [data for kind, data in chunks if kind in {"tEXt", "iTXt"}]
    assert [text.split(b"\0")[0] for text in texts] == [b"parameters", b"laur", b"XML:com.adobe.xmp"]
    assert json.loads(texts[1].split(b"\0", 1)[1])["provenance"]["autov2"] == "cdcdcdcdcd"
    bare = png_chunks(picture().encode("png", metadata=False))
    assert {kind for kind, _ in bare} == {"IHDR", "IDAT", "IEND"}


@pytest.mark.parametrize("format", ["jpeg", "webp", "avif"])
def test_the_user_comment_is_what_a1111_reads(format):
    """A1111 reads it with a parser that insists on type UNDEFINED, and takes the text for big-endian UTF-16."""
    data = picture(prompt="fox 🦊").encode(format)
    block = data[data.index(b"MM\0*\0\0\0\x08") :]
    entry = block.index(struct.pack(">H", 0x9286))
    tag, kind, count, offset = struct.unpack_from(">HHII", block, entry)
    assert (tag, kind) == (0x9286, 7)
    comment = block[offset : offset + count]
    assert comment[:8] == b"UNICODE\0"
    assert comment[8:].decode("utf-16-be").startswith("fox 🦊 <lora:lcm-lora-mini:0.8>\nSteps: 4")


def test_a_notebook_shows_a_png():
    assert Picture._repr_png_(picture()).startswith(b"\x89PNG")


def test_pixels_of_another_shape_or_type_are_a_bug():
    made = picture()
    with pytest.raises(ValueError, match=r"\(H, W, 3\) uint8, not \(48, 64\)"):
        Picture(made.pixels[..., 0], made.recipe, made.provenance)
    with pytest.raises(ValueError, match="float32"):
        Picture(made.pixels.astype(np.float32), made.recipe, made.provenance)


@pytest.mark.parametrize("format", FORMATS)
def test_a_cut_file_is_one_line(tmp_path, format):
    data = picture(256, 256).encode(format)
    for size in (0, 3, 40, len(data) // 2, len(data) - 900):
        file = tmp_path / f"cut.{format}"
        file.write_bytes(data[:size])
        with pytest.raises(PictureError, match=r"cut\.") as caught:
            read(file)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("format", FORMATS)
def test_damaged_bytes_never_end_in_another_error(format):
    data = bytearray(picture().encode(format))
    random = np.random.default_rng(0)
    for _ in range(60):
        broken = bytearray(data)
        for place in random.integers(0, len(data), 8):
            broken[place] = random.integers(256)
        try:
            read(bytes(broken))
        except PictureError as error:
            assert "\n" not in str(error)


def test_what_is_no_picture_is_one_line(tmp_path):
    text = tmp_path / "notes.png"
    text.write_text("not a picture")
    for path, words in [
        (text, "not a picture that Laur can read; it reads png, jpeg"),
        (tmp_path, "is a folder"),
        (tmp_path / "none.png", "there is no file"),
        (tmp_path / "a\0b.png", "cannot read"),
    ]:
        with pytest.raises(PictureError, match=words):
            read(path)
    Image.new("RGB", (8, 8)).save(tmp_path / "fox.gif")
    with pytest.raises(PictureError, match="it reads png"):
        read(tmp_path / "fox.gif")


def with_record(text):
    info = PngImagePlugin.PngInfo()
    info.add_text("laur", text)
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ("{", "damaged"),
        ("[" * 100_000, "damaged"),
        ("[1]", "holds no recipe"),
        ('{"recipe": 3}', "holds no recipe"),
        ('{"recipe": {"prompt": "a", "steps": 0}}', r"\(Laur unknown\) cannot be drawn by this version: steps is 0"),
        ('{"recipe": {"prompt": "a", "lens": 1}, "provenance": {"laur": "9.0"}}', r"\(Laur 9\.0\).* no field 'lens'"),
        ('{"recipe": {"prompt": "a", "adapters": 5}}', r"\(Laur unknown\).* adapters must be a list"),
    ],
)
def test_a_record_that_cannot_be_used_says_why(record, problem):
    found = read(with_record(record))
    assert found.recipe is None
    assert re.search(problem, found.problem)
    assert "\n" not in found.problem


def test_a_record_of_a_later_version_keeps_what_is_known():
    made = picture()
    record = json.loads(dict(c.split(b"\0", 1) for k, c in png_chunks(made.encode()) if k == "tEXt")[b"laur"])
    record["provenance"]["planet"] = "Mars"
    record["more"] = 1
    found = read(with_record(json.dumps(record)))
    assert (found.recipe, found.provenance) == (made.recipe, made.provenance)
    record["provenance"] = {"laur": "9"}
    assert read(with_record(json.dumps(record))).provenance is None


def test_a_little_endian_comment_of_another_program_is_read():
    comment = b"UNICODE\0" + "a fox\nSteps: 4, Sampler: LCM, Seed: 1".encode("utf-16-le")
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = comment
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "JPEG", exif=exif)
    assert read(buffer.getvalue()).parsed["Prompt"] == "a fox"


def test_an_entity_bomb_in_xmp_is_not_expanded():
    bomb = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><x>&b;</x>'
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "WEBP", xmp=bomb)
    assert read(buffer.getvalue()).source_type is None


def test_formats_are_found_by_name_and_suffix():
    assert FORMATS == ("png", "jpeg", "webp", "avif", "tiff")
    assert registry.get("JPG") is registry.get(".jpeg") is registry.get("jpeg")
    with pytest.raises(NotFoundError, match=r"no picture format 'jpge'; did you mean jpeg\? known are png, jpeg"):
        registry.get("jpge")


def test_a_format_of_ones_own(tmp_path):
    def ppm(image, embedded):
        return f"P6 {image.width} {image.height} 255\n".encode() + image.tobytes()

    registry.register(
        registry.Renderer(name="ppm", suffixes=(".ppm",), media_type="image/ppm", lossless=True, encode=ppm)
    )
    try:
        made = picture()
        assert np.array_equal(np.asarray(Image.open(made.save(tmp_path / "fox.ppm"))), made.pixels)
        with pytest.raises(ValueError, match="already the format 'ppm'"):
            registry.register(registry.Renderer(name="x", suffixes=(".ppm",), media_type="", lossless=True, encode=ppm))
    finally:
        registry.unregister("ppm")
    assert "ppm" not in registry.formats()


def test_a_missing_codec_is_one_line(monkeypatch):
    from PIL import features

    monkeypatch.setattr(features, "check", lambda feature: feature != "avif")
    with pytest.raises(MissingDependencyError, match="avif needs a Pillow that was built with avif; get one with: pip"):
        picture().encode("avif")
    assert picture().encode("webp")
