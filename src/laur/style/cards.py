"""Style cards: what a style is called, what calls it in a prompt, and which file draws it on which family of models.

A card is a small TOML file, NAME.toml; beside it lies the adapter that it names:

    words = "Thick oil paint on a brown ground."
    teacher = "oil"                     # which of laur.style.teachers it was learned from, if any
    note = "…"                          # what one should know, such as where it is weak

    [mini]                              # a family of models: mini, sd1, sd2, sdxl, ssd-1b
    file = "oil.safetensors"            # beside the card; without one the words alone are used
    trigger_words = ["oil painting"]
    weight = 1.0
    licence = "Apache-2.0"

    [sdxl]
    hub = "someone/some-lora"           # where a file can be had; Laur fetches nothing by itself
    hub_file = "some-lora.safetensors"  # its name there; once it lies in NAME-sdxl of the user's folder it is used
    verified = false                    # whether it was drawn with here
    found = "the documentation of …"    # where the id was found, if it was not

Shipped cards lie in the packages artistic, genre and medium; users put theirs into $LAUR_HOME/styles, in folders of
those names or without.
"""

from __future__ import annotations

import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from laur.core import checks
from laur.core.adapter_ref import AdapterRef
from laur.core.blocks import HIGHEST, LOWEST
from laur.core.errors import AdapterError, NotFoundError, RecipeError
from laur.core.places import home_folder

KINDS = ("artistic", "genre", "medium")
FAMILIES = ("mini", "sd1", "sd2", "sdxl", "ssd-1b")
LONGEST = 100_000
"""Bytes of a card."""
MOST_GUIDANCE = 20
"""Of a balance."""
_PACKAGE = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A style on one family of models."""

    file: Path | None = None
    """The adapter; None: its words alone."""
    hub: str = ""
    """Where such a file can be had."""
    hub_file: str = ""
    """Its name there; `file` is it, once the user has it."""
    folder: Path | None = None
    """Where the user puts that."""
    verified: bool = False
    """Whether what `hub` names was drawn with here."""
    found: str = ""
    """Where that name was found."""
    trigger_words: tuple[str, ...] = ()
    weight: float = 1.0
    licence: str = ""

    @property
    def command(self) -> str:
        """What fetches the file; empty where none is known."""
        if not self.hub_file:
            return ""
        return f"hf download {self.hub} {shlex.quote(self.hub_file)} --local-dir {shlex.quote(str(self.folder))}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """Weights at which a style and an accelerator keep both the look and the caption, for these two files."""

    style: str
    """sha256 of the style's file."""
    accelerator: str
    phases: tuple[tuple[float, float], ...] | None = None
    """Factors of the style's weight over the run, as AdapterRef.phases."""
    by_block: Mapping[str, float] | None = None
    """And by block, as AdapterRef.by_block."""
    guidance: float | None = None
    """Where weights alone do not keep the caption; above 1 each step takes two rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One style."""

    name: str
    kind: str
    """artistic, genre, medium, or own."""
    words: str
    teacher: str = ""
    note: str = ""
    origin: str = "shipped"
    """shipped or user."""
    forms: Mapping[str, Form] = field(default_factory=dict[str, Form])
    """By family."""
    balances: tuple[Balance, ...] = ()

    def triggers(self, family: str) -> tuple[str, ...]:
        """What calls it in a prompt."""
        form = self.forms.get(family)
        return form.trigger_words if form else ()


def shipped() -> list[Card]:
    """Those of this package, by kind and name."""
    return [read(path, kind) for kind in KINDS for path in sorted((_PACKAGE / kind).glob("*.toml"))]


def user_folder() -> Path:
    """Where users put theirs: $LAUR_HOME/styles, or the same in the user's data folder."""
    return home_folder() / "styles"


def known() -> dict[str, Card]:
    """All, by name; a user's card stands before a shipped one of that name. Errors: AdapterError for a broken card."""
    return {name: read(path, kind) for name, (path, kind) in _paths().items()}


def is_known(name: str) -> bool:
    """Whether there is a card of that name. Reads none."""
    return name in _paths()


def card(name: str) -> Card:
    """Errors: NotFoundError with the nearest name, AdapterError for a broken card."""
    paths = _paths()
    if name not in paths:
        from laur.optimize.registry import hint

        raise NotFoundError(f"no style is called {name!r}{hint(name, paths)}; see: laur styles")
    return read(*paths[name])


def read(path: Path, kind: str) -> Card:
    """Errors: AdapterError in one line."""
    try:
        if path.stat().st_size > LONGEST:
            raise ValueError(f"it has more than {LONGEST:,} bytes")
        values = tomllib.loads(path.read_text("utf-8"))
        forms = {name: _form(path, name, values.pop(name)) for name in FAMILIES if name in values}
        balances = tuple(_balance(one) for one in values.pop("balance", []))
        given = {key: _text(key, values.pop(key)) for key in ("words", "teacher", "note", "kind") if key in values}
        if values:
            raise ValueError(f"it has {sorted(values)[0]!r}, which is not known")
        origin = "shipped" if path.is_relative_to(_PACKAGE) else "user"
        return Card(
            name=path.stem, origin=origin, forms=forms, balances=balances, **{"words": "", "kind": kind, **given}
        )
    except OSError as error:
        raise AdapterError(f"the style card {path} cannot be read: {error.strerror}") from None
    except (RecipeError, ValueError, TypeError, RecursionError) as error:  # also bad TOML and bad UTF-8
        raise AdapterError(f"the style card {path} is broken: {' '.join(str(error).split())}") from None


def _paths() -> dict[str, tuple[Path, str]]:
    """Card and kind by name."""
    found: dict[str, tuple[Path, str]] = {}
    for root in (_PACKAGE, user_folder()):
        for kind in KINDS:
            found |= {path.stem: (path, kind) for path in sorted((root / kind).glob("*.toml"))}
    found |= {path.stem: (path, "own") for path in sorted(user_folder().glob("*.toml"))}
    return found


def _form(path: Path, family: str, value: object) -> Form:
    if not isinstance(value, dict):
        raise ValueError(f"[{family}] must be a table")
    table = cast("dict[str, Any]", value)
    known = {"file", "hub", "hub_file", "verified", "found", "trigger_words", "weight", "licence"}
    if unknown := sorted(set(table) - known):
        raise ValueError(f"[{family}] has {unknown[0]!r}; known are {', '.join(sorted(known))}")
    words = table.get("trigger_words", [])
    if not isinstance(words, list):
        raise ValueError(f"trigger_words of [{family}] must be a list of texts")
    weight = table.get("weight", 1.0)
    checks.number(f"weight of [{family}]", weight, LOWEST, HIGHEST)
    verified = table.get("verified", False)
    if not isinstance(verified, bool):
        raise ValueError(f"verified of [{family}] must be true or false")
    texts = {name: _text(name, table.get(name, "")) for name in ("file", "hub", "hub_file", "found", "licence")}
    if texts["hub_file"] and (not texts["hub"] or texts["file"]):
        raise ValueError(f"hub_file of [{family}] goes with hub, and without file")
    folder = user_folder() / f"{path.stem}-{family}"
    own = path.parent / texts["file"] if texts["file"] else folder / texts["hub_file"]
    return Form(
        file=own if texts["file"] or own.is_file() else None,
        hub=texts["hub"],
        hub_file=texts["hub_file"],
        folder=folder if texts["hub_file"] else None,
        verified=verified,
        found=texts["found"],
        trigger_words=tuple(_text("trigger_words", word) for word in cast("list[object]", words)),
        weight=float(weight),
        licence=texts["licence"],
    )


def _balance(value: object) -> Balance:
    """Weights are checked as those of a recipe are."""
    if not isinstance(value, dict):
        raise TypeError("balance must be tables: [[balance]]")
    table = cast("dict[str, Any]", value)
    if unknown := sorted(set(table) - {"style", "accelerator", "phases", "by_block", "guidance"}):
        raise ValueError(f"[[balance]] has {unknown[0]!r}; known are style, accelerator, phases, by_block, guidance")
    ref = AdapterRef(name="style", phases=table.get("phases"), by_block=table.get("by_block"))
    style, accelerator = (_text(f"{key} of [[balance]]", table.get(key)) for key in ("style", "accelerator"))
    guidance = table.get("guidance")
    if guidance is not None:
        checks.number("guidance of [[balance]]", guidance, 1, MOST_GUIDANCE)
        guidance = float(guidance)
    return Balance(style=style, accelerator=accelerator, phases=ref.phases, by_block=ref.by_block, guidance=guidance)


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be text")
    return value
