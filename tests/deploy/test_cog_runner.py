"""The Cog package through Cog's own server: what `cog build` would put into the image, without the image."""

import base64
import importlib.machinery
import importlib.util
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest
from PIL import Image

from helpers.redis_server import free_port
from laur.input.image import read_picture
from laur.models import adapter_file, checkpoint_folder
from laur.render.metadata import read

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "cog"
MARKETPLACE = (
    "A bustling Moroccan marketplace at sunset, with vibrant stalls displaying colorful textiles, spices, and "
    "lanterns, as merchants and shoppers engage in lively exchanges."
)


@pytest.fixture(scope="module")
def cog(tmp_path_factory):
    port = free_port()
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PORT": str(port),
        "COG_PREDICT_TYPE_STUB": re.search(r'run: "(.+)"', (FOLDER / "cog.yaml").read_text())[1],
        "LAUR_WEIGHTS": str(tmp_path_factory.mktemp("no-weights")),
    }
    command = [sys.executable, "-m", "cog.server.http", "--host", "127.0.0.1"]
    with (
        (tmp_path_factory.mktemp("cog") / "log").open("w+") as log,
        httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=None) as http,
    ):
        process = subprocess.Popen(command, cwd=FOLDER, env=environment, stdout=log, stderr=log)
        try:
            _wait(http, process, log)
            yield http
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait() == 0


def _wait(http, process, log):
    while True:
        log.seek(0)
        assert process.poll() is None, log.read()
        try:
            said = http.get("/health-check").json()
        except httpx2.TransportError:
            said = {"status": "STARTING"}
        assert said["status"] in {"STARTING", "READY"}, said
        if said["status"] == "READY":
            return
        time.sleep(0.1)


def _predict(http, **given):
    sent = {"input": {"num_inference_steps": 2, "width": 64, "height": 64, **given}}
    # Cog answers a moment before it frees the place of the prediction, and says 409 to what comes in between.
    while (answer := http.post("/predictions", json=sent)).status_code == httpx2.codes.CONFLICT:
        time.sleep(0.05)
    return answer.json()


def _picture(url):
    return base64.b64decode(url.partition(",")[2])


def test_a_prompt_of_the_packages_readme_becomes_pictures_that_tell_how(cog):
    said = _predict(cog, prompt=MARKETPLACE, num_images=2, seed=5, guidance_scale=0)
    assert said["status"] == "succeeded", said
    assert said["metrics"]["seed"] == 5
    first, second = (read(_picture(url)) for url in said["output"])
    assert (first.recipe.prompt, first.recipe.seed, second.recipe.seed) == (MARKETPLACE, 5, 6)
    assert (first.recipe.steps, first.recipe.guidance, first.recipe.clip_skip) == (2, 1.0, 1)
    assert first.pixels.shape == (64, 64, 3)
    assert (first.pixels != second.pixels).any()


def test_a_picture_and_a_lora_come_as_files(cog, tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(buffer, "PNG")
    image = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    lora = base64.b64encode(Path(adapter_file("lcm-lora-mini")).read_bytes()).decode()
    said = _predict(
        cog, prompt="a red heart", image=image, prompt_strength=0.5, num_inference_steps=4, output_format="webp"
    )
    assert said["status"] == "succeeded", said
    found = read(_picture(said["output"][0]))
    assert found.recipe.strength == 0.5
    assert found.recipe.image == read_picture(buffer.getvalue()).ref
    said = _predict(cog, prompt="a red heart", lora=f"data:application/octet-stream;base64,{lora}", lora_scale=0.9)
    assert said["status"] == "succeeded", said
    assert 0.9 in [ref.weight for ref in read(_picture(said["output"][0])).recipe.adapters]


def test_what_cannot_be_drawn_fails_in_one_line(cog):
    said = _predict(cog, prompt="a fox", width=8)
    assert said["status"] == "failed"
    assert "width is 8" in said["error"]
    assert "\n" not in said["error"]
    assert _predict(cog, prompt="a fox")["status"] == "succeeded"


def test_versions_of_the_package_are_those_of_the_repository():
    import laur

    pinned = dict(re.findall(r"^([\w-]+)==(.+)$", (FOLDER / "requirements.txt").read_text(), re.M))
    constraints = dict(re.findall(r"^([\w-]+)==(.+)$", (FOLDER.parents[1] / "constraints.txt").read_text(), re.M))
    assert pinned == {name: constraints[name] for name in pinned}
    assert f"lcm_laur-{laur.__version__}-py3-none-any.whl" in (FOLDER / "requirements.txt").read_text()
    assert f'sdk_version: "{constraints["cog"]}"' in (FOLDER / "cog.yaml").read_text()


def _module(path):
    loader = importlib.machinery.SourceFileLoader(f"deploy_{path.stem.replace('-', '_')}", str(path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


def test_weights_are_downloaded_and_saved_for_the_runner(tmp_path, monkeypatch, capsys):
    model, lora = checkpoint_folder("mini"), tmp_path / "glow.safetensors"
    lora.write_bytes(Path(adapter_file("lcm-lora-mini")).read_bytes())
    weights = tmp_path / "weights"
    for name, value in {"LAUR_COG_CACHE": tmp_path / "cache", "LAUR_WEIGHTS": weights}.items():
        monkeypatch.setenv(name, str(value))
    for name in ("LAUR_HOME", "LAUR_CACHE", "HF_HOME"):  # which they set
        monkeypatch.setenv(name, os.environ.get(name, ""))

    def run(script, *arguments):
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        return _module(FOLDER / "scripts" / script).main()

    assert run("save-weights") == 1
    assert "run scripts/download-weights first" in capsys.readouterr().err
    assert run("download-weights", "--model", "nobody/has-this") == 1
    assert "nobody/has-this" in capsys.readouterr().err
    assert run("download-weights", "--model", str(model), "--lora", f"{lora}:0.8") == 0
    assert run("save-weights") == 0
    content = json.loads((weights / "weights.json").read_text())
    assert content["adapters"] == ["glow:0.8"]
    assert (weights / "home" / "models" / content["model"] / "model_index.json").is_file()
    assert not (tmp_path / "cache").exists()
    runner = _module(FOLDER / "runner.py").Runner()
    runner.setup()
    [resolved] = runner.pipeline.plan("a fox", adapters=runner._adapters(None, 1.0))
    assert [(ref.name, ref.weight) for ref in resolved.recipe.adapters] == [("glow", 0.8)]
