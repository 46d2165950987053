"""One shard of a set: pictures drawn side by side, brought to their buckets' sizes, encoded a few at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from laur.core.errors import LaurError
from laur.train.conditions import PlainText
from laur.train.data import shards
from laur.train.data.buckets import bucket_sizes, fit, nearest
from laur.train.data.encoder import LatentEncoder, encode_captions
from laur.train.data.picture import Record, Skip, is_fault

if TYPE_CHECKING:
    from laur.pipeline.device import Placement
    from laur.pipeline.loading.load import LoadedCheckpoint
    from laur.train.data.picture import Source

SHARD = 512
"""Records of the source to a shard: what an interruption costs at most."""
SHARD_BYTES = 256 << 20
STATES = 3 << 19
"""Bytes of a picture's text states: five captions of 77 tokens, 2,048 wide, as SDXL has them."""


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


class Maker:
    """Makes shards of a source. `ahead`: pictures that are drawn before they are asked for."""

    def __init__(self, source: Source, loaded: LoadedCheckpoint, wish: Wish, place: Placement, *, ahead: int) -> None:
        self._source, self._wish, self._ahead = source, wish, ahead
        self.records, self.shard = len(source), wish.shard
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


def _unreadable(error: Exception) -> Skip:
    return Skip(f"cannot be read: {type(error).__name__}: {' '.join(str(error).split())[:100]}")


def _drawn(
    records: Iterator[Record], draw: Callable[[Record], _Fitted], pool: ThreadPoolExecutor, ahead: int
) -> Iterator[tuple[Record, _Fitted | Skip]]:
    """In order, drawn side by side, `ahead` of them before they are asked for."""

    def attempt(record: Record) -> _Fitted | Skip:
        try:
            return draw(record)
        except Skip as skip:
            return skip
        # what stops all of them: a package that is missing, a server that is not there
        except (LaurError, MemoryError):
            raise
        except OSError as error:
            if is_fault(error):
                raise
            return _unreadable(error)
        except Exception as error:  # a picture that breaks its reader must not break the set
            return _unreadable(error)

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
