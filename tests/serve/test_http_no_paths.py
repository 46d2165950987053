"""No name that a request may say leads to a file of the server, or tells whether one is there."""

import json
from urllib.parse import quote

import httpx2
import pytest
from fake_engine import FakeEngine
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from server import serving

from laur.core.errors import LaurError
from laur.core.recipe import Recipe
from laur.pipeline.device import choose
from laur.pipeline.engine import Engine
from laur.serve.worker.named_library import NamedLibrary
from laur.serve.worker.names import Names

CANARY = "what nobody may read"
SEVERAL = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
PARTS = st.sampled_from(
    ["..", ".", "", "%2e%2e", "..\\", "\\", "~", "results", "canary", "canary.safetensors", "safetensors", "etc",
     "passwd", "\x00", "file:", "http:", "{a|b}", "mini", "C:"]
)  # fmt: skip
PATHS = st.builds(
    lambda parts, root, text: root + "/".join(parts) + text,
    st.lists(PARTS, min_size=1, max_size=6),
    st.sampled_from(["", "/", "../", "./", "{folder}/", "file://{folder}/"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=3),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("paths")
    for name in ("canary", "canary.safetensors", "results/canary.png"):
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text(CANARY)
    return place


@pytest.fixture(scope="module")
def http(folder):
    with serving(folder, FakeEngine()) as server, httpx2.Client(base_url=server.url, timeout=30.0) as client:
        server.until_ready()
        yield client


def bodies(name):
    """Every field of every API that names something."""
    job = {"prompt": "a fox", "seed": 1}
    yield "/v1/jobs", {"recipe": {**job, "checkpoint": name}}
    yield "/v1/jobs", {"recipe": {**job, "style": name}}
    yield "/v1/jobs", {"recipe": {**job, "refiner": name}}
    yield "/v1/jobs", {"recipe": {**job, "image": name}}
    yield "/v1/jobs", {"recipe": {**job, "adapters": [{"name": name}]}}
    yield "/v1/jobs", {"recipe": job, "format": name}
    yield "/v1/images/generations", {**job, "model": name}
    yield "/v1/images/generations", {**job, "style": name}
    yield "/sdapi/v1/txt2img", {**job, "override_settings": {"sd_model_checkpoint": name}}
    yield "/sdapi/v1/txt2img", {**job, "sampler_name": name}
    yield "/sdapi/v1/options", {"sd_model_checkpoint": name}
    yield "/sdapi/v1/png-info", {"image": name}
    yield "/predictions", {"input": {"prompt": "a fox", "adapters": [{"name": name}]}}
    yield "/v1/predictions", {"input": {"prompt": "a fox"}, "version": name}


def names_the_model(route, body, name):
    """Whether the field is one for a checkpoint, and holds the name of the one that is served."""
    recipe = body.get("recipe", {})
    if recipe.get("checkpoint") == name or recipe.get("refiner") == name:
        return name == "mini"
    settings = {**body, **body.get("override_settings", {})}
    models = {settings.get("model"), settings.get("sd_model_checkpoint"), settings.get("version")}
    return name in models and name.split("/")[-1] == "mini"  # other APIs name owners too


@SEVERAL
@given(path=PATHS)
@example(path="\x00")
@example(path="mini")
def test_fields(http, folder, path):
    name = path.replace("{folder}", str(folder))
    for route, body in bodies(name):
        if names_the_model(route, body, name):
            continue
        if not name and "sampler_name" in body:  # clients of A1111 leave it empty: the model's own
            continue
        answer = http.post(route, content=json.dumps(body), headers={"Content-Type": "application/json"})
        assert 400 <= answer.status_code < 500, (route, body, answer.text)
        assert CANARY not in answer.text


@SEVERAL
@given(path=PATHS)
def test_addresses(http, folder, path):
    name = path.replace("{folder}", str(folder))
    for place in ("/v1/pictures", "/v1/jobs", "/v1/files", "/v1/predictions", "/v1/models", "/v1/models/laur", ""):
        for text in (quote(name), quote(name, safe=""), quote(quote(name, safe=""), safe="")):
            try:
                answer = http.get(f"{place}/{text}")
            except httpx2.InvalidURL:  # no client sends it
                continue
            assert CANARY not in answer.text
            assert answer.status_code < 500


@pytest.mark.parametrize("field", ["checkpoint", "style", "adapters"])
def test_a_refusal_does_not_tell_whether_a_file_is_there(http, folder, field):
    said = set()
    for name in (f"{folder}/canary.safetensors", f"{folder}/cannot.safetensors"):
        value = [{"name": name}] if field == "adapters" else name
        answer = http.post("/v1/jobs", json={"recipe": {"prompt": "a fox", "seed": 1, field: value}})
        said.add((answer.status_code, answer.text.replace(name[:80], "NAME")))
    assert len(said) == 1


@pytest.fixture(scope="module")
def engine():
    return Engine(library=NamedLibrary(Names(), choose("cpu", "float32")))


@SEVERAL
@given(path=PATHS, tag=st.sampled_from(["<lora:{}:1>", "<lyco:{}:0.5>", "<lora:{{{}|{}}}:1>", "{{{}|<lora:{}:1>}}"]))
def test_tags_and_wildcards_of_prompts(engine, folder, path, tag):
    name = path.replace("{folder}", str(folder))
    try:
        resolved = engine.resolve(Recipe(prompt=f"a fox {tag.format(name, name)}", seed=1))
    except LaurError as error:
        assert "\n" not in str(error)
        assert CANARY not in str(error)
        return
    assert {ref.name for ref in resolved.recipe.adapters} <= set(Names().adapters())
