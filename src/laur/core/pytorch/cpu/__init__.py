"""A UNet and a decoder that run faster on a CPU than the modules they were made from, with the same weights.

Without a compiler at run time: everything is built from operators that PyTorch carries for its own compiler (oneDNN
convolutions and linears with pre-packed weights and fused residuals and activations) and from algebra:

- `packed`     weights kept in oneDNN's blocked layout, packed again only where `load` changes them
- `resample`   nearest upsampling folded into the convolution behind it (4 taps a pixel in place of 9)
- `norm`       group normalisation for channels-last maps, where PyTorch's own is slow
- `attention`  fused projections, fused residuals; scores as two products, faster here than PyTorch's flash kernel
- `context`    cross-attention keys and values, computed once per prompt, not once per step
- `time`       the projections of a timestep, computed once per timestep, not once per picture
- `unet`, `decoder`   the walk through the blocks

Layers of an unknown kind run as they are; a network whose blocks are unknown, or a machine without these operators,
gets the plain module behind the same interface.
"""

from __future__ import annotations

from laur.core.pytorch.cpu.decoder import accelerate_decoder
from laur.core.pytorch.cpu.support import supported
from laur.core.pytorch.cpu.unet import accelerate

__all__ = ["accelerate", "accelerate_decoder", "supported"]
