"""What /metrics of one process said at one moment, and what can be worked out between two moments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scraped:
    """The samples of one process."""

    url: str
    at: float
    """By `time.monotonic`."""
    samples: tuple[tuple[str, dict[str, str], float], ...]

    @classmethod
    def read(cls, url: str, at: float, text: str) -> Scraped:
        """From Prometheus's text. Raises ValueError for another text."""
        from prometheus_client.parser import text_string_to_metric_families

        families = text_string_to_metric_families(text)
        return cls(url, at, tuple((s.name, s.labels, s.value) for family in families for s in family.samples))

    def of(self, name: str, **labels: str) -> Iterator[tuple[dict[str, str], float]]:
        """Labels and value of each sample of that name with those labels."""
        for own, values, value in self.samples:
            if own == name and labels.items() <= values.items():
                yield values, value


Group = Sequence[Scraped]
"""Of several processes, at about one moment."""


def total(group: Group, name: str, **labels: str) -> float:
    """The sum over all processes; 0 where there is none."""
    return sum(value for one in group for _, value in one.of(name, **labels))


def most(group: Group, name: str, **labels: str) -> float | None:
    """The largest: for what all processes tell of the one queue. None where there is none."""
    return max((value for one in group for _, value in one.of(name, **labels)), default=None)


def grown(now: Group, before: Group, name: str, **labels: str) -> float:
    """How much a counter grew; what it is where it began anew in between."""
    here, there = total(now, name, **labels), total(before, name, **labels)
    return here - there if here >= there else here


@dataclass(frozen=True, slots=True)
class Spread:
    """Values by size, as a histogram has them."""

    buckets: tuple[tuple[float, float], ...]
    """(bound, how many at or below it), rising."""
    sum: float

    @classmethod
    def of(cls, now: Group, before: Group, name: str, **labels: str) -> Spread:
        """What was observed between two moments, or where that is nothing, ever."""
        recent = _difference(_read(now, name, labels), _read(before, name, labels))
        return recent if recent.count else _read(now, name, labels)

    @property
    def count(self) -> float:
        """How many there are."""
        return self.buckets[-1][1] if self.buckets else 0.0

    @property
    def mean(self) -> float | None:
        """None where there are none."""
        return self.sum / self.count if self.count else None

    def quantile(self, share: float) -> float | None:
        """The value below which that share lies, evenly spread within each bucket, as Prometheus estimates it."""
        wanted, lower, below = share * self.count, 0.0, 0.0
        if not self.count:
            return None
        for bound, upto in self.buckets:
            if upto >= wanted:
                inside = upto - below
                if bound == float("inf") or not inside:
                    return lower
                return lower + (bound - lower) * (wanted - below) / inside
            lower, below = bound, upto
        return lower


def _read(group: Group, name: str, labels: dict[str, str]) -> Spread:
    found: dict[float, float] = {}
    for one in group:
        for values, value in one.of(f"{name}_bucket", **labels):
            bound = float(values["le"])
            found[bound] = found.get(bound, 0.0) + value
    return Spread(tuple(sorted(found.items())), total(group, f"{name}_sum", **labels))


def _difference(now: Spread, before: Spread) -> Spread:
    old = dict(before.buckets)
    if before.count > now.count:
        return now
    return Spread(tuple((bound, upto - old.get(bound, 0.0)) for bound, upto in now.buckets), now.sum - before.sum)
