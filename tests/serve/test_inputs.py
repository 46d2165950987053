"""Pictures that clients send: kept by tenant and content, found by every worker, gone only after their jobs."""

import io
import os
import struct
import time
import zlib

import numpy as np
import pytest
from fake_engine import FakeEngine
from kit import job, working
from PIL import Image

from laur.core.errors import NotFoundError, PictureError, RecipeError
from laur.core.recipe import AdapterRef, Recipe
from laur.input.image import InputPicture
from laur.serve.cache import open_index
from laur.serve.inputs import Inputs, mentioned, refs_of
from laur.serve.job import State
from laur.serve.service import Limits, Service
from laur.serve.store import Store
from laur.serve.worker.names import Names


def picture(seed=0, side=16):
    return InputPicture(np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8))


def png(image, **how):
    file = io.BytesIO()
    image.save(file, how.pop("format", "PNG"), **how)
    return file.getvalue()


@pytest.fixture(params=["folder", "memory"])
def store(request, tmp_path):
    yield Store(tmp_path / "results" if request.param == "folder" else f"memory://laur-{tmp_path.name}")


def test_a_picture_comes_back_as_it_was_to_its_tenant_alone(store):
    mask = InputPicture(np.arange(256, dtype=np.uint8).reshape(16, 16))
    for what in (picture(), mask):
        ref = Inputs(store).add("anna", what)
        assert ref == what.ref
        np.testing.assert_array_equal(Inputs(store).load("anna", ref).pixels, what.pixels)
        for nobody in ("bert", "default"):
            with pytest.raises(NotFoundError, match="send it again"):
                Inputs(store).load(nobody, ref)
            with pytest.raises(NotFoundError):
                Inputs(store).hold(nobody, [ref])


def test_removed_is_gone(store):
    inputs = Inputs(store)
    ref = inputs.add("anna", picture())
    held = inputs.load("anna", ref)
    assert (inputs.remove("bert", ref), inputs.remove("anna", ref), inputs.remove("anna", ref)) == (False, True, False)
    with pytest.raises(NotFoundError):
        inputs.load("anna", ref)
    assert held.ref == ref


def test_files_lie_as_they_came(store):
    inputs, content = Inputs(store), png(picture().image)
    number = inputs.upload("anna", content)
    found, at = inputs.uploaded("anna", number)
    assert found == content
    assert abs(at - time.time()) < 60
    assert inputs.upload("anna", content) == number
    with pytest.raises(NotFoundError):
        inputs.uploaded("bert", number)
    assert inputs.forget("anna", number)
    with pytest.raises(NotFoundError):
        inputs.uploaded("anna", number)
    with pytest.raises(PictureError):
        inputs.upload("anna", b"#!/bin/sh")


def test_a_picture_that_is_used_again_begins_its_time_anew(tmp_path):
    store = Store(tmp_path, keep=100.0)
    inputs = Inputs(store)
    for again in (lambda ref: inputs.add("anna", picture()), lambda ref: inputs.hold("anna", [ref])):
        ref = inputs.add("anna", picture())
        [file] = tmp_path.rglob("*.input")
        for age, left in ((40, 40), (60, 0)):
            os.utime(file, (time.time() - age,) * 2)
            again(ref)
            assert abs(time.time() - file.stat().st_mtime - left) < 10
            assert store.sweep() == 0
    os.utime(file, (time.time() - 101,) * 2)
    assert store.sweep() == 1


def test_a_damaged_file_is_said_to_be(tmp_path):
    inputs = Inputs(Store(tmp_path))
    ref = inputs.add("anna", picture())
    [file] = tmp_path.rglob("*.input")
    for content in (
        b"",
        b"nonsense",
        file.read_bytes()[:200],
        png(picture(1).image),
        png(Image.new("CMYK", (4, 4)), format="JPEG"),
    ):
        file.write_bytes(content)
        with pytest.raises(PictureError, match="damaged in the store"):
            inputs.load("anna", ref)


# ------------------------------------------------------------------ what is taken


def bomb(width, height):
    """A PNG of few bytes that says it has many pixels."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 10_000)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["image", "mask"])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        bomb(5000, 5000),
        bomb(60_000, 60_000),
        bomb(0, 4),
        png(picture().image)[:90],
        png(Image.new("RGB", (64, 64)), format="TIFF"),
        png(Image.new("RGB", (64, 64)), format="BMP"),
    ],
    ids=["empty", "svg", "large", "bomb", "no pixels", "cut", "tiff", "bmp"],
)
def test_what_is_no_picture_is_refused_in_one_line(tmp_path, content, kind):
    with pytest.raises(PictureError) as refused:
        Inputs(Store(tmp_path)).read(content, kind)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300


def test_pictures_are_taken_upright_in_every_usual_format(tmp_path):
    inputs = Inputs(Store(tmp_path))
    turned = Image.new("RGB", (8, 4), "red")
    exif = turned.getexif()
    exif[0x0112] = 6
    assert inputs.read(png(turned, format="JPEG", exif=exif)).size == (4, 8)
    for name in ("PNG", "JPEG", "WEBP", "AVIF", "GIF"):
        assert inputs.read(png(turned, format=name)).size == (8, 4)


def test_masks_are_holes_lightness_or_strokes(tmp_path):
    inputs = Inputs(Store(tmp_path))
    holed = np.full((4, 4, 4), 255, np.uint8)
    holed[:2, :, 3] = 0
    content = png(Image.fromarray(holed))
    np.testing.assert_array_equal(inputs.read(content, "mask").pixels, 255 - holed[:, :, 3])
    np.testing.assert_array_equal(inputs.read(content, "mask", strokes=True).pixels, holed[:, :, 3])
    grey = png(Image.fromarray(holed[:, :, 3]))
    np.testing.assert_array_equal(inputs.read(grey, "mask", strokes=True).pixels, holed[:, :, 3])


# ------------------------------------------------------------------ jobs


def test_what_a_recipe_names():
    a, b, c, d = (f"sha256:{digit * 64}" for digit in "abcd")
    recipe = Recipe(prompt=f"a fox <lora:ink@{d}>", image=a, mask=b, adapters=(AdapterRef(name="ink", region=c),))
    assert (refs_of(recipe), mentioned(recipe)) == ((a, b, c), (a, b, c, d))
    assert mentioned(Recipe(prompt="a fox", adapters=(AdapterRef(name="ink", region="left"),))) == ()


def serving_parts(queue, store):
    return Service(queue, store, open_index(queue, 60.0), Names(), Limits())


@pytest.mark.anyio
async def test_jobs_begin_from_their_tenants_pictures_beside_plain_ones(make_queue, store):
    queue, engine = make_queue(), FakeEngine(seconds=0.01)
    service = serving_parts(queue, store)
    refs = [service.inputs.add("anna", picture(number, side=8 * number)) for number in (2, 3)]
    jobs = [job("from", tenant="anna", recipe={"image": ref, "seed": 1}) for ref in refs]
    jobs.append(job("plain", recipe={"seed": 2}))
    for wish in jobs:
        await service.submit(wish)
    async with working(queue, store, engine, service.index):
        records = [await queue.wait(wish.id, 20.0) for wish in jobs]
    assert [record.state for record in records] == [State.DONE] * 3
    assert [record.result.width for record in records] == [16, 24, 64]
    assert [record.result.recipe.image for record in records] == [*refs, None]
    assert max(map(len, engine.batches)) == 3
    again = await service.submit(job("from", tenant="anna", recipe={"image": refs[0], "seed": 1}))
    assert again.result.cached


@pytest.mark.anyio
async def test_nobody_begins_from_anothers_picture(make_queue, store):
    service = serving_parts(make_queue(), store)
    ref = service.inputs.add("anna", picture())
    for fields in ({"image": ref}, {"prompt": f"a fox <lora:ink@{ref}:1>"}):
        with pytest.raises(NotFoundError, match="is not here"):
            await service.submit(
                job(**{"prompt": "x", **fields} if "prompt" in fields else {"recipe": fields}, tenant="bert")
            )
    assert (await service.submit(job(tenant="anna", recipe={"image": ref}))).state is State.QUEUED


@pytest.mark.anyio
async def test_a_picture_that_has_gone_fails_its_own_job_once(make_queue, store):
    queue, engine = make_queue(), FakeEngine(seconds=0.01)
    service = serving_parts(queue, store)
    ref = service.inputs.add("anna", picture())
    lost, plain = job("lost", tenant="anna", recipe={"image": ref}), job("plain")
    for wish in (lost, plain):
        await service.submit(wish)
    service.inputs.remove("anna", ref)
    async with working(queue, store, engine):
        record, other = await queue.wait(lost.id, 20.0), await queue.wait(plain.id, 20.0)
    assert (record.state, record.attempts, record.failure.status) == (State.FAILED, 1, 404)
    assert "send it again" in record.failure.message
    assert other.state is State.DONE


@pytest.mark.anyio
async def test_what_a_recipe_comes_to_name_is_its_own_too(make_queue, store):
    """A reference that only appears when the prompt is expanded, to a picture that is in the worker's memory."""
    queue, engine = make_queue(), FakeEngine(seconds=0.01)
    theirs = engine.library.inputs.add(picture())
    resolve = engine.resolve

    def tricked(recipe):
        found = resolve(recipe)
        if recipe.prompt == "tricky":
            found.recipe = found.recipe.replace(adapters=(AdapterRef(name="ink", region=theirs.ref),))
        return found

    engine.resolve = tricked
    wish = job("tricky")
    await queue.submit(wish)
    async with working(queue, store, engine):
        record = await queue.wait(wish.id, 20.0)
    assert (record.state, record.failure.status) == (State.FAILED, 404)


@pytest.mark.anyio
async def test_pictures_outlive_the_deadlines_of_their_jobs(make_queue, tmp_path):
    store = Store(tmp_path, keep=7200.0)
    service = serving_parts(make_queue(), store)
    ref = service.inputs.add("default", picture())
    with pytest.raises(RecipeError, match="at most 1 hours"):
        await service.submit(job(recipe={"image": ref}, deadline=time.time() + 3700))
    assert (await service.submit(job(deadline=time.time() + 10_000))).job.deadline > time.time() + 9000
    short = Service(service.queue, Store(tmp_path, keep=600.0), service.index, service.names)
    assert (await short.submit(job(recipe={"image": ref}))).job.deadline < time.time() + 301


@pytest.mark.anyio
async def test_one_side_takes_the_other_from_the_picture(make_queue, store):
    service = serving_parts(make_queue(), store)
    wide = InputPicture(np.zeros((8, 800, 3), np.uint8))
    ref = service.inputs.add("default", wide)
    record = await service.submit(job(recipe={"image": ref, "width": 400}))
    assert (record.job.recipe.width, record.job.recipe.height) == (400, 16)
    with pytest.raises(RecipeError, match="102400"):
        await service.submit(job(recipe={"image": ref, "height": 1024}))
