"""A server with API keys: who gets in, what each sees, and how the published clients hear of a refusal."""

import time
import warnings
from contextlib import closing, contextmanager

import httpx2
import openai
import pytest
from fake_engine import FakeEngine
from server import serving

from laur.serve.access import Access
from laur.serve.access.keys import Keys, hash_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import replicate
    import webuiapi

ORIGIN = "https://app.example.com"
LIMITS = {
    "a": "",
    "b": "",
    "fast": "requests_per_second = 0.01\nburst = 1",
    "few": "pictures_per_day = 2",
    "ops": "metrics = true",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("access")
    entries = [f'[[key]]\ntenant = "{name}"\nsha256 = "{hash_of(name * 9)}"\n{more}\n' for name, more in LIMITS.items()]
    (folder / "keys.toml").write_text("".join(entries))
    access = Access(keys=Keys(folder / "keys.toml"), origins=(ORIGIN,))
    with serving(folder, FakeEngine(), access=access) as running:
        running.until_ready()
        yield running


@pytest.fixture
def http(server):
    """A client for each tenant, and None for nobody."""
    clients = {}

    def of(name):
        headers = {"Authorization": f"Bearer {name * 9}"} if name else {}
        clients[name] = clients.get(name) or httpx2.Client(base_url=server.url, headers=headers, timeout=30.0)
        return clients[name]

    yield of
    for client in clients.values():
        client.close()


def job(client, **fields):
    answer = client.post(
        "/v1/jobs", json={"recipe": {"prompt": "a fox", "seed": 1, **fields.pop("recipe", {})}, **fields}
    )
    assert answer.status_code == 202, answer.text
    return answer.json()["id"]


def done(client, number):
    while (found := client.get(f"/v1/jobs/{number}").json())["state"] in {"queued", "running"}:
        time.sleep(0.02)
    return found


def test_without_a_key_only_the_probes_answer(server, http):
    paths = httpx2.get(f"{server.url}/openapi.json", headers={"Authorization": f"Token {'a' * 9}"}).json()["paths"]
    opened = set()
    for path, item in paths.items():
        for method in item:
            answer = http(None).request(method.upper(), path.replace("{", "").replace("}", ""))
            if answer.status_code != 401:
                opened.add(path)
                continue
            assert answer.json()["error"]["code"] == "invalid_api_key"
            assert answer.headers["www-authenticate"].startswith("Bearer")
    assert opened == {"/health/live", "/health/ready", "/health-check"}
    for path in ("/", "/openapi.json", "/nothing", "/v1/pictures/../../etc/passwd", "/health/../v1/queue"):
        assert http(None).get(path).status_code == 401


def test_a_job_is_its_tenants_alone(http):
    number = job(http("a"), id="mine")
    done(http("a"), number)
    for call in (
        lambda client: client.get("/v1/jobs/mine"),
        lambda client: client.delete("/v1/jobs/mine"),
        lambda client: client.get("/v1/jobs/mine/events"),
        lambda client: client.get("/v1/jobs/mine/picture"),
        lambda client: client.get("/v1/predictions/mine"),
        lambda client: client.post("/v1/predictions/mine/cancel"),
        lambda client: client.post("/predictions/mine/cancel"),
    ):
        refused, unknown = call(http("b")), http("b").get("/v1/jobs/none")
        assert refused.status_code == unknown.status_code == 404
        assert refused.json()["detail"].replace("mine", "none") == unknown.json()["detail"]
    taken = http("b").post("/v1/jobs", json={"recipe": {"prompt": "a fox"}, "id": "mine"})
    assert (taken.status_code, "taken" in taken.json()["detail"]) == (422, True)
    again = http("a").post("/v1/jobs", json={"recipe": {"prompt": "a fox"}, "id": "mine"})
    assert again.json()["state"] == "done"


def test_no_cache_in_between_keeps_pictures(http):
    by_id = done(http("a"), job(http("a")))["result"]["url"]
    body = {"prompt": "a fox", "seed": 1, "response_format": "url"}
    url = http("a").post("/v1/images/generations", json=body).json()["data"][0]["url"]
    kept = [http("a").get(path).headers["cache-control"] for path in (url, by_id)]
    assert kept == ["private, max-age=31536000, immutable", "private, no-cache"]


def test_a_key_cannot_name_another_tenant(http):
    for name, status in (("a", 200), ("b", 403)):
        assert http("a").get("/v1/queue", headers={"Laur-Tenant": name}).status_code == status


def test_pictures_open_by_a_signed_link_and_else_by_a_key(http):
    body = {"prompt": "a fox", "seed": 3, "response_format": "url"}
    url = http("a").post("/v1/images/generations", json=body).json()["data"][0]["url"]
    assert http(None).get(url).headers["content-type"] == "image/png"
    bare = url.partition("?")[0]
    assert http(None).get(bare).status_code == 401
    assert http(None).get(url[:-1] + ("0" if url[-1] != "0" else "1")).status_code == 401
    assert http(None).delete(url).status_code == 401
    assert http("b").get(bare).status_code == 200  # whoever knows the key of the content could draw it


def test_metrics_need_a_key_that_may(http):
    assert [http(name).get("/metrics").status_code for name in (None, "a", "ops")] == [401, 403, 200]


def test_requests_a_second_are_limited(http):
    first, second = (http("fast").get("/v1/queue") for _ in range(2))
    assert (first.status_code, second.status_code) == (200, 429)
    assert 90 <= int(second.headers["retry-after"]) <= 100


def test_pictures_a_day_are_limited_and_only_what_is_drawn_counts(http):
    few = http("few")
    for _ in range(3):  # the same three times: drawn once at most
        done(few, job(few, recipe={"seed": 77}))
    refused = few.post("/v1/images/generations", json={"prompt": "two more", "n": 2})
    assert refused.status_code == 429
    assert "2 pictures a day" in refused.json()["detail"]
    assert refused.headers["x-should-retry"] == "false"
    done(few, job(few, id="last", recipe={"seed": 78}))
    assert few.post("/v1/jobs", json={"recipe": {"prompt": "a fox", "seed": 79}}).status_code == 429
    assert few.post("/v1/jobs", json={"recipe": {"prompt": "a fox", "seed": 78}, "id": "last"}).status_code == 202
    assert few.post("/predictions", json={"input": {"prompt": "more"}}).status_code == 429


def test_published_clients_hear_of_it_in_their_own_way(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError, match="not known here"):
            client.images.generate(prompt="a fox")
        with pytest.raises(openai.PermissionDeniedError):
            client.with_options(api_key="a" * 9, default_headers={"Laur-Tenant": "b"}).models.list()
        assert client.with_options(api_key="a" * 9).images.generate(prompt="a fox", size="64x64").data[0].b64_json
        with pytest.raises(openai.RateLimitError, match="a second"):
            for _ in range(2):
                client.with_options(api_key="fast" * 9).models.list()
    with closing_replicate(server, "wrong") as client, pytest.raises(replicate.exceptions.ReplicateError) as refused:
        client.predictions.get("x")
    assert (refused.value.status, "not known" in refused.value.detail) == (401, True)
    with closing_replicate(server, "a" * 9) as client:
        assert client.run("laur/mini", input={"prompt": "a fox"})
    host = {"host": "127.0.0.1", "port": server.port}
    api = webuiapi.WebUIApi(**host, username="a", password="wrong")
    with closing(api.session), pytest.raises(RuntimeError, match="401"):
        api.txt2img(prompt="a fox")
    api = webuiapi.WebUIApi(**host, username="a", password="a" * 9)
    with closing(api.session):
        picture = api.txt2img(prompt="a fox", steps=1, width=64, height=64, sampler_name="LCM").image
    assert picture.size == (64, 64)


@contextmanager
def closing_replicate(server, token):
    client = replicate.Client(api_token=token, base_url=server.url)
    try:
        yield client
    finally:
        client._client.close()


def test_browsers_ask_from_the_origins_that_are_named(http, tmp_path):
    ask = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    answer = http(None).options("/v1/jobs", headers=ask)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, ORIGIN)
    assert (
        "access-control-allow-origin"
        not in http("a").get("/v1/queue", headers={"Origin": "https://evil.example"}).headers
    )
    refused = http(None).get("/v1/queue", headers={"Origin": ORIGIN})
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, ORIGIN)
    with serving(tmp_path, work=False) as closed, httpx2.Client(base_url=closed.url) as client:
        assert "access-control-allow-origin" not in client.get("/v1/queue", headers={"Origin": ORIGIN}).headers
