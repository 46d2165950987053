"""Text to states: CLIP alone (SD 1.x, 2.x), two CLIPs side by side (SDXL), BERT with its mask (mini).

An unweighted prompt of one window gives exactly the tensors of diffusers' `encode_prompt`. Longer ones fill several
windows (see `laur.input.windows`), set one after the other along the length; the pooled text is the first window's.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from laur.core.errors import RecipeError
from laur.core.plan import TextSpec
from laur.input.vectorize import States, Vectorize
from laur.input.windows import Frame, Reading, Windower

if TYPE_CHECKING:
    from laur.optimize.textual import TextualInversion

_ROUNDING = 1e-4
"""A mean below this fraction of the root mean square says nothing: it is what rounding left."""


@dataclass(eq=False, slots=True)
class EncoderPart:
    """One tokenizer with its text network, as transformers loads them; the network is put in eval mode."""

    tokenizer: Any
    model: Any
    penultimate: bool = False
    """Whether the usual layer is the last but one, without its final norm (SDXL), or the last."""
    learned: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    """Words with vectors (n, D) of their own, as textual inversion makes them."""
    windower: Windower = field(init=False)
    _table: Tensor | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.model.eval()  # dropout would make the states random
        rows: dict[str, range] = {}
        for word, vectors in self.learned.items():
            begin = next(reversed(rows.values())).stop if rows else 0
            rows[word] = range(begin, begin + len(vectors))
        if self.learned:
            embedding = self.model.get_input_embeddings().weight
            self._table = torch.cat([v.to(embedding.device, embedding.dtype) for v in self.learned.values()])
        self.windower = Windower(self.tokenizer, int(self.model.config.max_position_embeddings), rows)

    @property
    def width(self) -> int:
        """Channels of the states."""
        return int(self.model.config.hidden_size)

    @property
    def pooled_width(self) -> int | None:
        """Channels of the projected pooled text; None where the network has no projection."""
        return int(self.model.config.projection_dim) if hasattr(self.model, "text_projection") else None

    def check_clip_skip(self, clip_skip: int) -> None:
        """Raises RecipeError where the network has not that many layers to skip."""
        layers = int(self.model.config.num_hidden_layers)
        most = layers - 1 if self.penultimate else layers
        if not 1 <= clip_skip <= most:
            raise RecipeError(
                f"clip skip is {clip_skip}; this checkpoint's text encoder has {layers} layers, "
                f"so it must be from 1 to {most}"
            )

    @torch.no_grad()
    def run(self, frames: Sequence[Frame], clip_skip: int) -> tuple[Tensor, Tensor | None]:
        """States (N, window, D) of N windows, and the projected pooled text (N, P) where there is one."""
        self.check_clip_skip(clip_skip)
        device = self.model.device
        inputs = {"input_ids": torch.tensor([frame.ids for frame in frames], device=device)}
        if getattr(self.model.config, "use_attention_mask", False):
            inputs["attention_mask"] = torch.tensor([frame.mask for frame in frames], device=device)
        depth = clip_skip - 1 + self.penultimate
        with self._in_place(frames):
            output = self.model(**inputs, output_hidden_states=depth > 0)
        states = output.last_hidden_state if depth == 0 else output.hidden_states[-1 - depth]
        if depth and not self.penultimate:
            states = self._norm(states)
        weights = torch.tensor([frame.weights for frame in frames], device=device)
        return emphasise(states, weights), getattr(output, "text_embeds", None)

    @contextmanager
    def _in_place(self, frames: Sequence[Frame]) -> Generator[None]:
        """Learned vectors where the embedding would look up tokens: the networks take no vectors themselves."""
        table = self._table
        places = [(row, at, v) for row, frame in enumerate(frames) for at, v in frame.vectors.items()]
        if table is None or not places:
            yield
            return

        def put(module: Any, inputs: Any, output: Tensor) -> Tensor:
            del module, inputs
            rows, positions, vectors = (list(column) for column in zip(*places, strict=True))
            output = output.clone()
            output[rows, positions] = table[vectors]
            return output

        hook = self.model.get_input_embeddings().register_forward_hook(put)
        try:
            yield
        finally:
            hook.remove()

    def _norm(self, states: Tensor) -> Tensor:
        """CLIP's final norm, which an earlier layer has not had; BERT's layers end in their own."""
        # the norm sits on `text_model` in some versions and classes of transformers, on the model itself in others
        norm = getattr(getattr(self.model, "text_model", self.model), "final_layer_norm", None)
        return states if norm is None else norm(states)


class TextEncoder(Vectorize[TextSpec]):
    """All text encoders of one checkpoint: their states side by side, the pooled text of the one that has it.

    States come out in the networks' dtype (float32 or bfloat16), on their device; the denoiser casts them. The
    windows of one prompt run together, those of two prompts never do.
    """

    def __init__(self, parts: Sequence[EncoderPart], *, fingerprint: str) -> None:
        """`fingerprint` names the weights, a sha256 say; all parts must have windows of one length."""
        sizes = {part.windower.size for part in parts}
        if len(sizes) != 1:
            raise ValueError(f"the parts of a text encoder need windows of one length, not of {sorted(sizes)}")
        self.parts = tuple(parts)
        self.window = sizes.pop()
        """Positions of one window in the context, begin and end included."""
        self._weights = fingerprint

    @classmethod
    def of(
        cls,
        pairs: Sequence[tuple[Any, Any]],
        *,
        xl: bool,
        fingerprint: str,
        inversions: Sequence[TextualInversion] = (),
    ) -> TextEncoder:
        """From (tokenizer, network) pairs; `xl` takes the last but one layer (SDXL, its refiner, SSD-1B).

        `inversions` are words that prompts may use beside the tokenizers' own. Raises MismatchError for one that was
        made for another text encoder, AdapterError for one that cannot be read; the first of two of one name counts.
        """
        # SDXL's refiner has the second of the two alone
        names = ("text_encoder_2",) if xl and len(pairs) == 1 else ("text_encoder", "text_encoder_2")[: len(pairs)]
        widths = {name: int(model.config.hidden_size) for name, (_, model) in zip(names, pairs, strict=True)}
        learned: dict[str, dict[str, Tensor]] = {name: {} for name in names}
        for inversion in inversions:
            inversion.check(widths)
            for name, vectors in inversion.vectors().items():
                learned.get(name, {}).setdefault(inversion.token, vectors)
            fingerprint += f"/{inversion.token}={inversion.sha256}"
        parts = [
            EncoderPart(*pair, penultimate=xl, learned=learned[name]) for name, pair in zip(names, pairs, strict=True)
        ]
        return cls(parts, fingerprint=fingerprint)

    @property
    def fingerprint(self) -> str:
        """Weights, dtype and device. Adapters are not in it: give them to `StatesKey`."""
        return f"{self._weights}/{self.dtype}/{self.device}"

    @property
    def device(self) -> torch.device:
        """Of the last part, whose dtype and device all states take, as in diffusers."""
        return self.parts[-1].model.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the last part."""
        return self.parts[-1].model.dtype

    def windows(self, prompt: str) -> int:
        """How many windows the prompt needs, at least 1. Runs no network. Raises RecipeError as `encode` does."""
        return max(len(part.windower.read(prompt).windows) for part in self.parts)

    def check(self, spec: TextSpec) -> None:
        """Raises the RecipeErrors of `encode` without running a network."""
        for part in self.parts:
            part.check_clip_skip(spec.clip_skip)
        self.windows(spec.prompt)

    def encode(self, item: TextSpec) -> States:
        """Context (windows · window, D) and, for SDXL, pooled (P,).

        Raises RecipeError for weights, lengths and clip skips that cannot be; ValueError where the prompt needs more
        windows than the plan gave it, which is a mistake of whoever made the plan.
        """
        if item.zeros:
            return self._zeros(item.windows)
        outputs = [self._encode_part(part, item) for part in self.parts]
        context = torch.cat([context.to(self.device, self.dtype) for context, _ in outputs], dim=-1)
        pooled = [pooled for _, pooled in outputs if pooled is not None]
        return States(context, pooled[-1].to(self.device, self.dtype) if pooled else None)

    def tokens(self, prompt: str) -> list[tuple[str, list[int]]]:
        """Each word (or mark) of the prompt with its positions in the context, in order; a word may recur.

        Positions are those of the first part; the parts of SDXL share one vocabulary.
        """
        reading = self.parts[0].windower.read(prompt)
        positions: list[list[int]] = [[] for _ in reading.words]
        for number, window in enumerate(reading.windows):
            for place, piece in enumerate(window):
                positions[piece.word].append(number * self.window + 1 + place)
        return [(word, where) for word, where in zip(reading.words, positions, strict=True) if where]

    def _encode_part(self, part: EncoderPart, spec: TextSpec) -> tuple[Tensor, Tensor | None]:
        reading = part.windower.read(spec.prompt)
        padding = spec.windows - len(reading.windows)
        if padding < 0:
            raise ValueError(_too_few(spec, reading))
        windows = [*reading.windows, *([[]] if padding else [])]
        states, pooled = part.run([part.windower.frame(window) for window in windows], spec.clip_skip)
        if padding > 1:  # every further empty window is the same
            states = torch.cat([states, states[-1:].expand(padding - 1, -1, -1)])
        return states.flatten(0, 1), None if pooled is None else pooled[0].clone()

    def _zeros(self, windows: int) -> States:
        width = sum(part.width for part in self.parts)
        context = torch.zeros(windows * self.window, width, dtype=self.dtype, device=self.device)
        pooled = [part.pooled_width for part in self.parts if part.pooled_width is not None]
        return States(context, context.new_zeros(pooled[-1]) if pooled else None)


def emphasise(states: Tensor, weights: Tensor) -> Tensor:
    """States (N, L, D) times weights (N, L), each window scaled back to the mean that it had: A1111's emphasis.

    The scale is held to what the weights can explain, and left at 1 where the mean is mere rounding; without that,
    networks whose states have a mean near zero would be scaled at random. Windows of weight 1 come back unchanged.
    """
    weighted = (weights != 1).any(dim=1)
    if not weighted.any():
        return states
    before = states.float()
    after = before * weights.unsqueeze(-1)
    mean_before, mean_after = before.mean(dim=(1, 2)), after.mean(dim=(1, 2))
    real = mean_before.abs() > _ROUNDING * before.square().mean(dim=(1, 2)).sqrt()
    lowest = 1 / weights.amax(dim=1).clamp(min=1.0)
    highest = 1 / weights.amin(dim=1).clamp(min=0.1, max=1.0)
    scale = (mean_before / mean_after).nan_to_num(1.0).clamp(lowest, highest)
    restored = after * torch.where(real, scale, 1.0)[:, None, None]
    return torch.where(weighted[:, None, None], restored.to(states.dtype), states)


def _too_few(spec: TextSpec, reading: Reading) -> str:
    return (
        f"the plan gives the text {spec.windows} windows and it needs {len(reading.windows)}; ask TextEncoder.windows"
    )
