"""What several rooms here share: tiny checkpoints, and a server that stands in for registries and museums."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_server import Server, serving

from helpers.tiny import tiny_folder
from laur.pipeline.loading.load import LoadedCheckpoint, load


@pytest.fixture(scope="module", params=["sd1", "sd2", "sdxl"])
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedCheckpoint:
    family: str = request.param
    return load(str(tiny_folder(family, tmp_path_factory.mktemp("checkpoint") / family)))


@pytest.fixture(scope="module")
def sd1_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder("sd1", tmp_path_factory.mktemp("checkpoint") / "sd1")


@pytest.fixture(scope="module")
def sd1(sd1_folder: Path) -> LoadedCheckpoint:
    return load(str(sd1_folder))


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with serving() as found:
        yield found


@pytest.fixture
def server(running: Server) -> Server:
    running.answers.clear()
    running.asked.clear()
    return running
