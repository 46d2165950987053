"""What was trained, written out: an adapter in diffusers' names or a checkpoint's folder, with where it comes from.

Both are loaded back through Laur's own Engine and sampled before they take their place; nothing half-written stays.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import laur
from laur.core.checkpoint import Family
from laur.core.errors import LaurError, OutputError, ResourceError, TrainingError
from laur.pipeline.loading.detect import LCM_SCHEDULER
from laur.train.evaluate.prompts import FOLDS, HELD_OUT
from laur.utils.files import atomic_folder, atomic_write

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from laur.core.recipe import Recipe
    from laur.optimize.deltas import LowRank
    from laur.pipeline.device import Placement
    from laur.pipeline.loading.load import LoadedCheckpoint
    from laur.render.picture import Picture

ARCHITECTURES = {
    Family.SD1: ("stable-diffusion-v1", "sd_v1"),
    Family.SD2: ("stable-diffusion-v2-512", "sd_v2"),
    Family.SDXL: ("stable-diffusion-xl-v1-base", "sdxl_base_v1-0"),
    Family.SDXL_REFINER: ("stable-diffusion-xl-v1-refiner", "sdxl_refiner_v1-0"),
    Family.SSD1B: ("ssd-1b", "ssd-1b"),
    Family.MINI: ("laur-mini", "laur_mini"),
}
"""modelspec's and kohya's words for a base."""
SD2_OF_VELOCITY = ("stable-diffusion-v2-768-v", "sd_v2_v")
"""Of SD 2's other line: a reader may take the prediction from these words."""
WHOLE_LCMS = ("lcm", "lcf")
"""Tasks whose checkpoints draw in few steps by themselves."""
PIPELINES = {True: "StableDiffusionXLPipeline", False: "StableDiffusionPipeline"}
TRIAL: dict[str, Any] = {"width": 128, "height": 128, "steps": 2, "seed": 0}
"""The picture that a result must draw: small, since it only has to be one."""
FOLD = f"fold {HELD_OUT} of {FOLDS}"
"""Of concepts, by the hash of their names."""
WORDS = {
    "lcm-lora": "LCM-LoRA: draws in 1 to 8 steps (arXiv 2311.05556).",
    "lcm": "Latent consistency model: draws in 1 to 8 steps at the guidance it is told (arXiv 2310.04378).",
    "lcf": "Latent consistency fine-tuning: an LCM moved to other pictures (arXiv 2310.04378, algorithm 4).",
    "style": "A style, as a LoRA.",
    "base": "A denoiser trained on pictures with captions.",
    "vae": "A picture autoencoder.",
}


def adapter(
    deltas: Mapping[str, LowRank],
    folder: Path,
    loaded: LoadedCheckpoint,
    *,
    task: str,
    accelerates: bool = False,
    trigger_words: Sequence[str] = (),
    beside: Sequence[str] = (),
    held_out: bool = False,
    device: torch.device | None = None,
) -> Path:
    """Write `folder`/NAME.safetensors with its model card and return the file.

    `deltas` go by the UNet's own layer names; `beside` are adapters without which it was not meant to be used;
    `held_out`: it has not seen the fold of concepts for measuring. It is tried on `device`, the best there is where
    None.
    Errors: TrainingError where it does not draw.
    """
    name = f"{task}-{_plain(loaded.info.name)}"
    tensors = peft_tensors(deltas)
    metadata = adapter_metadata(name, deltas, loaded, task=task, accelerates=accelerates, trigger_words=trigger_words)
    if held_out:
        metadata["laur.held_out"] = FOLD
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _written(folder) as fresh:
        path = fresh / f"{name}.safetensors"
        _save(tensors, path, metadata)
        _try_adapter(path, loaded, beside, device)
        uses = ", ".join(f"`{other}`" for other in beside)
        _card(fresh, name, loaded, task, [f"Use it together with {uses}."] if uses else [], held_out=held_out)
    return folder / path.name


def peft_tensors(deltas: Mapping[str, LowRank]) -> dict[str, Tensor]:
    """Names and shapes that diffusers' `load_lora_weights` takes. The scale is inside the up factor: alpha = rank."""
    tensors: dict[str, Tensor] = {}
    for layer, delta in deltas.items():
        tensors[f"unet.{layer}.lora_A.weight"] = delta.down
        tensors[f"unet.{layer}.lora_B.weight"] = delta.up * delta.scale
    return {name: _halved(tensor) for name, tensor in tensors.items()}


def adapter_metadata(
    name: str,
    deltas: Mapping[str, LowRank],
    loaded: LoadedCheckpoint,
    *,
    task: str,
    accelerates: bool,
    trigger_words: Sequence[str],
) -> dict[str, str]:
    """kohya's ss_*, Stability's modelspec.* and Laur's own recommendation, as safetensors carries them."""
    from laur.optimize.lcm_lora import RECOMMENDS

    info = loaded.info
    velocity = info.family is Family.SD2 and info.prediction == "v_prediction"
    architecture, version = SD2_OF_VELOCITY if velocity else ARCHITECTURES[info.family]
    rank = max(delta.rank for delta in deltas.values())
    recommends: dict[str, Any] = {"accelerates": accelerates}
    if accelerates:
        recommends |= {"sampler": "lcm", "steps": 4, "guidance": 1.0}
    if trigger_words:
        recommends["trigger_words"] = list(trigger_words)
    return {
        "format": "pt",
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(rank),
        "ss_base_model_version": version,
        "ss_sd_model_name": info.name,
        "ss_new_sd_model_hash": info.sha256,
        "ss_output_name": name,
        "ss_v2": str(info.family is Family.SD2),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{architecture}/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": name,
        "modelspec.description": WORDS[task],
        "modelspec.license": licence(loaded),
        "modelspec.prediction_type": {"v_prediction": "v"}.get(info.prediction, info.prediction),
        **({"modelspec.trigger_phrase": ", ".join(trigger_words)} if trigger_words else {}),
        RECOMMENDS: json.dumps(recommends, sort_keys=True),
    }


def checkpoint(
    network: nn.Module,
    weights: Mapping[str, Tensor],
    folder: Path,
    loaded: LoadedCheckpoint,
    *,
    task: str,
    component: str = "unet",
    held_out: bool = False,
) -> Path:
    """Write a diffusers folder: the base's parts with `network` (and `weights`, by parameter name) as `component`.

    `held_out`: as in `adapter`. It is tried on the network's own device.
    Errors: TrainingError where it does not draw.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _written(folder) as fresh:
        _parts(fresh, loaded, component)
        _with(network, weights).save_pretrained(fresh / component)
        more: list[str] = []
        if task in WHOLE_LCMS:
            _lcm_scheduler(fresh, loaded)
            told = network.config.get("time_cond_proj_dim") is not None  # pyright: ignore[reportAttributeAccessIssue,reportCallIssue]
            guidance = "at the guidance that it is told" if told else "at guidance 1, as its guidance is in the weights"
            more = [f"Draws in 1 to 8 steps with the sampler lcm (diffusers: LCMScheduler), {guidance}."]
        _try_checkpoint(fresh, next(network.parameters()).device)
        _card(fresh, f"{task}-{_plain(loaded.info.name)}", loaded, task, more, held_out=held_out)
    return folder


@contextmanager
def _written(folder: Path) -> Generator[Path]:
    """A folder to write into, which takes the place of `folder` when all is well. Raises OutputError."""
    from laur.train.state import refused

    try:
        with atomic_folder(folder, replace=True) as fresh:
            yield fresh
    except LaurError:
        raise
    except Exception as error:
        reason = refused(error)
        if reason is None:
            raise
        raise OutputError(
            f"the result cannot be written to {folder}: {reason}; the last state is kept: "
            "make room and go on with --resume"
        ) from None


def licence(loaded: LoadedCheckpoint) -> str:
    """The base's, as far as its folder says."""
    card = loaded.info.path / "README.md"
    if card.is_file():
        found = re.search(r"^licen[sc]e:\s*(.+)$", card.read_text(encoding="utf-8", errors="replace"), re.M | re.I)
        if found:
            return found.group(1).strip()[:200]
    if loaded.info.family is Family.MINI:
        return "Apache-2.0; see Laur's ATTRIBUTION.md for the pictures"
    return f"that of the base, {loaded.info.name}"


# ---------------------------------------------------------------------- parts of a checkpoint


def _parts(folder: Path, loaded: LoadedCheckpoint, component: str) -> None:
    """Everything but `component`: copied where the base is a folder, else written from what was read."""
    source = loaded.info.path
    if (source / "model_index.json").is_file():
        index = json.loads((source / "model_index.json").read_bytes())
        for part in (name for name, value in index.items() if isinstance(value, list) and name != component):
            if (source / part).is_dir():
                shutil.copytree(source / part, folder / part)
        (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
        return
    for name, network in (("unet", loaded.unet()), ("vae", loaded.vae())):
        if name != component:
            network.save_pretrained(folder / name)
    index: dict[str, Any] = {"_class_name": PIPELINES[loaded.info.family.is_xl]}
    for part in loaded.text_parts():
        tokenizer = part.name.replace("text_encoder", "tokenizer")
        part.model.save_pretrained(folder / part.name)  # pyright: ignore[reportCallIssue]
        part.tokenizer.save_pretrained(folder / tokenizer)
        index |= {part.name: ["transformers", type(part.model).__name__]}
        index |= {tokenizer: ["transformers", type(part.tokenizer).__name__]}
    for name, network in (("unet", loaded.unet()), ("vae", loaded.vae())):
        index[name] = ["diffusers", type(network).__name__]
    index["scheduler"] = ["diffusers", "DDIMScheduler"]
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(_scheduler(loaded), indent=2) + "\n")
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def _scheduler(loaded: LoadedCheckpoint) -> dict[str, Any]:
    info = loaded.info
    return {
        "_class_name": "DDIMScheduler",
        "beta_schedule": info.schedule.beta_schedule,
        "beta_start": info.schedule.beta_start,
        "beta_end": info.schedule.beta_end,
        "num_train_timesteps": info.schedule.num_train_timesteps,
        "rescale_betas_zero_snr": info.schedule.rescale_betas_zero_snr,
        "trained_betas": info.schedule.trained_betas,
        "prediction_type": info.prediction,
        "timestep_spacing": info.spacing,
        "steps_offset": info.steps_offset,
        "set_alpha_to_one": info.set_alpha_to_one,
        "clip_sample": False,
    }


def _lcm_scheduler(folder: Path, loaded: LoadedCheckpoint) -> None:
    """An LCM's folder says that it is one; every value of the schedule is written, as classes differ in what they take
    where one is missing."""
    index = {**json.loads((folder / "model_index.json").read_bytes()), "scheduler": ["diffusers", LCM_SCHEDULER]}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    path = folder / "scheduler" / "scheduler_config.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**_scheduler(loaded), "_class_name": LCM_SCHEDULER}, indent=2) + "\n")


def _with(network: Any, weights: Mapping[str, Tensor]) -> Any:
    """A half-precision copy with other weights; in full precision where halves would overflow."""
    import torch

    state = {**network.state_dict(), **{name: tensor.detach() for name, tensor in weights.items()}}
    plain = type(network).from_config(dict(network.config))
    mine = plain.state_dict().keys()  # without what was joined to the network for its training alone
    plain.load_state_dict({name: tensor.float().cpu() for name, tensor in state.items() if name in mine})
    largest = max(float(p.detach().abs().max()) for p in plain.parameters())
    return plain.half() if largest < torch.finfo(torch.float16).max else plain


def _halved(tensor: Tensor) -> Tensor:
    import torch

    small = tensor.detach().cpu()
    return (small.half() if float(small.abs().max()) < torch.finfo(torch.float16).max else small).contiguous()


def _save(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    from safetensors.torch import save

    atomic_write(path, save(dict(tensors), metadata=dict(metadata)))


# ----------------------------------------------------------------------------------- trials


def _try_adapter(path: Path, loaded: LoadedCheckpoint, beside: Sequence[str], device: torch.device | None) -> None:
    from laur.core.recipe import AdapterRef, Recipe
    from laur.optimize.lora_file import LoraFile
    from laur.optimize.merge import layer_shapes

    coverage = LoraFile(path).coverage(layer_shapes(loaded.unet(), "unet"))
    if coverage.left:
        raise TrainingError(f"the adapter that was written does not fit its own base: {coverage}")
    refs = tuple(AdapterRef(name=str(name)) for name in (*beside, path))
    sampler = "lcm" if beside or loaded.info.is_lcm or "lcm" in path.name else "ddim"
    _draw(loaded, Recipe(prompt="a picture", adapters=refs, sampler=sampler, **TRIAL), device)


def _try_checkpoint(folder: Path, device: torch.device) -> None:
    from laur.core.recipe import Recipe
    from laur.pipeline.loading.load import load

    loaded = load(str(folder))
    sampler = "lcm" if loaded.info.is_lcm else "ddim"
    _draw(loaded, Recipe(prompt="a picture", adapters=(), sampler=sampler, **TRIAL), device)


def _draw(loaded: LoadedCheckpoint, recipe: Recipe, device: torch.device | None) -> None:
    """Raise TrainingError unless a picture comes out that is one.

    Beside what the training still holds, the device may have no room for a second network: then the CPU draws it.
    """
    from laur.pipeline.device import choose

    place = choose(device, "float32")  # so that what does not draw is not the precision's fault
    picture = _picture(loaded, recipe, place)
    if picture is None and place.device.type != "cpu":
        picture = _picture(loaded, recipe, choose("cpu", "float32"))
    if picture is None:
        raise TrainingError(
            "memory ran out while what was trained was tried, and nothing is written; free some and give the same "
            "command again"
        )
    if float(picture.pixels.std()) == 0:
        raise TrainingError("what was trained draws one flat colour; nothing is written")


def _picture(loaded: LoadedCheckpoint, recipe: Recipe, place: Placement) -> Picture | None:
    """None where memory does not suffice."""
    from laur.pipeline import memory
    from laur.pipeline.engine import Engine
    from laur.pipeline.library import Library

    library = Library(place, plain=True)
    library.adopt(loaded)
    try:
        return Engine(loaded.info.name, library=library).pictures([recipe])[0]
    except ResourceError:
        return None
    except LaurError as error:
        raise TrainingError(f"what was trained does not draw: {error}") from error
    except RuntimeError as error:
        if not memory.is_exhausted(error):
            raise
        return None


# -------------------------------------------------------------------------------------- card


def _card(folder: Path, name: str, loaded: LoadedCheckpoint, task: str, more: Sequence[str], *, held_out: bool) -> None:
    """README.md as model hubs read it."""
    unseen = f"It has not seen the concepts of {FOLD} (`data.hold_out`), which `laur evaluate --data` draws."
    lines = [
        "---",
        f"license: {licence(loaded)}",
        f"base_model: {loaded.info.name}",
        "tags: [text-to-image, " + ", ".join(dict.fromkeys(["laur", task, loaded.info.family.value])) + "]",
        "---",
        "",
        f"# {name}",
        "",
        WORDS[task],
        "",
        *more,
        *([unseen] if held_out else []),
        f"Made with Laur {laur.__version__} (`laur train {task}`) from `{loaded.info.name}`, whose weights have the "
        f"sha256 {loaded.info.sha256}. The run's folder holds the whole configuration (config.toml), the losses "
        "(journal.jsonl) and sample sheets.",
        "",
    ]
    (folder / "README.md").write_text("\n".join(lines))


def _plain(name: str) -> str:
    """A name for files from a model's name or path."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", Path(name).stem if "/" in name else name).strip("-.") or "model"
