"""Text encoders of a Library: as checkpoints have them, with what adapters change in them, and with words of theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from laur.pipeline.kept import Kept
from laur.pipeline.placing import encoder_bytes, of_text

if TYPE_CHECKING:
    from laur.core.plan import AdapterUse, TextSpec
    from laur.input.text import TextEncoder
    from laur.input.vectorize import States
    from laur.pipeline.library import Library
    from laur.utils.budget import Budget

Uses = tuple["AdapterUse", ...]


class Encoders:
    """The encoders used last, and a cache of the states that they gave."""

    def __init__(self, library: Library, limit: int, budget: Budget) -> None:
        from laur.input.cache import StatesCache

        self._library = library
        self._kept: Kept[TextEncoder] = Kept(limit, budget, encoder_bytes)
        self._touching: dict[tuple[str, str], bool] = {}
        self.states = StatesCache()
        self.states.share(budget)

    def encoder(self, checkpoint: str, uses: Uses) -> TextEncoder:
        """The checkpoint's, with what the adapters change in it and the words that they bring."""
        words = self.words(uses)
        changed = tuple(use for use in self._changing(checkpoint, uses) if use not in words)
        plain = self._kept.get((checkpoint, changed), lambda: self._build(checkpoint, changed))
        if not words:
            return plain
        return self._kept.get((checkpoint, changed, words), lambda: self._knowing(plain, checkpoint, words))

    def reader(self, checkpoint: str, uses: Uses) -> TextEncoder:
        """What reads a prompt into windows as `encoder` would; nothing is merged for it."""
        return self.encoder(checkpoint, self.words(uses))

    def encode(self, checkpoint: str, uses: Uses, text: TextSpec) -> States:
        """Cached text states on the library's device."""
        from laur.input.cache import StatesKey

        place = self._library.placement
        key = StatesKey(f"{checkpoint}/{place.dtype}/{place.device}", text, self._changing(checkpoint, uses))
        return self.states.get_or_make(key, lambda: self.encoder(checkpoint, uses).encode(text))

    def words(self, uses: Uses) -> Uses:
        """Those that are learned words."""
        from laur.optimize.learned import LearnedWord

        return tuple(
            use for use in uses if use.weight and isinstance(self._library.by_content(use.sha256), LearnedWord)
        )

    def _changing(self, checkpoint: str, uses: Uses) -> Uses:
        """The adapters whose texts are others than the checkpoint's own; all others share its states."""
        words = self.words(uses)
        return tuple(of_text(use) for use in uses if use in words or self._touches(checkpoint, use.sha256))

    def _touches(self, checkpoint: str, sha256: str) -> bool:
        key = (checkpoint, sha256)
        if key not in self._touching:
            names = self._library.rows.deltas(checkpoint, sha256)
            self._touching[key] = any(not name.startswith("unet.") for name in names)
        return self._touching[key]

    def _build(self, checkpoint: str, uses: Uses) -> TextEncoder:
        from laur.input.text import TextEncoder

        loaded = self._library.weights(checkpoint)
        parts = loaded.text_parts()
        modules = self._library.adapted(checkpoint, {part.name: part.model for part in parts}, uses)
        pairs = [(part.tokenizer, modules[part.name]) for part in parts]
        return TextEncoder.of(pairs, xl=loaded.info.family.is_xl, fingerprint=checkpoint)

    def _knowing(self, plain: TextEncoder, checkpoint: str, words: Uses) -> TextEncoder:
        """The same networks, with learned words. Raises MismatchError, AdapterError."""
        from laur.input.text import TextEncoder
        from laur.optimize.learned import LearnedWord

        adapters = [self._library.by_content(use.sha256) for use in words]
        return TextEncoder.of(
            [(part.tokenizer, part.model) for part in plain.parts],
            xl=self._library.weights(checkpoint).info.family.is_xl,
            fingerprint=checkpoint,
            inversions=[adapter.inversion for adapter in adapters if isinstance(adapter, LearnedWord)],
        )
