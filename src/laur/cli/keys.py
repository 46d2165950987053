"""`laur keys`: API keys for `laur serve --keys FILE`."""

from __future__ import annotations

from typing import Annotated

import typer

from laur.cli.console import say

keys_app = typer.Typer(no_args_is_help=True, help="API keys of a server.")
EXAMPLES = """[bold]Examples[/]

laur keys new acme >> keys.toml

laur keys new acme --requests-per-second 5 --pictures-per-day 1000 >> keys.toml"""


@keys_app.command(epilog=EXAMPLES)
def new(
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="Whose jobs it makes and sees.")],
    *,
    requests_per_second: Annotated[float | None, typer.Option(metavar="N", min=0.001)] = None,
    pictures_per_day: Annotated[int | None, typer.Option(metavar="N", min=1)] = None,
    pixels_per_day: Annotated[int | None, typer.Option(metavar="N", min=1)] = None,
    metrics: Annotated[bool, typer.Option("--metrics", help="It may read /metrics.")] = False,
) -> None:
    """Make a key: itself on standard error, once; its entry for the file on standard output."""
    from laur.serve.access.keys import new as draw

    secret, key = draw(tenant)
    limits = {
        "requests_per_second": requests_per_second,
        "pictures_per_day": pictures_per_day,
        "pixels_per_day": pixels_per_day,
    }
    lines = ["[[key]]", f'tenant = "{key.tenant}"', f'sha256 = "{key.sha256}"']
    lines += [f"{name} = {value}" for name, value in limits.items() if value is not None]
    lines += ["metrics = true"] * metrics
    typer.echo("\n".join([*lines, ""]))
    say(f"the key of {key.tenant}, which is shown only now: {secret}")
