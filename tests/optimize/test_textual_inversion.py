"""Textual inversions of A1111 and diffusers: what is read, and what is refused in one line."""

from __future__ import annotations

import pytest
import torch
from lora_kit import write

from laur.core.errors import AdapterError, MismatchError
from laur.optimize.textual import TextualInversion, is_textual


def draw(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a1111_calls_a_word_by_its_file(tmp_path):
    vectors = draw(3, 768)
    found = TextualInversion(write(tmp_path / "cat-toy.safetensors", {"emb_params": vectors}))
    assert found.token == "cat-toy" and found.sizes == {"text_encoder": "3 of width 768"}
    assert torch.equal(found.vectors()["text_encoder"], vectors)
    found.check({"text_encoder": 768})
    assert TextualInversion(found.path, "toy").token == "toy"


def test_diffusers_writes_the_word_into_the_file(tmp_path):
    found = TextualInversion(write(tmp_path / "learned_embeds.safetensors", {"<cat-toy>": draw(1024)}))
    assert found.token == "<cat-toy>"
    assert found.vectors()["text_encoder"].shape == (1, 1024)


def test_sdxl_has_vectors_for_both_encoders(tmp_path):
    state = {"clip_l": draw(2, 768).half(), "clip_g": draw(2, 1280, seed=2).half()}
    found = TextualInversion(write(tmp_path / "neg.safetensors", state))
    found.check({"text_encoder": 768, "text_encoder_2": 1280})
    vectors = found.vectors()
    assert torch.equal(vectors["text_encoder"], state["clip_l"])
    assert torch.equal(vectors["text_encoder_2"], state["clip_g"])
    with pytest.raises(MismatchError, match=r"made for SD 1\.x, or SDXL's first .* \(width 768\).* has width 1024"):
        found.check({"text_encoder": 1024})


def test_one_for_sd1_does_not_fit_sdxl(tmp_path):
    found = TextualInversion(write(tmp_path / "a.safetensors", {"emb_params": draw(1, 768)}))
    with pytest.raises(MismatchError, match="has no vectors for text_encoder_2"):
        found.check({"text_encoder": 768, "text_encoder_2": 1280})


REFUSED = {
    "a LoRA": ({"unet.x.lora_A.weight": draw(2, 4)}, "is no textual inversion: it holds unet.x.lora_A.weight"),
    "two words": ({"<a>": draw(768), "<b>": draw(768)}, "is no textual inversion"),
    "no vectors": ({"emb_params": torch.ones(0, 768)}, "should be vectors"),
    "too many": ({"emb_params": torch.ones(76, 768)}, "has 76 vectors"),
    "three sides": ({"emb_params": torch.ones(1, 2, 768)}, "should be vectors"),
    "whole numbers": ({"emb_params": torch.ones(2, 768, dtype=torch.int8)}, "as I8"),
    "NaN": ({"emb_params": torch.full((2, 768), float("nan"))}, "not finite numbers"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused(what, tmp_path):
    state, words = REFUSED[what]
    path = write(tmp_path / "a.safetensors", state)
    with pytest.raises(AdapterError, match=words) as caught:
        TextualInversion(path).vectors()
    assert "\n" not in str(caught.value) and "a.safetensors" in str(caught.value)


def test_pickles_and_damage(tmp_path):
    with pytest.raises(AdapterError, match="is a pickle file"):
        TextualInversion(tmp_path / "old.pt")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00")
    with pytest.raises(AdapterError, match=r"cut\.safetensors"):
        is_textual(tmp_path / "cut.safetensors")
    assert not is_textual(write(tmp_path / "lora.safetensors", {"unet.x.lora_A.weight": draw(2, 4)}))
