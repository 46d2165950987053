"""Library: what an Engine has in memory, by content hash.

Checkpoints are read lazily, part by part, and never change. A set of adapters pinned with weights makes another
denoiser over the same base; the few used last are kept. What adapters, texts and spare networks take comes out of one
budget in bytes.
"""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Hashable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from laur.core.errors import NotFoundError
from laur.pipeline import memory
from laur.pipeline.placing import denoiser_bytes, of_components, placed_copy

if TYPE_CHECKING:
    from torch import Tensor, nn

    from laur.core.checkpoint import Checkpoint
    from laur.core.denoiser import Row
    from laur.core.plan import AdapterUse, Plan, Stage, TextSpec
    from laur.core.pytorch.cpu.interface import Network
    from laur.core.pytorch.decoder import TorchDecoder
    from laur.core.pytorch.denoiser import TorchDenoiser
    from laur.core.pytorch.preview import LatentToRGB
    from laur.core.recipe import Recipe
    from laur.input.image import InputPicture
    from laur.input.store import PictureStore
    from laur.input.text import TextEncoder
    from laur.input.vectorize import States
    from laur.optimize import BaseAdapter
    from laur.optimize.layers import LayerShape
    from laur.pipeline.begun import Known
    from laur.pipeline.device import Placement
    from laur.pipeline.loading.load import LoadedCheckpoint
    from laur.render.embedded import Provenance

Uses = tuple["AdapterUse", ...]


class Library:
    """Checkpoints, adapters, encoders, denoisers and decoders of one device and precision."""

    def __init__(
        self,
        placement: Placement,
        *,
        denoisers: int = 2,
        plain: bool = False,
        inputs: PictureStore | None = None,
        budget: int | None = None,
        per_row: bool | None = None,
    ) -> None:
        """`denoisers` is how many sets of pinned adapters stay merged at once; `inputs` are the pictures that recipes
        begin from, those in the user's own folder unless given. `budget` is in bytes, a quarter of the machine's memory
        unless given; `per_row` says whether adapters that can be are added row by row (so by default) or merged.

        With `plain` networks run as diffusers' modules even where a faster form exists, for those who look inside
        (attention maps, layer by layer reports): `denoiser(…).network.module` is then the module, adapters merged.
        """
        from laur.input.cache import BoundedCache
        from laur.input.store import PictureStore, user_folder
        from laur.optimize.store import AdapterStore
        from laur.pipeline.encoders import Encoders
        from laur.pipeline.kept import Kept
        from laur.pipeline.mixes import Mixes
        from laur.pipeline.row_adapters import RowAdapters
        from laur.pipeline.shelf import Shelf
        from laur.utils.budget import Budget

        self.placement = placement
        self.inputs = PictureStore([user_folder()]) if inputs is None else inputs
        self._known: BoundedCache[Hashable, Known] = BoundedCache()
        self.budget = Budget(memory.default_budget(placement.device) if budget is None else budget)
        """What may be kept of adapters, text states, texts' keys and values, and networks not in use."""
        store = AdapterStore(self.budget, placement.device, placement.dtype)
        self.rows = RowAdapters(self, store, enabled=not plain if per_row is None else per_row)
        self.mixes = Mixes(self)
        self._shelf = Shelf(self.budget)
        self._adapters = self._shelf.adapters
        self._encoders = Encoders(self, denoisers, self.budget)
        self.states = self._encoders.states
        self._infos: dict[tuple[str, str | None], Checkpoint] = {}
        self._loaded: dict[str, LoadedCheckpoint] = {}
        self._denoisers: Kept[TorchDenoiser] = Kept(denoisers, self.budget, denoiser_bytes, self._ended)
        self._is_any_gone = False
        self._layers: dict[str, dict[str, LayerShape]] = {}
        self._fitting: dict[tuple[str, str], str] = {}
        self._decoders: dict[str, TorchDecoder] = {}
        self._previews: dict[str, LatentToRGB] = {}
        self._plain = plain

    def checkpoint(self, name: str, *, prediction: str | None = None, variant: str | None = None) -> Checkpoint:
        """What is known of the checkpoint of that name; its weights are read when they are used.

        `variant` says which files of a folder are taken when it is first named here.
        """
        plain = self._infos.get((name, None))
        if plain is not None and prediction in {None, plain.prediction}:
            return plain
        if (name, prediction) not in self._infos:
            from laur.pipeline.loading.load import load

            loaded = load(name, prediction=prediction, variant=variant)
            self._infos[name, prediction] = loaded.info
            self._loaded.setdefault(loaded.info.key, loaded)
        return self._infos[name, prediction]

    def adopt(self, loaded: LoadedCheckpoint) -> None:
        """Take a checkpoint that is in memory already, under its own name."""
        self._infos[loaded.info.name, None] = loaded.info
        self._loaded[loaded.info.key] = loaded

    def adapter(self, name: str, family: str = "mini") -> BaseAdapter:
        """The adapter of that name or file, found anew where another has been registered under the name since.

        The name of a style means its file for that family of models.
        """
        from laur.style.lookup import form_of, is_style

        if is_style(name) and (file := form_of(name, family).file) is not None:
            name = str(file)
        return self._shelf.named(name)

    def by_content(self, sha256: str) -> BaseAdapter:
        """An adapter that this library has seen, by content."""
        return self._shelf.by_content(sha256)

    def weights(self, checkpoint: str) -> LoadedCheckpoint:
        """A checkpoint that this library has seen, by `Checkpoint.key`."""
        if checkpoint not in self._loaded:
            raise NotFoundError(f"no checkpoint with hash {checkpoint[:10]} is loaded; name it in a recipe first")
        return self._loaded[checkpoint]

    def layers(self, checkpoint: str) -> dict[str, LayerShape]:
        """Every layer of the checkpoint that an adapter may change, by canonical name."""
        if checkpoint not in self._layers:
            from laur.optimize.merge import layer_shapes

            loaded = self.weights(checkpoint)
            layers = layer_shapes(loaded.unet(), "unet")
            for part in loaded.text_parts():
                layers |= layer_shapes(part.model, part.name)
            self._layers[checkpoint] = layers
        return self._layers[checkpoint]

    def require_fit(self, checkpoint: str, adapter: BaseAdapter) -> str:
        """Raise MismatchError where the adapter was made for another architecture; looked at once for each pair.

        Gives how much of its file has no place in the checkpoint, and why, in words; empty for nothing.
        """
        key = (checkpoint, adapter.sha256)
        if key not in self._fitting:
            from laur.optimize.lora_file import LoraFile

            layers = self.layers(checkpoint)
            if isinstance(adapter, LoraFile):
                self._fitting[key] = adapter.coverage(layers).rest
            else:
                adapter.check(layers)
                self._fitting[key] = ""
        return self._fitting[key]

    def encoder(self, checkpoint: str, uses: Uses) -> TextEncoder:
        """The checkpoint's text encoder, with what the adapters change in it and the words that they bring."""
        return self._encoders.encoder(checkpoint, uses)

    def reader(self, checkpoint: str, uses: Uses) -> TextEncoder:
        """What reads prompts into windows as `encoder` would; nothing is merged for it."""
        return self._encoders.reader(checkpoint, uses)

    def encode(self, checkpoint: str, uses: Uses, text: TextSpec) -> States:
        """Cached text states on the library's device."""
        return self._encoders.encode(checkpoint, uses, text)

    def denoiser(self, checkpoint: str, uses: Uses) -> TorchDenoiser:
        """The checkpoint's network with all these adapters merged in."""
        return self._denoisers.get((checkpoint, uses), lambda: self._build_denoiser(checkpoint, uses))

    def many(self, denoisers: int) -> AbstractContextManager[None]:
        """While it lasts so many denoisers stay at least: a step that goes through them in turns builds none anew."""
        return self._denoisers.room_for(denoisers)

    def ready(self, stage: Stage) -> None:
        """Read, place and merge all that a stage's steps need."""
        self.denoiser(stage.checkpoint, self.rows.pinned(stage.checkpoint, stage.adapters))
        self.rows.row_set(stage.checkpoint, stage.adapters)

    def network(self, checkpoint: str) -> Network:
        """The checkpoint's network as it would run here, for what it can do; not to be run."""
        from laur.core.pytorch.cpu import supported
        from laur.core.pytorch.cpu.interface import PlainUNet
        from laur.core.pytorch.cpu.unet import FastUNet, is_known_unet

        unet, place = self.weights(checkpoint).unet(), self.placement
        fast = not self._plain and place.device.type == "cpu" and supported(place.dtype) and is_known_unet(unet)
        return FastUNet(unet, place.dtype) if fast else PlainUNet(unet)

    def decoder(self, checkpoint: str) -> TorchDecoder:
        """The checkpoint's picture decoder."""
        if checkpoint not in self._decoders:
            self._decoders[checkpoint] = self._build_decoder(checkpoint)
        return self._decoders[checkpoint]

    def preview(self, checkpoint: str) -> LatentToRGB:
        """The checkpoint's linear map from latent to RGB, fitted on first use."""
        if checkpoint not in self._previews:
            import torch

            from laur.core.pytorch.preview import fit

            decoder, info = self.decoder(checkpoint), self.weights(checkpoint).info

            @torch.inference_mode()
            def encode(picture: torch.Tensor) -> torch.Tensor:
                encoded = decoder.vae.encode(picture.to(decoder.device, decoder.dtype), return_dict=False)[0]
                mean = encoded.mean if hasattr(encoded, "sample") and hasattr(encoded, "logvar") else encoded
                return (mean.float() - info.latent_shift) * info.latent_scale

            self._previews[checkpoint] = fit(encode, downscale=info.downscale)
        return self._previews[checkpoint]

    def known(self, plan: Plan, picture: InputPicture) -> Known:
        """A picture at a plan's size, encoded for its first stage; cached."""
        from laur.core.pytorch.encoder import TorchEncoder
        from laur.pipeline.begun import known

        checkpoint = plan.stages[0].checkpoint
        info, decoder = self.weights(checkpoint).info, self.decoder(checkpoint)
        encoder = TorchEncoder(decoder.vae, info.latent_scale, info.latent_shift, decoder.device, decoder.dtype)
        key = (checkpoint, picture.ref, plan.width, plan.height)
        return self._known.get_or_make(key, lambda: known(picture, plan, info.downscale, encoder.encode))

    def require_memory(self, plan: Plan, checkpoint: Checkpoint) -> None:
        """Raise ResourceError where one picture of the plan cannot fit."""
        placed = self.holds(checkpoint.key)
        memory.require_for(plan, self.weights(checkpoint.key), self.placement, placed=placed)

    def holds(self, checkpoint: str) -> bool:
        """Whether a checkpoint's network is in memory, with whatever adapters."""
        return any(isinstance(kept, tuple) and kept[0] == checkpoint for kept in list(self._denoisers))

    def locate(self, checkpoint: str, uses: Uses, rows: list[Row]) -> str:
        """Name the first layer that gives NaN or infinity for these rows."""
        from laur.core.pytorch.cpu.interface import PlainUNet
        from laur.utils.locate_nan import first_nonfinite

        plain = PlainUNet(self._unet(checkpoint, uses))
        denoiser = self.denoiser(checkpoint, uses).over(plain)
        rows = [dataclasses.replace(row, adapters=None) for row in rows]  # here they are merged
        report = first_nonfinite(plain.module, lambda: denoiser.predict(rows))
        return "no single layer" if report is None else str(report)

    def provenance(self, plan: Plan, recipe: Recipe) -> Provenance:
        """Which programs, weights and arithmetic make this plan's picture."""
        from laur.pipeline.origin import provenance

        return provenance(self.weights(plan.stages[0].checkpoint).info, self.placement, plan, recipe, self.by_content)

    def _build_denoiser(self, checkpoint: str, uses: Uses) -> TorchDenoiser:
        from laur.core.pytorch.cpu import accelerate
        from laur.core.pytorch.cpu.interface import PlainUNet
        from laur.core.pytorch.denoiser import TorchDenoiser

        if self._is_any_gone:  # its parts know one another, so counting references does not free it
            self._is_any_gone = False
            gc.collect()
        place = self.placement
        unet = self._unet(checkpoint, uses)
        network = PlainUNet(unet) if self._plain else accelerate(unet)
        network.share(self.budget)
        return TorchDenoiser(
            network,
            device=place.device,
            dtype=place.dtype,
            channels_last=place.channels_last,
            guidance_width=self.weights(checkpoint).info.unet_config.get("time_cond_proj_dim"),
        )

    def _ended(self, denoiser: TorchDenoiser) -> None:
        """For those that are kept no longer."""
        denoiser.network.rest()
        self._is_any_gone = True

    def _unet(self, checkpoint: str, uses: Uses) -> Any:
        return self.adapted(checkpoint, {"unet": self.weights(checkpoint).unet()}, uses)["unet"]

    def _build_decoder(self, checkpoint: str) -> TorchDecoder:
        import torch

        from laur.core.pytorch.cpu import accelerate_decoder
        from laur.core.pytorch.decoder import TorchDecoder

        loaded, place = self.weights(checkpoint), self.placement
        vae = loaded.vae()
        # SDXL's own autoencoder overflows in half precision and says so in its config
        if place.dtype is torch.float16 and getattr(vae.config, "force_upcast", False):
            place = dataclasses.replace(place, dtype=torch.float32)
        placed = placed_copy(vae, "vae", {}, place)
        return TorchDecoder(
            placed,
            accelerate_decoder(placed),
            scale=loaded.info.latent_scale,
            shift=loaded.info.latent_shift,
            device=place.device,
            dtype=place.dtype,
            channels_last=place.channels_last,
        )

    def adapted(self, checkpoint: str, modules: dict[str, nn.Module], uses: Uses) -> dict[str, nn.Module]:
        """Copies of the modules, by component name, with the adapters merged in, placed and in the library's dtype.

        Raises MismatchError where an adapter was made for another architecture.
        """
        from laur.optimize.merge import merged_state

        base: dict[str, Tensor] = {}
        for prefix, module in modules.items():
            base |= {f"{prefix}.{name}": tensor for name, tensor in module.named_parameters()}
        terms = (term for use in uses for term in self.rows.terms(checkpoint, use))
        deltas = [(of_components(deltas, modules), weight) for deltas, weight in terms]
        with self.rows.faults(uses):
            changed = merged_state(base, deltas, self.placement.dtype)
        return {prefix: placed_copy(module, prefix, changed, self.placement) for prefix, module in modules.items()}
