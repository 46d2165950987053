"""Which adapters a recipe draws with, and what the prompt says for them.

Wildcards are drawn by the recipe's seed, <lora:…> tags become adapters, styles become the file of their card for the
checkpoint's family, and adapters that have trigger words get them. All of it is written into the filled recipe, so that
nothing is chosen twice.
"""

from __future__ import annotations

import dataclasses
import secrets
from typing import TYPE_CHECKING

from laur.core.errors import MismatchError, RecipeError
from laur.core.recipe import AdapterRef, Recipe
from laur.core.sampler import DISTILLED
from laur.input.tags import take, with_words
from laur.input.wildcards import expand
from laur.pipeline import learned
from laur.pipeline.balance import balanced
from laur.style.cards import card
from laur.style.lookup import form_of, is_style, only_words

if TYPE_CHECKING:
    from laur.core.checkpoint import Checkpoint
    from laur.optimize import BaseAdapter
    from laur.pipeline.library import Library
    from laur.style.cards import Form

Chosen = list[tuple[AdapterRef, "BaseAdapter"]]
SEED_RANGE = 2**32
"""Drawn seeds stay in A1111's range."""


def spoken(recipe: Recipe) -> tuple[Recipe, tuple[AdapterRef, ...]]:
    """The recipe with its seed, its wildcards drawn and its tags taken out, and what the tags name.

    Errors: RecipeError.
    """
    seed = secrets.randbelow(SEED_RANGE) if recipe.seed is None else recipe.seed
    prompt, refs = take(expand(recipe.prompt, seed))
    if not prompt and refs:
        raise RecipeError("the prompt is nothing but adapters; say what to draw too")
    return recipe.replace(seed=seed, prompt=prompt, negative_prompt=expand(recipe.negative_prompt, seed)), refs


def choose(recipe: Recipe, tagged: tuple[AdapterRef, ...], checkpoint: Checkpoint, library: Library) -> Finder:
    """The recipe's adapters with their content, the checkpoint's own acceleration among them where it is wanted."""
    # a filled recipe has both; the hash alone only says which weights are meant
    recorded = recipe.checkpoint_sha256 is not None and recipe.adapters is not None
    finder = Finder(recipe.prompt, checkpoint, library)
    for ref in (*(recipe.adapters or ()), *tagged):
        finder.add(ref)
    if recipe.style is not None:
        finder.add_style(recipe.style)
    wants = recipe.sampler is None or recipe.sampler in DISTILLED
    if wants and not finder.accelerates and not recorded and recipe.adapters != ():
        finder.put_first([AdapterRef(name=name) for name in checkpoint.defaults.adapters])
    for ref, adapter in finder.found:
        if left := library.require_fit(checkpoint.key, adapter):
            finder.notes.append(f"{ref.name} is drawn with in part: {left}; see: laur adapters inspect")
    filled = recorded and all(ref.sha256 for ref in recipe.adapters or ())
    if recipe.balance is not None and not (filled and len(finder.found) == len(recipe.adapters or ())):
        finder.balance()  # also where another style has taken the place of a filled recipe's
    if not filled and recipe.adapters != ():
        finder.add_words(recipe.negative_prompt)
    return finder


class Finder:
    """Adapters by name, and the prompt as their words leave it."""

    def __init__(self, prompt: str, checkpoint: Checkpoint, library: Library) -> None:
        self.prompt = prompt
        self.found: Chosen = []
        self.notes: list[str] = []
        self.guidance: float | None = None
        """What the styles ask for, where the recipe leaves it open."""
        self._checkpoint, self._library = checkpoint, library

    @property
    def accelerates(self) -> bool:
        """Whether the checkpoint or one of the adapters makes few steps enough."""
        return self._checkpoint.is_lcm or any(a.recommends.accelerates for _, a in self.found)

    def add(self, ref: AdapterRef) -> None:
        """Errors: NotFoundError, AdapterError, RecipeError where its content is not the recorded one."""
        form = self._form(ref.name)
        if form is not None and form.file is None:
            raise RecipeError(
                f"style {ref.name} is words alone on {self._checkpoint.family.value} models, without an adapter; "
                f"use it as the style: --style {ref.name}"
            )
        adapter = self._library.adapter(ref.name, self._checkpoint.family.value)
        learned.check_ref(ref, adapter)
        if ref.sha256 is not None:
            same_content("adapter", ref.name, ref.sha256, adapter.sha256)
        else:
            ref = self._with_words(ref, adapter, form)
        self.found.append((dataclasses.replace(ref, sha256=adapter.sha256), adapter))

    def add_style(self, name: str) -> None:
        """The style's adapter, unless the recipe names it already, or its words where it has none."""
        form = self._form(name)
        if form is not None and form.file is None:
            self.prompt = with_words(self.prompt, form.trigger_words)
            if note := only_words(name, form, self._checkpoint.family.value):
                self.notes.append(note)
            return
        adapter = self._library.adapter(name, self._checkpoint.family.value)
        if all(other.sha256 != adapter.sha256 for _, other in self.found):
            self.add(AdapterRef(name=name, weight=1.0 if form is None else form.weight))

    def add_words(self, negative: str) -> None:
        """Learned words of the user's folder that the prompts say; those made for other models stay plain text."""
        known = {adapter.sha256 for _, adapter in self.found}
        for name, adapter in learned.said(f"{self.prompt}\n{negative}", self._library):
            if adapter.sha256 in known:
                continue
            try:
                self._library.require_fit(self._checkpoint.key, adapter)
            except MismatchError as error:
                self.notes.append(f"{adapter.word!r} is read as plain text: {error}")
                continue
            self.add(AdapterRef(name=name))

    def balance(self) -> None:
        """Weigh the styles against the accelerator."""
        self.found, notes, self.guidance = balanced(self.found, self._checkpoint, self._library)
        self.notes += notes

    def put_first(self, refs: list[AdapterRef]) -> None:
        """The checkpoint's own go before all others."""
        others, self.found = self.found, []
        for ref in refs:
            self.add(ref)
        self.found += others

    def _form(self, name: str) -> Form | None:
        return form_of(name, self._checkpoint.family.value) if is_style(name) else None

    def _with_words(self, ref: AdapterRef, adapter: BaseAdapter, form: Form | None) -> AdapterRef:
        """Its words go into the prompt, or stay with it where it acts in a part of the picture or of the run only."""
        words = adapter.recommends.trigger_words if form is None else form.trigger_words
        if not words or not ref.weight:
            return ref
        if ref.acts_everywhere:
            self.prompt = with_words(self.prompt, words)
            return ref
        return ref if ref.words is not None else dataclasses.replace(ref, words=", ".join(words))


def check_name(name: str, library: Library) -> None:
    """Raise NotFoundError or AdapterError where no adapter and no style is called so; quick for embedded names."""
    if is_style(name):
        card(name)
    else:
        library.adapter(name)


def same_content(what: str, name: str, recorded: str | None, found: str) -> None:
    """Raise RecipeError where a name has come to mean something else than a recipe was made with."""
    if recorded is not None and recorded != found:
        raise RecipeError(
            f"the {what} {name} is {found[:10]} here, but the recipe was made with {recorded[:10]}; "
            f"point it at that file, or leave {what}_sha256 out to draw with this one"
        )
