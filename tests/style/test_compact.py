"""Styles in 8 bits: read back as any LoRA, and near to what was written."""

from __future__ import annotations

from pathlib import Path

import torch

from laur.optimize.deltas import LowRank
from laur.optimize.layers import LayerShape
from laur.optimize.lora_file import LoraFile
from laur.style import compact


def test_a_compact_file_reads_back_as_a_lora_within_a_few_percent(tmp_path: Path) -> None:
    noise = torch.Generator().manual_seed(0)
    up = torch.randn(64, 4, generator=noise) * 1e-3  # factors of very different size, as training leaves them
    linear = LowRank(up, torch.randn(4, 96, generator=noise) * 3, 2.0)
    kernel = LowRank(torch.randn(32, 4, 1, 1, generator=noise), torch.randn(4, 16, 3, 3, generator=noise) * 1e-4, 1.0)
    written = {"mid_block.attentions.0.to_q": linear, "mid_block.resnets.0.conv1": kernel}
    path = tmp_path / "style.safetensors"
    compact.write(written, path, {"format": "pt"})
    layers = {
        "unet.mid_block.attentions.0.to_q": LayerShape((64, 96)),
        "unet.mid_block.resnets.0.conv1": LayerShape((32, 16, 3, 3)),
    }
    read = LoraFile(path).deltas(layers)
    assert set(read) == set(layers)
    for name, delta in written.items():
        base = torch.zeros(layers[f"unet.{name}"].weight)
        wanted, found = delta.apply(base), read[f"unet.{name}"].apply(base)
        error = float((found - wanted).norm() / wanted.norm())
        assert 0 < error < 0.05
    assert path.stat().st_size < 64 * 4 + 4 * 96 + 32 * 4 + 4 * 16 * 9 + 2_000
