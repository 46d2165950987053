"""Words of textual inversion in prompts: the states of diffusers with the same file, and nothing else changed."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file
from tiny_text import clip, clip_tokenizer

from laur.core.errors import MismatchError
from laur.core.plan import TextSpec
from laur.input.text import TextEncoder
from laur.optimize.textual import TextualInversion


@pytest.fixture(scope="module")
def pair():
    tokenizer = clip_tokenizer()
    return tokenizer, clip(tokenizer, width=64)


def vectors(rows: int, width: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def inversion(folder: Path, name: str, state: dict[str, torch.Tensor]) -> TextualInversion:
    save_file(state, folder / f"{name}.safetensors")
    return TextualInversion(folder / f"{name}.safetensors")


def encode(encoder: TextEncoder, prompt: str) -> torch.Tensor:
    return encoder.encode(TextSpec(prompt=prompt, windows=encoder.windows(prompt))).context


@pytest.mark.filterwarnings("ignore")
def test_the_states_are_those_of_diffusers(tmp_path, pair):
    found = inversion(tmp_path, "toy", {"<cat-toy>": vectors(3, 64)})
    ours = TextEncoder.of([pair], xl=False, fingerprint="x", inversions=[found])
    plain = TextEncoder.of([pair], xl=False, fingerprint="x")
    pipe = StableDiffusionPipeline(
        vae=None,
        unet=None,
        text_encoder=copy.deepcopy(pair[1]),
        tokenizer=clip_tokenizer(),
        scheduler=None,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.load_textual_inversion(str(found.path))
    for prompt in ("a photo of <cat-toy> in a red hat", "<cat-toy>", "<cat-toy>, <cat-toy> and a dog"):
        expected, _ = pipe.encode_prompt(prompt, "cpu", 1, do_classifier_free_guidance=False)
        torch.testing.assert_close(encode(ours, prompt), expected[0], rtol=1e-5, atol=1e-5)
        assert not torch.allclose(encode(plain, prompt), expected[0], atol=1e-3)


def test_other_prompts_stay_as_they_are_to_the_last_bit(tmp_path, pair):
    found = inversion(tmp_path, "toy", {"emb_params": vectors(2, 64)})
    ours = TextEncoder.of([pair], xl=False, fingerprint="x", inversions=[found])
    plain = TextEncoder.of([pair], xl=False, fingerprint="x")
    for prompt in ("a fox", "toys and a toyshop", ""):
        assert torch.equal(encode(ours, prompt), encode(plain, prompt))
    before = encode(plain, "a toy")
    assert not torch.equal(encode(ours, "a Toy"), before), "letters of any case are the same word"
    assert torch.equal(encode(plain, "a toy"), before), "the network itself is as it was"
    assert ours.fingerprint != plain.fingerprint and found.sha256 in ours.fingerprint


def test_a_word_has_its_positions_and_its_weight(tmp_path, pair):
    found = inversion(tmp_path, "toy", {"emb_params": vectors(3, 64)})
    ours = TextEncoder.of([pair], xl=False, fingerprint="x", inversions=[found])
    assert ours.tokens("a toy, red") == [("a", [1]), ("toy", [2, 3, 4]), (",", [5]), ("red", [6])]
    assert not torch.equal(encode(ours, "a (toy:1.3)"), encode(ours, "a toy"))
    assert ours.windows("toy " * 25) == 1 and ours.windows("toy " * 26) == 2


def test_both_encoders_of_sdxl_take_their_own(tmp_path, pair):
    state = {"clip_l": vectors(2, 64), "clip_g": vectors(2, 128, seed=2)}
    found = inversion(tmp_path, "toy", state)
    pairs = [pair, (pair[0], clip(pair[0], width=128, projection=32))]
    ours = TextEncoder.of(pairs, xl=True, fingerprint="x", inversions=[found])
    plain = TextEncoder.of(pairs, xl=True, fingerprint="x")
    one, other = encode(ours, "a toy"), encode(plain, "a toy")
    for side in (slice(0, 64), slice(64, None)):
        assert not torch.allclose(one[2:, side], other[2:, side], atol=1e-3)
    # the refiner has the second alone
    alone = TextEncoder.of(pairs[1:], xl=True, fingerprint="x", inversions=[found])
    assert torch.equal(encode(alone, "a toy"), one[:, 64:])
    with pytest.raises(MismatchError, match="has width 64"):
        odd = inversion(tmp_path, "odd", {"clip_l": vectors(1, 96), "clip_g": vectors(1, 128)})
        TextEncoder.of(pairs, xl=True, fingerprint="x", inversions=[odd])
