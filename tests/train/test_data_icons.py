"""Icons out of npm packages: what is taken, what it is called, and under which licence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from PIL import Image

from laur.core.errors import DataError
from laur.train.data.picture import Skip
from laur.train.data.sources import icon_sets
from laur.train.data.sources.icon import Icon
from laur.train.data.sources.icons import Icons
from laur.train.data.sources.names import Names, code_of
from laur.train.data.sources.npm import REGISTRY, Package, Packages

BODY = '<circle cx="16" cy="16" r="12" fill="#e02020"/>'
INK = '<path d="M4 4h24v24H4z" fill="currentColor"/>'


def info(licence: str | None, *, palette: bool = True) -> dict[str, Any]:
    told: dict[str, Any] = {"name": "A Set", "author": {"name": "Somebody"}, "palette": palette}
    return told if licence is None else {**told, "license": {"title": licence, "spdx": licence}}


COLLECTIONS = {
    "fluent-emoji-flat": info("MIT"),
    "noto": info("Apache-2.0"),
    "fxemoji": info("Apache-2.0"),
    "game-icons": info("CC-BY-3.0", palette=False),
    "solar": info("CC-BY-4.0", palette=False),
    "fluent-color": info("MIT"),
    "tabler": info("MIT", palette=False),
    "openmoji": info("CC-BY-SA-4.0"),
    "gala": info("GPL-3.0"),
    "sweater": info("CC-BY-SA-4.0"),
    "kiosk": info("CC-BY-NC-4.0"),
    "mystery": info(None),
    "novel": info("Beer-ware"),
}
SETS: dict[str, dict[str, Any]] = {
    "fluent-emoji-flat": {
        "keys": [
            "red-apple",
            "waving-hand",
            "waving-hand-dark",
            "waving-hand-medium-light",
            "flag-austria",
            "keycap-1",
        ],
        "chars": {"1f34e": "red-apple"},
    },
    "noto": {
        "keys": ["red-apple", "waving-hand-dark-skin-tone", "family-man-boy", "letter-a", "old-thing"],
        "hidden": {"old-thing"},
    },
    "fxemoji": {"keys": ["redapple", "2wavingapples", "leftwardsarrowwithhook", "cjkunifiedideograph-b"]},
    "game-icons": {"keys": ["anvil-2", "twitter-bird", "x", "broadsword"], "brand": ["broadsword"]},
    "solar": {"keys": ["home-bold-duotone", "home-broken", "home-linear", "bag-2-broken"]},
    "fluent-color": {"keys": ["gift-16", "gift-48", "gift-24", "vault-20"]},
    "tabler": {"keys": ["anchor", "brand"]},
}


def write(root: Path, package: Package, files: dict[str, Any]) -> None:
    folder = root / "node_modules" / package.name
    for name, values in {"package.json": {"version": package.version}, **files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values), "utf-8")


def body(prefix: str, values: dict[str, Any]) -> dict[str, Any]:
    plain = not COLLECTIONS[prefix].get("palette")
    hidden = values.get("hidden", ())
    return {
        "prefix": prefix,
        "width": 32,
        "height": 32,
        "icons": {
            key: {"body": INK if plain else BODY, **({"hidden": True} if key in hidden else {})}
            for key in values["keys"]
        },
        "chars": values.get("chars", {}),
        "categories": {"Brand": values.get("brand", [])},
        "aliases": {"other-name": {"parent": values["keys"][0]}},
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The six packages as `npm install` leaves them, a few pictures large."""
    root = tmp_path_factory.mktemp("npm")
    sets = {f"json/{prefix}.json": body(prefix, values) for prefix, values in SETS.items()}
    write(root, icon_sets.ICONIFY, {"collections.json": COLLECTIONS, **sets})
    entries = [
        {"label": "red apple", "hexcode": "1F34E", "tags": ["fruit", "red", "apples"]},
        {"label": "grinning face", "hexcode": "1F600", "tags": ["smile"]},
        {"label": "red heart", "hexcode": "2764-FE0F", "tags": ["love"]},
        {"label": "waving hand", "hexcode": "1F44B"},
        {"label": "flag: Austria", "hexcode": "1F1E6-1F1F9"},
    ]
    write(root, icon_sets.EMOJIBASE, {"en/data.json": entries})
    said = {"annotations": {"annotations": {"🍎": {"default": ["orchard", "fruit"], "tts": ["red apple"]}}}}
    write(root, icon_sets.CLDR, {"annotations/en/annotations.json": said})
    write(root, icon_sets.EMOJILIB, {"dist/emoji-en-US.json": {"🍎": ["apple", "mac_school"], "❤️": ["heart", "like"]}})
    write(root, icon_sets.FLUENT_3D, {})
    assets = root / "node_modules" / icon_sets.FLUENT_3D.name / "assets"
    assets.mkdir()
    for code in ("1f34e", "2764-fe0f", "1f1e6-1f1f9", "e50a"):
        Image.new("RGBA", (40, 40), "red").save(assets / f"{code}.webp", lossless=True)
    write(root, icon_sets.NOTO_FONT, {})
    font = root / "node_modules" / icon_sets.NOTO_FONT.name / "400Regular" / "NotoEmoji_400Regular.ttf"
    font.parent.mkdir()
    font.write_bytes((Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf").read_bytes())
    return root


def icons(root: Path, *styles: str, limit: int | None = None) -> Icons:
    return Icons(Packages(str(root)), styles=styles, limit=limit)


def taken(root: Path, *styles: str) -> list[Icon]:
    source = icons(root, *styles)
    return list(source.records(0, len(source)))


def test_names_come_from_three_packages(root: Path) -> None:
    names = Names(Packages(str(root)))
    apple = names.of_code("1F34E")
    assert apple is not None
    assert (apple.name, apple.tags) == ("red apple", ("fruit", "red", "apples", "orchard", "apple", "mac school"))
    assert names.of_name("Red-Apple") is names.of_name("redapple") is names.of_name("apple") is apple
    heart = names.of_code("2764")
    assert heart is not None and "like" in heart.tags  # with and without the mark that asks for colour
    assert code_of("❤️") == "2764"
    assert names.of_code("ffff") is names.of_name("kettle") is None


def test_emoji_are_taken_without_their_variants(root: Path) -> None:
    assert [icon.name for icon in taken(root, "fluent flat")] == ["fluent flat/red-apple", "fluent flat/waving-hand"]
    assert [icon.name for icon in taken(root, "noto")] == ["noto/red-apple"]


def test_an_emoji_is_called_by_its_proper_name(root: Path) -> None:
    apple = taken(root, "fluent flat")[0]
    assert (apple.title, apple.tags[:2], apple.licence, apple.origin) == (
        "red apple",
        ("fruit", "red"),
        "MIT",
        "fluent-emoji-flat",
    )
    drawn = apple.draw(64)
    assert drawn.image.size == (64, 64)
    assert drawn.captions[0] == "red apple, fluent flat"
    assert "red" in drawn.captions[-1]


def test_names_that_run_together_are_taken_apart_where_the_words_are_known(root: Path) -> None:
    apple, apples, arrow = taken(root, "fxemoji")
    assert (apple.title, apples.title) == ("red apple", "2 waving apples")
    with pytest.raises(Skip, match="no caption: its name says nothing"):
        arrow.draw(64)


def test_the_fewest_words_are_taken(root: Path) -> None:
    names = Names(Packages(str(root)))
    assert names.split("wavinghandofapple") == "waving hand of apple"
    assert names.split("redredapple") == "red red apple"
    assert names.split("redaple") == names.split("") == ""


def test_brands_letters_and_numbers_are_left_out_and_shapes_painted(root: Path) -> None:
    (anvil,) = taken(root, "game silhouette")
    assert anvil.title == "anvil"
    assert anvil.licence == "CC-BY-3.0"
    many = [Icon(**{**_values(anvil), "name": str(number)}).draw(64) for number in range(12)]
    colours = {tuple(np.asarray(drawn.image)[32, 32]) for drawn in many}
    assert len(colours) > 3
    assert all("anvil, game silhouette" in drawn.captions[0] for drawn in many)


def _values(icon: Icon) -> dict[str, Any]:
    return {name: getattr(icon, name) for name in Icon.__slots__}


def test_a_style_is_some_of_a_set(root: Path) -> None:
    assert [icon.title for icon in taken(root, "solar broken line")] == ["home", "bag"]
    assert [icon.title for icon in taken(root, "solar bold duotone")] == ["home"]
    assert [icon.style for icon in taken(root, "solar")] == [
        "solar bold duotone",
        "solar broken line",
        "solar broken line",
    ]
    assert [icon.name.split("/")[1] for icon in taken(root, "fluent color ui")] == ["gift-48", "vault-20"]


def test_any_set_with_a_permissive_licence_can_be_asked_for(root: Path) -> None:
    assert [icon.style for icon in taken(root, "tabler")] == ["tabler", "tabler"]


@pytest.mark.parametrize(
    ("style", "reason"),
    [
        ("openmoji", r"left out: its licence asks for the same licence \(share-alike\)$"),
        ("logos", "left out: it holds logos and brands"),
        ("fa6-brands", "left out: it holds logos and brands"),
        ("sweater", r"same licence \(share-alike\) \(CC-BY-SA-4.0\)"),
        ("gala", "GPL-3.0"),
        ("kiosk", r"forbids commercial use \(CC-BY-NC-4.0\)"),
        ("mystery", r"nobody has looked at its licence \(none stated\)"),
        ("novel", r"nobody has looked at its licence \(Beer-ware\)"),
        ("tablet", "no icon style or set 'tablet'; did you mean tabler"),
        ("qqqqqq", "the styles are listed in"),
    ],
)
def test_what_may_not_be_taken_says_why(style: str, reason: str, root: Path) -> None:
    with pytest.raises(DataError, match=reason):
        icons(root, style)


def test_what_ships_by_default_is_nowhere_excluded() -> None:
    assert not [one.prefix for one in icon_sets.SETS if icon_sets.why_excluded(one.prefix)]
    assert all(
        icon_sets.why_refused(licence) for licence in ("CC-BY-SA-4.0", "CC-BY-NC-4.0", "GPL-2.0-only", "MPL-2.0", "")
    )
    assert not any(icon_sets.why_refused(licence) for licence in icon_sets.PERMITTED)


def test_rendered_emoji(root: Path) -> None:
    found = taken(root, "fluent 3d")
    assert [(icon.title, icon.licence) for icon in found] == [("red apple", "MIT"), ("red heart", "MIT")]
    assert found[0].draw(64).image.getpixel((32, 32)) == (255, 0, 0)


def test_line_drawings_are_glyphs_of_a_font(root: Path) -> None:
    found = taken(root, "noto line")
    assert [icon.title for icon in found] == ["red heart", "grinning face"]
    drawn = found[1].draw(64)
    rows, columns = np.nonzero(np.asarray(drawn.image.convert("L")) < 200)
    assert max(np.ptp(rows), np.ptp(columns)) >= 56  # it fills the canvas but for its margin


def test_a_limit_takes_some_of_everything_and_parts_join(root: Path) -> None:
    styles = ("fluent flat", "noto", "solar", "tabler")
    whole = [icon.name for icon in taken(root, *styles)]
    source = icons(root, *styles, limit=4)
    found = [icon.name for icon in source.records(0, 4)]
    assert len(source) == len(found) == 4
    assert [whole.index(name) for name in found] == sorted(number * len(whole) // 4 for number in range(4))
    assert [icon.name for part in (0, 1, 2, 3) for icon in source.records(part, part + 1)] == found
    assert len(icons(root, *styles, limit=999)) == len(whole)


def test_one_set_is_open_at_a_time(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from laur.train.data.sources.icon_shelves import Iconify

    source = icons(root, "fluent flat", "noto", "solar")
    opened: list[str] = []
    whole = Iconify.open
    monkeypatch.setattr(Iconify, "open", lambda shelf: (opened.append(shelf.origin), whole(shelf))[1])
    list(source.records(0, len(source)))
    assert opened == ["fluent-emoji-flat", "noto", "solar", "solar"]  # solar holds two styles


def test_a_set_says_whose_its_pictures_are(root: Path) -> None:
    told = icons(root, "tabler", "fluent 3d").describe()
    assert told["credits"] == {
        "tabler": "A Set by Somebody, MIT",
        "@lobehub/fluent-emoji-3d": "Fluent Emoji by Microsoft Corporation, MIT",
    }
    assert "@iconify/json@2.2.535" in told["packages"]


def test_a_damaged_package_is_named(root: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "npm"
    shutil.copytree(root, copy)
    path = copy / "node_modules" / "@iconify" / "json" / "json" / "tabler.json"
    for content in ("{", "{}"):
        path.write_text(content)
        with pytest.raises(DataError, match=r"tabler.json is damaged"):
            icons(copy, "tabler")
    path.unlink()
    with pytest.raises(DataError, match=r"cannot read .*tabler.json"):
        icons(copy, "tabler")


def test_tarballs_lie_where_the_registry_says() -> None:
    """`npm view NAME dist.tarball`, of a package with a scope and of one without."""
    assert icon_sets.ICONIFY.address(REGISTRY) == "https://registry.npmjs.org/@iconify/json/-/json-2.2.535.tgz"
    assert icon_sets.EMOJILIB.address(REGISTRY + "/") == "https://registry.npmjs.org/emojilib/-/emojilib-4.0.3.tgz"
