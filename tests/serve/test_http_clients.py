"""The published clients of other APIs, against a real socket."""

import base64
import io
import os
import threading
import time
import warnings

import httpx2
import openai
import pytest
from fake_engine import FakeEngine
from PIL import Image
from server import serving

from laur.render.metadata import read

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import replicate
    import webuiapi


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("clients"), FakeEngine(seconds=0.02)) as running:
        running.until_ready()
        yield running


# ------------------------------------------------------------------ OpenAI


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_openai_generates(client):
    images = client.images.generate(
        model="gpt-image-2", prompt="a fox", n=2, size="64x32", extra_body={"seed": 5, "steps": 3}
    )
    assert images.size == "64x32"
    recipes = [read(base64.b64decode(image.b64_json)).recipe for image in images.data]
    assert [(recipe.seed, recipe.steps, recipe.width, recipe.height) for recipe in recipes] == [
        (5, 3, 64, 32),
        (6, 3, 64, 32),
    ]


def test_openai_links(client, http):
    images = client.images.generate(model="mini", prompt="a fox", response_format="url", output_format="webp")
    answer = http.get(images.data[0].url)
    assert (answer.headers["content-type"], read(answer.content).format) == ("image/webp", "webp")
    etag = answer.headers["etag"]
    assert http.get(images.data[0].url, headers={"If-None-Match": etag}).status_code == 304


def test_openai_streams_partial_images(client):
    stream = client.images.generate(prompt="a fox", stream=True, partial_images=2)
    events = list(stream)
    assert [event.type for event in events[:-1]] == ["image_generation.partial_image"] * (len(events) - 1)
    assert 1 <= len(events[:-1]) <= 2
    assert events[0].partial_image_index == 0
    assert Image.open(io.BytesIO(base64.b64decode(events[0].b64_json))).size == (256, 256)
    assert events[-1].type == "image_generation.completed"
    assert read(base64.b64decode(events[-1].b64_json)).recipe.prompt == "a fox"
    assert events[-1].usage.total_tokens == 0


def test_openai_models_and_errors(client):
    assert "mini" in [model.id for model in client.models.list()]
    assert client.models.retrieve("mini").id == "mini"
    with pytest.raises(openai.NotFoundError, match="no model is called"):
        client.images.generate(prompt="a fox", model="/etc/passwd")
    with pytest.raises(openai.UnprocessableEntityError, match="size"):
        client.images.generate(prompt="a fox", size="large")
    with pytest.raises(openai.InternalServerError, match="NaN"):
        client.images.generate(prompt="refuse")


def test_openai_who_hangs_up_takes_the_job_along(server, client, http):
    before = http.get("/metrics").text
    with client.images.generate(prompt="long", stream=True, partial_images=3, extra_body={"steps": 150}) as stream:
        next(iter(stream))
    until = time.monotonic() + 20
    while http.get("/v1/queue").json()["running"] and time.monotonic() < until:
        time.sleep(0.05)
    assert 'event="cancelled"' in http.get("/metrics").text
    assert before


# ------------------------------------------------------------------- A1111


@pytest.fixture
def webui(server):
    api = webuiapi.WebUIApi(port=server.port)
    yield api
    api.session.close()


def test_a1111_draws_from_text(webui):
    result = webui.txt2img(
        prompt="a fox", negative_prompt="dog", seed=9, width=64, height=32, steps=3, cfg_scale=1.5, batch_size=2
    )
    assert [image.size for image in result.images] == [(64, 32)] * 2
    assert result.info["all_seeds"] == [9, 10]
    assert "Euler a is not offered" in result.info["extra_generation_params"]["Laur"]
    assert result.info["infotexts"][0].startswith("a fox\nNegative prompt: dog\nSteps: 3, Sampler: Euler")


def test_a1111_lists_and_options(webui):
    assert "mini" in webui.util_get_model_names()
    assert "LCM" in webui.util_get_sampler_names()
    assert {"name", "alias", "path"} <= set(webui.get_loras()[0])
    webui.util_set_model("mini")
    assert webui.util_get_current_model() == "mini"
    assert webui.get_progress()["progress"] == 0.0


def test_a1111_reads_what_it_wrote(webui):
    image = webui.txt2img(prompt="a red fox", seed=4, sampler_name="LCM", steps=4).image
    assert webui.png_info(image).info.startswith("a red fox\nSteps: 4, Sampler: LCM")


def test_a1111_progress_and_interrupt(webui, server):
    seen = []

    def draw():
        with pytest.raises(RuntimeError) as ended:
            webui_again.txt2img(prompt="long", steps=150, sampler_name="LCM")
        seen.append(str(ended.value))

    webui_again = webuiapi.WebUIApi(port=server.port)
    drawing = threading.Thread(target=draw)
    drawing.start()
    until = time.monotonic() + 20
    while (now := webui.get_progress())["progress"] < 0.01 or not now["current_image"]:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert now["state"]["sampling_steps"] == 150
    webui.interrupt()
    drawing.join()
    webui_again.session.close()
    assert "cancelled" in seen[0]


def test_a1111_refuses_what_it_does_not_have(http):
    body = {"prompt": "a fox", "steps": 2}
    assert http.post("/sdapi/v1/txt2img", json={**body, "sampler_name": "Heun"}).status_code == 404
    assert http.post("/sdapi/v1/txt2img", json={**body, "prompt": "a <lora:../../x:1>"}).status_code == 404
    assert http.post("/sdapi/v1/txt2img", json={**body, "prompt": "a <lora:x:heavy>"}).status_code == 422
    assert http.post("/sdapi/v1/options", json={"sd_model_checkpoint": "/etc/passwd"}).status_code == 404
    assert http.post("/sdapi/v1/png-info", json={"image": "?"}).status_code == 422


# -------------------------------------------------------- Cog and Replicate


def test_cog_predicts(http):
    answer = http.post("/predictions", json={"input": {"prompt": "a fox", "seed": 2, "num_outputs": 2}})
    assert answer.status_code == 200
    said = answer.json()
    assert (said["status"], said["error"], len(said["output"])) == ("succeeded", None, 2)
    seeds = [read(base64.b64decode(url.partition(",")[2])).recipe.seed for url in said["output"]]
    assert seeds == [2, 3]
    assert said["metrics"]["predict_time"] >= 0
    assert http.get("/health-check").json()["status"] == "READY"


def test_cog_failures_are_predictions_too(http):
    said = http.post("/predictions", json={"input": {"prompt": "refuse"}}).json()
    assert (said["status"], said["output"], said["error"]) == ("failed", None, "step 1 gave NaN")
    for body in ({}, {"input": {}}, {"input": {"prompt": "x", "stps": 1}}, {"input": {"prompt": "x"}, "id": "a/b"}):
        assert http.post("/predictions", json=body).status_code == 422


def test_cog_put_is_idempotent_and_cancels(http):
    url = f"/predictions/p{os.urandom(4).hex()}"
    body = {"input": {"prompt": "long", "num_inference_steps": 150}}
    first = http.put(url, json=body, headers={"Prefer": "respond-async"})
    assert (first.status_code, first.json()["status"] in {"starting", "processing"}) == (202, True)
    assert http.put(url, json=body).status_code == 202
    assert http.put(url, json={**body, "id": "another"}).status_code == 422
    assert http.post(f"{url}/cancel").json() == {}
    again = http.put(url, json=body)
    assert (again.status_code, again.json()["status"]) == (200, "canceled")
    assert http.post("/predictions/nothing/cancel").status_code == 404


def test_cog_webhooks_are_tried_again(http, hook):
    url, received = hook
    events = ["start", "completed"]
    body = {"input": {"prompt": "a fox"}, "webhook": url, "webhook_events_filter": events}
    answer = http.post("/predictions", json=body, headers={"Prefer": "respond-async"})
    assert answer.status_code == 202
    until = time.monotonic() + 20
    while not any(b'"succeeded"' in body for body in received) and time.monotonic() < until:
        time.sleep(0.05)
    assert sum(b'"succeeded"' in body for body in received) == 1
    assert answer.json()["id"].encode() in received[-1]


def test_cog_says_409_when_full_and_503_while_starting(tmp_path):
    engine = FakeEngine()
    engine.gate.clear()
    with serving(tmp_path, engine, queue={"limit": 1}) as running, httpx2.Client(base_url=running.url) as http:
        statuses = set()
        until = time.monotonic() + 20
        while not {202, 409} <= statuses and time.monotonic() < until:
            answer = http.post("/predictions", json={"input": {"prompt": "x"}}, headers={"Prefer": "respond-async"})
            statuses.add(answer.status_code)
        assert {202, 409} <= statuses
        assert statuses <= {202, 409, 503}


def test_webhooks_into_private_networks_are_not_sent(tmp_path, hook):
    url, received = hook
    from laur.serve.http.webhooks import Allowed

    for allowed, status in ((Allowed.OFF, 422), (Allowed.PUBLIC, 200)):
        with (
            serving(tmp_path, webhooks=allowed) as running,
            httpx2.Client(base_url=running.url) as http,
        ):
            running.until_ready()
            answer = http.post("/predictions", json={"input": {"prompt": "a fox"}, "webhook": url})
            assert answer.status_code == status
            time.sleep(0.2)
    assert received == []


@pytest.fixture
def client_of_replicate(server):
    client = replicate.Client(api_token="none", base_url=server.url)
    yield client
    client._client.close()


def test_replicate_runs(client_of_replicate):
    output = client_of_replicate.run("laur/mini", input={"prompt": "a fox", "seed": 8, "width": 32, "height": 32})
    recipe = read(output[0].read()).recipe
    assert (recipe.seed, recipe.width) == (8, 32)
    version = client_of_replicate.models.get("laur/mini").latest_version.id
    output = list(client_of_replicate.run(f"laur/mini:{version}", input={"prompt": "a fox", "num_outputs": 2}))
    assert len(output) == 2


def test_replicate_predictions_are_polled_and_cancelled(client_of_replicate):
    version = client_of_replicate.models.get("laur/mini").versions.list()[0].id
    prediction = client_of_replicate.predictions.create(version=version, input={"prompt": "a fox"})
    prediction.wait()
    assert (prediction.status, prediction.progress.total) == ("succeeded", 4)
    long = client_of_replicate.predictions.create(
        model="laur/mini", input={"prompt": "long", "num_inference_steps": 150}
    )
    long.cancel()
    assert client_of_replicate.predictions.get(long.id).status == "canceled"


def test_replicate_errors(client_of_replicate):
    with pytest.raises(replicate.exceptions.ModelError, match="NaN"):
        client_of_replicate.run("laur/mini", input={"prompt": "refuse"})
    with pytest.raises(replicate.exceptions.ReplicateError) as refused:
        client_of_replicate.run("somebody/mini", input={"prompt": "a fox"})
    assert refused.value.status == 404
    with pytest.raises(replicate.exceptions.ReplicateError) as refused:
        client_of_replicate.predictions.create(version="0" * 64, input={"prompt": "a fox"})
    assert refused.value.status == 422
