"""Folders of the user's, and ready-made packs."""

from __future__ import annotations

import io
import json
import lzma
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tiny_pictures import picture, pictures

from laur.core.errors import DataError
from laur.train.data.picture import Skip
from laur.train.data.sources.folder import METADATA, Folder
from laur.train.data.sources.pack import RASTERS, VECTORS, Pack

SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8"><rect width="8" height="8" fill="{}"/></svg>'


def captions(source: Folder) -> dict[str, tuple[str, ...]]:
    return {record.name: record.captions for record in source.records(0, len(source))}


def named(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(path)
    return folder


def told(folder: Path, *lines: dict[str, Any] | str) -> None:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / METADATA).write_text(text + "\n", "utf-8")


def test_captions_from_files_beside_the_pictures(tmp_path: Path) -> None:
    folder = named(tmp_path, "b.png", "a.jpg", "deep/er/c.webp")
    (folder / "a.txt").write_text("a red\n egg \n", "utf-8")
    (folder / "b.txt").write_text("", "utf-8")
    (folder / "deep" / "er" / "c.txt").write_text("ein grünes Ei", "utf-8")
    found = captions(Folder(folder, captions="txt"))
    assert found == {"a.jpg": ("a red egg",), "b.png": (), "deep/er/c.webp": ("ein grünes Ei",)}
    assert list(found) == ["a.jpg", "b.png", "deep/er/c.webp"]


@pytest.mark.parametrize("key", ["text", "caption", "prompt"])
def test_captions_from_one_file_for_all(key: str, tmp_path: Path) -> None:
    """As datasets' ImageFolder and the training scripts of diffusers and kohya have it."""
    folder = named(tmp_path, "a.png", "deep/b.png", "c.png")
    told(folder, {"file_name": "a.png", key: "a  red egg"}, "", {"file_name": "deep/b.png", key: "green", "seed": 3})
    assert captions(Folder(folder)) == {"a.png": ("a red egg",), "c.png": (), "deep/b.png": ("green",)}


def test_a_file_beside_a_picture_stands_in_for_one_that_is_not_listed(tmp_path: Path) -> None:
    folder = named(tmp_path, "a.png", "b.png")
    told(folder, {"file_name": "a.png", "text": "listed"})
    for name in ("a", "b"):
        (folder / f"{name}.txt").write_text("beside")
    assert captions(Folder(folder)) == {"a.png": ("listed",), "b.png": ("beside",)}
    assert captions(Folder(folder, captions="txt")) == {"a.png": ("beside",), "b.png": ("beside",)}
    assert captions(Folder(folder, captions="metadata")) == {"a.png": ("listed",), "b.png": ()}


@pytest.mark.parametrize(
    ("name", "caption"),
    [
        ("red_fox-in.snow.png", "red fox in snow"),
        ("RedFoxInSnow.png", "red fox in snow"),
        ("red fox (3).png", "red fox"),
        ("red_fox_02.png", "red fox"),
        ("élan_noir.png", "élan noir"),
        ("IMG_1234.png", ""),
        ("DSC00012.png", ""),
        ("20240101_120000.png", ""),
        ("deadbeefdeadbeef.png", ""),
        ("00001.png", ""),
    ],
)
def test_captions_from_names(name: str, caption: str, tmp_path: Path) -> None:
    found = captions(Folder(named(tmp_path, name, "a known thing.png")))
    assert found[name] == ((caption,) if caption else ())


def test_words_put_before_each_caption_and_what_is_written_beside(tmp_path: Path) -> None:
    source = Folder(pictures(tmp_path / "mine", 2), trigger="ohwx style", style="ink", licence="CC-BY-4.0")
    one = next(source.records(0, 1))
    assert one.captions == ("ohwx style, a red egg, number 0",)
    assert (one.style, one.licence, one.origin) == ("ink", "CC-BY-4.0", "mine")
    assert one.draw(64).image.mode == "RGB"


def test_words_put_before_are_caption_enough(tmp_path: Path) -> None:
    """A style's pictures may have nothing but its trigger."""
    source = Folder(named(tmp_path, "IMG_1.png", "IMG_2.png"), trigger="ohwx style")
    assert set(captions(source).values()) == {("ohwx style",)}


def test_what_is_drawn_from_files(tmp_path: Path) -> None:
    (tmp_path / "square.svg").write_text(SVG.format("#ff0000"))
    through, grey = Image.new("RGBA", (50, 60), (0, 0, 0, 0)), Image.new("L", (50, 60), 7)
    through.paste((255, 0, 0, 255), (20, 20, 30, 30))
    grey.paste(200, (20, 20, 30, 30))
    through.save(tmp_path / "through.png")
    grey.save(tmp_path / "grey.png")
    Image.new("RGB", (50, 31)).save(tmp_path / "thin.png")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    (tmp_path / "._square.png").write_bytes(b"what another system noted about a picture")
    found = {record.name: record for record in Folder(tmp_path).records(0, 9)}
    assert sorted(found) == ["broken.jpg", "grey.png", "square.svg", "thin.png", "through.png"]
    assert found["square.svg"].draw(64).image.getpixel((32, 32)) == (255, 0, 0)
    assert found["through.png"].draw(64).image.getpixel((0, 0)) == (255, 255, 255)
    assert found["grey.png"].draw(64).image.getpixel((0, 0)) == (7, 7, 7)
    with pytest.raises(Skip, match="50x31 is too small; 32 pixels a side"):
        found["thin.png"].draw(64)
    with pytest.raises(Skip, match="cannot be read"):
        found["broken.jpg"].draw(64)
    (tmp_path / "grey.png").unlink()
    with pytest.raises(Skip, match="No such file"):
        found["grey.png"].draw(64)


def test_a_folder_says_what_it_is_by_content(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "mine", 3)
    before = Folder(folder).describe()
    assert Folder(folder).describe() == before
    assert Folder(folder, trigger="x").describe() != before
    (folder / "001.txt").write_text("other words")
    assert Folder(folder).describe() != before


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no folder"):
        Folder(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no pictures; known are"):
        Folder(tmp_path)
    (tmp_path / "file.png").write_text("")
    with pytest.raises(DataError, match="is a file, no folder"):
        Folder(tmp_path / "file.png")
    folder = pictures(tmp_path / "mine", 2, captions=False)
    with pytest.raises(DataError, match=r"no picture of .* has a caption; write one into NAME.txt"):
        Folder(folder)


@pytest.mark.parametrize(
    "line", ["{", "[]", '"a"', '{"file_name": "a.png"}', '{"text": "x"}', '{"file_name": "a.png", "text": ""}']
)
def test_a_list_of_captions_that_is_none(line: str, tmp_path: Path) -> None:
    folder = named(tmp_path, "a.png")
    told(folder, {"file_name": "a.png", "text": "x"}, line)
    with pytest.raises(DataError, match=r"metadata.jsonl, line 2: it needs file_name and text"):
        Folder(folder)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_may_not_be_read(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "mine", 1)
    folder.chmod(0)
    try:
        with pytest.raises(DataError):
            Folder(folder)
    finally:
        folder.chmod(0o700)


LINES: list[dict[str, Any]] = [
    {"style": "flat", "name": "apple", "tags": ["fruit"], "lic": "MIT", "src": "some-icons", "svg": SVG.format("red")},
    {"style": "flat", "name": "pear", "tags": [], "lic": "MIT", "src": "some-icons", "svg": SVG.format("green")},
    {"style": "pixel art", "name": "orc", "tags": [], "lic": "CC0", "src": "tiles", "file": "orc.png"},
    {"style": "pixel art", "name": "elf", "tags": [], "lic": "CC0", "src": "tiles", "file": "elf.png"},
    {"style": "game silhouette", "name": "axe", "lic": "CC-BY-3.0", "src": "games", "svg": SVG.format("currentColor")},
]


def pack(folder: Path, lines: list[dict[str, Any]] = LINES) -> Path:
    folder.mkdir(exist_ok=True)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / VECTORS).write_bytes(lzma.compress(text.encode()))
    with tarfile.open(folder / RASTERS, "w") as archive:
        buffer = io.BytesIO()
        picture(2, (32, 32)).save(buffer, "PNG")
        info = tarfile.TarInfo("orc.png")
        info.size = len(buffer.getvalue())
        archive.addfile(info, io.BytesIO(buffer.getvalue()))
    return folder


def test_a_packs_lines_are_records(tmp_path: Path) -> None:
    source = Pack(pack(tmp_path / "pack"))
    found = list(source.records(0, 5))
    assert [(record.title, record.style, record.licence, record.origin) for record in found] == [
        (line["name"], line["style"], line["lic"], line["src"]) for line in LINES
    ]
    assert len({record.name for record in found}) == 5
    assert found[0].draw(64).captions[0] == "apple, flat"
    assert found[2].draw(64).image.size == (64, 64)
    with pytest.raises(Skip, match="a file that is not there"):
        found[3].draw(64)


def test_parts_of_a_pack_in_any_order(tmp_path: Path) -> None:
    """What goes on after an interruption begins in the middle; a second look begins anew."""
    source = Pack(pack(tmp_path / "pack"))
    names = [record.name for record in source.records(0, 5)]
    for start, stop in [(3, 5), (0, 2), (2, 3), (2, 4), (4, 9)]:
        assert [record.name for record in source.records(start, stop)] == names[start:stop]


def test_some_styles_and_some_pictures(tmp_path: Path) -> None:
    folder = pack(tmp_path / "pack")
    assert [r.title for r in Pack(folder, styles=["pixel art", "game silhouette"]).records(0, 9)] == [
        "orc",
        "elf",
        "axe",
    ]
    assert [r.title for r in Pack(folder, limit=2).records(0, 9)] == ["apple", "orc"]
    with pytest.raises(DataError, match="has no style 'flatt'; did you mean flat"):
        Pack(folder, styles=["flatt"])
    with pytest.raises(DataError, match="has no style 'oil'; it has flat, game silhouette, pixel art"):
        Pack(folder, styles=["oil"])


def test_packs_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no vectors.jsonl.xz"):
        Pack(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"holds no vectors.jsonl.xz"):
        Pack(tmp_path / "file")
    folder = pack(tmp_path / "pack")
    whole = (folder / VECTORS).read_bytes()
    bad = [whole[:-30], b"no archive", lzma.compress(b"{"), lzma.compress(b"[1]\n"), lzma.compress(b'{"name": "a"}\n')]
    for content in bad:
        (folder / VECTORS).write_bytes(content)
        with pytest.raises(DataError, match=r"vectors.jsonl.xz is damaged"):
            Pack(folder)
    (folder / VECTORS).write_bytes(whole)
    (folder / RASTERS).write_bytes(b"no archive at all" * 99)
    with pytest.raises(DataError, match=r"rasters.tar is damaged"):
        Pack(folder)
