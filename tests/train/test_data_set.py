"""Prepared sets: made shard by shard, gone on with, read from disk, found out when damaged."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_pictures import picture, pictures

from helpers.tiny import tiny_folder
from laur.core.errors import DataError, OutputError, UnavailableError
from laur.pipeline.device import choose
from laur.pipeline.loading.load import LoadedCheckpoint, load
from laur.train.data import shards
from laur.train.data.maker import Wish
from laur.train.data.picture import Drawn, Skip
from laur.train.data.prepare import LOCK, Progress, prepare
from laur.train.data.reader import TrainingSet
from laur.train.data.sources.folder import Folder
from laur.utils.files import locked

SIDE = 64
WISH = Wish(size=SIDE, pixels=True, shard=4)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder("sd1", tmp_path_factory.mktemp("checkpoint") / "sd1")


@pytest.fixture(scope="module")
def loaded(checkpoint: Path) -> LoadedCheckpoint:
    return load(str(checkpoint))


@dataclass
class Drawing:
    """A record that is drawn from its number."""

    name: str
    number: int
    style: str = "egg"
    licence: str = "CC0-1.0"
    origin: str = "tests"
    size: tuple[int, int] = (SIDE, SIDE)
    fails: Exception | None = None

    def draw(self, size: int) -> Drawn:
        if self.fails is not None:
            raise self.fails
        return Drawn(picture(self.number, self.size), (f"egg {self.number}", f"a drawn egg, number {self.number}"))


class Drawings:
    """A source of records that are there."""

    square = False

    def __init__(self, count: int, **changes: dict[int, Any]) -> None:
        """`changes`: attribute to values by number."""
        self.all = [Drawing(f"egg {number}", number) for number in range(count)]
        for name, values in changes.items():
            for number, value in values.items():
                setattr(self.all[number], name, value)
        self.asked: list[tuple[int, int]] = []

    def describe(self) -> dict[str, Any]:
        return {"kind": "drawings", "count": len(self.all)}

    def __len__(self) -> int:
        return len(self.all)

    def records(self, start: int, stop: int) -> Iterator[Drawing]:
        self.asked.append((start, stop))
        yield from self.all[start:stop]


def made(source: Any, folder: Path, loaded: LoadedCheckpoint, wish: Wish = WISH, **options: Any) -> TrainingSet:
    return prepare(source, folder, loaded, wish, place=choose("cpu", "float32"), **options)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != LOCK}


def everything(data: TrainingSet) -> np.ndarray[Any, Any]:
    return np.arange(len(data))


def test_a_set_gives_back_what_went_in(loaded: LoadedCheckpoint, tmp_path: Path) -> None:
    data = made(Drawings(10, style={3: "ink"}), tmp_path / "set", loaded)
    assert len(data) == 10
    assert data.info.parts == [4, 4, 2]
    assert data.info.styles == {"egg": 9, "ink": 1}
    assert data.names(everything(data)) == tuple(f"egg {number}" for number in range(10))
    assert data.captions(np.array([7])) == [("egg 7", "a drawn egg, number 7")]
    assert data.styles(np.array([3, 4])) == ("ink", "egg")
    pixels = data.pixels(np.array([5]))[0]
    assert torch.equal(((pixels + 1) * 127.5).round().byte().permute(1, 2, 0), torch.tensor(np.asarray(picture(5))))


def test_latents_are_the_encoders_means(loaded: LoadedCheckpoint, tmp_path: Path) -> None:
    data = made(Drawings(3), tmp_path / "set", loaded)
    with torch.inference_mode():
        mean = loaded.vae().encode(data.pixels(everything(data))).latent_dist.mode()
    expected = (mean - loaded.info.latent_shift) * loaded.info.latent_scale
    torch.testing.assert_close(data.latents(everything(data)), expected, atol=2e-3, rtol=2e-3)


def test_pictures_of_other_shapes_have_buckets_of_their_own(loaded: LoadedCheckpoint, tmp_path: Path) -> None:
    data = made(Drawings(6, size={1: (128, 64), 4: (70, 140)}), tmp_path / "set", loaded)
    sizes = [data.info.buckets[number] for number in data.bucket]
    assert sizes[1][1] > sizes[1][0] and sizes[4][0] > sizes[4][1]
    assert sizes[0] == (SIDE, SIDE)
    assert data.latents(np.array([1])).shape[2:] == (sizes[1][0] // 8, sizes[1][1] // 8)
    assert data.sizes(np.array([4])).tolist() == [[140, 70, *data.sizes(np.array([4]))[0, 2:4], *sizes[4]]]
    with pytest.raises(ValueError, match="2 buckets"):
        data.latents(np.array([0, 1]))


def test_what_cannot_be_learned_from_is_left_out_counted_and_named(loaded: LoadedCheckpoint, tmp_path: Path) -> None:
    failing = {2: Skip("blank: nothing is drawn"), 5: ValueError("a reader's\nbug")}
    seen: list[Progress] = []
    data = made(Drawings(8, fails=failing), tmp_path / "set", loaded, report=seen.append)
    assert len(data) == 6
    assert data.info.skipped == {
        "egg 2": "blank: nothing is drawn",
        "egg 5": "cannot be read: ValueError: a reader's bug",
    }
    assert [(p.done, p.pictures, p.skipped) for p in seen] == [(4, 3, 1), (8, 6, 2)]
    assert TrainingSet.open(tmp_path / "set").info == data.info


def test_a_shard_without_a_picture_is_no_trouble(loaded: LoadedCheckpoint, tmp_path: Path) -> None:
    failing = {number: Skip("blank") for number in range(4, 8)}
    data = made(Drawings(10, fails=failing), tmp_path / "set", loaded)
    assert data.info.parts == [4, 0, 2]
    assert data.names(everything(data))[-2:] == ("egg 8", "egg 9")
    assert data.bucket.shape == (6,)
    assert data.weights({"egg": 2.0}).tolist() == [2.0] * 6


def test_a_set_of_nothing_is_refused_with_the_reasons(loaded: LoadedCheckpoint, tmp_path: Path) -> None:
    failing = {0: Skip("blank: white"), 1: Skip("blank: black"), 2: Skip("tiny")}
    with pytest.raises(DataError, match=r"not one of 3 pictures can be learned from: 2 blank; 1 tiny"):
        made(Drawings(3, fails=failing), tmp_path / "set", loaded)


def test_an_interrupted_preparation_goes_on_to_the_same_set(loaded: LoadedCheckpoint, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    made(Drawings(11), whole, loaded)
    source = Drawings(11)

    def stop(progress: Progress) -> None:
        if progress.done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made(source, cut, loaded, report=stop)
    with pytest.raises(DataError, match="an unfinished set; run the same"):
        TrainingSet.open(cut)
    assert source.asked == [(0, 4), (4, 8)]
    made(source, cut, loaded)
    assert source.asked[2:] == [(8, 11)]  # what was there is not drawn again
    assert content(cut) == content(whole)


def test_killed_within_a_shard(checkpoint: Path, loaded: LoadedCheckpoint, tmp_path: Path) -> None:
    """SIGKILL while the second shard is written leaves the first whole; the same command then ends as if never hurt."""
    folder = pictures(tmp_path / "pictures", 10)
    made(Folder(folder), tmp_path / "whole", loaded)
    script = """
import os, signal, sys
from pathlib import Path
from laur.pipeline.device import choose
from laur.pipeline.loading.load import load
from laur.train.data.maker import Wish
from laur.train.data.prepare import prepare
from laur.train.data.sources.folder import Folder
import laur.utils.files as files
fill = files._fill
def killing(file, content):
    fill(file, content)
    if "part-00001" in file.name:
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
files._fill = killing
wish = Wish(size=64, pixels=True, shard=4)
prepare(Folder(Path(sys.argv[1])), Path(sys.argv[2]), load(sys.argv[3]), wish, place=choose("cpu", "float32"))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, folder, tmp_path / "cut", checkpoint],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -9, done.stderr
    names = [path.name for path in (tmp_path / "cut").iterdir()]
    assert shards.part_name(0) in names and shards.part_name(1) not in names
    assert any(name.endswith(".tmp") for name in names)
    made(Folder(folder), tmp_path / "cut", loaded)
    assert content(tmp_path / "cut") == content(tmp_path / "whole")  # the half-written file is gone too


def test_a_folder_holds_one_set(loaded: LoadedCheckpoint, tmp_path: Path) -> None:
    made(Drawings(4), tmp_path / "set", loaded)
    before = content(tmp_path / "set")
    with pytest.raises(DataError, match="another source or with other settings"):
        made(Drawings(5), tmp_path / "set", loaded)
    with pytest.raises(DataError, match="another source or with other settings"):
        made(Drawings(4), tmp_path / "set", loaded, replace(WISH, size=128))
    assert content(tmp_path / "set") == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.doc").write_text("mine")
    with pytest.raises(DataError, match="holds something else"):
        made(Drawings(4), tmp_path / "other", loaded)
    with pytest.raises(DataError, match="is a file"):
        made(Drawings(4), tmp_path / "other" / "thesis.doc", loaded)
    with pytest.raises(DataError, match="multiple of 8"):
        made(Drawings(4), tmp_path / "new", loaded, replace(WISH, size=60))
    with pytest.raises(DataError, match="source holds no pictures"):
        made(Drawings(0), tmp_path / "new", loaded)


def test_two_do_not_prepare_one_set_at_a_time(loaded: LoadedCheckpoint, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    with locked(tmp_path / "set" / LOCK), pytest.raises(DataError, match="another process is preparing"):
        made(Drawings(4), tmp_path / "set", loaded)
    assert len(made(Drawings(4), tmp_path / "set", loaded)) == 4


@pytest.mark.parametrize("harm", ["cut", "overwritten", "emptied", "removed"])
def test_a_damaged_shard_is_named_and_made_again_alone(harm: str, loaded: LoadedCheckpoint, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    made(Drawings(10), folder, loaded)
    before = content(folder)
    part = folder / shards.part_name(1)
    whole = part.read_bytes()
    part.unlink()
    if harm != "removed":
        part.write_bytes({"cut": whole[: len(whole) // 2], "overwritten": bytes(len(whole)), "emptied": b""}[harm])
    data = TrainingSet.open(folder)
    assert data.names(np.array([0])) == ("egg 0",)
    with pytest.raises(DataError, match=f"{part.name} is (damaged|missing).*prepare the set again"):
        data.latents(np.array([5]))
    part.unlink(missing_ok=True)  # as the message says
    source = Drawings(10)
    made(source, folder, loaded)
    assert source.asked == [(4, 8)]
    assert content(folder) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: "{", "damaged"),
        (lambda v: "[]", "damaged"),
        (lambda v: json.dumps({**v, "surprise": 1}), "damaged"),
        (lambda v: json.dumps({k: x for k, x in v.items() if k != "parts"}), "damaged"),
        (lambda v: json.dumps({**v, "format": 99}), "format 99, this Laur reads 1"),
    ],
)
def test_a_damaged_index_is_refused(change: Any, message: str, loaded: LoadedCheckpoint, tmp_path: Path) -> None:
    made(Drawings(2), tmp_path / "set", loaded)
    index = tmp_path / "set" / shards.INDEX
    index.write_text(change(json.loads(index.read_text("utf-8"))), "utf-8")
    with pytest.raises(DataError, match=message):
        TrainingSet.open(tmp_path / "set")


def test_what_is_no_set_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(DataError, match=r"no prepared set|cannot read"):
            TrainingSet.open(path)


def test_a_full_disk_loses_nothing(loaded: LoadedCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(Drawings(10), tmp_path / "whole", loaded)
    folder = tmp_path / "set"
    sync = os.fsync
    syncs = iter(range(100))

    def full(handle: int) -> None:
        if next(syncs) >= 4:  # prepare.json and the first shard, each with its folder
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match=r"No space left on device; what is whole stays, and the same command"):
            made(Drawings(10), folder, loaded)
    assert sorted(content(folder)) == [shards.part_name(0), "prepare.json"]
    made(Drawings(10), folder, loaded)
    assert content(folder) == content(tmp_path / "whole")


def test_a_service_that_goes_away_stops_the_work_and_marks_nothing(loaded: LoadedCheckpoint, tmp_path: Path) -> None:
    """A museum out of reach must not become a shard of skipped pictures; and what waits is not tried any more."""
    gone = UnavailableError("cannot reach the museum")
    source = Drawings(10, fails={5: gone})
    with pytest.raises(UnavailableError, match="cannot reach the museum"):
        made(source, tmp_path / "set", loaded)
    assert not (tmp_path / "set" / shards.part_name(1)).exists()
    source.all[5].fails = None
    assert len(made(source, tmp_path / "set", loaded)) == 10


def test_large_pictures_are_let_go_while_a_shard_is_made(loaded: LoadedCheckpoint, tmp_path: Path) -> None:
    """Only a few of a shard's pictures are alive at a time, however many it has."""
    seen: list[weakref.ref[Image.Image]] = []
    most = [0]

    class Large(Drawing):
        def draw(self, size: int) -> Drawn:
            drawn = super().draw(size)
            seen.append(weakref.ref(drawn.image))
            most[0] = max(most[0], sum(one() is not None for one in seen))
            return drawn

    source = Drawings(60)
    source.all = [Large(one.name, one.number, size=(90, 70)) for one in source.all]
    made(source, tmp_path / "set", loaded, replace(WISH, pixels=False, shard=60), workers=2)
    assert 0 < most[0] <= 10  # two that are drawn, and what a thread has not yet let go of
