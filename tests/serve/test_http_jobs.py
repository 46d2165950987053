"""Laur's own API over a real socket, over both queues."""

import hashlib
import json
import re
import secrets
import time

import httpx2
import pytest
from fake_engine import FakeEngine
from server import serving

from laur.render.metadata import read


@pytest.fixture(scope="module", params=["memory", "redis"])
def server(request, tmp_path_factory):
    redis = request.getfixturevalue("redis_server").url if request.param == "redis" else None
    queue = {"namespace": f"t{secrets.token_hex(4)}"}
    with serving(tmp_path_factory.mktemp("jobs"), FakeEngine(seconds=0.02), redis=redis, queue=queue) as running:
        yield running


def submit(http, **fields):
    recipe = {"prompt": "a fox", **fields.pop("recipe", {})}
    answer = http.post("/v1/jobs", json={"recipe": recipe, **fields})
    assert answer.status_code == 202, answer.text
    return answer.json()


def events(http, number):
    with http.stream("GET", f"/v1/jobs/{number}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        found = []
        for line in stream.iter_lines():
            if line.startswith("event: "):
                found.append((line.removeprefix("event: "), None))
            elif line.startswith("data: "):
                found[-1] = (found[-1][0], json.loads(line.removeprefix("data: ")))
        return found


def finished(http, number):
    events(http, number)
    return http.get(f"/v1/jobs/{number}").json()


def test_a_job_from_wish_to_picture(http):
    job = submit(http, recipe={"seed": 7, "width": 32, "height": 48}, previews=True)
    assert job["state"] == "queued"
    seen = events(http, job["id"])
    names = [name for name, _ in seen]
    assert names[-1] == "ended"
    assert {"progress", "preview"} <= set(names)
    assert seen[-1][1]["state"] == "done"
    job = http.get(f"/v1/jobs/{job['id']}").json()
    picture = http.get(job["result"]["url"])
    assert picture.headers["content-type"] == "image/png"
    assert hashlib.sha256(picture.content).hexdigest() == job["result"]["sha256"]
    found = read(picture.content)
    assert (found.pixels.shape, found.recipe.seed) == ((48, 32, 3), 7)
    again = http.get(job["result"]["url"], headers={"If-None-Match": picture.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert picture.headers["cache-control"] == again.headers["cache-control"] == "public, no-cache"


def test_a_recipe_that_was_drawn_is_not_drawn_again(http, server):
    first = finished(http, submit(http, recipe={"prompt": "cached", "seed": 3})["id"])
    before = len(server.engine.begun)
    second = submit(http, recipe={"prompt": "cached", "seed": 3})
    assert (second["state"], second["result"]["cached"]) == ("done", True)
    assert second["result"]["sha256"] == first["result"]["sha256"]
    open_seed = [finished(http, submit(http, recipe={"prompt": "open"})["id"]) for _ in range(2)]
    assert len({job["result"]["recipe"]["seed"] for job in open_seed}) == 2
    assert server.engine.begun[before:] == ["open", "open"]


def test_only_what_is_named_by_its_content_never_changes(http):
    body = {"prompt": "a fox", "seed": 5, "response_format": "url"}
    url = http.post("/v1/images/generations", json=body).json()["data"][0]["url"]
    picture = http.get(url)
    again = http.get(url, headers={"If-None-Match": picture.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert picture.headers["cache-control"] == again.headers["cache-control"] == "public, max-age=31536000, immutable"


def test_the_same_id_is_one_job(http):
    number = secrets.token_hex(8)
    first, second = submit(http, id=number), submit(http, id=number, recipe={"prompt": "another"})
    assert first["id"] == second["id"] == number
    assert second["recipe"]["prompt"] == "a fox"


def test_cancel_in_the_middle(http):
    job = submit(http, recipe={"steps": 150, "prompt": "long"})
    while http.get(f"/v1/jobs/{job['id']}").json()["step"] < 2:
        time.sleep(0.02)
    assert http.delete(f"/v1/jobs/{job['id']}").json()["state"] == "cancelled"
    assert finished(http, job["id"])["state"] == "cancelled"
    answer = http.get(f"/v1/jobs/{job['id']}/picture")
    assert answer.status_code == 409


def test_deadlines(http):
    job = finished(http, submit(http, recipe={"steps": 150}, deadline=0.5)["id"])
    assert (job["state"], job["failure"]["kind"]) == ("failed", "deadline")
    assert http.get(f"/v1/jobs/{job['id']}/picture").status_code == 504


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[]", 422),
        (b"{}", 422),
        ({"recipe": {"prompt": " "}}, 422),
        ({"recipe": {"prompt": "x", "steps": 0}}, 422),
        ({"recipe": {"prompt": "x", "steps": 151}}, 422),
        ({"recipe": {"prompt": "x", "stepz": 1}}, 422),
        ({"recipe": {"prompt": "x", "width": 16384, "height": 16384}}, 413),
        ({"recipe": {"prompt": "x", "timesteps": [1, 2]}}, 422),
        ({"recipe": {"prompt": "x\ud800"}}, 422),
        ({"recipe": {"prompt": "x"}, "id": "../x"}, 422),
        ({"recipe": {"prompt": "x"}, "format": "gif"}, 422),
        ({"recipe": {"prompt": "x"}, "priority": 99}, 422),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(http, body, status):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = http.post("/v1/jobs", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text
    said = answer.json()
    assert said["status"] == status
    assert said["detail"] == said["error"]["message"]
    assert "\n" not in said["detail"]


def test_no_path_is_a_name(http):
    for name in ("/etc/passwd", "../../x.safetensors", "someone/model"):
        for recipe in ({"checkpoint": name}, {"style": name}, {"adapters": [{"name": name}]}):
            assert http.post("/v1/jobs", json={"recipe": {"prompt": "a fox", **recipe}}).status_code == 404
    for path in ("/v1/pictures/..%2f..%2fetc%2fpasswd", "/v1/jobs/..%2f", f"/v1/pictures/{'0' * 64}.png"):
        assert http.get(path).status_code in {404, 422}
    assert http.get("/nothing").json()["status"] == 404


def test_probes_and_metrics(server, http):
    server.until_ready()
    assert http.get("/health/ready").json() == {"status": "ok", "reasons": []}
    assert http.get("/health/live").status_code == 200
    finished(http, submit(http)["id"])
    text = http.get("/metrics").text
    for name in ("laur_queue_up 1.0", "laur_jobs_total{event=\"done\"}", "laur_cache_submission_hit_ratio",
                 "laur_cache_store_hit_ratio", "laur_engine_steps_total", "laur_queue_oldest_seconds"):  # fmt: skip
        assert name in text, name
    assert float(re.search(r"^laur_engine_rows_total\S* (\S+)", text, re.MULTILINE)[1]) > 0
    assert http.get("/v1/queue").json()["parked"] >= 0


def test_a_full_queue_answers_429_and_a_large_body_413(tmp_path):
    engine = FakeEngine()
    engine.gate.clear()
    limits, queue = {"body": 2000}, {"limit": 4, "tenant_limit": 4}
    with (
        serving(tmp_path, engine, queue=queue, limits=limits) as running,
        httpx2.Client(base_url=running.url) as http,
    ):
        answers = [http.post("/v1/jobs", json={"recipe": {"prompt": "x"}}) for _ in range(12)]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert len(refused) >= 6
        assert all(1 <= int(answer.headers["retry-after"]) <= 60 for answer in refused)
        assert http.post("/v1/jobs", json={"recipe": {"prompt": "x" * 3000}}).status_code == 413

        def pieces():
            yield b'{"recipe": {"prompt": "'
            for _ in range(40):
                yield b"x" * 100
            yield b'"}}'

        assert http.post("/v1/jobs", content=pieces()).status_code == 413
        engine.gate.set()


def test_an_unexpected_fault_tells_nothing(tmp_path):
    with serving(tmp_path) as running, httpx2.Client(base_url=running.url) as http:

        async def broken(id):
            raise RuntimeError("/secret/path")

        running.app.state.service.queue.get = broken
        answer = http.get("/v1/jobs/x")
        assert answer.status_code == 500
        assert "secret" not in answer.text
