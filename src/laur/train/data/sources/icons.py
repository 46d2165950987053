"""Icons and emoji with open licences, out of npm packages: Iconify's sets, Fluent's 3D emoji, Noto's line drawings."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laur.core.errors import DataError
from laur.train.data.sources import icon_sets
from laur.train.data.sources.icon import Icon
from laur.train.data.sources.icon_sets import ICONIFY, SETS, IconSet
from laur.train.data.sources.icon_shelves import Fluent3d, Iconify, NotoLine, Shelf
from laur.train.data.sources.names import Names, read_json
from laur.train.data.sources.npm import Packages


@dataclass(frozen=True, slots=True)
class _Row:
    """Some of a shelf's keys, in order."""

    shelf: Shelf
    keys: Sequence[str]


class Icons:
    """The source. Only the keys of what is taken are held, and one set at a time is open."""

    square = True

    def __init__(self, packages: Packages, *, styles: Sequence[str] = (), limit: int | None = None) -> None:
        """`styles`: labels of SETS, or prefixes of other sets of Iconify's whose licence permits it. With `limit` that
        many, spread evenly. Errors: DataError, OutputError, UnavailableError."""
        self._styles, self._limit = tuple(styles), limit
        chosen = _chosen(styles)
        names = Names(packages)
        self._rows = [_Row(shelf, tuple(shelf.keys())) for shelf in _shelves(packages, chosen, names)]
        if limit is not None:
            self._rows = _thinned(self._rows, limit)
        self._open: tuple[Shelf, Any] | None = None

    def describe(self) -> Mapping[str, Any]:
        """See Source."""
        used = (ICONIFY, icon_sets.FLUENT_3D, icon_sets.NOTO_FONT)
        names = (icon_sets.EMOJIBASE, icon_sets.CLDR, icon_sets.EMOJILIB)
        packages = [package.label for package in (*used, *names)]
        keys = "\n".join(f"{row.shelf.origin} {' '.join(row.keys)}" for row in self._rows)
        owners = {row.shelf.origin: row.shelf.credit for row in self._rows if row.keys}
        return {
            "kind": "icons",
            "packages": packages,
            "styles": list(self._styles),
            "limit": self._limit,
            "content": hashlib.sha256(keys.encode()).hexdigest(),
            "credits": owners,
        }

    def __len__(self) -> int:
        return sum(len(row.keys) for row in self._rows)

    def records(self, start: int, stop: int) -> Iterator[Icon]:
        """See Source."""
        first = 0
        for row in self._rows:
            for key in row.keys[max(0, start - first) : max(0, stop - first)]:
                yield row.shelf.icon(self._opened(row.shelf), key)
            first += len(row.keys)

    def _opened(self, shelf: Shelf) -> Any:
        if self._open is None or self._open[0] is not shelf:
            self._open = None  # let go of the last one before the next is read
            self._open = (shelf, shelf.open())
        return self._open[1]


def _chosen(styles: Sequence[str]) -> list[IconSet | str]:
    """Sets of Iconify's, and the labels of the two styles that are not. Errors: DataError."""
    others = [icon_sets.FLUENT_3D_STYLE, icon_sets.NOTO_STYLE]
    if not styles:
        return [*others, *SETS]
    found: list[IconSet | str] = []
    for style in dict.fromkeys(styles):
        if style in others:
            found.append(style)
        elif known := [one for one in SETS if style in {one.style, one.prefix}]:
            found += known
        elif reason := icon_sets.why_excluded(style):
            raise DataError(f"the set {style!r} is left out: {reason}")
        else:
            found.append(IconSet(style, style))
    return found


def _shelves(packages: Packages, chosen: Sequence[IconSet | str], names: Names) -> Iterator[Shelf]:
    told: dict[str, Any] = {}
    for one in chosen:
        if one == icon_sets.FLUENT_3D_STYLE:
            yield Fluent3d(packages.folder(icon_sets.FLUENT_3D), names)
        elif one == icon_sets.NOTO_STYLE:
            yield NotoLine(packages.folder(icon_sets.NOTO_FONT), names)
        elif isinstance(one, IconSet):
            folder = packages.folder(ICONIFY)
            told = told or read_json(folder / "collections.json")
            yield _iconify(folder, one, told, names)


def _iconify(folder: Path, one: IconSet, told: Mapping[str, Any], names: Names) -> Iconify:
    """Errors: DataError where there is no such set, or its licence does not permit it."""
    if one.prefix not in told:
        known = sorted({*told, *(each.style for each in SETS), icon_sets.FLUENT_3D_STYLE, icon_sets.NOTO_STYLE})
        near = difflib.get_close_matches(one.prefix, known, 1)
        hint = f"did you mean {near[0]}?" if near else "the styles are listed in docs/data.md"
        raise DataError(f"there is no icon style or set {one.prefix!r}; {hint}")
    info = told[one.prefix]
    licence = str(info.get("license", {}).get("spdx") or info.get("license", {}).get("title") or "none stated")
    if reason := icon_sets.why_refused(licence):
        raise DataError(f"the set {one.prefix!r} is left out: {reason} ({licence})")
    return Iconify(folder / "json" / f"{one.prefix}.json", one, licence, info, names)


def _thinned(rows: Sequence[_Row], limit: int) -> list[_Row]:
    """`limit` of all keys, spread evenly."""
    total = sum(len(row.keys) for row in rows)
    if limit >= total:
        return list(rows)
    places = [number * total // limit for number in range(limit)]
    found: list[_Row] = []
    first = 0
    for row in rows:
        stop = first + len(row.keys)
        found.append(_Row(row.shelf, [row.keys[place - first] for place in places if first <= place < stop]))
        first = stop
    return found
