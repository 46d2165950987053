"""`laur serve` and `laur worker`: pictures over HTTP, on this machine or on many."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from laur.cli.console import say, warn
from laur.cli.options import Dtype
from laur.cli.serve_options import (
    ACCESS,
    QUEUE,
    Devices,
    Grace,
    Keep,
    Lease,
    Limit,
    Logs,
    Measure,
    Model,
    Namespace,
    Safety,
    Serves,
    Store,
    Training,
)
from laur.core.errors import MissingDependencyError
from laur.core.recipe import DEFAULT_CHECKPOINT
from laur.serve.observe.logs import LogFormat, set_up

if TYPE_CHECKING:
    from laur.serve.start import Parts, Setup
    from laur.serve.training.worker import TrainingWorker

SERVE_EXAMPLES = """[bold]Examples[/]

laur serve

laur serve --host 0.0.0.0 --keys keys.toml --redis redis://queue:6379/0 --store s3://pictures/laur"""
WORKER_EXAMPLES = """[bold]Examples[/]

laur worker --redis redis://queue:6379/0 --store s3://pictures/laur --device cuda

laur worker --redis redis://queue:6379/0 --device cuda:0 --device cuda:1"""


def serve(
    *,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="0.0.0.0 is every network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65535)] = 8000,
    model: Model = DEFAULT_CHECKPOINT,
    also: Serves = None,
    redis: Annotated[
        str | None,
        typer.Option(
            envvar="LAUR_REDIS", metavar="URL", help="Hand jobs to `laur worker`s through Redis.", rich_help_panel=QUEUE
        ),
    ] = None,
    store: Store = None,
    namespace: Namespace = "laur",
    limit: Limit = 1000,
    keep: Keep = 24.0,
    lease: Lease = 15.0,
    max_size: Annotated[int, typer.Option(metavar="PIXELS", min=64, max=16384, help="Side of the largest square.")] = (
        2048
    ),
    webhooks: Annotated[
        str, typer.Option(metavar="WHICH", help="off, public (addresses outside private networks) or any.")
    ] = "off",
    image_urls: Annotated[
        str, typer.Option(metavar="WHICH", help="Fetch pictures that requests give by address: off, public or any.")
    ] = "off",
    keys: Annotated[
        Path | None,
        typer.Option(
            envvar="LAUR_KEYS",
            metavar="FILE",
            help="API keys: without one of them nothing but the probes answers; see `laur keys`.",
            rich_help_panel=ACCESS,
        ),
    ] = None,
    open_metrics: Annotated[
        bool, typer.Option("--open-metrics", help="/metrics answers without a key.", rich_help_panel=ACCESS)
    ] = False,
    cors: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN",
            help="Web pages whose scripts may ask, as https://app.example.com; none by default.",
            rich_help_panel=ACCESS,
        ),
    ] = None,
    grace: Grace = 25.0,
    objective: Annotated[
        float, typer.Option(metavar="PERCENT", min=0.0, max=100.0, help="Of jobs to be done, for the error budget.")
    ] = 99.0,
    log_format: Logs = LogFormat.TEXT,
    safety: Safety = None,
    train: Training = False,
    measure: Measure = True,
    device: Devices = None,
    dtype: Dtype = None,
) -> None:
    """Draw over HTTP: Laur's own API, OpenAI's, AUTOMATIC1111's, Cog's and Replicate's.

    Without --redis this one process does it all, and what waits in it ends with it.
    """
    _require()
    from laur.serve.access import Access
    from laur.serve.access.keys import Keys
    from laur.serve.observe.objective import Objective
    from laur.serve.service import Limits
    from laur.serve.start import make_crew, parts, run

    for option, value in (("--webhooks", webhooks), ("--image-urls", image_urls)):
        if value not in {"off", "public", "any"}:
            raise typer.BadParameter(f"{value!r} is not off, public or any", param_hint=option)
    setup = _setup(
        model=model, also=also, device=device, dtype=dtype, redis=redis, store=store, namespace=namespace, limit=limit,
        keep=keep, lease=lease, grace=grace, measure=measure, safety=safety,
        limits=Limits(pixels=max_size**2), image_urls=image_urls,
        log_format=log_format, objective=Objective(share=objective / 100),
    )  # fmt: skip
    access = Access(
        keys=None if keys is None else Keys(keys), open_metrics=open_metrics, origins=tuple(map(_origin, cors or ()))
    )
    opened = parts(setup)
    crew = make_crew(setup, opened) if redis is None else None

    trainer = _trainer(opened, setup) if train and redis is None else None

    def make(stop: Callable[[], None]) -> Any:
        from laur.serve.http.app import create_app
        from laur.serve.http.webhooks import Allowed, Webhooks

        return create_app(
            opened.service,
            crew,
            webhooks=Webhooks(Allowed(webhooks)),
            stop=stop,
            access=access,
            trains=train,
            trainer=trainer,
        )

    if keys is None and not _is_loopback(host):
        warn(f"everybody who reaches {host} may draw and see any job whose id is known; --keys FILE asks for API keys")
    _announce(f"http://{host}:{port}  (Ctrl-C stops)", log_format)
    run(make, host, port, grace)


def worker(
    *,
    redis: Annotated[
        str, typer.Option(envvar="LAUR_REDIS", metavar="URL", help="Where the jobs are.", rich_help_panel=QUEUE)
    ],
    store: Store = None,
    namespace: Namespace = "laur",
    keep: Keep = 24.0,
    lease: Lease = 15.0,
    limit: Limit = 1000,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Of probes and metrics.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="Of probes and metrics; 0: any.")] = 0,
    model: Model = DEFAULT_CHECKPOINT,
    also: Serves = None,
    grace: Grace = 25.0,
    log_format: Logs = LogFormat.TEXT,
    safety: Safety = None,
    train: Training = False,
    measure: Measure = True,
    device: Devices = None,
    dtype: Dtype = None,
) -> None:
    """Draw jobs from Redis until told to stop: SIGTERM finishes what is being drawn.

    /health/live, /health/ready and /metrics answer on --port. Workers and servers of one queue share --store,
    --namespace, --keep, --lease and --limit.
    """
    _require()
    from laur.serve.start import make_crew, parts, run

    setup = _setup(
        model=model, also=also, device=device, dtype=dtype, redis=redis, store=store, namespace=namespace, limit=limit,
        keep=keep, lease=lease, grace=grace, measure=measure, safety=safety,
        log_format=log_format, service_name="laur-worker",
    )  # fmt: skip
    opened = parts(setup)
    drawing = make_crew(setup, opened)

    trainer = _trainer(opened, setup) if train else None

    def make(stop: Callable[[], None]) -> Any:
        from laur.serve.http.app import create_worker_app

        return create_worker_app(drawing, stop=stop, tracing=opened.tracing, trainer=trainer)

    _announce(f"{setup.worker.name} draws with {model}  (Ctrl-C stops)", log_format)
    run(make, host, port, grace)


def _setup(
    *,
    also: list[str] | None,
    namespace: str,
    limit: int,
    keep: float,
    lease: float,
    grace: float,
    model: str,
    device: list[str] | None,
    log_format: LogFormat,
    **rest: Any,
) -> Setup:
    from laur.serve.queue import QueueOptions
    from laur.serve.start import Setup
    from laur.serve.worker.options import WorkerOptions

    set_up(log_format)
    return Setup(
        checkpoint=model,
        serves=None if also is None else frozenset(also),
        queue=QueueOptions(namespace=namespace, limit=limit, keep=keep * 3600, lease=lease),
        worker=WorkerOptions(grace=grace),
        device=device[0] if device else None,
        devices=tuple(device or ()),
        **rest,
    )


def _announce(text: str, log_format: LogFormat) -> None:
    """For people as it is, among JSON as a line of the log."""
    if log_format is LogFormat.JSON:
        logging.getLogger("laur").info("%s", text)
    else:
        say(text)


def _trainer(opened: Parts, setup: Setup) -> TrainingWorker:
    if find_spec("pyarrow") is None:
        raise MissingDependencyError("--train needs pyarrow; install it with: pip install 'lcm-laur[train]'")
    from laur.cli.serve_training import make_trainer

    return make_trainer(opened, setup.checkpoint, setup.device or next(iter(setup.devices), None))


def _is_loopback(host: str) -> bool:
    import ipaddress

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _origin(text: str) -> str:
    """As browsers send it. Raises typer.BadParameter."""
    from urllib.parse import urlsplit

    parts = urlsplit(text)
    if text != "*" and (parts.scheme not in {"http", "https"} or not parts.netloc or parts.path.strip("/")):
        raise typer.BadParameter(f"{text!r} is no origin; write https://app.example.com", param_hint="--cors")
    return text.rstrip("/")


def _require() -> None:
    for package in ("fastapi", "uvicorn", "prometheus_client", "fsspec", "python_multipart"):
        if find_spec(package) is None:
            raise MissingDependencyError(f"serving needs {package}; install it with: pip install 'lcm-laur[serve]'")
