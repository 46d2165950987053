"""The safety hook: diffusers' classifier with random weights, a plug-in, and what each API says of a judged picture."""

import base64
import io
import json
import time
from importlib.metadata import EntryPoint

import httpx2
import numpy as np
import pytest
import torch
from fake_engine import FakeEngine
from PIL import Image
from server import serving

from laur.core.errors import CheckpointError, NotFoundError
from laur.core.recipe import Recipe
from laur.render.metadata import read
from laur.render.picture import Picture, Provenance
from laur.serve.safety import base, open_safety
from laur.serve.safety.blur import blurred
from laur.serve.safety.clip import ClipSafety, _prepared

NONE = "0" * 64
MADE = Provenance(laur="0", torch="0", device="cpu", dtype="float32", backend="", checkpoint="mini",
                  checkpoint_sha256=NONE, plan_key=NONE)  # fmt: skip


# --------------------------------------------------------------- classifier


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small network of the same architecture; every second concept is near any picture."""
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig

    torch.manual_seed(3)
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
              "image_size": 32, "patch_size": 8, "projection_dim": 8}  # fmt: skip
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=8))
    with torch.no_grad():
        for name in ("concept_embeds", "special_care_embeds"):
            getattr(checker, name).copy_(torch.randn_like(getattr(checker, name)))
        checker.concept_embeds_weights.fill_(0.4)
        checker.special_care_embeds_weights.fill_(0.3)
    place = tmp_path_factory.mktemp("safety")
    checker.save_pretrained(place)
    return place


def pictures():
    draw = np.random.default_rng(5)
    for height, width in [(48, 64), (32, 32), (100, 40)] * 4:
        low = draw.integers(0, 256, (3, 3, 3), dtype=np.uint8)
        yield np.asarray(Image.fromarray(low).resize((width, height), Image.Resampling.BICUBIC))


def test_the_same_pictures_are_flagged_as_by_diffusers(folder):
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

    theirs, ours = StableDiffusionSafetyChecker.from_pretrained(folder), ClipSafety(folder)
    flagged = []
    for pixels in pictures():
        _, [expected] = theirs(images=[pixels.copy()], clip_input=_prepared(pixels, 32))
        reason = ours.picture(pixels)
        assert (reason is not None) == bool(expected)
        assert reason is None or ("\n" not in reason and "above its threshold" in reason)
        flagged.append(bool(expected))
    assert len(set(flagged)) == 2
    assert ours.prompt("anything") is None


def test_pictures_are_prepared_as_clip_wants_them(folder):
    from transformers import CLIPImageProcessor

    pixels = next(pictures())
    theirs = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    expected = theirs(Image.fromarray(pixels), return_tensors="pt")["pixel_values"]
    assert (_prepared(pixels, 32) - expected).abs().max() < 0.1


def test_what_is_no_checker_is_refused_in_one_line(folder, tmp_path):
    assert open_safety(str(folder)).name == f"clip {base.open_safety(str(folder)).name.split()[1]}"
    with pytest.raises(CheckpointError, match="pickles"):
        open_safety(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"nonsense")
    for wanted, error in ((tmp_path, CheckpointError), ("no-such-thing", NotFoundError)):
        with pytest.raises(error) as refused:
            open_safety(str(wanted))
        assert "\n" not in str(refused.value)


def test_a_blurred_picture_shows_colours_only():
    draw = np.random.default_rng(1)
    pixels = draw.integers(0, 256, (64, 128, 3), dtype=np.uint8)
    picture = Picture(pixels, Recipe(prompt="a fox", seed=1), MADE)
    seen = blurred(picture)
    assert (seen.pixels.shape, seen.recipe) == (pixels.shape, picture.recipe)
    assert abs(np.diff(seen.pixels.astype(int), axis=1)).max() < 30
    assert abs(seen.pixels.mean() - pixels.mean()) < 8


# ----------------------------------------------------------------------- APIs


class Judge:
    """Refuses one prompt and hides the pictures of odd seeds."""

    name = "judge 1"

    def prompt(self, text):
        return "it says so" if text == "forbidden" else None

    def picture(self, pixels):
        return "its seed is\nodd" if pixels[0, 0, 0] % 2 else None


def test_a_plug_in_is_found_by_its_name(monkeypatch):
    entry = EntryPoint("judge", f"{Judge.__module__}:Judge", base.GROUP)
    monkeypatch.setattr(EntryPoint, "load", lambda self: Judge)
    monkeypatch.setattr(base, "entry_points", lambda group: [entry] if group == base.GROUP else [])
    base.open_safety.cache_clear()
    assert open_safety("judge").name == "judge 1"


@pytest.fixture(scope="module")
def http(tmp_path_factory):
    with (
        serving(tmp_path_factory.mktemp("judged"), FakeEngine(), safety=Judge()) as server,
        httpx2.Client(base_url=server.url, timeout=30.0) as client,
    ):
        until = time.monotonic() + 20
        while client.get("/health/ready").status_code != 200 and time.monotonic() < until:
            time.sleep(0.05)
        yield client


def draw(http, seed, **fields):
    recipe = {"prompt": "a fox", "seed": seed, "width": 64, "height": 64}
    number = http.post("/v1/jobs", json={"recipe": recipe, **fields}).json()["id"]
    http.get(f"/v1/jobs/{number}/events")
    return http.get(f"/v1/jobs/{number}").json()


@pytest.mark.parametrize("format", ["png", "webp"])
def test_own_api(http, format):
    shown, hidden = draw(http, 2, format=format)["result"], draw(http, 3, format=format)["result"]
    assert (shown["blurred"], shown["warnings"]) == (None, [])
    assert hidden["blurred"] == "its seed is odd"
    assert hidden["warnings"] == ["the picture is blurred: its seed is odd"]
    again = draw(http, 3, format=format, metadata=True)["result"]
    assert (again["cached"], again["blurred"]) == (True, "its seed is odd")
    assert read(http.get(hidden["url"]).content).recipe.seed == 3


def test_a_file_that_was_blurred_is_found_again_and_said_to_be(http):
    first = draw(http, 5)["result"]
    for metadata in (False, True):  # another recipe hash in the index, the same file in the store
        found = draw(http, 5, metadata=metadata, previews=True)["result"]
        assert found["blurred"]
    assert found["sha256"] == first["sha256"]


def test_nothing_is_shown_before_it_was_judged(http):
    number = http.post("/v1/jobs", json={"recipe": {"prompt": "a fox", "seed": 41}, "previews": True}).json()["id"]
    said = http.get(f"/v1/jobs/{number}/events").text
    assert "event: ended" in said
    assert "event: preview" not in said


def test_openai(http):
    body = {"prompt": "a fox", "seed": 12, "n": 2, "size": "64x64"}
    data = http.post("/v1/images/generations", json=body).json()["data"]
    assert [picture["blurred"] for picture in data] == [None, "its seed is odd"]
    refused = http.post("/v1/images/generations", json={"prompt": "forbidden"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "moderation_blocked")
    assert "it says so" in refused.json()["error"]["message"]


def test_automatic1111(http):
    body = {"prompt": "a fox", "seed": 21, "steps": 2, "width": 64, "height": 64}
    found = http.post("/sdapi/v1/txt2img", json=body).json()
    assert "picture 0 is blurred: its seed is odd" in json.loads(found["info"])["extra_generation_params"]["Laur"]
    assert Image.open(io.BytesIO(base64.b64decode(found["images"][0]))).size == (64, 64)


def test_cog_and_replicate(http):
    found = http.post("/predictions", json={"input": {"prompt": "a fox", "seed": 30, "num_outputs": 2}}).json()
    assert found["status"] == "succeeded"
    assert found["logs"].splitlines()[1:] == ["output 1 is blurred: its seed is odd"]
    failed = http.post("/predictions", json={"input": {"prompt": "forbidden"}}).json()
    assert (failed["status"], "it says so" in failed["error"]) == ("failed", True)
