"""From a source to a prepared set, shard by shard: what was interrupted goes on, and memory does not grow."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from laur.core.errors import DataError, OutputError
from laur.train.conditions import encoder_key
from laur.train.data import shards
from laur.train.data.buckets import bucket_sizes
from laur.train.data.maker import Maker, Wish
from laur.train.data.reader import SetInfo, TrainingSet
from laur.utils.files import atomic_write, locked, remove_leftovers

if TYPE_CHECKING:
    from laur.pipeline.device import Placement
    from laur.pipeline.loading.load import LoadedCheckpoint
    from laur.train.data.picture import Source

WISH, LOCK = "prepare.json", ".lock"
NAMED = 200
"""Skipped pictures that set.json names; the others are counted."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far it is."""

    done: int
    """Records of the source that were looked at."""
    total: int
    pictures: int
    skipped: int


def prepare(
    source: Source,
    folder: Path,
    loaded: LoadedCheckpoint,
    wish: Wish,
    *,
    place: Placement,
    workers: int = 2,
    report: Callable[[Progress], None] = lambda _: None,
) -> TrainingSet:
    """Make the set, or what is missing of it. Errors: DataError, OutputError."""
    if wish.size % loaded.info.downscale or wish.size < 16:
        raise DataError(f"size is {wish.size}; it must be a multiple of {loaded.info.downscale}, from 16")
    if not len(source):
        raise DataError("the source holds no pictures")
    try:
        _make_folder(folder)
        with locked(folder / LOCK, wait=False):
            _claim(folder, source, loaded, wish)
            maker = Maker(source, loaded, wish, place, ahead=2 * workers + 2)
            counted = _Count()
            with ThreadPoolExecutor(workers) as pool:
                try:
                    _make(folder, maker, pool, counted, report)
                except BaseException:
                    pool.shutdown(cancel_futures=True)
                    raise
            return _finish(folder, source, loaded, wish, counted)
    except BlockingIOError:
        raise DataError(f"another process is preparing {folder}; wait for it, or name another with --out") from None
    except OSError as error:
        raise OutputError(
            f"cannot write {folder}: {error.strerror or error}; what is whole stays, and the same command goes on"
        ) from None


def _make(
    folder: Path, maker: Maker, pool: ThreadPoolExecutor, counted: _Count, report: Callable[[Progress], None]
) -> None:
    """Every shard that is not there, and what all of them hold."""
    for number, start in enumerate(range(0, maker.records, maker.shard)):
        path = folder / shards.part_name(number)
        stop = min(start + maker.shard, maker.records)
        if not path.exists():
            remove_leftovers(path)
            maker.make(path, start, stop, pool)
        counted.add(path)
        report(Progress(stop, maker.records, counted.pictures, sum(counted.skipped.values())))


class _Count:
    """What the shards hold, without keeping them."""

    def __init__(self) -> None:
        self.parts: list[int] = []
        self.styles: Counter[str] = Counter()
        self.licences: Counter[str] = Counter()
        self.named: dict[str, str] = {}
        self.skipped: Counter[str] = Counter()

    @property
    def pictures(self) -> int:
        return sum(self.parts)

    def add(self, path: Path) -> None:
        reader = shards.open_part(path)
        count = 0
        for i in range(reader.num_record_batches):
            batch = reader.get_batch(i)
            count += batch.num_rows
            self.styles.update(batch.column("style").to_pylist())
            self.licences.update(batch.column("licence").to_pylist())
        self.parts.append(count)
        for name, reason in shards.skipped_of(path).items():
            self.skipped[reason.partition(":")[0]] += 1
            if len(self.named) < NAMED:
                self.named[name] = reason


def _make_folder(folder: Path) -> None:
    """Errors: DataError, OSError."""
    if folder.is_dir():
        if not (folder / WISH).exists() and any(each.name[0] != "." for each in folder.iterdir()):
            raise DataError(f"{folder} holds something else; name an empty or a new folder with --out")
        return
    if folder.exists():
        raise DataError(f"{folder} is a file; name another folder with --out")
    folder.mkdir(parents=True)


def _claim(folder: Path, source: Source, loaded: LoadedCheckpoint, wish: Wish) -> None:
    """See that the folder is this set's, or nobody's. Errors: DataError, OSError."""
    values = {"source": dict(source.describe()), "encoder": encoder_key(loaded), "wish": asdict(wish)}
    if wish.text_states:
        values["text"] = loaded.info.key
    mine = json.dumps(values, sort_keys=True, indent=1).encode()
    path = folder / WISH
    if path.exists():
        if path.read_bytes() != mine:
            raise DataError(f"{folder} holds a set from another source or with other settings; name another with --out")
    else:
        atomic_write(path, mine)


def _finish(folder: Path, source: Source, loaded: LoadedCheckpoint, wish: Wish, counted: _Count) -> TrainingSet:
    if not counted.pictures:
        reasons = "; ".join(f"{count} {reason}" for reason, count in counted.skipped.most_common(3))
        raise DataError(f"not one of {len(source)} pictures can be learned from: {reasons}")
    info = SetInfo(
        format=shards.FORMAT,
        source=source.describe(),
        model=loaded.info.name,
        encoder=encoder_key(loaded),
        text=loaded.info.key if wish.text_states else "",
        size=wish.size,
        channels=loaded.info.latent_channels,
        downscale=loaded.info.downscale,
        buckets=bucket_sizes(wish.size, square=source.square),
        pictures=counted.pictures,
        parts=counted.parts,
        styles=_sorted(counted.styles),
        licences=_sorted(counted.licences),
        skipped=counted.named,
        skipped_count=sum(counted.skipped.values()),
        keeps_pixels=wish.pixels,
    )
    values = asdict(info)
    del values["key"]
    atomic_write(folder / shards.INDEX, json.dumps(values, indent=1, ensure_ascii=False).encode())
    return TrainingSet.open(folder)


def _sorted(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
