"""Pictures to begin from, sent by the published clients of other APIs and over Laur's own, over both queues."""

import base64
import io
import secrets
import time
import warnings

import openai
import pytest
from fake_engine import FakeEngine
from pictures_kit import APPLE, HOLE, IMAGE, MASK, SIDE, data_url, drawn, pixels, png
from PIL import Image
from server import serving

from laur.core.recipe import Recipe
from laur.input.image import read_picture
from laur.render.metadata import read

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import replicate


@pytest.fixture(scope="module", params=["memory", "redis"])
def server(request, tmp_path_factory):
    redis = request.getfixturevalue("redis_server").url if request.param == "redis" else None
    queue = {"namespace": f"t{secrets.token_hex(4)}"}
    with serving(tmp_path_factory.mktemp("pictures"), FakeEngine(seconds=0.01), redis=redis, queue=queue) as running:
        running.until_ready()
        yield running


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def recipe_of(image):
    return read(base64.b64decode(image.b64_json)).recipe


# ------------------------------------------------------------------ OpenAI


def test_openai_edits_where_the_mask_is_transparent(client, server):
    images = client.images.edit(
        image=("apple.png", APPLE), mask=("mask.png", HOLE), prompt="a pear", n=2, size="64x48",
        extra_body={"seed": 5, "steps": 3, "strength": 0.9},
    )  # fmt: skip
    assert images.size == "64x48"
    recipes = [recipe_of(image) for image in images.data]
    assert [(recipe.image, recipe.mask, recipe.strength) for recipe in recipes] == [(IMAGE, MASK, 0.9)] * 2
    assert [(recipe.seed, recipe.steps) for recipe in recipes] == [(5, 3), (6, 3)]
    mask = server.app.state.service.inputs.load("default", MASK)
    assert (mask.pixels[:, : SIDE // 2].min(), mask.pixels[:, SIDE // 2 :].max()) == (255, 0)


def test_openai_edits_without_a_mask(client, http):
    recipe = recipe_of(client.images.edit(image=[("a.png", APPLE)], prompt="a pear", model="gpt-image-2").data[0])
    assert (recipe.image, recipe.mask, recipe.strength, recipe.width) == (IMAGE, None, None, SIDE)
    recipe = recipe_of(client.images.edit(image=("a.png", APPLE), prompt="a pear", input_fidelity="high").data[0])
    assert recipe.strength == 0.5
    images = client.images.edit(
        image=("a.png", HOLE), prompt="a pear", model="dall-e-2", response_format="url", output_format="webp"
    )
    answer = http.get(images.data[0].url)
    assert answer.headers["content-type"] == "image/webp"
    recipe = read(answer.content).recipe
    assert (recipe.image, recipe.mask) == (read_picture(HOLE).ref, MASK)
    recipe = recipe_of(client.images.edit(image=("a.png", HOLE), prompt="a pear").data[0])
    assert (recipe.image, recipe.mask) == (read_picture(HOLE).ref, None)


def test_openai_edits_stream(client):
    stream = client.images.edit(image=("a.png", APPLE), prompt="a pear", stream=True, partial_images=2)
    events = list(stream)
    assert 1 <= len(events[:-1]) <= 2
    assert {event.type for event in events[:-1]} == {"image_edit.partial_image"}
    assert events[-1].type == "image_edit.completed"
    assert recipe_of(events[-1]).image == IMAGE


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the package's own, of a method that OpenAI retires
def test_openai_variations(client):
    images = client.images.create_variation(image=("a.png", APPLE), n=2, size="256x256", response_format="b64_json")
    first, second = [recipe_of(image) for image in images.data]
    assert (first.image, first.prompt, first.strength, first.width) == (IMAGE, "a picture", 0.5, 256)
    assert second.seed == first.seed + 1
    made = client.images.generate(prompt="a red fox", response_format="b64_json").data[0].b64_json
    recipe = recipe_of(client.images.create_variation(image=base64.b64decode(made), response_format="b64_json").data[0])
    assert recipe.prompt == "a red fox"
    told = Image.new("RGB", (SIDE, SIDE))
    file = io.BytesIO()
    exif = told.getexif()
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0a cat <lora:theirs:1>\nSteps: 4, Sampler: LCM, Seed: 1, Size: 32x32"
    told.save(file, "JPEG", exif=exif)
    images = client.images.create_variation(
        image=file.getvalue(), response_format="b64_json", extra_body={"strength": 0.3}
    )
    recipe = recipe_of(images.data[0])
    assert (recipe.prompt, recipe.strength) == ("a cat", 0.3)


def test_openai_refusals_are_one_line(client):
    def edit(said, error=openai.UnprocessableEntityError, **fields):
        with pytest.raises(error, match=said) as refused:
            client.images.edit(**{"image": ("a.png", APPLE), "prompt": "a pear", **fields})
        assert "\n" not in refused.value.response.json()["detail"]

    edit("2 were sent", image=[("a.png", APPLE), ("b.png", HOLE)])
    edit("not a picture", image=("a.svg", b"<svg/>"))
    edit("damaged or cut short", mask=("m.png", HOLE[:100]))
    edit("markup is not offered", markup=("m.png", HOLE))
    edit("size", size="large")
    edit("output_format", output_format="gif")
    edit("no model is called", error=openai.NotFoundError, model="/etc/passwd")
    edit("NaN", error=openai.InternalServerError, prompt="refuse")


# --------------------------------------------------------------- Laur's own


def test_pictures_are_uploaded_and_named(http):
    said = http.post("/v1/inputs", content=APPLE, headers={"Content-Type": "image/png"}, timeout=5)
    assert (said.status_code, said.json()) == (201, {"ref": IMAGE, "kind": "image", "width": SIDE, "height": SIDE})
    assert http.post("/v1/inputs?kind=mask", content=HOLE).json()["ref"] == MASK
    state, recipe = drawn(http, {"image": IMAGE, "mask": MASK, "strength": 0.7, "seed": 1})
    assert (state, recipe["image"], recipe["mask"], recipe["strength"]) == ("done", IMAGE, MASK, 0.7)
    assert drawn(http, {"image": IMAGE, "mask": MASK}, **{"Laur-Tenant": "bert"})[0] == 404
    assert http.delete(f"/v1/inputs/{IMAGE}", headers={"Laur-Tenant": "bert"}).status_code == 404
    assert http.delete(f"/v1/inputs/{IMAGE}").status_code == 204
    assert http.delete(f"/v1/inputs/{IMAGE}").status_code == 404
    status, detail = drawn(http, {"image": IMAGE})
    assert (status, "send it again" in detail) == (404, True)


def test_data_urls_in_a_recipe(http):
    wish = {
        "image": data_url(png(pixels(3), format="WEBP", lossless=True), "image/webp"),
        "mask": data_url(HOLE),
        "seed": 4,
    }
    state, recipe = drawn(http, wish)
    assert (state, recipe["image"], recipe["mask"]) == ("done", read_picture(png(pixels(3))).ref, MASK)
    state = http.post("/v1/jobs", json={"recipe": {"prompt": "a pear", **wish}}).json()
    assert (state["state"], state["result"]["cached"]) == ("done", True)
    assert "base64" not in http.get(f"/v1/jobs/{state['id']}").text
    state, recipe = drawn(http, {"image": data_url(APPLE), "width": 64})
    assert (recipe["width"], recipe["height"]) == (64, 64)


def test_results_are_begun_from_by_their_links(http):
    job = http.post("/v1/jobs", json={"recipe": {"prompt": "a fox", "seed": 3}}).json()
    own = f"{http.base_url}/v1/jobs/{job['id']}/picture".replace("//v1", "/v1")
    while http.get(f"/v1/jobs/{job['id']}").json()["state"] != "done":
        time.sleep(0.02)
    ref = read_picture(http.get(own).content).ref
    made = http.post("/v1/images/generations", json={"prompt": "a fox", "seed": 3, "response_format": "url"}).json()
    for link in (own, made["data"][0]["url"]):
        state, recipe = drawn(http, {"image": link})
        assert (state, recipe["image"]) == ("done", ref)
    for link in (
        own.replace(job["id"], "nothing"),
        made["data"][0]["url"].replace("pictures/", "pictures/" + "0" * 64),
    ):
        assert drawn(http, {"image": link})[0] in {404, 422}


@pytest.mark.parametrize(
    ("fields", "status", "said"),
    [
        ({"image": "apple.png"}, 422, "image"),
        ({"image": "sha256:1"}, 422, "image"),
        ({"image": "data:image/png,abc"}, 422, "data URL"),
        ({"image": "data:image/png;base64,?"}, 422, "not base64"),
        ({"image": "data:image/png;base64,"}, 422, "not a picture"),
        ({"image": data_url(b"<svg/>")}, 422, "not a picture"),
        ({"image": "http://127.0.0.1/a.png"}, 422, "--image-urls"),
        ({"mask": data_url(HOLE)}, 422, "a mask says what of a picture"),
        ({"image": f"sha256:{'0' * 64}"}, 404, "send it again"),
        ({"image": data_url(APPLE), "strength": 2}, 422, "strength"),
        ({"image": data_url(APPLE), "width": 16384}, 413, "pixels"),
    ],
)
def test_what_cannot_be_taken_is_said_in_one_line(http, fields, status, said):
    found, detail = drawn(http, fields)
    assert found == status, detail
    assert said in detail
    assert "\n" not in detail


# -------------------------------------------------------- Cog and Replicate


def test_cog_begins_from_pictures(http):
    wish = {"prompt": "a pear", "image": data_url(APPLE), "mask": data_url(HOLE), "prompt_strength": 0.7, "seed": 2}
    said = http.post("/predictions", json={"input": wish}).json()
    assert said["status"] == "succeeded"
    assert said["input"] == {**wish, "image": IMAGE, "mask": MASK}
    recipe = read(base64.b64decode(said["output"][0].partition(",")[2])).recipe
    assert (recipe.image, recipe.mask, recipe.strength) == (IMAGE, MASK, 0.7)
    url = f"/predictions/p{secrets.token_hex(4)}"
    both = [http.put(url, json={"input": {**wish, "image": IMAGE}}).json() for _ in range(2)]
    assert both[0]["id"] == both[1]["id"]
    assert both[0]["output"] == both[1]["output"]


def test_cog_refuses_in_one_line(http):
    for fields, said in (
        ({"image": "apple.png"}, "image"),
        ({"image": data_url(APPLE[:90])}, "damaged or cut short"),
        ({"image": data_url(APPLE), "prompt_strength": 0.5, "strength": 0.6}, "leave one out"),
        ({"mask": data_url(HOLE)}, "give the image too"),
        ({"image": "https://example.com/a.png"}, "--image-urls"),
    ):
        answer = http.post("/predictions", json={"input": {"prompt": "a pear", **fields}})
        assert answer.status_code == 422
        assert said in answer.json()["detail"]


def test_replicate_sends_files_in_both_of_its_ways(server, tmp_path):
    client = replicate.Client(api_token="none", base_url=server.url)
    (tmp_path / "a.png").write_bytes(APPLE)
    (tmp_path / "m.png").write_bytes(HOLE)
    for way in ("url", "base64"):
        with (tmp_path / "a.png").open("rb") as image, (tmp_path / "m.png").open("rb") as mask:
            output = client.run(
                "laur/mini",
                {"prompt": "a pear", "image": image, "mask": mask, "strength": 0.8},
                file_encoding_strategy=way,
            )
        recipe = read(output[0].read()).recipe
        assert (recipe.image, recipe.mask, recipe.strength) == (IMAGE, MASK, 0.8)
    file = client.files.create(tmp_path / "a.png")
    assert (file.size, file.id) == (len(APPLE), client.files.get(file.id).id)
    assert client.files.delete(file.id)
    with pytest.raises(replicate.exceptions.ReplicateError) as refused:
        client.run("laur/mini", {"prompt": "a pear", "image": file.urls["get"]})
    assert refused.value.status == 404
    schema = client.models.get("laur/mini").latest_version.openapi_schema["components"]["schemas"]["Input"]
    assert schema["properties"]["image"]["anyOf"][0]["format"] == "uri"
    client._client.close()


def test_recipes_of_results_can_be_sent_back(http):
    """What a result's file says is a recipe that is drawn again as it is."""
    _, recipe = drawn(http, {"image": data_url(APPLE), "seed": 9, "steps": 3})
    again = Recipe.from_dict(recipe)
    assert drawn(http, {"image": again.image, "seed": 9, "steps": 3})[0] == "done"
