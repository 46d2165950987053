"""From a style's name and a family of models to the file that draws it there, and its words."""

from __future__ import annotations

from laur.core.errors import NotFoundError
from laur.style import cards
from laur.style.cards import Form


def is_style(name: str) -> bool:
    """Whether a name means a style's card. Adapters of the user's and registered ones go first; nothing is read."""
    from laur.optimize.catalogue import known

    return cards.is_known(name) and all(entry.name != name for entry in known())


def file_behind(name: str) -> str:
    """What the catalogue of adapters finds: of a style `mini`'s file, or that of the first form whose file is there.

    Another name or path is given back as it is. Errors: NotFoundError where a style has no file here, AdapterError.
    """
    if not is_style(name):
        return name
    forms = cards.card(name).forms
    families = sorted(
        (family for family, form in forms.items() if form.file is not None), key=lambda one: one != "mini"
    )
    if not families:
        raise NotFoundError(f"style {name} is words alone; it has no file. Use it as the style: --style {name}")
    there = [family for family in families if (file := forms[family].file) is not None and file.is_file()]
    return str(form_of(name, (there or families)[0]).file)


def form_of(name: str, family: str) -> Form:
    """What a style is on a family of models; its file, if it names one, is there.

    Errors: NotFoundError that says where the file can be had; AdapterError for a broken card.
    """
    card = cards.card(name)
    form = card.forms.get(family)
    if form is None:
        known = ", ".join(card.forms) or "none"
        raise NotFoundError(f"style {name} has no form for {family} models (it has: {known}); add one to its card")
    if form.file is None or form.file.is_file():
        return form
    if form.hub:
        folder = cards.user_folder()
        raise NotFoundError(
            f"style {name} needs {form.file.name} on {family} models; get it from {form.hub} "
            f"(hf download {form.hub} {form.file.name}) and put it beside a copy of the card in {folder}"
        )
    raise NotFoundError(f"style {name} lacks its file {form.file}; put it there, or train it with: make styles")


def only_words(name: str, form: Form, family: str) -> str:
    """What to tell of a style that has no file on a family of models, with what helps. Empty for words by intent."""
    if form.file is not None or (family == "mini" and not form.command):
        return ""
    if form.command:
        return f"style {name} is its words alone on {family} models; for its file: {form.command}"
    return (
        f"style {name} is its words alone on {family} models, no file is known here; train one: "
        f"laur train style --model MODEL --data FOLDER, and name it in a card in {cards.user_folder()}"
    )
