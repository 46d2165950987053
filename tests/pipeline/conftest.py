"""Engines over the embedded model, shared by the tests of this folder: loading takes longer than drawing."""

import pytest

from laur.pipeline.engine import Engine


@pytest.fixture(scope="session")
def engine32() -> Engine:
    return Engine("mini", device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def engine16() -> Engine:
    return Engine("mini", device="cpu", dtype="bfloat16")
