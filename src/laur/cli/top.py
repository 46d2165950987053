"""`laur top`: what servers and workers are doing, again and again, or once."""

from __future__ import annotations

import os
import time
from collections import deque
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

import typer

from laur.cli.console import console, stdout_is_terminal
from laur.cli.options import FLAG
from laur.core.errors import MissingDependencyError, UnavailableError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from laur.serve.observe.scraped import Scraped

EXAMPLES = """[bold]Examples[/]

laur top

laur top http://api:8000 http://worker-1:9000 http://worker-2:9000

laur top --once"""
WINDOW = 60.0
"""Seconds that rates and times look back."""
ONCE = 1.0
"""Seconds between the two looks that a single frame's rates take."""


def top(
    urls: Annotated[
        list[str] | None, typer.Argument(metavar="[URL]...", help="Servers and workers; http://127.0.0.1:8000.")
    ] = None,
    *,
    every: Annotated[float, typer.Option(metavar="SECONDS", min=0.2, max=3600.0, help="Between frames.")] = 2.0,
    once: Annotated[
        bool, typer.Option("--once", metavar=FLAG, help="One frame; so too where the output is no terminal.")
    ] = False,
) -> None:
    """Show queue, workers, batches, times, caches and error budget of running servers; Ctrl-C ends it.

    They are read from /metrics. Workers that are not named are known by the queue's figures only. Where a server asks
    for a key, it is taken from LAUR_API_KEY; it must be one that reads metrics.
    """
    for package in ("httpx2", "prometheus_client"):
        if find_spec(package) is None:
            raise MissingDependencyError(f"laur top needs {package}; install it with: pip install 'lcm-laur[serve]'")
    from laur.cli.top_display import frame

    places = [_address(url) for url in urls or ["http://127.0.0.1:8000"]]
    looks: deque[list[Scraped]] = deque([_look(places, strict=True)])
    if once or not stdout_is_terminal():
        time.sleep(min(ONCE, every))
        looks.append(_look(places, strict=True))
        _print(frame(looks[-1], looks[0], places))
        return
    from rich.live import Live

    with Live(console=console(), auto_refresh=False) as live:
        while True:
            live.update(frame(looks[-1], looks[0], places), refresh=True)
            time.sleep(every)
            looks.append(_look(places, strict=False))
            while len(looks) > 2 and _age(looks) > WINDOW:
                looks.popleft()


def _age(looks: deque[list[Scraped]]) -> float:
    return time.monotonic() - looks[0][0].at if looks[0] else WINDOW + 1


def _address(url: str) -> str:
    return (url if "://" in url else f"http://{url}").rstrip("/")


def _look(urls: list[str], *, strict: bool) -> list[Scraped]:
    """What those that answer say. With `strict`, UnavailableError where none does."""
    import httpx2

    found: list[Scraped] = []
    trouble = ""
    key = os.environ.get("LAUR_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with httpx2.Client(timeout=5.0, headers=headers, trust_env=False) as client:
        for url in urls:
            try:
                found.append(_read(client, url))
            except UnavailableError as error:
                trouble = trouble or str(error)
    if strict and not found:
        raise UnavailableError(trouble)
    return found


def _read(client: object, url: str) -> Scraped:
    import httpx2

    from laur.serve.observe.scraped import Scraped

    assert isinstance(client, httpx2.Client)
    try:
        answer = client.get(f"{url}/metrics")
    except httpx2.InvalidURL:
        raise UnavailableError(f"{url[:200]} is no address; write http://HOST:PORT") from None
    except httpx2.HTTPError as error:
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise UnavailableError(f"cannot reach {url[:200]}: {why}; is `laur serve` running there?") from None
    if answer.status_code == 401:
        raise UnavailableError(f"{url[:200]} asks for a key that reads metrics; set LAUR_API_KEY")
    if answer.status_code == 403:
        raise UnavailableError(f"{url[:200]} does not let the key of LAUR_API_KEY read metrics")
    try:
        scraped = Scraped.read(url, time.monotonic(), answer.text)
    except ValueError:
        scraped = None
    if answer.status_code != 200 or scraped is None or not any(scraped.of("laur_queue_up")):
        raise UnavailableError(f"{url[:200]} answers, but not as `laur serve` does; check the address")
    return scraped


def _print(shown: RenderableType) -> None:
    """Without the blanks at the end of lines that rich fills up with."""
    screen = console()
    with screen.capture() as captured:
        screen.print(shown)
    for line in captured.get().splitlines():
        typer.echo(line.rstrip())
