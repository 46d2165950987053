"""What `laur doctor` looks at, one small function each."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from laur.core.errors import LaurError

if TYPE_CHECKING:
    from laur.pipeline.device import Placement

PACKAGE = "lcm-laur"
FOR_USERS_OF = {"dev": "developing Laur"}
"""Extras that are no lack for those who only draw."""
MEMORY_TO_DRAW = 1.5 * 2**30
DISK_FOR_CACHE = 0.5 * 2**30

State = Literal["ok", "note", "fault"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    state: State
    """A fault stands in the way of drawing, a note does not."""
    detail: str
    remedy: str = ""


def examine(device: str | None, dtype: str | None, *, draw: bool) -> Iterator[Check]:
    """All checks, in the order in which one depends on the other."""
    yield _program()
    torch = _guarded("torch", _torch)
    yield torch
    if torch.state == "fault":
        return
    yield from _placement(device, dtype)
    for name, look in (("memory", _memory), ("cache", _cache), ("model mini", _mini), ("formats", _formats)):
        yield _guarded(name, look)
    yield from _extras()
    if draw:
        yield _guarded("drawing", lambda: _drawing(device, dtype))


def _guarded(name: str, look: Callable[[], Check]) -> Check:
    """What goes wrong while looking is itself what was found."""
    try:
        return look()
    except LaurError as error:
        return Check(name, "fault", str(error))
    except Exception as error:
        return Check(name, "fault", f"{type(error).__name__}: {' '.join(str(error).split())}")


def _program() -> Check:
    from laur import __version__

    python = platform.python_version()
    return Check("laur", "ok", f"{__version__}, Python {python}, {platform.system()} {platform.machine()}")


def _torch() -> Check:
    import diffusers
    import torch
    import torchvision
    import transformers

    versions = f"{torch.__version__}, torchvision {torchvision.__version__}"
    return Check(
        "torch", "ok", f"{versions}, diffusers {diffusers.__version__}, transformers {transformers.__version__}"
    )


def _placement(device: str | None, dtype: str | None) -> Iterator[Check]:
    from laur.pipeline.device import choose

    try:
        place = choose(device, dtype)
    except LaurError as error:
        yield Check("device", "fault", str(error))
        return
    yield Check("device", "ok", f"{place.device} ({_device_name(place)}), {place.dtype_name}")
    if place.device.type == "cpu":
        yield _processor()


def _device_name(place: Placement) -> str:
    if place.device.type == "cuda":
        import torch

        free, total = torch.cuda.mem_get_info(place.device)
        return f"{torch.cuda.get_device_name(place.device)}, {_gib(free)} of {_gib(total)} free"
    names = re.findall(r"^model name\s*: (.+)$", _cpuinfo(), re.MULTILINE)
    return names[0] if names else platform.processor() or platform.machine()


def _cpuinfo() -> str:
    """Linux alone says there what its processor is called."""
    try:
        return Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        return ""


def _processor() -> Check:
    import torch

    from laur.pipeline.device import cpu_has_bfloat16

    threads, cores = (
        torch.get_num_threads(),
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    )
    speed = "bfloat16 in hardware" if cpu_has_bfloat16() else "no bfloat16 in hardware, so float32"
    return Check("processor", "ok", f"{threads} threads on {cores} cores, {speed}")


def _memory() -> Check:
    import psutil

    memory = psutil.virtual_memory()
    detail = f"{_gib(memory.available)} of {_gib(memory.total)} free"
    if memory.available < MEMORY_TO_DRAW:
        return Check("memory", "note", detail, f"drawing with mini takes about {_gib(MEMORY_TO_DRAW)}: close something")
    return Check("memory", "ok", detail)


def _cache() -> Check:
    import shutil
    import tempfile

    from laur.core.places import cache_folder

    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"laur")
    except OSError as error:
        remedy = "set LAUR_CACHE to a folder that you can write to"
        return Check("cache", "fault", f"{folder} cannot be written: {error.strerror}", remedy)
    free = shutil.disk_usage(folder).free
    detail = f"{folder}, {_gib(free)} free"
    if free < DISK_FOR_CACHE:
        return Check("cache", "note", detail, "free some space, or set LAUR_CACHE to a folder elsewhere")
    return Check("cache", "ok", detail)


def _mini() -> Check:
    """Expanded here if it was not, then read to the last byte."""
    from laur.models import checkpoint_folder
    from laur.models.manifest import Manifest

    folder = checkpoint_folder("mini")
    manifest = Manifest.read(folder)
    changed = [path for path, entry in manifest.files.items() if _sha256(folder / path) != entry.sha256]
    if changed:
        return Check("model mini", "fault", f"{', '.join(changed)} in {folder} is damaged", f"remove {folder}")
    return Check("model mini", "ok", f"{folder}, {manifest.size / 2**20:.0f} MiB, intact")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _extras() -> Iterator[Check]:
    """Every extra of the package: there, or the command that installs it."""
    from importlib.metadata import PackageNotFoundError, metadata

    try:
        extras = metadata(PACKAGE).get_all("Provides-Extra") or []
    except PackageNotFoundError:
        return
    for extra in sorted(extras):
        lacking = list(_lacking(extra))
        purpose = f" (for {FOR_USERS_OF[extra]})" if extra in FOR_USERS_OF else ""
        if lacking:
            detail = f"not installed: {', '.join(lacking)}{purpose}"
            yield Check(
                f"extra {extra}", "note", detail, f'{Path(sys.executable).name} -m pip install "{PACKAGE}[{extra}]"'
            )
        else:
            yield Check(f"extra {extra}", "ok", f"installed{purpose}")


def _lacking(extra: str) -> Iterator[str]:
    from importlib.metadata import PackageNotFoundError, requires, version

    from packaging.requirements import Requirement

    for text in requires(PACKAGE) or []:
        wanted = Requirement(text)
        if (
            wanted.marker is None
            or wanted.marker.evaluate({"extra": ""})
            or not wanted.marker.evaluate({"extra": extra})
        ):
            continue
        try:
            if not wanted.specifier.contains(version(wanted.name), prereleases=True):
                yield str(wanted).split(";")[0].strip()
        except PackageNotFoundError:
            yield str(wanted).split(";")[0].strip()


def _formats() -> Check:
    from laur.render import registry

    lacking: list[str] = []
    for name in registry.formats():
        try:
            registry.get(name).require()
        except LaurError:
            lacking.append(name)
    if lacking:
        remedy = f"{Path(sys.executable).name} -m pip install --upgrade --force-reinstall pillow"
        return Check("formats", "note", f"this Pillow cannot write {', '.join(lacking)}", remedy)
    return Check("formats", "ok", ", ".join(registry.formats()))


def _drawing(device: str | None, dtype: str | None) -> Check:
    import time

    from laur.core.recipe import Recipe
    from laur.pipeline.engine import Engine

    begun = time.perf_counter()
    engine = Engine("mini", device=device, dtype=dtype)
    loaded = time.perf_counter()
    image = engine.run([Recipe(prompt="a red apple", seed=7, steps=1, width=64, height=64)])[0]
    if image.getextrema() == ((0, 0), (0, 0), (0, 0)):
        return Check("drawing", "fault", "the picture came out black", "try --dtype float32")
    ended = time.perf_counter()
    return Check("drawing", "ok", f"loaded in {loaded - begun:.1f} s, one step at 64x64 in {ended - loaded:.1f} s")


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"
