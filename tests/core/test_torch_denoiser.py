"""What the PyTorch denoiser makes of rows, over a network that returns what it was given."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from laur.core.denoiser import Row
from laur.core.errors import AdapterError
from laur.core.pytorch.denoiser import TorchDenoiser

SHAPE = (4, 2, 2)


class Middle:
    """Predicts the middle block's residual."""

    def __call__(self, sample: Tensor, *_: object, residuals: Sequence[Tensor] | None = None, **__: object) -> Tensor:
        return torch.zeros_like(sample) if residuals is None else residuals[-1]


def row(**fields: object) -> Row:
    return Row(latent=torch.zeros(SHAPE), timestep=1.0, context=torch.zeros(3, 5), **fields)  # pyright: ignore


@pytest.fixture
def denoiser() -> TorchDenoiser:
    return TorchDenoiser(Middle(), device=torch.device("cpu"), dtype=torch.float32)


def test_rows_without_residuals_get_none_of_their_neighbours(denoiser: TorchDenoiser) -> None:
    given = row(residuals=(torch.ones(SHAPE), torch.full(SHAPE, 2.0)))
    for rows in ([row(), given], [given, row()]):
        predictions = denoiser.predict(rows)
        assert [float(part.mean()) for part in predictions] == [0.0 if r.residuals is None else 2.0 for r in rows]


def test_image_tokens_are_refused_and_not_passed_over(denoiser: TorchDenoiser) -> None:
    with pytest.raises(AdapterError, match="image tokens"):
        denoiser.predict([row(), row(image_tokens=torch.zeros(2, 5))])
