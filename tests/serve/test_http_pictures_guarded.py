"""What stands between pictures from outside and the server: addresses, sizes, tenants, keys."""

import time

import httpx2
import pytest
from fake_engine import FakeEngine
from pictures_kit import APPLE, HOLE, IMAGE, data_url, drawn
from server import serving

from laur.input.image import read_picture
from laur.serve.access import Access
from laur.serve.access.keys import Keys, hash_of
from laur.serve.addresses import Allowed
from laur.serve.fetching import Fetcher


def test_pictures_by_address(tmp_path):
    """The server fetches from itself, by a name that leads nowhere else."""

    async def resolve(host, port):
        return {"pictures.test": ["127.0.0.1"], "cloud.test": ["169.254.169.254"]}[host]

    fetcher = Fetcher(allowed=Allowed.ANY, resolve=resolve)
    with serving(tmp_path, fetcher=fetcher) as running, httpx2.Client(base_url=running.url, timeout=30) as http:
        made = http.post("/v1/images/generations", json={"prompt": "a fox", "response_format": "url"}).json()
        url = made["data"][0]["url"]
        there = url.replace("127.0.0.1", "pictures.test")
        state, recipe = drawn(http, {"image": there})
        assert (state, recipe["image"]) == ("done", read_picture(http.get(url).content).ref)
        status, detail = drawn(http, {"image": there.replace("/v1/pictures", "/health/live")})
        assert (status, "answered" in detail or "not a picture" in detail) == (422, True)
    strict = Fetcher(allowed=Allowed.PUBLIC, resolve=resolve)
    with serving(tmp_path, fetcher=strict) as running, httpx2.Client(base_url=running.url) as http:
        for host in ("pictures.test", "cloud.test"):
            status, detail = drawn(http, {"image": f"http://{host}:{running.port}/a"})
            assert (status, "public network" in detail) == (422, True)


def test_large_pictures_and_bodies_are_refused(tmp_path):
    limits = {"input_pixels": 1000, "body": 20_000}
    with serving(tmp_path, limits=limits) as running, httpx2.Client(base_url=running.url) as http:
        answer = http.post("/v1/inputs", content=APPLE)
        assert (answer.status_code, "at most 1,000 pixels" in answer.json()["detail"]) == (422, True)
        for post in (
            lambda: http.post("/v1/inputs", content=bytes(30_000)),
            lambda: http.post("/v1/files", files={"content": ("a.png", bytes(30_000))}),
            lambda: http.post("/v1/images/edits", files={"image": ("a.png", bytes(30_000))}, data={"prompt": "x"}),
        ):
            assert post().status_code == 413


@pytest.fixture
def tenants(tmp_path):
    """A server with keys, and a client for each of two."""
    entries = [f'[[key]]\ntenant = "{name}"\nsha256 = "{hash_of(name * 9)}"\n' for name in "ab"]
    (tmp_path / "keys.toml").write_text("".join(entries))
    with serving(tmp_path, FakeEngine(), access=Access(keys=Keys(tmp_path / "keys.toml"))) as running:
        headers = [{"Authorization": f"Bearer {name * 9}"} for name in "ab"]
        a, b = [httpx2.Client(base_url=running.url, headers=header, timeout=30.0) for header in headers]
        running.until_ready()
        yield running, a, b
        a.close()
        b.close()


def test_nothing_that_was_sent_can_be_fetched(tmp_path):
    with serving(tmp_path) as running, httpx2.Client(base_url=running.url) as http:
        _look(http, tmp_path / "results")


def _look(http, folder):
    ref = http.post("/v1/inputs", content=APPLE).json()["ref"]
    http.post("/v1/files", files={"content": ("a.png", APPLE)})
    keys = [path.name for path in folder.rglob("*") if path.suffix in {".input", ".upload"}]
    assert {key.rpartition(".")[2] for key in keys} == {"input", "upload"}
    for key in (*keys, f"{ref.removeprefix('sha256:')}.png"):
        for headers in ({}, {"If-None-Match": f'"{key}"'}):
            assert http.get(f"/v1/pictures/{key}", headers=headers).status_code == 404


def test_with_keys_pictures_are_the_tenants_own(tenants):
    running, a, b = tenants
    ref = a.post("/v1/inputs", content=APPLE).json()["ref"]
    link = a.post("/v1/files", files={"content": ("m.png", HOLE)}).json()["urls"]["get"]
    state, recipe = drawn(a, {"image": ref, "mask": link, "seed": 1})
    assert (state, recipe["image"]) == ("done", IMAGE)
    for recipe in ({"image": ref}, {"image": data_url(HOLE), "mask": link}, {"image": link}):
        assert drawn(b, recipe)[0] == 404
    assert b.delete(f"/v1/inputs/{ref}").status_code == b.delete(link).status_code == b.get(link).status_code == 404
    assert httpx2.post(f"{running.url}/v1/inputs", content=APPLE).status_code == 401
    result = a.post("/v1/images/generations", json={"prompt": "x", "response_format": "url"}).json()["data"][0]["url"]
    assert drawn(a, {"image": result})[0] == "done"
    assert drawn(a, {"image": result.partition("?")[0]})[0] == 404
    job = a.post("/v1/jobs", json={"recipe": {"prompt": "a fox", "seed": 1}}).json()["id"]
    while a.get(f"/v1/jobs/{job}").json()["state"] != "done":
        time.sleep(0.02)
    own = f"{running.url}/v1/jobs/{job}/picture"
    assert (drawn(a, {"image": own})[0], drawn(b, {"image": own})[0]) == ("done", 404)
    assert a.delete(link).status_code == 204
