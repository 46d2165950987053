"""Are there known vulnerabilities in the versions that constraints.txt pins? Asks OSV, https://osv.dev.

Ends with 0 where there are none, 1 where there are some, 3 where nobody could be asked: then nothing is known, and it
says so. With --if-reachable the last is no failure either, for machines without a network.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

OSV = "https://api.osv.dev"
PINS = Path(__file__).parents[1] / "constraints.txt"
ACCEPTED: Mapping[str, str] = {}
"""Advisories that do not concern us, each with the reason."""
AT_ONCE = 500
"""Packages in one question."""


def pins(text: str) -> list[tuple[str, str]]:
    """Names and versions."""
    lines = (line.partition("#")[0].partition(";")[0].strip() for line in text.splitlines())
    return [(name, version) for name, sign, version in (line.partition("==") for line in lines) if sign]


def ask(service: str, packages: Sequence[tuple[str, str]], seconds: float = 30.0) -> dict[str, list[str]]:
    """Advisories by package. Raises OSError where the service cannot be asked, ValueError for a strange answer."""
    found: dict[str, list[str]] = {}
    for first in range(0, len(packages), AT_ONCE):
        some = packages[first : first + AT_ONCE]
        queries = [{"package": {"name": name, "ecosystem": "PyPI"}, "version": version} for name, version in some]
        body = json.dumps({"queries": queries}).encode()
        request = urllib.request.Request(f"{service}/v1/querybatch", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=seconds) as answer:
            results: list[dict[str, Any]] = json.load(answer)["results"]
        if len(results) != len(some):
            raise ValueError(f"{len(results)} answers to {len(some)} questions")
        for (name, version), result in zip(some, results, strict=True):
            if numbers := [entry["id"] for entry in result.get("vulns", ()) if entry["id"] not in ACCEPTED]:
                found[f"{name} {version}"] = numbers
    return found


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--if-reachable", action="store_true", help="no failure where nobody could be asked")
    parser.add_argument("--pins", type=Path, default=PINS)
    args = parser.parse_args()
    packages = pins(args.pins.read_text(encoding="utf-8"))
    service = os.environ.get("LAUR_OSV", OSV)
    try:
        found = ask(service, packages)
    except (OSError, ValueError, KeyError) as error:
        print(f"NOT AUDITED: {service} could not be asked about {len(packages)} packages ({error})", file=sys.stderr)
        return 0 if args.if_reachable else 3
    for package, numbers in found.items():
        print(f"{package}: {', '.join(f'https://osv.dev/{number}' for number in numbers)}")
    print(f"{len(packages)} packages asked about, {len(found)} with known vulnerabilities, {len(ACCEPTED)} accepted")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
