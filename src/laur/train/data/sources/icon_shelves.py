"""The packages' three kinds of contents, each as keys and, one at a time, icons."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from laur.core.errors import DataError, MissingDependencyError
from laur.train.data.sources.icon import Icon, InFolder
from laur.train.data.sources.icon_sets import (
    BRAND_CATEGORIES,
    FLUENT_3D,
    FLUENT_3D_STYLE,
    NOTO_FONT,
    NOTO_STYLE,
    IconSet,
    is_brand,
    is_variant,
)
from laur.train.data.sources.names import Concept, Names, read_json

_GLYPH = 512
"""Pixels a side that a font's glyph is drawn at before it is laid on the canvas."""


class Shelf(Protocol):
    """One style of one package."""

    origin: str
    """Set or package, as written beside each picture."""
    credit: str
    """Whose it is, and the licence."""

    def keys(self) -> Sequence[str]:
        """What is taken, in a fixed order."""
        ...

    def open(self) -> Any:
        """What `icon` needs; as large as the set."""
        ...

    def icon(self, opened: Any, key: str) -> Icon:
        """One of them."""
        ...


class Iconify:
    """A set of Iconify's: a JSON file of SVG bodies."""

    def __init__(self, path: Path, one: IconSet, licence: str, info: Mapping[str, Any], names: Names) -> None:
        """`info`: what collections.json says of it."""
        self._path, self._set, self._licence, self._names = path, one, licence, names
        self._plain = not info.get("palette", False)
        self.origin = one.prefix
        author = info.get("author", {}).get("name", "its authors")
        self.credit = f"{info.get('name', one.prefix)} by {author}, {licence}"

    def keys(self) -> Sequence[str]:
        """See Shelf."""
        values = self.open()
        brands = {
            key for name, keys in values.get("categories", {}).items() if name in BRAND_CATEGORIES for key in keys
        }
        shown = [key for key, icon in values["icons"].items() if not icon.get("hidden")]
        known = set(shown)
        taken = [key for key in shown if key not in brands and not is_brand(key) and self._title(key)]
        if self._set.emoji:
            taken = [key for key in taken if not is_variant(key, known)]
        return self._largest(taken) if self._set.largest else taken

    def open(self) -> Any:
        """See Shelf."""
        values = read_json(self._path)
        if "icons" not in values:
            raise DataError(f"{self._path} is damaged; remove its package and get it again")
        codes = {name: code for code, name in values.get("chars", {}).items()}
        return {**values, "codes": codes}

    def icon(self, opened: Any, key: str) -> Icon:
        """See Shelf."""
        title = self._title(key)
        code = opened["codes"].get(key)
        concept = (self._names.of_code(code) if code else None) or self._names.of_name(title)
        return Icon(
            name=f"{self._set.style}/{key}",
            title=self._called(title, concept),
            tags=concept.tags if concept else (),
            style=self._set.style,
            licence=self._licence,
            origin=self._set.prefix,
            svg=_svg(opened, opened["icons"][key]),
            plain=self._plain,
        )

    def _called(self, title: str, concept: Concept | None) -> str:
        """An emoji's proper name, else the key's words; empty where they run together and cannot be told apart."""
        if not self._set.emoji:
            return title
        if concept is not None:
            return concept.name
        return title if " " in title else self._names.split(title)

    def _title(self, key: str) -> str:
        """The key in words; empty for what is not wanted of the set, and for single letters and digits."""
        found = re.fullmatch(self._set.keys, key)
        words = "" if found is None else re.sub(r"(?:[ ]\d+)+$", "", found[1].replace("-", " "))
        return words if re.search(r"[a-z]{2}", words) else ""

    def _largest(self, keys: Sequence[str]) -> list[str]:
        best: dict[str, str] = {}
        for key in keys:
            title = self._title(key)
            if title not in best or _number(key) > _number(best[title]):
                best[title] = key
        return list(best.values())


class Fluent3d:
    """Microsoft's rendered emoji: WebP files named by code points."""

    origin = FLUENT_3D.name
    credit = "Fluent Emoji by Microsoft Corporation, MIT"

    def __init__(self, folder: Path, names: Names) -> None:
        """Of the package."""
        self._folder, self._names = folder / "assets", names

    def keys(self) -> Sequence[str]:
        """See Shelf."""
        codes = sorted(path.stem for path in self._folder.glob("*.webp"))
        return [code for code in codes if _wanted(self._names.of_code(code))]

    def open(self) -> Any:
        """See Shelf."""

    def icon(self, opened: Any, key: str) -> Icon:
        """See Shelf."""
        concept = _known(self._names.of_code(key))
        raster = InFolder(self._folder / f"{key}.webp")
        return _emoji(key, concept, FLUENT_3D_STYLE, "MIT", self.origin, raster=raster)


class NotoLine:
    """Google's line drawings: the glyphs of a font."""

    origin = NOTO_FONT.name
    credit = "Noto Emoji by Google Inc, OFL-1.1"

    def __init__(self, folder: Path, names: Names) -> None:
        """Of the package."""
        self._font, self._names = folder / "400Regular" / "NotoEmoji_400Regular.ttf", names

    def keys(self) -> Sequence[str]:
        """See Shelf."""
        try:
            from matplotlib.ft2font import FT2Font
        except ImportError:
            raise MissingDependencyError(
                "reading fonts needs matplotlib; install it with: pip install 'lcm-laur[train]'"
            ) from None
        try:
            points = sorted(FT2Font(str(self._font)).get_charmap())
        except (OSError, RuntimeError):
            raise DataError(f"cannot read {self._font}; remove its package and get it again") from None
        return [f"{point:04x}" for point in points if _wanted(self._names.of_code(f"{point:04x}"))]

    def open(self) -> Any:
        """See Shelf."""

    def icon(self, opened: Any, key: str) -> Icon:
        """See Shelf."""
        concept = _known(self._names.of_code(key))
        glyph = _Glyph(self._font, chr(int(key, 16)))
        return _emoji(key, concept, NOTO_STYLE, "OFL-1.1", self.origin, raster=glyph, plain=True)


@dataclass(frozen=True, slots=True)
class _Glyph:
    """A character of a font, as a PNG."""

    font: Path
    character: str

    def read(self) -> bytes:
        from PIL import Image, ImageDraw, ImageFont

        font = ImageFont.truetype(self.font, _GLYPH * 3 // 4)
        picture = Image.new("RGBA", (_GLYPH, _GLYPH))
        ImageDraw.Draw(picture).text((_GLYPH // 2, _GLYPH // 2), self.character, "black", font, "mm")
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()


def _emoji(
    key: str, concept: Concept, style: str, licence: str, origin: str, *, raster: Any, plain: bool = False
) -> Icon:
    return Icon(
        name=f"{style}/{key}",
        title=concept.name,
        tags=concept.tags,
        style=style,
        licence=licence,
        origin=origin,
        raster=raster,
        plain=plain,
        trim=True,
    )


def _wanted(concept: Concept | None) -> bool:
    """Neither a letter, a digit nor a country's flag."""
    return concept is not None and not re.match(r"(flag|keycap|family|regional indicator)\b", concept.name)


def _known(concept: Concept | None) -> Concept:
    if concept is None:
        raise KeyError("keys hold only what has a name")
    return concept


def _number(key: str) -> int:
    found = re.search(r"\d+$", key)
    return int(found[0]) if found else 0


def _svg(values: Mapping[str, Any], icon: Mapping[str, Any]) -> str:
    """A whole document; sizes as the icon, its set, or Iconify's format say."""
    box = [
        icon.get(key, values.get(key, other)) for key, other in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
    ]
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {spaces} viewBox="{" ".join(map(str, box))}" width="{box[2]}" height="{box[3]}">{icon["body"]}</svg>'
