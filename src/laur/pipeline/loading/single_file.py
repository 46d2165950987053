"""A checkpoint as one .safetensors file in the original LDM or SGM layout.

diffusers' own tables translate UNet and autoencoder; the text encoder's few names are translated here, since
transformers flattens and unflattens its classes between versions.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from laur.core.errors import CheckpointError
from laur.pipeline.loading import architecture
from laur.pipeline.loading.clues import prediction_clues
from laur.pipeline.loading.source import Config, header_of, read_tensors

if TYPE_CHECKING:
    from torch import Tensor

_OPEN_CLIP = (
    ("token_embedding.weight", "embeddings.token_embedding.weight"),
    ("positional_embedding", "embeddings.position_embedding.weight"),
    ("ln_final.", "final_layer_norm."),
    ("transformer.resblocks.", "encoder.layers."),
    (".ln_1.", ".layer_norm1."),
    (".ln_2.", ".layer_norm2."),
    (".mlp.c_fc.", ".mlp.fc1."),
    (".mlp.c_proj.", ".mlp.fc2."),
    (".attn.", ".self_attn."),
)
"""OpenCLIP's names and transformers'."""


class FileSource:
    """Reads the header; everything else follows from it and from the family's shipped configs."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        self.header = header_of(path)
        self.family = architecture.family_of(self.header, name)
        self.index = architecture.shipped(self.family, "model_index.json")
        self.components = tuple(architecture.PREFIXES[self.family])
        clues = prediction_clues(path, self.header, self.family)
        self.clue = clues.question
        self.scheduler = self._scheduler(clues.prediction)

    def class_name(self, component: str) -> str:
        """As the family's model_index.json has it."""
        return str(self.index[component][1])

    def config(self, component: str) -> Config:
        """The family's, with the widths of this file."""
        if component == "unet":
            return architecture.unet_config(self.family, self.header)
        if component == "vae":
            return architecture.vae_config(self.family, self.header)
        return architecture.text_config(self.family, component, self.header)

    def files(self) -> dict[str, tuple[Path, ...]]:
        """The file itself, under the empty name."""
        return {"": (self.path,)}

    def weights_bytes(self) -> int:
        """Of the components; training leftovers such as EMA copies are not read."""
        prefixes = tuple(architecture.PREFIXES[self.family].values())
        return sum(info.nbytes for key, info in self.header.tensors.items() if key.startswith(prefixes))

    def tensors(self, component: str) -> dict[str, Tensor]:
        """The component's weights under diffusers' or transformers' names."""
        prefix = architecture.PREFIXES[self.family][component]
        raw = read_tensors(self.path, [key for key in self.header.tensors if key.startswith(prefix)])
        if component in {"unet", "vae"}:
            return _converted(component, raw, self.config(component))
        bare = {key.removeprefix(prefix): tensor for key, tensor in raw.items()}
        if "positional_embedding" not in bare:
            return bare
        return _from_open_clip(bare, layers=int(self.config(component)["num_hidden_layers"]))

    def tokenizer(self, component: str) -> tuple[str, Path, Config]:
        """CLIP's vocabulary, shipped once, with the family's padding."""
        name = component.replace("text_encoder", "tokenizer")
        options = architecture.shipped(self.family, f"{name}/tokenizer_config.json")
        return str(options.pop("tokenizer_class")), architecture.configs_folder(self.family).parent / "clip", options

    def _scheduler(self, prediction: str | None) -> Config:
        config = architecture.shipped(self.family, "scheduler/scheduler_config.json")
        config.pop("prediction_type", None)
        if prediction is not None:
            config["prediction_type"] = prediction
        if "ztsnr" in self.header.tensors:  # the mark of models trained to zero terminal SNR
            config |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        return config


def _converted(component: str, raw: dict[str, Tensor], config: Config) -> dict[str, Tensor]:
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

    convert = convert_ldm_unet_checkpoint if component == "unet" else convert_ldm_vae_checkpoint
    try:
        tensors: dict[str, Tensor] = convert(raw, config=config)
    except (KeyError, AttributeError, IndexError, TypeError) as error:
        raise CheckpointError(f"the {component} is incomplete: {error} is missing; download the file again") from None
    guidance = raw.get(f"{architecture.UNET}time_embed.cond_proj.weight")
    if guidance is not None:  # of a guidance-distilled LCM; diffusers' table does not know it
        tensors["time_embedding.cond_proj.weight"] = guidance
    return tensors


def _from_open_clip(tensors: dict[str, Tensor], *, layers: int) -> dict[str, Tensor]:
    """Attention's joint projection is cut in three; layers beyond `layers` are dropped, as SD 2 never uses its last."""
    result: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        layer = re.match(r"transformer\.resblocks\.(\d+)\.", key)
        if layer and int(layer[1]) >= layers:
            continue
        name = key
        for theirs, ours in _OPEN_CLIP:
            name = name.replace(theirs, ours, 1)
        if name == "text_projection":
            result["text_projection.weight"] = tensor.T.contiguous()
        elif joint := re.fullmatch(r"(.*)\.in_proj_(weight|bias)", name):
            for part, letter in zip(tensor.chunk(3), "qkv", strict=True):
                result[f"{joint[1]}.{letter}_proj.{joint[2]}"] = part
        else:
            result[name] = tensor
    return result
