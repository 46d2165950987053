"""Sends requests to an HTTP server on loopback and notes how long each took; a process of its own for the benchmarks.

    python benchmarks/load_generator.py '{"url": "http://127.0.0.1:8000", "streams": [{"clients": 8, "seconds": 10}]}'

A stream with `rate` is an open loop: requests leave at the times of a Poisson process whether earlier ones were
answered or not, and latency counts from the time at which a request was due. One with `clients` is a closed loop: each
client sends its next request when the last one was answered. All streams run at once. It speaks plain HTTP/1.1 over
kept connections, so that it takes next to nothing of the processor that it shares with the server.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import urlsplit

SUBJECTS = ("red apple", "castle", "birthday cake", "fox", "blue rocket", "green tree", "dog face", "red dragon")
Wire = tuple[asyncio.StreamReader, asyncio.StreamWriter]
LONGEST = 120.0
"""Seconds after which an answer is not waited for."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One request."""

    due: float
    """Seconds from the beginning."""
    seconds: float
    """Until the whole answer was there."""
    status: int
    """0 where the connection broke."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """What is sent."""

    seconds: float
    rate: float | None = None
    """Requests a second."""
    clients: int = 0
    path: str = "/v1/images/generations"
    body: dict[str, Any] = field(default_factory=dict)
    tenant: str = "default"
    seed: int = 0
    """Of arrivals and recipes: no two streams of one run should share it."""
    arrivals: int | None = None
    """In place of `seed` for when requests come: two streams that are compared may share it."""

    def content(self, number: int) -> bytes:
        """A request's body: no two ask for the same picture."""
        own = {"prompt": f"a {SUBJECTS[number % len(SUBJECTS)]}, number {number}", "seed": 10_000 * self.seed + number}
        return json.dumps({**own, **self.body}).encode()


class Connections:
    """Kept ones to one server."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._idle: list[Wire] = []

    async def post(self, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        """Status and body. Raises OSError, asyncio.IncompleteReadError, TimeoutError."""
        lines = {"Host": self._host, "Content-Type": "application/json", "Content-Length": str(len(body)), **headers}
        head = f"POST {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        content = head.encode() + b"\r\n" + body
        if self._idle:  # which the server may have closed at this very moment
            wire = self._idle.pop()
            try:
                return await self._exchange(wire, content)
            except (OSError, asyncio.IncompleteReadError):
                pass
        return await self._exchange(await asyncio.open_connection(self._host, self._port, limit=2**24), content)

    async def _exchange(self, wire: Wire, request: bytes) -> tuple[int, bytes]:
        try:
            async with asyncio.timeout(LONGEST):
                wire[1].write(request)
                status, content, keep = await _answer(wire[0])
        except BaseException:
            wire[1].close()
            raise
        if keep:
            self._idle.append(wire)
        else:
            wire[1].close()
        return status, content

    def close(self) -> None:
        """Close them."""
        for _, writer in self._idle:
            writer.close()


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes, bool]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
    content = await reader.readexactly(int(fields.get("content-length", 0)))
    return int(head[0].split()[1]), content, fields.get("connection") != "close"


async def send(connections: Connections, stream: Stream, number: int, due: float, began: float) -> Sample:
    """One request."""
    try:
        headers = {"Laur-Tenant": stream.tenant}
        status, _ = await connections.post(stream.path, stream.content(number), headers)
    except (OSError, asyncio.IncompleteReadError):
        status = 0
    return Sample(due, time.perf_counter() - began - due, status)


async def run(connections: Connections, stream: Stream) -> list[Sample]:
    """All requests of a stream, the last answers included."""
    began = time.perf_counter()
    if stream.rate is None:
        clients = [_client(connections, stream, client, began) for client in range(stream.clients)]
        return [sample for samples in await asyncio.gather(*clients) for sample in samples]
    draw, due, number = random.Random(stream.seed if stream.arrivals is None else stream.arrivals), 0.0, 0
    sent: list[asyncio.Task[Sample]] = []
    while (due := due + draw.expovariate(stream.rate)) < stream.seconds:
        await asyncio.sleep(max(0.0, due - (time.perf_counter() - began)))
        sent.append(asyncio.create_task(send(connections, stream, number, due, began)))
        number += 1
    return list(await asyncio.gather(*sent))


async def _client(connections: Connections, stream: Stream, client: int, began: float) -> list[Sample]:
    samples: list[Sample] = []
    while (now := time.perf_counter() - began) < stream.seconds:
        number = client + stream.clients * len(samples)
        samples.append(await send(connections, stream, number, now, began))
    return samples


async def main() -> None:
    """Read the wish from the command line and print the samples of each stream."""
    wish = json.loads(sys.argv[1])
    connections = Connections(wish["url"])
    streams = [Stream(**values) for values in wish["streams"]]
    found = await asyncio.gather(*(run(connections, stream) for stream in streams))
    connections.close()
    print(json.dumps([[asdict(sample) for sample in samples] for samples in found]))


if __name__ == "__main__":
    asyncio.run(main())
