"""Read each deployment file with its own tool's parser, offline: `make check-deploy` installs those in .venv-deploy."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def check_skypilot(path: Path) -> str:
    """Raises what SkyPilot's parser raises."""
    import sky  # pyright: ignore[reportMissingImports] # only in .venv-deploy

    task = sky.Task.from_yaml(str(path))
    if not task.run or not task.resources:
        raise ValueError(f"{path} has no command or no resources")
    return f"{path.relative_to(ROOT)}: {len(task.resources)} kinds of machine"


def main() -> int:
    """Print a line for each file; 1 where one is refused."""
    failed = False
    for path in sorted((ROOT / "deploy" / "skypilot").glob("*.yaml")):
        try:
            print(check_skypilot(path))
        except Exception as error:
            failed = True
            print(f"{path.relative_to(ROOT)}: {error}", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
