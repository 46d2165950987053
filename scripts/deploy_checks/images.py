"""The image and the compose file: hadolint, the Compose specification's parser, and what both leave open."""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deploy_checks import RefusedError, refuse_unless
from deploy_checks.kubernetes import read

DOCKER = Path("deploy/docker")
CLOSE = 10
"""Seconds that a process needs after its grace."""


def check_docker(root: Path) -> Iterator[str]:
    """The Dockerfile: no finding of hadolint, all that is copied is there, and what it must say is said."""
    path = root / DOCKER / "Dockerfile"
    name = (DOCKER / "Dockerfile").as_posix()
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, "--no-color", str(path)], capture_output=True, text=True, check=False)
    refuse_unless(done.returncode == 0, f"{name}: hadolint: {' '.join((done.stdout + done.stderr).split())[:500]}")
    text = re.sub(r"\\\n", " ", path.read_text("utf-8"))
    instructions = [line.split(maxsplit=1) for line in text.splitlines() if line.strip() and not line.startswith("#")]
    for word, rest in instructions:
        if word == "COPY" and "--from" not in rest:
            for source in [part for part in shlex.split(rest) if not part.startswith("--")][:-1]:
                _check_copied(root, source, name)
    last = instructions[max(number for number, (word, _) in enumerate(instructions) if word == "FROM") :]
    said = dict(last)
    for word in ("HEALTHCHECK", "USER", "ENTRYPOINT"):
        refuse_unless(word in said, f"{name}: the last stage has no {word}")
    refuse_unless(said["USER"].split(":")[0].isdigit() and said["USER"] != "0", f"{name}: USER is no number above 0")
    refuse_unless('"tini"' in said["ENTRYPOINT"], f"{name}: process 1 is not tini, which passes signals on and reaps")
    yield f"{name}: {sum(word == 'FROM' for word, _ in instructions)} stages"


def _check_copied(root: Path, source: str, name: str) -> None:
    """It exists, and the ignore file lets it through."""
    refuse_unless((root / source).exists(), f"{name} copies {source}, which is not there")
    sent = False
    for line in (root / DOCKER / "Dockerfile.dockerignore").read_text("utf-8").splitlines():
        pattern = line.strip()
        if pattern and not pattern.startswith("#") and fnmatch.fnmatch(source, pattern.removeprefix("!")):
            sent = pattern.startswith("!")
    refuse_unless(sent, f"{name} copies {source}, which Dockerfile.dockerignore keeps back")


def check_compose(root: Path) -> Iterator[str]:
    """The compose file: the specification, what it names is there, and each service drains in time."""
    import compose_spec

    path, name = root / DOCKER / "compose.yaml", (DOCKER / "compose.yaml").as_posix()
    [content] = read(path.read_text("utf-8"), name)
    try:  # as JSON, which is YAML too: `<<` is resolved in it, which the parser would take for a key
        compose_spec.PyCompose.from_yaml(json.dumps(content))
    except ValueError as error:
        raise RefusedError(f"{name}: {error}") from None
    services: dict[str, dict[str, Any]] = content["services"]
    for service, entry in services.items():
        _check_service(root, content, entry, f"{name}: {service}")
        for other, how in entry.get("depends_on", {}).items():
            refuse_unless(other in services, f"{name}: {service} waits for {other}, which is not there")
            healthy = how["condition"] != "service_healthy" or "healthcheck" in services[other]
            refuse_unless(healthy, f"{name}: {service} waits for {other}, which never says that it is healthy")
    yield f"{name}: {', '.join(services)}"


def _check_service(root: Path, content: dict[str, Any], entry: dict[str, Any], what: str) -> None:
    for volume in entry.get("volumes", []):
        source = volume.split(":")[0]
        refuse_unless(source in content["volumes"], f"{what}: {source} is no volume of this file")
    if "build" in entry:
        context = (root / DOCKER / entry["build"]["context"]).resolve()
        refuse_unless((context / entry["build"]["dockerfile"]).is_file(), f"{what}: there is no such Dockerfile")
        refuse_unless(entry.get("read_only") is True, f"{what} has a root file system that can be written")
        refuse_unless(entry.get("cap_drop") == ["ALL"], f"{what} keeps capabilities")
        grace = float(entry["command"][entry["command"].index("--grace") + 1])
        given = float(entry.get("stop_grace_period", "10s").removesuffix("s"))
        refuse_unless(given >= grace + CLOSE, f"{what} is killed after {given:.0f} s; --grace {grace:.0f} needs more")
    else:
        refuse_unless("always" in entry["command"], f"{what}: without appendfsync always jobs may be lost")
        refuse_unless("noeviction" in entry["command"], f"{what}: without noeviction a full Redis forgets jobs")
