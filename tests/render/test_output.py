"""Whole files or none, under names that overwrite nothing."""

import errno
import os
import resource
import signal
import tempfile
from pathlib import Path

import pytest

from laur.core.errors import NotFoundError, OutputError
from laur.core.recipe import Recipe
from laur.render import output
from laur.render.output import Destination, name_for, write_file


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


class Fake:
    """A picture as far as saving knows it."""

    def __init__(self, prompt="a red fox", seed=7):
        self.recipe = Recipe(prompt=prompt, seed=seed)

    def encode(self, format="png", *, metadata=True):
        return f"{format} {metadata} {self.recipe.seed}".encode()


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("a red fox", "a-red-fox-7"),
        ("A (red:1.3) [fox], BREAK <lora:ink:0.5> it's!", "a-red-fox-its-7"),
        ("狐 🦊 Füchse", "狐-füchse-7"),
        ("🦊!!", "picture-7"),
        ("../../etc/passwd", "etc-passwd-7"),
        ("word " * 30, "word-word-word-word-word-word-word-word-word-7"),
        ("x" * 300, "x" * 48 + "-7"),
        ("line\nbreak\tand _under_", "line-break-and-under-7"),
    ],
)
def test_names_say_what_is_in_them(prompt, name):
    assert name_for(Recipe(prompt=prompt, seed=7)) == name
    assert len(name.encode()) < 230


def test_without_a_seed_the_index_stands_in():
    assert name_for(Recipe(prompt="fox"), 2) == "fox-3"


def test_a_folder_never_loses_a_file(tmp_path):
    destination = Destination.parse(tmp_path)
    names = [destination.save(Fake()).name for _ in range(3)]
    assert names == ["a-red-fox-7.png", "a-red-fox-7-2.png", "a-red-fox-7-3.png"]
    assert listing(tmp_path) == sorted(names)


def test_a_file_that_appears_meanwhile_is_not_overwritten(tmp_path, monkeypatch):
    (tmp_path / "a-red-fox-7.png").write_text("another process")
    monkeypatch.setattr(output.os.path, "lexists", lambda path: False)
    assert Destination.parse(tmp_path).save(Fake()).name == "a-red-fox-7-2.png"
    assert (tmp_path / "a-red-fox-7.png").read_text() == "another process"


def test_a_named_file_is_replaced_and_its_folder_made(tmp_path):
    file = tmp_path / "new" / "er" / "fox.webp"
    for seed in (1, 2):
        assert Destination.parse(file).save(Fake(seed=seed)) == file
    assert file.read_text() == "webp True 2"


def test_several_pictures_of_one_name_are_numbered(tmp_path):
    destination = Destination.parse(tmp_path / "fox.jpg", count=2)
    paths = [destination.save(Fake(seed=i), i, metadata=False) for i in range(2)]
    assert [path.name for path in paths] == ["fox-1.jpg", "fox-2.jpg"]
    assert paths[1].read_text() == "jpeg False 1"


@pytest.mark.parametrize(
    ("out", "format", "is_folder", "name"),
    [
        ("pics", None, True, "png"),
        ("pics/", "avif", True, "avif"),
        ("v1.5", None, True, "png"),
        ("fox.JPEG", None, False, "jpeg"),
        ("fox.jpg", "jpeg", False, "jpeg"),
        ("fox.final", "webp", False, "webp"),
        ("/dev/null", None, False, "png"),
        (None, None, True, "png"),
    ],
)
def test_out_is_a_file_or_a_folder(out, format, is_folder, name):
    destination = Destination.parse(out, format=format)
    assert (destination.is_folder, destination.renderer.name) == (is_folder, name)


def test_an_existing_folder_with_a_suffix_is_a_folder(tmp_path):
    (tmp_path / "set.png").mkdir()
    assert Destination.parse(tmp_path / "set.png").is_folder


def test_a_file_without_suffix_gets_one(tmp_path):
    assert Destination.of_file(tmp_path / "fox", format="tiff").save(Fake()).name == "fox.tif"
    assert Destination.of_file(tmp_path / "fox").save(Fake()).name == "fox.png"


def test_unknown_and_contradicting_formats_are_refused():
    with pytest.raises(NotFoundError, match=r"no picture format '\.gif'; known are png, jpeg, webp, avif, tiff"):
        Destination.parse("fox.gif")
    with pytest.raises(NotFoundError, match="no picture format 'gif'"):
        Destination.parse("pics", format="gif")
    with pytest.raises(OutputError, match=r"'fox.png' ends in .png but the format is jpeg; change one of them"):
        Destination.parse("fox.png", format="jpeg")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "quota"),
        (errno.EACCES, "no permission"),
        (errno.EROFS, "read-only"),
        (errno.EIO, os.strerror(errno.EIO)),
    ],
)
def test_the_systems_refusals_are_one_line(tmp_path, monkeypatch, number, words):
    def refuse(handle):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    file = tmp_path / "fox.png"
    file.write_text("the old one")
    with pytest.raises(OutputError, match=words) as caught:
        Destination.parse(file).save(Fake())
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert listing(tmp_path) == ["fox.png"]
    assert file.read_text() == "the old one"


def test_a_limit_met_half_way_leaves_nothing(tmp_path):
    """The system itself refuses the rest of the file, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000_000, before[1]))
        with pytest.raises(OutputError, match="larger than this system allows"):
            write_file(tmp_path / "fox.png", bytes(10_000_001))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert listing(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_device_is_one_line():
    with pytest.raises(OutputError, match="cannot write '/dev/full': the disk is full; free some space"):
        Destination.parse("/dev/full").save(Fake())


def test_paths_that_cannot_be_files_are_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    for path, words in [
        (tmp_path / "file" / "fox.png", "a part of that path is a file"),
        (tmp_path / ("x" * 300 + ".png"), "name is too long"),
        (tmp_path / "a\0b.png", "cannot hold a zero byte"),
    ]:
        with pytest.raises(OutputError, match=words):
            write_file(path, b"")


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(OutputError, match="it is a folder"):
        write_file(tmp_path, b"x")


def test_check_finds_out_before_drawing(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    Destination.parse(tmp_path / "new" / "folder").check()
    Destination.parse("/dev/null").check()
    assert listing(tmp_path) == ["file"]
    with pytest.raises(OutputError, match="a part of that path is a file"):
        Destination.parse(tmp_path / "file" / "fox.png").check()

    def refuse(dir):
        assert dir == tmp_path
        raise PermissionError(errno.EACCES, "")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(OutputError, match="no permission; choose a folder"):
        Destination.parse(tmp_path / "new" / "fox.png").check()
