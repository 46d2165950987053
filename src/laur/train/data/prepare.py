"""From a source to a prepared set, shard by shard: what was interrupted goes on, and memory does not grow."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from laur.core.errors import DataError, LaurError, OutputError
from laur.train.conditions import PlainText, encoder_key
from laur.train.data import shards
from laur.train.data.buckets import bucket_sizes, fit, nearest
from laur.train.data.encoder import LatentEncoder, encode_captions
from laur.train.data.picture import Record, Skip
from laur.train.data.reader import SetInfo, TrainingSet
from laur.utils.files import atomic_write

if TYPE_CHECKING:
    from laur.pipeline.device import Placement
    from laur.pipeline.loading.load import LoadedCheckpoint
    from laur.train.data.picture import Source

SHARD = 512
"""Records of the source to a shard: what an interruption costs at most."""
SHARD_BYTES = 256 << 20
STATES = 3 << 19
"""Bytes of a picture's text states: five captions of 77 tokens, 2,048 wide, as SDXL has them."""
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
    """Records of the source to a shard; see `shard_for`."""


def shard_for(size: int, *, pixels: bool, text_states: bool) -> int:
    """How many records to a shard: SHARD, or fewer where what is kept of each is so large that memory would feel it."""
    row = 3 * size * size * pixels + STATES * text_states
    return max(32, min(SHARD, SHARD_BYTES // max(1, row)))


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
        maker = _Maker(source, loaded, wish, place, ahead=2 * workers + 2)
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
    def __init__(self, source: Source, loaded: LoadedCheckpoint, wish: Wish, place: Placement, *, ahead: int) -> None:
        self._source, self._wish, self._ahead = source, wish, ahead
        self._sizes = bucket_sizes(wish.size, square=source.square)
        self._encoder = LatentEncoder(loaded, place)
        self._text = PlainText(loaded, place.device) if wish.text_states else None

    def make(self, path: Path, start: int, stop: int, pool: ThreadPoolExecutor) -> None:
        """One shard. Pictures are let go of as soon as some of one bucket are encoded together."""
        skipped: dict[str, str] = {}
        groups: dict[int, list[_Fitted]] = {}
        samples: dict[int, shards.Sample] = {}
        records = self._source.records(start, stop)
        for place, (record, found) in enumerate(_drawn(records, self._draw, pool, self._ahead)):
            if isinstance(found, Skip):
                skipped[record.name] = str(found)
                continue
            group = groups.setdefault(found.bucket, [])
            group.append(replace(found, place=place))
            if len(group) == self._encoder.together(*self._sizes[found.bucket]):
                samples.update(self._samples(groups.pop(found.bucket)))
        for group in groups.values():
            samples.update(self._samples(group))
        shards.write(path, [samples[place] for place in sorted(samples)], skipped)

    def _draw(self, record: Record) -> _Fitted:
        drawn = record.draw(self._wish.size)
        if not drawn.captions:
            raise Skip("has no caption")
        bucket = nearest(drawn.image.width, drawn.image.height, self._sizes)
        image, crop = fit(drawn.image, self._sizes[bucket])
        original = (drawn.image.height, drawn.image.width)
        return _Fitted(record, drawn.captions, bucket, original, crop, np.asarray(image.convert("RGB")))

    def _samples(self, group: list[_Fitted]) -> Iterator[tuple[int, shards.Sample]]:
        latents = self._encoder([fitted.pixels for fitted in group])
        for fitted, latent in zip(group, latents, strict=True):
            record = fitted.record
            states, pooled = ((), ()) if self._text is None else encode_captions(self._text, fitted.captions)
            yield (
                fitted.place,
                shards.Sample(
                    name=record.name,
                    captions=fitted.captions,
                    style=record.style,
                    licence=record.licence,
                    origin=record.origin,
                    bucket=fitted.bucket,
                    original=fitted.original,
                    crop=fitted.crop,
                    latent=latent,
                    pixels=fitted.pixels if self._wish.pixels else None,
                    states=states,
                    pooled=pooled,
                ),
            )


@dataclass(frozen=True, slots=True)
class _Fitted:
    """A picture at its bucket's size; the one it was made from may be many times larger, and is not kept."""

    record: Record
    captions: tuple[str, ...]
    bucket: int
    original: tuple[int, int]
    crop: tuple[int, int]
    pixels: Any
    place: int = -1


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
    records: Iterator[Record], draw: Callable[[Record], _Fitted], pool: ThreadPoolExecutor, ahead: int
) -> Iterator[tuple[Record, _Fitted | Skip]]:
    """In order, drawn side by side, `ahead` of them before they are asked for."""

    def attempt(record: Record) -> _Fitted | Skip:
        try:
            return draw(record)
        except Skip as skip:
            return skip
        except LaurError:  # what stops all of them: a package that is missing, a server that is not there
            raise
        except Exception as error:  # a picture that breaks its reader must not break the set
            return Skip(f"cannot be read: {type(error).__name__}: {' '.join(str(error).split())[:100]}")

    waiting: deque[tuple[Record, Future[_Fitted | Skip]]] = deque()
    try:
        for record in records:
            waiting.append((record, pool.submit(attempt, record)))
            if len(waiting) > ahead:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        for _, future in waiting:
            future.cancel()


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
