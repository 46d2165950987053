"""A checkpoint by name: what is known of it at once, its networks when they are asked for."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import laur.models
from laur.core.checkpoint import Checkpoint, Family
from laur.core.errors import AmbiguousError, CheckpointError
from laur.pipeline.loading.detect import PREDICTIONS, SD2_NATIVE, Traits, detect
from laur.pipeline.loading.hashes import file_state, identity, weights_sha256
from laur.pipeline.loading.names import Kind, Located, locate
from laur.pipeline.loading.remember import Remembered
from laur.pipeline.loading.source import TEXT_ENCODERS, Source, open_source

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True, slots=True)
class TextPart:
    """One text encoder with its tokenizer."""

    name: str
    """text_encoder or text_encoder_2."""
    tokenizer: Any
    model: nn.Module


class LoadedCheckpoint:
    """Networks of one checkpoint, each read from disk when it is first asked for and then kept.

    They are in eval mode, on the CPU, without gradients, and nobody writes to their weights. Weights in the dtype that
    they are stored in are mapped from the file and shared with the system's file cache; who replaces such a file while
    it is in use should rename the new one over it, as downloaders do, and not write into it.
    """

    def __init__(self, info: Checkpoint, source: Source, dtype: torch.dtype | None = None) -> None:
        self.info = info
        self._source = source
        self._dtype = dtype
        self._states = {path: file_state(path) for files in source.files().values() for path in files}
        self._networks: dict[str, nn.Module] = {}
        self._text: tuple[TextPart, ...] | None = None

    def unet(self) -> Any:
        """diffusers' UNet2DConditionModel."""
        return self._network("unet")

    def vae(self) -> Any:
        """diffusers' AutoencoderKL or AutoencoderTiny."""
        return self._network("vae")

    def text_parts(self) -> tuple[TextPart, ...]:
        """transformers' text encoders with their tokenizers, in the order in which their states stand."""
        if self._text is None:
            names = [name for name in self._source.components if name in TEXT_ENCODERS]
            self._text = tuple(TextPart(name, self._tokenizer(name), self._network(name)) for name in names)
        return self._text

    def over(self, unet: nn.Module, info: Checkpoint) -> LoadedCheckpoint:
        """The same checkpoint with another denoiser, which is in memory and described by `info`."""
        other = copy.copy(self)
        other.info = info
        other._networks = {**self._networks, "unet": unet}
        return other

    def weights_bytes(self) -> int:
        """Of all components, as stored; nothing is read but headers."""
        return self._source.weights_bytes()

    def _network(self, component: str) -> nn.Module:
        if component not in self._networks:
            from laur.pipeline.loading.assemble import assemble

            self._check_unchanged()
            self._networks[component] = assemble(self._source, component, self._dtype)
        return self._networks[component]

    def _check_unchanged(self) -> None:
        """What is read now must be what `info.sha256` was computed over."""
        for path, state in self._states.items():
            try:
                changed = file_state(path) != state
            except OSError:
                changed = True
            if changed:
                raise CheckpointError(f"{path.name} changed on disk while it was in use; load {self.info.name} again")

    def _tokenizer(self, component: str) -> Any:
        from laur.pipeline.loading.assemble import load_class

        kind, folder, options = self._source.tokenizer(component)
        try:
            return load_class(kind).from_pretrained(folder, local_files_only=True, **options)
        except Exception as error:  # the tokenizers library raises nothing more exact
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"the tokenizer in {folder} cannot be read: {reason}") from None


def load(
    name: str, *, prediction: str | None = None, dtype: torch.dtype | None = None, variant: str | None = None
) -> LoadedCheckpoint:
    """The checkpoint called `name`: embedded name, diffusers folder, .safetensors file, user's model or hub id.

    Args:
        name: see `laur.pipeline.loading.names.locate`.
        prediction: epsilon, v_prediction or sample; goes before what the files say.
        dtype: of the networks; None keeps what is stored.
        variant: of a folder's files, fp16 say; None takes plain files, and fp16 where there are only those.

    Raises:
        NotFoundError: no checkpoint of that name.
        CheckpointError: files that cannot be read, pickles, or another kind of model.
        AmbiguousError: an SD 2 file that does not say what it predicts, and whose network gave no clear answer either.
    """
    if prediction is not None and prediction not in PREDICTIONS:
        raise CheckpointError(f"prediction {prediction!r} is unknown; choose one of {', '.join(PREDICTIONS)}")
    located = locate(name)
    source = open_source(located, variant=variant)
    source.weights_bytes()  # reads every header, so that a damaged file is known now
    traits = in_plain_words(lambda: detect(source, prediction), located)
    info = _checkpoint(located, source, traits, traits.prediction or "epsilon")
    if traits.prediction is None:
        info = _checkpoint(located, source, traits, _ask(info, source))
    return LoadedCheckpoint(info, source, dtype)


def in_plain_words(read: Callable[[], Traits], located: Located) -> Traits:
    """What `read` gives; configs that make no sense as one CheckpointError."""
    try:
        return read()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"the configs of {located.path} make no sense ({reason}); download it again") from None


def _checkpoint(located: Located, source: Source, traits: Traits, prediction: str) -> Checkpoint:
    fields = {field.name: getattr(traits, field.name) for field in dataclasses.fields(traits)}
    fields["prediction"] = prediction
    if traits.family is Family.SD2 and source.path.is_file():
        # the file's name for its size; widths at which nothing was published keep it too
        fields["native_size"] = SD2_NATIVE.get(prediction, traits.native_size)
        fields["unet_config"] = traits.unet_config | {"sample_size": fields["native_size"] // traits.downscale}
    if located.kind is Kind.EMBEDDED:
        own = f"lcm-lora-{located.name}"
        adapters = (own,) if own in laur.models.adapter_names() else ()
        fields["defaults"] = dataclasses.replace(traits.defaults, adapters=adapters)
    sha256 = weights_sha256(source.files())
    key = identity(source, sha256)
    return Checkpoint(name=located.name, path=located.path, sha256=sha256, key=key, **fields)


def _ask(info: Checkpoint, source: Source) -> str:
    """Let the network itself say what it predicts, once for each content; SDXL's kin are asked of the user at once."""
    remedy = "give --prediction epsilon or --prediction v_prediction"
    if info.family.is_xl:
        raise AmbiguousError(f"{source.clue}; {remedy}")
    probed = Remembered("probed.json")
    answer = probed.get(info.sha256)
    if answer not in PREDICTIONS:
        import torch

        from laur.pipeline.loading.assemble import assemble
        from laur.pipeline.loading.probe import probe_prediction

        # float32, since half precision is slow or missing on CPUs; this copy is dropped again
        answer = probe_prediction(assemble(source, "unet", torch.float32), info.schedule)
    if answer is None:
        raise AmbiguousError(f"{source.clue}, and a test of its network was not conclusive; {remedy}")
    probed.put(info.sha256, answer)
    probed.save()
    return answer
