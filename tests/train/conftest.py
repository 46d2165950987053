"""A server on this machine that stands in for registries and museums, emptied for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fake_server import Server, serving


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with serving() as found:
        yield found


@pytest.fixture
def server(running: Server) -> Server:
    running.answers.clear()
    running.asked.clear()
    return running
