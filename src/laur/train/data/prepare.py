"""From a source to a prepared set, shard by shard: what was interrupted goes on, and memory does not grow."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from laur.core.errors import DataError, MissingDependencyError, OutputError
from laur.train.conditions import PlainText, encoder_key
from laur.train.data import shards
from laur.train.data.buckets import bucket_sizes, fit, nearest
from laur.train.data.encoder import LatentEncoder, encode_captions
from laur.train.data.picture import Drawn, Record, Skip
from laur.train.data.reader import SetInfo, TrainingSet
from laur.utils.files import atomic_write

if TYPE_CHECKING:
    from laur.pipeline.device import Placement
    from laur.pipeline.loading.load import LoadedCheckpoint
    from laur.train.data.picture import Source

SHARD = 512
"""Records of the source to a shard: what an interruption costs at most."""
WISH = "prepare.json"
NAMED = 200
"""Skipped pictures that set.json names; the others are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """How a set shall be made."""

    size: int
    """Pixels a side of the square bucket."""
    pixels: bool = False
    """Keep the pictures too: for an autoencoder's training, and to look at."""
    text_states: bool = False
    """Keep text states: larger, and quicker where the text encoder is slow."""
    shard: int = field(default=SHARD, repr=False)


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
        _claim(folder, source, loaded, wish)
        maker = _Maker(source, loaded, wish, place)
        parts = -(-len(source) // wish.shard)
        counted = _Count()
        with ThreadPoolExecutor(workers) as pool:
            for part in range(parts):
                path = folder / shards.part_name(part)
                if not path.exists():
                    start = part * wish.shard
                    maker.make(path, start, min(start + wish.shard, len(source)), pool)
                counted.add(path)
                done = min((part + 1) * wish.shard, len(source))
                report(Progress(done, len(source), counted.pictures, sum(counted.skipped.values())))
        return _finish(folder, source, loaded, wish, counted)
    except OSError as error:
        raise OutputError(
            f"cannot write {folder}: {error.strerror or error}; what is whole stays, and the same command goes on"
        ) from None


class _Maker:
    def __init__(self, source: Source, loaded: LoadedCheckpoint, wish: Wish, place: Placement) -> None:
        self._source, self._wish = source, wish
        self._sizes = bucket_sizes(wish.size, square=source.square)
        self._encoder = LatentEncoder(loaded, place)
        self._text = PlainText(loaded, place.device) if wish.text_states else None

    def make(self, path: Path, start: int, stop: int, pool: ThreadPoolExecutor) -> None:
        """One shard."""
        skipped: dict[str, str] = {}
        rows: dict[int, list[tuple[int, Record, _Fitted]]] = {}
        records = self._source.records(start, stop)
        for place, (record, found) in enumerate(_drawn(records, self._draw, pool)):
            if isinstance(found, Skip):
                skipped[record.name] = str(found)
            else:
                rows.setdefault(found.bucket, []).append((place, record, found))
        samples = {place: sample for group in rows.values() for place, sample in self._samples(group)}
        shards.write(path, [samples[place] for place in sorted(samples)], skipped)

    def _draw(self, record: Record) -> _Fitted:
        drawn = record.draw(self._wish.size)
        if not drawn.captions:
            raise Skip("has no caption")
        bucket = nearest(drawn.image.width, drawn.image.height, self._sizes)
        image, crop = fit(drawn.image, self._sizes[bucket])
        pixels = np.asarray(image.convert("RGB"))
        return _Fitted(drawn, bucket, crop, pixels)

    def _samples(self, group: list[tuple[int, Record, _Fitted]]) -> Iterator[tuple[int, shards.Sample]]:
        latents = self._encoder([fitted.pixels for _, _, fitted in group])
        for (place, record, fitted), latent in zip(group, latents, strict=True):
            states, pooled = ((), ()) if self._text is None else encode_captions(self._text, fitted.drawn.captions)
            yield (
                place,
                shards.Sample(
                    name=record.name,
                    captions=fitted.drawn.captions,
                    style=record.style,
                    licence=record.licence,
                    origin=record.origin,
                    bucket=fitted.bucket,
                    original=(fitted.drawn.image.height, fitted.drawn.image.width),
                    crop=fitted.crop,
                    latent=latent,
                    pixels=fitted.pixels if self._wish.pixels else None,
                    states=states,
                    pooled=pooled,
                ),
            )


@dataclass(frozen=True, slots=True)
class _Fitted:
    drawn: Drawn
    bucket: int
    crop: tuple[int, int]
    pixels: Any


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


def _drawn(
    records: Iterator[Record], draw: Callable[[Record], _Fitted], pool: ThreadPoolExecutor
) -> Iterator[tuple[Record, _Fitted | Skip]]:
    """In order, drawn side by side."""

    def attempt(record: Record) -> _Fitted | Skip:
        try:
            return draw(record)
        except Skip as skip:
            return skip
        except MissingDependencyError:
            raise
        except Exception as error:  # a picture that breaks its reader must not break the set
            return Skip(f"cannot be read: {type(error).__name__}: {' '.join(str(error).split())[:100]}")

    kept = list(records)
    return zip(kept, pool.map(attempt, kept), strict=True)


def _claim(folder: Path, source: Source, loaded: LoadedCheckpoint, wish: Wish) -> None:
    """Make the folder, or see that it is this set's. Errors: DataError, OSError."""
    values = {"source": dict(source.describe()), "encoder": encoder_key(loaded), "wish": asdict(wish)}
    if wish.text_states:
        values["text"] = loaded.info.key
    mine = json.dumps(values, sort_keys=True, indent=1).encode()
    path = folder / WISH
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file; name another folder with --out")
    folder.mkdir(parents=True, exist_ok=True)
    if path.exists():
        if path.read_bytes() != mine:
            raise DataError(f"{folder} holds a set from another source or with other settings; name another with --out")
    elif any(folder.iterdir()):
        raise DataError(f"{folder} holds something else; name an empty or a new folder with --out")
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
