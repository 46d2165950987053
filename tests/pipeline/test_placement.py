"""Devices and memory, as far as a machine without a GPU can tell."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from laur.core.errors import NotFoundError, ResourceError
from laur.pipeline import memory
from laur.pipeline.device import choose

SD1 = {"block_out_channels": (320, 640, 1280, 1280), "layers_per_block": 2}
KL: dict[str, Any] = {"block_out_channels": (128, 256, 512, 512)}
TINY: dict[str, Any] = {"decoder_block_out_channels": (64, 64, 64, 64)}


def picture(vae: dict[str, Any], itemsize: int = 2) -> float:
    """MiB."""
    return memory.picture_bytes(512, 512, rows=2, unet=SD1, vae=vae, itemsize=itemsize, downscale=8) / 2**20


def test_the_estimate_covers_what_was_measured_for_sd1s_decoder_at_512() -> None:
    assert 398 < picture(KL) < 2 * 398
    assert 848 < picture(KL, 4) < 2 * 848
    assert picture(TINY) < 0.6 * picture(KL)


def test_a_wish_too_large_is_refused() -> None:
    memory.require(90, 101, "it", "help")
    with pytest.raises(ResourceError):
        memory.require(90, 99, "it", "help")


def test_memory_that_pytorch_keeps_for_itself_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 700)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 200)
    assert memory.available_bytes(SimpleNamespace(type="cuda")) == 600
    assert 0 < memory.available_bytes(torch.device("cpu")) < math.inf


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose("cuda:1").device == torch.device("cuda:1")
    with pytest.raises(NotFoundError, match="cuda:2: this machine has 2 CUDA GPUs"):
        choose("cuda:2")
