"""A store that cannot be written for a while: nothing is taken meanwhile, and every job ends done."""

import asyncio
import time

import httpx2
import pytest
from fake_engine import FakeEngine
from kit import job, working
from server import serving

from laur.core.errors import OutputError
from laur.serve.job import State
from laur.serve.store import Store
from laur.serve.worker import storage

pytestmark = pytest.mark.anyio


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where results should lie, but a file does."""
    monkeypatch.setattr(storage, "LONGEST", 0.2)
    monkeypatch.setattr(storage, "SHORTEST", 0.05)
    (tmp_path / "results").write_text("")
    return tmp_path / "results"


async def test_every_job_ends_done_once_the_store_is_back(make_queue, folder):
    queue, engine = make_queue(max_attempts=2, retry_delay=0.05), FakeEngine(seconds=0.01)
    jobs = [job(f"p{number}", recipe={"seed": number}) for number in range(6)]
    for wish in jobs:
        await queue.submit(wish)
    async with working(queue, Store(folder), engine) as worker:
        while worker.way.storage.trouble is None or len(worker.hand):
            await asyncio.sleep(0.01)
        assert not worker.ready
        assert worker.live
        assert worker.reason.startswith("the store of results cannot be written: ")
        jobs.append(job("late", recipe={"seed": 9}))
        await queue.submit(jobs[-1])
        await asyncio.sleep(1.0)
        assert "late" not in engine.begun
        assert {(record.state, record.attempts) for record in [await queue.get(wish.id) for wish in jobs]} == {
            (State.QUEUED, 0)
        }
        folder.unlink()
        records = [await queue.wait(wish.id, 20.0) for wish in jobs]
        assert {(record.state, record.attempts) for record in records} == {(State.DONE, 1)}
        assert await queue.parked() == []
        while not worker.ready:
            await asyncio.sleep(0.01)
        assert worker.reason is None


async def test_a_file_that_alone_cannot_be_written_is_its_jobs_own_trouble(make_queue, tmp_path):
    class Choosy(Store):
        def put(self, key, content):
            raise OutputError("the store of results cannot be written: too large")

    queue, engine = make_queue(max_attempts=2, retry_delay=0.05), FakeEngine(seconds=0.01)
    wish = job(recipe={"seed": 1})
    await queue.submit(wish)
    async with working(queue, Choosy(tmp_path / "results"), engine) as worker:
        record = await queue.wait(wish.id, 20.0)
        assert (record.state, record.failure.kind, record.attempts) == (State.FAILED, "poison", 2)
        assert worker.way.storage.trouble is None
        assert worker.ready


async def test_readiness_says_why(folder):
    with serving(folder.parent) as running, httpx2.Client(base_url=running.url, timeout=30.0) as http:
        ready = _until(http, 200)
        number = http.post("/v1/jobs", json={"recipe": {"prompt": "a fox", "seed": 1}}).json()["id"]
        ready = _until(http, 503)
        assert ["cannot be written" in reason for reason in ready.json()["reasons"]] == [True]
        assert http.get("/health/live").status_code == 200
        folder.unlink()
        _until(http, 200)
        until = time.monotonic() + 20.0
        while (state := http.get(f"/v1/jobs/{number}").json()["state"]) != "done" and time.monotonic() < until:
            time.sleep(0.02)
        assert state == "done"


def _until(http, status):
    until = time.monotonic() + 20.0
    while (said := http.get("/health/ready")).status_code != status and time.monotonic() < until:
        time.sleep(0.02)
    assert said.status_code == status, said.text
    return said


@pytest.mark.parametrize("kind", ["folder", "memory"])
def test_a_trial_leaves_nothing(tmp_path, kind):
    store = Store(tmp_path / "results" if kind == "folder" else f"memory://laur-{tmp_path.name}")
    store.probe()
    store.probe()
    assert [path for path in (tmp_path / "results").rglob("*") if path.is_file()] == []
    assert not store.has(store._trial)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        Store(tmp_path / "file").probe()
