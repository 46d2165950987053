"""Which icon sets are learned from, and which are not and why. Licences are read from the package, not from here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatch

from laur.train.data.sources.npm import Package

ICONIFY = Package(
    "@iconify/json",
    "2.2.535",
    "sha512-nAV60ACUSHwnsb6fsp+letHlNkrwO4vzBtcC6B4EDHErQQfezk7E3nJdnwJjve6OCfMNO0uVT5Vrgna9/NCmXw==",
    ("package.json", "collections.json", "json/*.json"),
)
FLUENT_3D = Package(
    "@lobehub/fluent-emoji-3d",
    "1.1.0",
    "sha512-Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
    ("package.json", "assets/*.webp"),
)
NOTO_FONT = Package(
    "@expo-google-fonts/noto-emoji",
    "0.4.7",
    "sha512-Gs7URwtKmCzzdGUTYbG8MIohyaQPgGxIaQG5hvyEAaQiEGJpQy6gyP3NDICE0EJkOJFoe1JFD3Hf1L4a3qe4KA==",
    ("package.json", "LICENSE_FONT", "400Regular/*.ttf"),
)
EMOJIBASE = Package(
    "emojibase-data",
    "17.0.0",
    "sha512-Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA==",
    ("package.json", "en/data.json"),
)
CLDR = Package(
    "cldr-annotations-full",
    "48.2.0",
    "sha512-DV7A+rEcgUSNTRsVGNGqBZRmAkGfwhGHO5Q1dRwzBoBnVrHWp804JP7/QJdEc66iHmx3+zLWVIMCFLm0lW7PUQ==",
    ("package.json", "annotations/en/annotations.json"),
)
EMOJILIB = Package(
    "emojilib",
    "4.0.3",
    "sha512-KbWiYre9aRSaPbHrHZIz9zmoM+21LAsK1VFJtnTh1VCtWE/rNMDviGhQTmselFl95dhqtGlY22iH0leG5BuW0g==",
    ("package.json", "dist/emoji-en-US.json"),
)


@dataclass(frozen=True, slots=True)
class IconSet:
    """One style out of one of Iconify's sets."""

    prefix: str
    """Of the set."""
    style: str
    """The label that captions and mixes know it by."""
    keys: str = "(.+)"
    """Which of its icons: an expression for the whole key whose first group is the icon's name."""
    emoji: bool = False
    """Names are Unicode's, with variants by skin tone, family and flag that are left out."""
    largest: bool = False
    """The same icon comes in several sizes; the largest is taken."""


_NOT = r"(?!.*-(?:{})$)(.+)"
SETS = (
    IconSet("fluent-emoji-flat", "fluent flat", emoji=True),
    IconSet("fluent-emoji", "fluent gradient", emoji=True),
    IconSet("fluent-emoji-high-contrast", "fluent ink", emoji=True),
    IconSet("noto", "noto", emoji=True),
    IconSet("noto-v1", "noto blob", emoji=True),
    IconSet("twemoji", "twemoji", emoji=True),
    IconSet("emojione", "emojione", emoji=True),
    IconSet("emojione-monotone", "emojione mono", emoji=True),
    IconSet("fxemoji", "fxemoji", emoji=True),
    IconSet("streamline-emojis", "streamline emoji", emoji=True),
    IconSet("game-icons", "game silhouette"),
    IconSet("icon-park", "iconpark duo", r"(.+?)(?:-(?:one|two|three|four|five))?"),
    IconSet("streamline-freehand-color", "freehand sketch colour"),
    IconSet("streamline-ultimate-color", "ultimate outline colour"),
    IconSet("streamline-cyber-color", "cyber"),
    IconSet("streamline-kameleon-color", "kameleon round badge", r"(.+?)(?:-duo)?"),
    IconSet("streamline-plump-color", "plump", r"(.+?)(?:-flat)?"),
    IconSet("streamline-flex-color", "flex", r"(.+?)(?:-flat)?"),
    IconSet("streamline-sharp-color", "sharp", r"(.+?)(?:-flat)?"),
    IconSet("streamline-color", "streamline duo", r"(.+?)(?:-flat)?"),
    IconSet("streamline-stickies-color", "stickies", r"(.+?)(?:-duo)?"),
    IconSet("streamline-pixel", "streamline pixel"),
    IconSet("flat-color-icons", "flat color icons"),
    IconSet("marketeq", "marketeq"),
    IconSet("glyphs-poly", "glyphs poly"),
    IconSet("meteocons", "meteocons", _NOT.format("fill")),
    IconSet("fluent-color", "fluent color ui", r"(.+)-\d+", largest=True),
    IconSet("pepicons-print", "pepicons print", _NOT.format("circle|circle-filled|off")),
    IconSet("solar", "solar bold duotone", r"(.+)-bold-duotone"),
    IconSet("solar", "solar broken line", r"(.+)-broken"),
    IconSet("ph", "phosphor duotone", r"(.+)-duotone"),
    IconSet("ph", "phosphor thin line", r"(.+)-thin"),
    IconSet("healthicons", "health icons", _NOT.format("outline|24px")),
    IconSet("dinkie-icons", "pixel glyph", _NOT.format("small|small-filled")),
    IconSet("pixelarticons", "pixelarticons", _NOT.format("sharp")),
)
"""Taken without --style: sets of things that can be drawn, each with a look of its own."""
FLUENT_3D_STYLE, NOTO_STYLE = "fluent 3d", "noto line"

PERMITTED = {
    "Apache-2.0",
    "BSD-3-Clause",
    "CC-BY-3.0",
    "CC-BY-4.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "OFL-1.1",
    "Unlicense",
}
"""SPDX names. Whatever is not here is refused, so that a licence nobody has looked at cannot slip in."""

_BRANDS = "it holds logos and brands"
_SHARE_ALIKE = "its licence asks for the same licence (share-alike)"
_NON_COMMERCIAL = "its licence forbids commercial use"
EXCLUDED = {
    "logos": _BRANDS,
    "simple-icons": _BRANDS,
    "streamline-logos": _BRANDS,
    "cib": _BRANDS,
    "bxl": _BRANDS,
    "nonicons": _BRANDS,
    "selfhst": _BRANDS,
    "academicons": _BRANDS,
    "ginetex": _BRANDS,
    "file-icons": _BRANDS,
    "catppuccin": _BRANDS,
    "vscode-icons": _BRANDS,
    "material-icon-theme": _BRANDS,
    "skill-icons": _BRANDS,
    "bitcoin-icons": _BRANDS,
    "gcp": _BRANDS,
    "k8s": _BRANDS,
    "unjs": _BRANDS,
    "thesvg*": _BRANDS,
    "token*": _BRANDS,
    "devicon*": _BRANDS,
    "cryptocurrency*": _BRANDS,
    "fa*-brands": _BRANDS,
    "openmoji": _SHARE_ALIKE,
    "emojione-v1": _SHARE_ALIKE,
    "arcticons": _SHARE_ALIKE,
    "brandico": _SHARE_ALIKE,
    "entypo*": _SHARE_ALIKE,
    "fontelico": _SHARE_ALIKE,
    "si-glyph": _SHARE_ALIKE,
    "typcn": _SHARE_ALIKE,
    "cbi": _NON_COMMERCIAL,
    "ps": _NON_COMMERCIAL,
}
"""Patterns of sets that are never taken, and why."""

BRAND_CATEGORIES = {"Brand", "Logo", "Logos"}
_BRAND_WORDS = """
adobe airbnb airdrop airpods alipay amazon android baidu bandcamp batman behance bing bitcoin blackberry blogger
bytedance chrome codepen dhis2 discord dribbble dribble dropbox ethereum facebook facetime fhir figma fitbit flickr
foursquare github gitlab google hl7v2 imac imdb instagram ios ipad ipados iphone ipod java javascript kirby lastfm
linkedin linux logo logos macbook mario mastercard mastodon messenger microsoft mitsubishi netflix nintendo notion
npm openmrs osx pacman patreon paypal pinterest playstation pokeball pokemon qq reddit renault safari shopify skype
slack snapchat soundcloud spongebob spotify squarespace starwars stripe taobao telegram tencent tesla tidal tiktok
toyota trello tumblr twitch twitter uber vespa vimeo visa vk volkswagen wechat weibo whatapp whatsapp wii wikipedia
xbox xing yahoo youtobe youtube
"""
BRAND_WORDS = frozenset(_BRAND_WORDS.split())
"""Words that mark an icon of a brand within a set that is otherwise taken."""

_TONE = r"(?:medium-light|medium-dark|light|medium|dark)"
_SKIN = re.compile(rf"(?:^|-){_TONE}-skin-tone|-(?:type-[1-6](?:-[2-6])?)$")
_SHORT_SKIN = re.compile(rf"(.+?)(?:-{_TONE})+")
_VARIANT = re.compile(
    r"family-.+|flag-(?!in-hole).+|.*-flag|keycap.*|digit-.+|letter-.+|regional-indicator.*|circledlatin.*|cjkunified.*|tag-.+"
)


def why_excluded(prefix: str) -> str:
    """Empty where nothing is known against a set."""
    return next((reason for pattern, reason in EXCLUDED.items() if fnmatch(prefix, pattern)), "")


def why_refused(licence: str) -> str:
    """Empty where a licence lets anybody learn from the pictures and give the result away."""
    if licence in PERMITTED:
        return ""
    if "-NC" in licence:
        return _NON_COMMERCIAL
    if "-SA" in licence or "GPL" in licence or licence.startswith("MPL"):
        return _SHARE_ALIKE
    return "nobody has looked at its licence"


def is_brand(key: str) -> bool:
    """Whether an icon's key names a brand."""
    return any(word in BRAND_WORDS for word in key.split("-"))


def is_variant(key: str, keys: set[str]) -> bool:
    """Whether an emoji is another one's variant by skin tone or family, a flag of a country, a letter or a digit."""
    if _SKIN.search(key) or _VARIANT.fullmatch(key):
        return True
    found = _SHORT_SKIN.fullmatch(key)
    return found is not None and found[1] in keys
