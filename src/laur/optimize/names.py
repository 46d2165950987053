"""Keys of LoRA files: which component, which layer, which part.

Layers are found among the model's real ones. kohya's scripts write every dot as an underscore, which no rule can undo
("to_out_0", "time_emb_proj"); the list of real names can.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from laur.optimize.sgm import sgm_names

_COMPONENTS = {
    "lora_unet_": "unet",
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "lycoris_": "unet",
    "text_encoders.clip_l.transformer.": "text_encoder",
    "text_encoders.clip_g.transformer.": "text_encoder_2",
    "unet.": "unet",
    "text_encoder.": "text_encoder",
    "text_encoder_2.": "text_encoder_2",
    "base_model.model.": "unet",  # or a text encoder's, see _CLIP
    "diffusion_model.": "unet",
}
"""By prefix; names without any are the UNet's, as in the first diffusers files."""
_PEFT = "base_model.model."
_CLIP = re.compile(r"(text_model\.)?encoder\.layers\.|text_projection\b")
"""How layers of a text encoder begin, which PEFT names from the encoder itself."""

_WEIGHTS = re.compile(
    r"(?P<layer>.+?)"
    r"(?:\.lora_(?P<peft>A|B)(?:\.\w+)?"
    r"|\.lora_(?P<kohya>down|up|mid)"
    r"|\.lora(?:_linear_layer)?\.(?P<diffusers>down|up)"
    r"|\.(?P<projection>to_(?:q|k|v|out))_lora\.(?P<old>down|up))\.weight"
)
_FACTORS = re.compile(
    r"(?P<layer>.+?)\."
    r"(?:(?P<role>hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t2)|ia3_l)(?:\.\w+)?"
    r"|(?P<plain>alpha|dora_scale|diff|diff_b|on_input)"
    r"|(?P<magnitude>lora_magnitude_vector)(?:\.\w+)*"
    r"|lora_B(?:\.\w+)?\.(?P<bias>bias))"
)
"""Roles that are called the same in every layout: LyCORIS's (arXiv 2309.14859) and PEFT's."""
_IA3 = re.compile(r"(?P<layer>lora_.+)\.weight")
_ROLES = {"A": "down", "B": "up", "down": "down", "up": "up", "mid": "mid"}

_OTHERS = (
    (r".+[._](hada|lokr)_.+", "LyCORIS weights of an unknown form"),
    (r".+\.(ia3_l.*|set_weight)", "weights that replace a layer's"),
    (r".+\.(w_norm|b_norm)", "differences of norms"),
    (r".+\.b?oft_.+", "OFT rotations"),
    (r".+\.[ab][12]\.weight", "GLoRA weights"),
    (r".+lora_embedding_[AB].*", "LoRA of an embedding"),
    (r".+lora_?(A|B|down|up).*\.bias", "LoRA biases"),
    (r"emb_params|clip_[lg]|string_to_param.*|\*", "a textual inversion"),
    (r".+\.(to_k_ip|to_v_ip)\..+|image_proj\..+", "an IP-Adapter"),
    (r"(model\.diffusion_model|first_stage_model|cond_stage_model|conditioner)\..+", "a whole checkpoint"),
)


@dataclass(frozen=True, slots=True)
class Key:
    """What one key of a file is."""

    component: str
    """unet, text_encoder or text_encoder_2."""
    layer: str
    """As the file writes it, without its prefix."""
    role: str
    """alpha; LoRA's down, up, mid and up_bias; magnitude or dora_scale; hada_*, lokr_*; diff, diff_b; ia3_l;
    or LyCORIS's ia3_weight with on_input."""


def parse(key: str) -> Key | None:
    """Read the key of an adapter's weight, in any of the layouts; None if it is none."""
    found = _name_and_role(key)
    if found is None:
        return None
    name, role = found[0].replace(".processor.", "."), found[1]
    for prefix, component in _COMPONENTS.items():
        if name.startswith(prefix):
            layer = name.removeprefix(prefix)
            return Key("text_encoder" if prefix == _PEFT and _CLIP.match(layer) else component, layer, role)
    return Key("unet", name, role)


def _name_and_role(key: str) -> tuple[str, str] | None:
    if match := _FACTORS.fullmatch(key):
        parts = match.groupdict()
        if parts["magnitude"]:
            return parts["layer"], "magnitude"
        return parts["layer"], parts["role"] or parts["plain"] or "up_bias"
    if match := _WEIGHTS.fullmatch(key):
        parts = match.groupdict()
        name = parts["layer"]
        if projection := parts["projection"]:
            name += "." + ("to_out.0" if projection == "to_out" else projection)
        return name, _ROLES[parts["peft"] or parts["kohya"] or parts["diffusers"] or parts["old"]]
    match = _IA3.fullmatch(key)
    return (match["layer"], "ia3_weight") if match else None


def other_kind(key: str) -> str | None:
    """What a key holds that is not plain LoRA, in words; None if it is not known either."""
    return next((kind for pattern, kind in _OTHERS if re.fullmatch(pattern, key)), None)


def layout(keys: Iterable[str]) -> str:
    """Who writes files like this: kohya, PEFT or diffusers."""
    keys = list(keys)
    if any(key.startswith(("lora_", "lycoris_")) for key in keys):
        return "kohya"
    return "PEFT" if any(key.startswith(_PEFT) for key in keys) else "diffusers"


class LayerIndex:
    """Finds a model's layer by any of the names that files use for it."""

    def __init__(self, layers: Iterable[str]) -> None:
        """`layers`: canonical names, as "unet.conv_in"."""
        self._names: dict[str, dict[str, str]] = {}
        self._other_names: dict[str, dict[str, str]] = {}
        by_component: dict[str, list[str]] = {}
        for layer in layers:
            component, _, name = layer.partition(".")
            by_component.setdefault(component, []).append(name)
        for component, names in by_component.items():
            others = sgm_names(names) if component == "unet" else _text_names(names)
            self._names[component] = {_flat(name): f"{component}.{name}" for name in names}
            self._other_names[component] = {_flat(other): f"{component}.{name}" for other, name in others.items()}

    def __contains__(self, component: object) -> bool:
        return component in self._names

    def find(self, key: Key) -> tuple[str, bool] | None:
        """The canonical name of the key's layer, and whether the file calls it as the model does."""
        flat = _flat(key.layer)
        if found := self._names[key.component].get(flat):
            return found, True
        if found := self._other_names[key.component].get(flat):
            return found, False
        return None


def _flat(name: str) -> str:
    return name.replace(".", "_")


def _text_names(names: Iterable[str]) -> dict[str, str]:
    """Other names of a CLIP text encoder's layers: with or without "text_model.", attention as first called."""
    found: dict[str, str] = {}
    for name in names:
        bare = name.removeprefix("text_model.")
        for other in (bare, bare.replace("out_proj", "to_out.0"), re.sub(r"\b([qkv])_proj\b", r"to_\1", bare)):
            found[other] = found[f"text_model.{other}"] = name
    return found
