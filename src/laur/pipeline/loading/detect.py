"""Traits of a checkpoint from its configs: family, how it was trained, how it is conditioned. No weights are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from laur.core.checkpoint import Defaults, Family
from laur.core.errors import CheckpointError
from laur.core.schedule import NoiseSchedule
from laur.pipeline.loading.source import TEXT_ENCODERS, Config, Source

PREDICTIONS = ("epsilon", "v_prediction", "sample")
SD2_NATIVE = {"epsilon": 512, "v_prediction": 768}
"""SD 2's two lines: base at 512 pixels predicts noise, the other at 768 velocity. A single file says no size."""
_SPACING = {
    "EulerDiscreteScheduler": "linspace",
    "EulerAncestralDiscreteScheduler": "linspace",
    "DPMSolverMultistepScheduler": "linspace",
    "DPMSolverSinglestepScheduler": "linspace",
    "DPMSolverSDEScheduler": "linspace",
    "UniPCMultistepScheduler": "linspace",
    "DEISMultistepScheduler": "linspace",
    "HeunDiscreteScheduler": "linspace",
    "KDPM2DiscreteScheduler": "linspace",
    "KDPM2AncestralDiscreteScheduler": "linspace",
    "LMSDiscreteScheduler": "linspace",
}
"""What diffusers' classes take where the config does not say; the others take leading."""
_UNETS, _VAES = {"UNet2DConditionModel"}, {"AutoencoderKL", "AutoencoderTiny"}
_CLIP, _BERT = {"CLIPTextModel", "CLIPTextModelWithProjection"}, {"BertModel"}
_FORMULATIONS = (("FlowMatch", "flow matching"), ("EDM", "the EDM formulation"))
LCM_SCHEDULER = "LCMScheduler"
"""What diffusers calls the scheduler of a folder that holds an LCM: its UNet need not be told its guidance."""
GUIDANCE_EMBEDDED = 8.5
"""The classifier-free scale that LCM's makers draw with (arXiv 2310.04378)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """As in core.checkpoint.Checkpoint, but that `prediction` is None where the files cannot tell."""

    family: Family
    prediction: str | None
    schedule: NoiseSchedule
    spacing: str
    steps_offset: int
    set_alpha_to_one: bool
    latent_channels: int
    latent_scale: float
    latent_shift: float
    downscale: int
    native_size: int
    guidance_embedding: bool
    guidance_inside: bool
    zeros_for_empty_prompt: bool
    aesthetics_score: bool
    defaults: Defaults
    unet_config: dict[str, Any]


def detect(source: Source, prediction: str | None = None) -> Traits:
    """Read the traits; `prediction` is the user's word, which goes before the files'.

    Raises CheckpointError for a model that is not of a supported family, naming what it is.
    """
    _check_classes(source)
    unet, vae = source.config("unet"), source.config("vae")
    _check_latents(source, unet, vae)
    family = _family(source, unet)
    prediction = prediction or _prediction(source.scheduler)
    guidance = unet.get("time_cond_proj_dim") is not None
    downscale = _downscale(vae)
    kind = str(source.scheduler.get("_class_name", ""))
    inside = kind == LCM_SCHEDULER and not guidance
    return Traits(
        family=family,
        prediction=prediction,
        schedule=NoiseSchedule.from_config(source.scheduler),
        spacing=str(source.scheduler.get("timestep_spacing") or _SPACING.get(kind, "leading")),
        steps_offset=int(source.scheduler.get("steps_offset") or 0),
        set_alpha_to_one=bool(source.scheduler.get("set_alpha_to_one", kind not in {"PNDMScheduler", ""})),
        latent_channels=int(unet["in_channels"]),
        latent_scale=float(vae.get("scaling_factor") or (1.0 if _is_tiny(source) else 0.18215)),
        latent_shift=float(vae.get("shift_factor") or 0.0),
        downscale=downscale,
        native_size=_native_size(unet, downscale),
        guidance_embedding=guidance,
        guidance_inside=inside,
        zeros_for_empty_prompt=family.is_xl and bool(source.index.get("force_zeros_for_empty_prompt", True)),
        aesthetics_score=bool(source.index.get("requires_aesthetics_score", family is Family.SDXL_REFINER)),
        defaults=_defaults(family, guidance, inside=inside),
        unet_config=unet,
    )


def _check_classes(source: Source) -> None:
    index, name = source.index, source.name
    pipeline = str(index.get("_class_name") or "unnamed pipeline")
    if "unet" not in source.components or "vae" not in source.components:
        raise CheckpointError(f"{name} is a {pipeline}, not a Stable Diffusion model: Laur draws with SD 1, 2 and XL")
    allowed = {"unet": _UNETS, "vae": _VAES, "text_encoder": _CLIP | _BERT, "text_encoder_2": _CLIP}
    for component in source.components:
        kind = source.class_name(component)
        if kind not in allowed[component]:
            known = " or ".join(sorted(allowed[component]))
            raise CheckpointError(f"{name} is a {pipeline} whose {component} is {kind}; Laur draws with {known}")
    if not any(component in TEXT_ENCODERS for component in source.components):
        raise CheckpointError(f"{name} is a {pipeline} without a text encoder, so it cannot follow a prompt")
    kind = str(source.scheduler.get("_class_name", ""))
    for mark, what in _FORMULATIONS:
        if kind.startswith(mark):
            raise CheckpointError(f"{name} is sampled with {kind}: Laur does not sample {what}")


def _check_latents(source: Source, unet: Config, vae: Config) -> None:
    takes, gives = unet.get("in_channels", 4), vae.get("latent_channels", 4)
    if takes != gives:
        raise CheckpointError(
            f"{source.name}: its UNet takes {takes} channels and its autoencoder gives {gives}; "
            "inpainting, editing and upscaling models are not drawn with"
        )
    for key, what in (
        ("encoder_hid_dim_type", "image or translated text states"),
        ("class_embed_type", "class labels"),
    ):
        if unet.get(key) is not None:
            raise CheckpointError(f"{source.name}: its UNet asks for {what} ({key} {unet[key]}), which Laur has not")
    if unet.get("addition_embed_type") not in {None, "text_time"}:
        raise CheckpointError(
            f"{source.name}: its UNet is conditioned by {unet['addition_embed_type']}; Laur draws with SD 1, 2 and XL"
        )


def _family(source: Source, unet: Config) -> Family:
    """By structure, not by widths, so that reduced models count as what they are."""
    encoders = [name for name in source.components if name in TEXT_ENCODERS]
    if unet.get("addition_embed_type") == "text_time":
        if encoders == ["text_encoder_2"]:
            return Family.SDXL_REFINER
        whole = unet.get("mid_block_type", "UNetMidBlock2DCrossAttn") == "UNetMidBlock2DCrossAttn"
        return Family.SDXL if whole and not unet.get("reverse_transformer_layers_per_block") else Family.SSD1B
    if len(encoders) != 1:
        raise CheckpointError(f"{source.name} has two text encoders, but its UNet takes no pooled text as SDXL's does")
    if source.class_name(encoders[0]) in _BERT:
        return Family.MINI
    # SD 2's OpenCLIP has 1,024 channels or, reduced, at least its activation; SD 1's CLIP has quick_gelu
    return Family.SD2 if source.config(encoders[0]).get("hidden_act") == "gelu" else Family.SD1


def _prediction(scheduler: Mapping[str, Any]) -> str | None:
    prediction = scheduler.get("prediction_type")
    if prediction is not None and prediction not in PREDICTIONS:
        raise CheckpointError(f"its scheduler predicts {prediction!r}; Laur samples {', '.join(PREDICTIONS)}")
    return prediction


def _downscale(vae: Config) -> int:
    """Each level of the autoencoder but the last halves the picture."""
    levels = vae.get("block_out_channels") or vae.get("encoder_block_out_channels") or [0] * 4
    return 2 ** (len(levels) - 1)


def _native_size(unet: Config, downscale: int) -> int:
    size = unet.get("sample_size") or 64
    side = max(size) if isinstance(size, list) else int(size)
    return int(side) * downscale


def _is_tiny(source: Source) -> bool:
    return source.class_name("vae") == "AutoencoderTiny"


def _defaults(family: Family, guidance_embedding: bool, *, inside: bool) -> Defaults:
    if guidance_embedding:
        return Defaults(guidance=GUIDANCE_EMBEDDED)
    if inside:
        return Defaults(sampler="lcm", guidance=1.0)
    return {
        Family.MINI: Defaults(steps=30, guidance=4.0),
        Family.SDXL: Defaults(guidance=5.0),
        Family.SDXL_REFINER: Defaults(guidance=5.0),
        Family.SSD1B: Defaults(guidance=7.5),
    }.get(family, Defaults())
