"""Whether a file's layers are those of a model, and the plainest words for how they are not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from laur.core.errors import MismatchError
from laur.optimize.kinds import Form
from laur.optimize.layers import CROSS_ATTENTION_KEYS, FAMILIES, LayerShape, shape_message
from laur.optimize.names import Key


def text_width(shapes: Mapping[str, int]) -> int | None:
    """Width of the text states that a UNet reads, from its layers' input widths; None where none tells."""
    return next((width for name, width in shapes.items() if name.endswith(CROSS_ATTENTION_KEYS)), None)


def made_for_width(found: Iterable[tuple[Key, Form]]) -> int | None:
    """The text width of the model that a file was made for."""
    widths = {
        key.layer: shape[1]
        for key, shape in ((key, form.made_for) for key, form in found if key.component == "unet")
        if len(shape) > 1 and shape[1] is not None
    }
    return text_width(widths)


def require_match(
    source: str,
    found: Sequence[tuple[Key, Form]],
    missing: Sequence[Key],
    placed: Mapping[str, Form],
    layers: Mapping[str, LayerShape],
) -> None:
    """Raise MismatchError, naming the plainest difference, unless everything has a place that fits.

    `placed` is by canonical name; `missing` has no place.
    """
    unfit = [name for name, form in placed.items() if not form.fits(layers[name])]
    if not unfit and not missing:
        return
    _require_family(source, found, layers)
    if missing:
        first = missing[0]
        raise MismatchError(
            f"{source} is made for another architecture: {len(missing)} of its {len(found)} layers are not in this "
            f"checkpoint, first {first.component}.{first.layer}; choose an adapter made for it"
        )
    name, layer = unfit[0], layers[unfit[0]]
    form = placed[name]
    if form.bias is not None and form.weight_fits(layer):
        has = f"{layer.weight[0]} numbers" if layer.bias else "none"
        raise MismatchError(
            f"{source} does not fit: it changes the bias of {name} by {form.bias} numbers, and this checkpoint has "
            f"{has}; choose one made for this model"
        )
    raise MismatchError(f"{source} does not fit: {shape_message(name, form.made_for, layer)}")


def _require_family(source: str, found: Sequence[tuple[Key, Form]], layers: Mapping[str, LayerShape]) -> None:
    own = text_width({name: shape.weight[1] for name, shape in layers.items() if name.startswith("unet.")})
    width = made_for_width(found)
    if width is None or own is None or width == own:
        return
    family = FAMILIES.get(width)
    made_for = f"{family} (cross-attention width {width})" if family else f"cross-attention width {width}"
    has = f"{FAMILIES[own]} ({own})" if own in FAMILIES else f"{own}"
    raise MismatchError(
        f"{source} is made for {made_for}; this checkpoint has {has}; choose an adapter made for it, or --adapter none"
    )
