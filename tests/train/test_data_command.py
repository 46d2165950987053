"""`laur data` as a user meets it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_server import Answer, Server, quick, serving
from PIL import Image
from test_data_icons import root  # noqa: F401 - a fixture
from test_data_museum import API, collection
from tiny_pictures import pictures

from helpers.tiny import tiny_folder
from laur.cli.app import run
from laur.train.data.reader import TrainingSet

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder("sd1", tmp_path_factory.mktemp("checkpoint") / "sd1")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("LAUR_CACHE", str(tmp_path / "cache"))
    with serving() as found:
        yield found


def prepared(*words: str | Path, checkpoint: Path, size: int = 64) -> int:
    settings = ["--model", str(checkpoint), "--size", str(size), "--device", "cpu"]
    return run(["data", "prepare", *map(str, words), *settings])


def refused(captured: Captured, *words: str | Path, checkpoint: Path, size: int = 64) -> str:
    """The one line of a command that cannot be carried out."""
    assert prepared(*words, checkpoint=checkpoint, size=size) == 2
    out, err = captured.readouterr()
    assert out == ""
    lines = [line for line in err.strip().splitlines() if not re.match(r"\d+ of \d+: ", line)]  # progress
    assert len(lines) == 1, err
    return lines[0].removeprefix("laur: ")


def test_a_folder_becomes_a_set(checkpoint: Path, tmp_path: Path, capsys: Captured) -> None:
    """Broken pictures are left out, counted and named, and the path is all that is printed."""
    folder = pictures(tmp_path / "mine", 6)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8")
    Image.new("RGB", (8, 8)).save(folder / "tiny.png")
    for name in ("broken", "tiny"):
        (folder / f"{name}.txt").write_text("words")
    (folder / "nameless.svg").write_text("<svg")
    (folder / "nameless.txt").write_text("")
    out = tmp_path / "set"
    assert (
        prepared("folder", folder, "--out", out, "--label", "eggs", "--licence", "CC0-1.0", checkpoint=checkpoint) == 0
    )
    printed, said = capsys.readouterr()
    assert printed == f"{out}\n"
    assert "9 of 9: 6 pictures, 3 left out" in said
    assert "6 pictures in 1 style at 64 pixels, encoded by" in said
    for part in ("3 left out: ", "broken.jpg (cannot be read", "tiny.png (8x8 is too small", "nameless.svg ("):
        assert part in said
    data = TrainingSet.open(out)
    assert data.info.styles == {"eggs": 6}
    assert data.info.licences == {"CC0-1.0": 6}


def test_the_same_command_again_changes_nothing(checkpoint: Path, tmp_path: Path, capsys: Captured) -> None:
    folder, out = pictures(tmp_path / "mine", 3), tmp_path / "set"
    assert prepared("folder", folder, "--out", out, checkpoint=checkpoint) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert prepared("folder", folder, "--out", out, "--json", checkpoint=checkpoint) == 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["path"], told["pictures"], told["skipped"]) == (str(out), 3, 0)
    pictures(folder, 4)
    assert "another source or with other settings" in refused(
        capsys, "folder", folder, "--out", out, checkpoint=checkpoint
    )


@pytest.mark.parametrize("pixels", [True, False])
def test_a_set_is_shown(pixels: bool, checkpoint: Path, tmp_path: Path, capsys: Captured) -> None:
    """From its pictures, or decoded from its latents."""
    out, sheet = tmp_path / "set", tmp_path / "sheet.png"
    flags = ["--pixels"] if pixels else []
    assert prepared("folder", pictures(tmp_path / "mine", 5), "--out", out, *flags, checkpoint=checkpoint) == 0
    capsys.readouterr()
    assert run(["data", "show", str(out), "--sheet", str(sheet), "--count", "4"]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    with Image.open(sheet) as found:
        assert found.width > 4 * 64


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["folder", "{empty}"], "holds no pictures"),
        (["folder", "{empty}/nowhere"], "there is no folder"),
        (["folder", "{file}"], "is a file, no folder"),
        (["folder", "{bare}"], "no picture of {bare} has a caption; write one into NAME.txt beside each"),
        (["folder", "{mine}", "--captions", "metadata"], "has a caption"),
        (["folder", "{mine}", "--captions", "guess"], "--captions is 'guess'; take auto, txt, metadata or names"),
        (["folder", "{broken}"], "not one of 2 pictures can be learned from: 2 cannot be read"),
        (["folder", "{mine}", "--style", "ink"], "--style does nothing for folder; leave it out"),
        (["folder", "{mine}", "--query", "x"], "--query does nothing for folder"),
        (["folder"], "which folder? give its path"),
        (["own"], "which set's captions? give its path"),
        (["own", "{mine}", "--trigger", "ink"], "--trigger names words for a style; say who paints it with --teacher"),
        (
            ["own", "{mine}", "--teacher", "inks", "--trigger", "ink"],
            "there is no teacher 'inks'; known are impressionism",
        ),
        (["own", "{mine}", "--query", "x"], "--query does nothing for own"),
        (["own", "{mine}", "--guidance", "1"], "guidance is 1; a teacher's lies above 1 and at most at 100"),
        (["folder", "{mine}", "--guidance", "4"], "--guidance does nothing for folder"),
        (["pack", "{empty}"], "holds no vectors.jsonl.xz"),
        (["zip", "{mine}"], "there is no source of kind 'zip'; known are folder, pack, icons, museum"),
        (["icons", "{mine}"], "icons are not read from"),
        (["icons", "--from", "{empty}"], "does not hold emojibase-data@17.0.0; get it with: npm pack"),
        (["museum"], "give --query"),
        (["museum", "--query", "x", "--where", "medium"], "'medium' is no KEY=VALUE"),
        (["museum", "--query", "x", "--where", "size=3"], "knows no filter 'size'"),
    ],
)
def test_what_cannot_be_prepared_is_said_in_one_line(
    words: list[str], message: str, checkpoint: Path, tmp_path: Path, capsys: Captured
) -> None:
    places = {name: tmp_path / name for name in ("empty", "bare", "mine", "broken", "file")}
    places["empty"].mkdir()
    pictures(places["bare"], 2, captions=False)
    pictures(places["mine"], 2)
    pictures(places["broken"], 2)
    for number in range(2):
        (places["broken"] / f"{number:03d}.png").write_bytes(b"no picture")
    places["file"].write_text("")
    filled = [word.format(**places) for word in words]
    found = refused(capsys, *filled, "--out", tmp_path / "set", checkpoint=checkpoint)
    assert message.format(**places) in found
    assert not (tmp_path / "set" / "set.json").exists()


def test_sizes_and_folders_that_cannot_be(checkpoint: Path, tmp_path: Path, capsys: Captured) -> None:
    folder = pictures(tmp_path / "mine", 2)
    told = refused(capsys, "folder", folder, "--out", tmp_path / "set", checkpoint=checkpoint, size=60)
    assert told == "size is 60; it must be a multiple of 8, from 16"
    told = refused(capsys, "folder", folder, "--out", folder, checkpoint=checkpoint)
    assert "holds something else; name an empty or a new folder with --out" in told
    assert run(["data", "show", str(folder)]) == 2
    assert capsys.readouterr().err == f"laur: {folder} is no prepared set\n"


def test_icons(root: Path, checkpoint: Path, tmp_path: Path, capsys: Captured) -> None:  # noqa: F811
    out = tmp_path / "set"
    style = ["--style", "fluent flat", "--style", "game silhouette", "--style", "fxemoji"]
    assert prepared("icons", "--from", root, *style, "--out", out, checkpoint=checkpoint) == 0
    data = TrainingSet.open(out)
    assert data.info.styles == {"fluent flat": 2, "fxemoji": 2, "game silhouette": 1}
    assert data.info.licences == {"Apache-2.0": 2, "MIT": 2, "CC-BY-3.0": 1}
    assert data.info.skipped == {"fxemoji/leftwardsarrowwithhook": "has no caption: its name says nothing"}
    assert data.info.source["credits"]["game-icons"] == "A Set by Somebody, CC-BY-3.0"
    capsys.readouterr()
    told = refused(
        capsys, "icons", "--from", root, "--style", "openmoji", "--out", tmp_path / "b", checkpoint=checkpoint
    )
    assert "the set 'openmoji' is left out: its licence asks for the same licence (share-alike)" in told


def test_a_museum(server: Server, checkpoint: Path, tmp_path: Path, capsys: Captured) -> None:
    collection(server, 1, 2, 3, isPublicDomain={2: False})
    server.answers["/web-large/3.jpg"] = [Answer(b"<html>", "text/html")]
    words: list[Any] = [
        "museum",
        "--query",
        "sunflowers",
        "--where",
        "medium=Paintings",
        "--from",
        f"{server.address}{API}",
    ]
    assert prepared(*words, "--out", tmp_path / "set", checkpoint=checkpoint) == 0
    said = capsys.readouterr().err
    assert "passed over: 1 not in the public domain" in said
    assert "1 left out: 3 Sunflowers 3 (no picture: the server sends text/html)" in said
    data = TrainingSet.open(tmp_path / "set")
    assert data.info.licences == {"CC0-1.0": 1}
    height, width = data.info.buckets[int(data.bucket[0])]
    assert width > height  # as the picture
    server.asked.clear()
    assert prepared(*words, "--out", tmp_path / "set", checkpoint=checkpoint) == 0
    assert server.asked == []


def test_a_museum_that_is_not_there(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shell learns that it may help to try again."""
    from laur.train.data.sources import museum

    monkeypatch.setenv("LAUR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(museum, "Web", lambda _per_second: quick(tries=2))
    words = ["museum", "--query", "x", "--from", "http://127.0.0.1:9/v1", "--out", tmp_path / "set"]
    assert prepared(*words, checkpoint=checkpoint) == 1
