"""Trainings: archives, the worker that sees them through over both queues, the APIs, and the real trainer."""

import asyncio
import base64
import io
import json
import threading
import time
import warnings
import zipfile

import httpx2
import pytest
from fake_engine import FakeEngine
from kit import at_work
from PIL import Image, ImageDraw
from server import serving

from laur.core.errors import DataError, OutputError, RecipeError, UnavailableError
from laur.core.recipe import Recipe
from laur.serve.job import Job, State
from laur.serve.store import Store
from laur.serve.training.wish import Wish, archive_key, check_archive, unpack
from laur.serve.training.worker import TrainingWorker
from laur.serve.worker import storage

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import replicate

pytestmark = pytest.mark.anyio


def archive(**files):
    """A zip file; by default of four eggs with captions."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in files.items():
            file.writestr(name, content)
        for number, colour in enumerate(("red", "green", "blue", "gold") if not files else ()):
            picture = Image.new("RGB", (64, 64), "white")
            ImageDraw.Draw(picture).ellipse((8, 8, 40 + number, 56), fill=colour)
            content = io.BytesIO()
            picture.save(content, "PNG")
            file.writestr(f"eggs/a {colour} egg.png", content.getvalue())
    return buffer.getvalue()


URL = "data:application/zip;base64," + base64.b64encode(archive()).decode()


# ------------------------------------------------------------------- archives


def test_names_in_an_archive_are_no_paths(tmp_path):
    names = ["../../out.png", "/etc/passwd.png", "a\\..\\b.png", "c:/d.png", ".hidden.png", "deep/er/e (1).txt", "x.sh"]
    content = archive(**dict.fromkeys(names, b"x"))
    assert check_archive(content) == 5
    unpack(content, tmp_path / "deep" / "in")
    everything = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert all(name.startswith("deep/in/") and name.count("/") == 2 for name in everything)
    assert {"deep/in/out.png", "deep/in/passwd.png", "deep/in/e (1).txt"} <= everything
    assert not any(name.endswith((".sh", "hidden.png")) for name in everything)


def test_what_is_no_archive_of_pictures_is_refused(tmp_path, monkeypatch):
    broken = bytearray(archive(**{"a.png": b"x" * 500}))
    broken[60] ^= 255
    for content in (b"", b"PK", archive(**{"a.txt": b"x"}), bytes(broken)):
        with pytest.raises(DataError):
            unpack(content, tmp_path / "out")
    monkeypatch.setattr("laur.serve.training.wish.UNPACKED", 100)
    with pytest.raises(DataError, match="MiB"):
        check_archive(archive(**{"a.png": b"x" * 101}))


# --------------------------------------------------------------------- worker


class Fake:
    """Trains nothing, an update each 10 ms, from where it was; refuses a trigger that says so."""

    def __init__(self):
        self.began = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, wish, archive, folder, tell, stop):
        check_archive(archive)
        if wish.trigger == "refuse":
            raise RecipeError("no such words")
        folder.mkdir(parents=True, exist_ok=True)
        state = folder / "state"
        update = int(state.read_text()) if state.exists() else 0
        self.began.append(update)
        while update < wish.updates:
            if stop():
                return None
            self.gate.wait(0.01)
            if self.gate.is_set() or update < wish.updates // 2:
                update += 1
            state.write_text(str(update))
            tell(update, wish.updates)
        (folder / "result").write_bytes(f"adapter {wish.name}".encode())
        return folder / "result"


@pytest.fixture
def place(tmp_path):
    return tmp_path


def submit(store, **fields):
    key = archive_key("default", archive())
    store.put(key, archive())
    own = {name: fields.pop(name) for name in ("id", "deadline") if name in fields}
    wish = Wish(**{"task": "style", "name": "eggs", "archive": key, "updates": 6, **fields})
    return Job(recipe=Recipe(prompt="train"), training=True, note={"training": wish.to_dict()}, **own)


def training(queue, store, train, place):
    return at_work(TrainingWorker(queue, store, train, place / "work", place / "adapters"))


async def test_a_training_becomes_a_named_adapter(make_queue, place):
    queue, store = make_queue(), Store(place / "results")
    job = submit(store)
    assert job.pool == "train.0"
    await queue.submit(job)
    async with training(queue, store, Fake(), place):
        record = await queue.wait(job.id, 20.0)
    assert (record.state, record.attempts) == (State.DONE, 1)
    assert store.get(record.result.key) == (place / "adapters" / "eggs.safetensors").read_bytes() == b"adapter eggs"
    assert not (place / "work" / job.id).exists()


async def test_a_drain_hands_back_and_the_next_goes_on(make_queue, place):
    queue, store, train = make_queue(), Store(place / "results"), Fake()
    train.gate.clear()
    job = submit(store)
    await queue.submit(job)
    async with training(queue, store, train, place):
        while not (place / "work" / job.id / "state").exists() or train.began == []:
            await asyncio.sleep(0.01)
        while int((place / "work" / job.id / "state").read_text() or 0) < 3:
            await asyncio.sleep(0.01)
    record = await queue.get(job.id)
    assert (record.state, record.attempts) == (State.QUEUED, 0)
    train.gate.set()
    async with training(queue, store, train, place):
        assert (await queue.wait(job.id, 20.0)).state is State.DONE
    assert train.began == [0, 3]


async def test_cancel_ends_it_and_removes_what_it_left(make_queue, place):
    queue, store, train = make_queue(lease=1.0), Store(place / "results"), Fake()
    train.gate.clear()
    job = submit(store)
    await queue.submit(job)
    async with training(queue, store, train, place):
        while (await queue.get(job.id)).step == 0:
            await asyncio.sleep(0.02)
        assert (await queue.cancel(job.id)).state is State.CANCELLED
        while (place / "work" / job.id).exists():
            await asyncio.sleep(0.02)
    assert not (place / "adapters").exists()


async def fault(those):
    raise those.pop(0)


async def test_faults_end_the_attempt_and_not_the_worker(make_queue, place, monkeypatch):
    queue, store = make_queue(), Store(place / "results")
    monkeypatch.setattr("laur.serve.training.worker.PAUSE", 0.01)
    claim, faults = queue.claim, [UnavailableError("no answer"), OSError("full"), RecipeError("odd")]
    monkeypatch.setattr(queue, "claim", lambda *given, **how: claim(*given, **how) if not faults else fault(faults))
    (place / "adapters").mkdir()
    (place / "adapters" / "taken.safetensors").write_bytes(b"another's")
    jobs = [submit(store, trigger="refuse"), submit(store, archive="0" * 64 + ".zip"), submit(store, name="taken")]
    for job in [*jobs, good := submit(store)]:
        await queue.submit(job)
    async with training(queue, store, Fake(), place):
        for job, message in zip(jobs, ("no such words", "no result", "another name"), strict=True):
            record = await queue.wait(job.id, 20.0)
            assert (record.state, message in record.failure.message) == (State.FAILED, True)
        assert (await queue.wait(good.id, 20.0)).state is State.DONE
    assert faults == []
    assert (place / "adapters" / "taken.safetensors").read_bytes() == b"another's"


async def test_what_the_store_cannot_keep_is_no_attempt(make_queue, place, monkeypatch):
    class Away(Store):
        down = False

        def _write(self, path, content):
            if self.down:
                raise OutputError("the store of results cannot be written: no space")
            super()._write(path, content)

    monkeypatch.setattr(storage, "LONGEST", 0.2)
    queue, store = make_queue(max_attempts=1), Away(place / "results")
    job = submit(store)
    await queue.submit(job)
    store.down = True
    async with training(queue, store, Fake(), place) as worker:
        while worker._storage.trouble is None or (await queue.get(job.id)).state is not State.QUEUED:
            await asyncio.sleep(0.02)
        assert (await queue.get(job.id)).attempts == 0
        store.down = False
        record = await queue.wait(job.id, 20.0)
    assert (record.state, record.attempts) == (State.DONE, 1)


# ------------------------------------------------------------------------ APIs


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trainings")

    def trainer(queue, store):
        return TrainingWorker(queue, store, Fake(), folder / "work", folder / "adapters")

    with serving(folder, FakeEngine(), trainer=trainer) as running:
        running.until_ready()
        yield running


def test_cog_trains_and_waits(http):
    said = http.post("/trainings", json={"input": {"input_images": URL, "name": "eggs", "steps": 3}}).json()
    assert (said["status"], said["output"]["adapter"], said["error"]) == ("succeeded", "eggs", None)
    assert http.get(said["output"]["weights"]).content == b"adapter eggs"
    assert said["input"] == {"name": "eggs", "steps": 3}
    assert said["logs"].endswith("updates\n")


def test_webhooks_tell_of_a_training(http, hook):
    url, received = hook
    body = {"input": {"input_images": URL, "name": "told", "steps": 3}, "webhook": url}
    assert http.post("/trainings", json=body).json()["webhook"] == url
    until = time.monotonic() + 20
    while not any(b'"succeeded"' in one for one in received) and time.monotonic() < until:
        time.sleep(0.05)
    assert json.loads(received[-1])["output"]["adapter"] == "told"
    assert [json.loads(one)["status"] for one in received].count("succeeded") == 1


def test_cog_puts_and_cancels(http):
    body = {"input": {"input_images": URL, "name": "many", "steps": 20_000}}
    first = http.put("/trainings/mine", json=body, headers={"Prefer": "respond-async"})
    again = http.put("/trainings/mine", json=body, headers={"Prefer": "respond-async"})
    assert (first.status_code, again.status_code) == (202, 202), again.text
    assert again.json()["id"] == "mine"
    assert http.put("/trainings/mine", json={**body, "id": "other"}).status_code == 422
    assert http.post("/trainings/mine/cancel").status_code == 200
    assert http.get("/v1/trainings/mine").json()["status"] == "canceled"
    assert http.get("/v1/trainings/mine/weights").status_code == 404


def test_replicates_client_trains(server):
    client = replicate.Client(api_token="none", base_url=server.url)
    try:
        version = client.models.get("laur/mini").latest_version.id
        training = client.trainings.create(
            model="laur/mini", version=version, input={"input_images": URL, "steps": 2}, destination="me/my-eggs"
        )
        while training.status not in {"succeeded", "failed"}:
            time.sleep(0.05)
            training.reload()
        assert (training.status, training.output["adapter"], training.destination) == (
            "succeeded",
            "my-eggs",
            "me/my-eggs",
        )
        assert client.trainings.cancel(training.id).status == "succeeded"
    finally:
        client._client.close()


@pytest.mark.parametrize(
    ("fields", "status"),
    [({"input_images": "data:application/zip;base64,AAAA"}, 422), ({"name": "../x"}, 422),
     ({"name": "lcm-lora-mini"}, 422), ({"steps": 0}, 422), ({"task": "base"}, 422),
     ({"input_images": "http://127.0.0.1/x.zip"}, 422),
     ({"checkpoint": "/etc"}, 422)],
)  # fmt: skip
def test_what_cannot_be_is_refused(http, fields, status):
    answer = http.post("/trainings", json={"input": {"input_images": URL, "name": "x", **fields}})
    assert answer.status_code == status
    assert "\n" not in answer.json()["detail"]


def test_a_job_is_no_training_and_a_server_without_trains_none(http, tmp_path):
    number = http.post("/v1/jobs", json={"recipe": {"prompt": "a fox"}}).json()["id"]
    assert http.get(f"/v1/trainings/{number}").status_code == 404
    with serving(tmp_path, work=False) as server, httpx2.Client(base_url=server.url) as client:
        refused = client.post("/trainings", json={"input": {"input_images": URL, "name": "x"}})
        assert (refused.status_code, "--train" in refused.json()["detail"]) == (501, True)


# ----------------------------------------------------------------- the trainer


def test_the_real_trainer_goes_on_where_it_was_stopped(tmp_path):
    from laur.cli.serve_training import Runner
    from laur.optimize.lora_file import LoraFile

    run, told = Runner(device="cpu"), []
    wish = Wish(task="style", name="eggs", archive="", updates=3, batch=1, rank=2, size=64, trigger="egg style")

    def tell(update, updates):
        told.append((update, updates))

    assert run(wish, archive(), tmp_path, tell, lambda: len(told) >= 2) is None
    assert told == [(1, 3), (2, 3)]
    file = run(wish, archive(), tmp_path, tell, lambda: False)
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert LoraFile(file, "eggs").recommends.trigger_words == ("egg style",)
