"""Read each deployment file with its own tool's parser, offline: `make check-deploy` installs those in .venv-deploy."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from deploy_checks import Check, RefusedError
from deploy_checks.broken import check_refusals
from deploy_checks.images import check_compose, check_docker
from deploy_checks.kubernetes import check_kubernetes, find_kubectl
from deploy_checks.launches import check_cloudformation, check_cog, check_skypilot

ROOT = Path(__file__).resolve().parents[1]
CHECKS: Sequence[Check] = (
    check_docker,
    check_compose,
    check_kubernetes,
    check_cloudformation,
    check_cog,
    check_skypilot,
    lambda root: check_refusals(root, built=find_kubectl() is not None),
)


def main(root: Path = ROOT) -> int:
    """Print a line for each file; 1 where one is refused."""
    failed = False
    for check in CHECKS:
        try:
            for line in check(root):
                print(line)
        except RefusedError as error:
            failed = True
            print(f"REFUSED {error}", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
