"""The API of AUTOMATIC1111's stable-diffusion-webui, as its clients use it for drawing from text.

That program serves one user; here `options`, `progress` and `interrupt` are each tenant's own, in this process.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import time
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request

from laur.core.errors import NotFoundError, RecipeError
from laur.core.recipe import Recipe
from laur.input.tags import take
from laur.render.a1111 import SAMPLER_NAMES
from laur.serve import events
from laur.serve.http import wishes
from laur.serve.http.a1111_models import (
    Drawn,
    Info,
    InfoBody,
    LoraItem,
    ModelItem,
    Named,
    Progress,
    Text2Image,
)
from laur.serve.http.common import Tenant, TheService
from laur.serve.http.openai import failure_of
from laur.serve.http.pictures import ThePictures, decoded
from laur.serve.http.problem import responses
from laur.serve.job import Job, Record
from laur.serve.service import Service

router = APIRouter(prefix="/sdapi/v1", tags=["a1111"])
_SAMPLERS = {theirs.lower(): ours for ours, theirs in SAMPLER_NAMES.items()}
_NEAREST = {"euler a": "euler", "dpm++ 2m karras": "dpm++2m", "dpm++ 2m a": "dpm++2m"}
"""What clients ask for by default and we do not have, to what is drawn instead; the info says so."""
TENANTS = 1000
"""Whose options are remembered."""


@dataclass(slots=True)
class Under:
    """What one tenant has under way, and has set."""

    jobs: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    """Step and steps by job."""
    picture: bytes | None = None
    """The last preview."""
    model: str | None = None
    began: float = 0.0
    interrupted: bool = False


@dataclass(slots=True)
class Desk:
    """All tenants'."""

    tenants: dict[str, Under] = field(default_factory=dict[str, Under])

    def of(self, tenant: str) -> Under:
        """A tenant's, made where it is new; the oldest that is idle makes room."""
        if tenant not in self.tenants and len(self.tenants) >= TENANTS:
            idle = next((name for name, under in self.tenants.items() if not under.jobs), None)
            if idle is not None:
                del self.tenants[idle]
        return self.tenants.setdefault(tenant, Under())


@dataclass(slots=True)
class Drawing:
    """One request for pictures."""

    body: Text2Image
    service: Service
    under: Under
    notes: list[str] = field(default_factory=list[str])
    """What is drawn in another way than was asked for."""

    async def finish(self, number: int, content: bytes) -> bytes:
        """The file of a picture as it is given to the client."""
        return content

    def parameters(self) -> dict[str, Any]:
        """What was asked for."""
        return self.body.model_dump()


def desk_of(request: Request) -> Desk:
    """Where it is remembered what tenants have under way."""
    return request.app.state.desk


@router.post("/txt2img", response_model=Drawn, responses=responses(404, 409, 429, 500, 504, 507))
async def text_to_image(body: Text2Image, service: TheService, tenant: Tenant, request: Request) -> Any:
    """Draw."""
    under = desk_of(request).of(tenant)
    recipe, notes = recipe_of(body, service, under)
    jobs = wishes.several(recipe, (body.batch_size or 1) * (body.n_iter or 1), tenant=tenant, previews=True)
    return await draw(Drawing(body, service, under, notes), jobs, request)


async def draw(what: Drawing, jobs: list[Job], request: Request) -> Any:
    """Queue jobs, and answer with their pictures; who hangs up or interrupts takes them along."""
    service, under, body = what.service, what.under, what.body
    await service.submit_all(jobs)
    under.interrupted, under.began = False, under.began if under.jobs else time.time()
    under.jobs |= {job.id: (0, 0) for job in jobs}
    following = [asyncio.create_task(_follow(service, job, under)) for job in jobs]
    try:
        records = await service.finish([job.id for job in jobs], request.is_disconnected)
    finally:
        for task in following:
            task.cancel()
        for job in jobs:
            under.jobs.pop(job.id, None)
        if not under.jobs:
            under.picture = None
    if (failed := failure_of(records)) is not None:
        return failed
    contents = [await service.content(record.result) for record in records if record.result is not None]
    contents = [await what.finish(number, content) for number, content in enumerate(contents)]
    images = [base64.b64encode(content).decode() for content in contents] if body.send_images is not False else []
    info = json.dumps(_info(records, contents, what))
    return Drawn(images=images, parameters=what.parameters(), info=info)


@router.get("/progress", responses=responses())
async def progress(tenant: Tenant, request: Request) -> Progress:
    """How far what is under way has come."""
    under = desk_of(request).of(tenant)
    done = sum(step for step, _ in under.jobs.values())
    steps = sum(steps for _, steps in under.jobs.values())
    share = done / steps if steps else 0.0
    eta = (time.time() - under.began) * (1 / share - 1) if share else 0.0
    state = {
        "skipped": False,
        "interrupted": under.interrupted,
        "job": next(iter(under.jobs), ""),
        "job_count": len(under.jobs),
        "job_no": 0,
        "sampling_step": min((step for step, _ in under.jobs.values()), default=0),
        "sampling_steps": max((steps for _, steps in under.jobs.values()), default=0),
    }
    picture = None if under.picture is None else base64.b64encode(under.picture).decode()
    return Progress(progress=share, eta_relative=eta, state=state, current_image=picture)


@router.post("/interrupt", responses=responses())
async def interrupt(service: TheService, tenant: Tenant, request: Request) -> dict[str, Any]:
    """Cancel what this tenant has under way here."""
    under = desk_of(request).of(tenant)
    under.interrupted = bool(under.jobs)
    await service.cancel(list(under.jobs))
    return {}


@router.get("/options", responses=responses())
async def options(service: TheService, tenant: Tenant, request: Request) -> dict[str, Any]:
    """The one option that means something here."""
    under = desk_of(request).of(tenant)
    return {"sd_model_checkpoint": under.model or service.names.models()[0], "samples_format": "png"}


@router.post("/options", responses=responses(404))
async def set_options(body: dict[str, Any], service: TheService, tenant: Tenant, request: Request) -> None:
    """Choose the checkpoint of later requests; other options are taken and change nothing."""
    name = body.get("sd_model_checkpoint")
    if name is not None:
        if not isinstance(name, str):
            raise RecipeError("sd_model_checkpoint must be a model's name")
        wishes.checkpoint(service, name)
        desk_of(request).of(tenant).model = name


@router.get("/sd-models", responses=responses())
async def models(service: TheService) -> list[ModelItem]:
    """The checkpoints."""
    names = await asyncio.to_thread(service.names.models)
    return [ModelItem(title=name, model_name=name, filename=name) for name in names]


@router.get("/loras", responses=responses())
async def loras(service: TheService) -> list[LoraItem]:
    """The adapters."""
    names = await asyncio.to_thread(service.names.adapters)
    return [LoraItem(name=name, alias=name, path=name, metadata={}) for name in names]


@router.get("/samplers", responses=responses())
async def samplers() -> list[Named]:
    """The samplers, by A1111's names."""
    return [Named(name=theirs, aliases=[ours], options={}) for ours, theirs in SAMPLER_NAMES.items()]


@router.post("/png-info", responses=responses())
async def png_info(body: InfoBody, pictures: ThePictures) -> Info:
    """Read how a picture was made."""
    content = decoded(body.image.partition(",")[2] if body.image.startswith("data:") else body.image)
    await pictures.read(content)  # within its limits
    return await asyncio.to_thread(_read, content)


def _read(content: bytes) -> Info:
    from laur.render.metadata import read

    found = read(content)
    items = {"parameters": found.parameters} if found.parameters else {}
    return Info(info=found.parameters or "", items=items, parameters=dict(found.parsed))


def recipe_of(body: Text2Image, service: Service, under: Under) -> tuple[Recipe, list[str]]:
    """A recipe, and notes on what is drawn in another way than was asked for. Raises RecipeError, NotFoundError."""
    notes: list[str] = []
    asked = body.sampler_name or body.sampler_index
    sampler = None if asked is None else _sampler(asked, notes)
    overridden = (body.override_settings or {}).get("sd_model_checkpoint")
    name = overridden if isinstance(overridden, str) else under.model
    prompt, adapters = take(body.prompt)
    if body.enable_hr:
        raise RecipeError("enable_hr is not offered here; ask for the larger size itself")
    seed = body.seed if body.seed is not None and body.seed >= 0 else secrets.randbelow(wishes.SEEDS)
    recipe = Recipe(
        prompt=prompt,
        negative_prompt=body.negative_prompt or "",
        seed=seed,
        sampler=sampler,
        steps=body.steps,
        guidance=body.cfg_scale,
        width=body.width,
        height=body.height,
        adapters=adapters or None,
        checkpoint=wishes.checkpoint(service, name),
    )
    return recipe, notes


def _sampler(name: str, notes: list[str]) -> str:
    known = name.lower()
    if known in _NEAREST:
        instead = SAMPLER_NAMES[_NEAREST[known]]
        notes.append(f"sampler {name} is not offered here; drawn with {instead}")
        return _NEAREST[known]
    if known not in _SAMPLERS and known not in SAMPLER_NAMES:
        raise NotFoundError(f"sampler {name[:80]!r} not found; there are {', '.join(SAMPLER_NAMES.values())}")
    return _SAMPLERS.get(known, known)


async def _follow(service: Service, job: Job, under: Under) -> None:
    async with aclosing(service.queue.watch(job.id)) as watch:
        async for event in watch:
            if isinstance(event, events.Progress) and job.id in under.jobs:
                under.jobs[job.id] = (event.step, event.steps)
            elif isinstance(event, events.Preview):
                under.picture = event.data


def _info(records: list[Record], contents: list[bytes], what: Drawing) -> dict[str, Any]:
    from laur.render.metadata import read

    body = what.body
    hidden = [record.result.blurred if record.result else None for record in records]
    notes = [*what.notes, *(f"picture {n} is blurred: {why}" for n, why in enumerate(hidden) if why)]
    texts = [read(content).parameters or "" for content in contents]
    recipes = [record.result.recipe for record in records if record.result is not None]
    first = recipes[0]
    return {
        "prompt": body.prompt,
        "all_prompts": [body.prompt] * len(recipes),
        "negative_prompt": first.negative_prompt,
        "seed": first.seed,
        "all_seeds": [recipe.seed for recipe in recipes],
        "width": first.width,
        "height": first.height,
        "sampler_name": SAMPLER_NAMES.get(first.sampler or "", first.sampler),
        "cfg_scale": first.guidance,
        "steps": first.steps,
        "denoising_strength": first.strength,
        "batch_size": body.batch_size,
        "sd_model_name": first.checkpoint,
        "sd_model_hash": (first.checkpoint_sha256 or "")[:10],
        "infotexts": texts,
        "index_of_first_image": 0,
        "extra_generation_params": {"Laur": "; ".join(notes)} if notes else {},
    }
