"""Library: what an Engine has in memory, by content hash.

Checkpoints are read lazily, part by part, and never change. A set of adapters pinned with weights makes another
denoiser over the same base; the few used last are kept.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, TypeVar

from laur.core.errors import NotFoundError
from laur.pipeline import memory

if TYPE_CHECKING:
    from torch import nn

    from laur.core.checkpoint import Checkpoint
    from laur.core.plan import AdapterUse, Plan, TextSpec
    from laur.core.pytorch.decoder import TorchDecoder
    from laur.core.pytorch.denoiser import TorchDenoiser
    from laur.core.pytorch.preview import LatentToRGB
    from laur.input.text import TextEncoder
    from laur.input.vectorize import States
    from laur.optimize import BaseAdapter
    from laur.pipeline.device import Placement
    from laur.pipeline.loading.load import LoadedCheckpoint

T = TypeVar("T")
Uses = tuple["AdapterUse", ...]
TEXT_CACHE_BYTES = 64 * 2**20


class Library:
    """Checkpoints, adapters, encoders, denoisers and decoders of one device and precision."""

    def __init__(self, placement: Placement, *, denoisers: int = 2) -> None:
        """`denoisers` is how many sets of pinned adapters stay merged at once."""
        from laur.input.cache import StateCache

        self.placement = placement
        self.states = StateCache(TEXT_CACHE_BYTES)
        self._infos: dict[tuple[str, str | None], Checkpoint] = {}
        self._loaded: dict[str, LoadedCheckpoint] = {}
        self._names: dict[str, BaseAdapter] = {}
        self._adapters: dict[str, BaseAdapter] = {}
        self._denoisers: OrderedDict[Hashable, TorchDenoiser] = OrderedDict()
        self._encoders: OrderedDict[Hashable, TextEncoder] = OrderedDict()
        self._decoders: dict[str, TorchDecoder] = {}
        self._previews: dict[str, LatentToRGB] = {}
        self._limit = denoisers

    def checkpoint(self, name: str, *, prediction: str | None = None) -> Checkpoint:
        """What is known of the checkpoint of that name; its weights are read when they are used."""
        plain = self._infos.get((name, None))
        if plain is not None and prediction in {None, plain.prediction}:
            return plain
        if (name, prediction) not in self._infos:
            from laur.pipeline.loading.load import load

            loaded = load(name, prediction=prediction)
            self._infos[name, prediction] = loaded.info
            self._loaded.setdefault(loaded.info.sha256, loaded)
        return self._infos[name, prediction]

    def adapter(self, name: str) -> BaseAdapter:
        """The adapter of that name or file."""
        if name not in self._names:
            from laur.optimize.catalogue import find

            adapter = find(name)
            self._names[name] = self._adapters.setdefault(adapter.sha256, adapter)
        return self._names[name]

    def by_content(self, sha256: str) -> BaseAdapter:
        """An adapter that this library has seen, by content."""
        if sha256 not in self._adapters:
            raise NotFoundError(f"no adapter with hash {sha256[:10]} is loaded; name it in a recipe first")
        return self._adapters[sha256]

    def weights(self, sha256: str) -> LoadedCheckpoint:
        """A checkpoint that this library has seen, by content."""
        if sha256 not in self._loaded:
            raise NotFoundError(f"no checkpoint with hash {sha256[:10]} is loaded; name it in a recipe first")
        return self._loaded[sha256]

    def encoder(self, sha256: str, uses: Uses) -> TextEncoder:
        """The checkpoint's text encoder, with what the adapters change in it."""
        return self._kept(self._encoders, (sha256, uses), lambda: self._build_encoder(sha256, uses))

    def encode(self, sha256: str, uses: Uses, text: TextSpec) -> States:
        """Cached text states on the library's device."""
        encoder = self.encoder(sha256, uses)
        return self.states.get(encoder, text)

    def denoiser(self, sha256: str, uses: Uses) -> TorchDenoiser:
        """The checkpoint's network with the adapters merged in."""
        return self._kept(self._denoisers, (sha256, uses), lambda: self._build_denoiser(sha256, uses))

    def decoder(self, sha256: str) -> TorchDecoder:
        """The checkpoint's picture decoder."""
        if sha256 not in self._decoders:
            self._decoders[sha256] = self._build_decoder(sha256)
        return self._decoders[sha256]

    def preview(self, sha256: str) -> LatentToRGB:
        """The checkpoint's linear map from latent to RGB, fitted on first use."""
        if sha256 not in self._previews:
            import torch

            from laur.core.pytorch.preview import fit

            decoder, info = self.decoder(sha256), self.weights(sha256).info

            @torch.inference_mode()
            def encode(picture: torch.Tensor) -> torch.Tensor:
                encoded = decoder.vae.encode(picture.to(decoder.device, decoder.dtype), return_dict=False)[0]
                mean = encoded.mean if hasattr(encoded, "sample") and hasattr(encoded, "logvar") else encoded
                return (mean.float() - info.latent_shift) * info.latent_scale

            self._previews[sha256] = fit(encode, downscale=info.downscale)
        return self._previews[sha256]

    def require_memory(self, plan: Plan, checkpoint: Checkpoint) -> None:
        """Raise ResourceError where one picture of the plan cannot fit."""
        import torch

        itemsize = torch.empty((), dtype=self.placement.dtype).element_size()
        rows = max(len(stage.rows) for stage in plan.stages)
        needed = memory.picture_bytes(
            plan.width,
            plan.height,
            rows=rows,
            unet=checkpoint.unet_config,
            itemsize=itemsize,
            downscale=checkpoint.downscale,
        )
        native = checkpoint.native_size
        memory.require(
            needed,
            memory.available_bytes(self.placement.device),
            f"a picture of {plan.width}x{plan.height}",
            f"use a smaller size ({checkpoint.name} was trained at {native}x{native})",
        )

    def _kept(self, kept: OrderedDict[Hashable, T], key: Hashable, build: Callable[[], T]) -> T:
        """The built thing of that key; the least recently used one makes room before another is built."""
        if key in kept:
            kept.move_to_end(key)
            return kept[key]
        while len(kept) >= self._limit:
            kept.popitem(last=False)
        kept[key] = build()
        return kept[key]

    def _build_denoiser(self, sha256: str, uses: Uses) -> TorchDenoiser:
        from laur.core.pytorch.denoiser import ModuleNetwork, TorchDenoiser

        loaded, place = self.weights(sha256), self.placement
        unet = self._with_adapters({"unet": loaded.unet()}, uses)["unet"]
        memory_format = _memory_format(place.channels_last)
        unet = unet.to(place.device, place.dtype).to(memory_format=memory_format)
        return TorchDenoiser(
            ModuleNetwork(unet),
            device=place.device,
            dtype=place.dtype,
            channels_last=place.channels_last,
            guidance_width=loaded.info.unet_config.get("time_cond_proj_dim"),
        )

    def _build_encoder(self, sha256: str, uses: Uses) -> TextEncoder:
        raise NotImplementedError

    def _build_decoder(self, sha256: str) -> TorchDecoder:
        from laur.core.pytorch.decoder import TorchDecoder

        loaded, place = self.weights(sha256), self.placement
        vae = loaded.vae()
        decoder = TorchDecoder(
            vae,
            scale=loaded.info.latent_scale,
            shift=loaded.info.latent_shift,
            device=place.device,
            dtype=place.dtype,
            channels_last=place.channels_last,
        )
        decoder.vae = vae.to(decoder.device, decoder.dtype).to(memory_format=_memory_format(place.channels_last))
        return decoder

    def _with_adapters(self, modules: dict[str, nn.Module], uses: Uses) -> dict[str, nn.Module]:
        """The modules by component name, those that the adapters touch as copies that share every untouched tensor."""
        raise NotImplementedError


def sharing_copy(module: nn.Module) -> nn.Module:
    """A copy of the module tree over the very same tensors."""
    tensors: list[Any] = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})


def _memory_format(channels_last: bool) -> Any:
    import torch

    return torch.channels_last if channels_last else torch.contiguous_format
