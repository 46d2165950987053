"""`laur serve` and `laur worker` as processes, with the real engine and Redis between them."""

import io
import os
import re
import signal
import subprocess
import sys
import time

import httpx2
import numpy as np
import pytest
from PIL import Image

from helpers.redis_server import free_port
from laur.input.image import InputPicture
from laur.render.metadata import read

LAUR = (sys.executable, "-m", "laur")


@pytest.fixture
def start(tmp_path):
    processes, logs = [], {}

    def begin(*arguments):
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [*LAUR, *arguments, "--store", str(tmp_path / "results"), "--no-measure"]
        log = tmp_path / f"{len(processes)}.log"  # no pipe: one that nobody empties stops who writes
        with log.open("w") as errors:
            processes.append(subprocess.Popen(command, env=environment, stderr=errors))
        logs[processes[-1]] = log
        return processes[-1]

    begin.said = lambda process: logs[process].read_text()
    yield begin
    for process in processes:
        process.kill()
        process.wait()


def test_api_and_worker_draw_over_redis_and_drain(start, redis_server):
    port, probes = free_port(), free_port()
    shared = ("--redis", redis_server.url, "--namespace", "commands")
    api = start("serve", "--port", str(port), *shared)
    worker = start("worker", "--port", str(probes), "--device", "cpu", "--device", "cpu", *shared)
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60.0) as http:
        for address in (f"http://127.0.0.1:{probes}", f"http://127.0.0.1:{port}"):
            _wait_for(f"{address}/health/ready", api, worker)
        body = {"input": {"prompt": "a red apple, fluent 3d", "seed": 1, "width": 64, "height": 64}}
        said = http.post("/v1/predictions", json={**body, "version": "laur/mini"}, headers={"Prefer": "wait"}).json()
        assert said["status"] == "succeeded", said
        job = http.get(f"/v1/jobs/{said['id']}").json()
        found = read(http.get(job["result"]["url"]).content)
        assert (found.pixels.shape, found.recipe.seed, found.untouched) == ((64, 64, 3), 1, True)
        told = httpx2.get(f"http://127.0.0.1:{probes}/metrics").text
        steps = re.findall(r'^laur_engine_steps_total{engine="([01])"} (\S+)', told, re.MULTILINE)
        assert sorted(float(count) for _, count in steps) == [0.0, 4.0]
        assert len(re.findall('^laur_engine_info{.*device="cpu"', told, re.MULTILINE)) == 2
        _draw_over(http, found.pixels, f"{http.base_url}/v1/jobs/{said['id']}/picture")
    for process in (worker, api):
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0, start.said(process)
        assert "Traceback" not in start.said(process)


def _draw_over(http, pixels, link):
    """Image to image and inpainting beside a plain picture, in another process than that which took the pictures."""
    dark, mask = np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), np.uint8)
    dark[:, :, 2], mask[:, :32] = 90, 255
    night, hole = [
        http.post(f"/v1/inputs?kind={kind}", content=_png(what)).json()["ref"]
        for kind, what in (("image", dark), ("mask", mask))
    ]
    common = {"prompt": "a green pear, fluent 3d", "seed": 2, "width": 64, "height": 64}
    wishes = [common, {**common, "image": night, "strength": 0.3}, {**common, "image": link, "mask": hole}]
    jobs = [http.post("/v1/jobs", json={"recipe": wish}).json() for wish in wishes]
    found = []
    for job in jobs:
        assert "ended" in http.get(f"/v1/jobs/{job['id']}/events").text
        found.append(read(http.get(f"/v1/jobs/{job['id']}/picture").content))
    plain, over, inpainted = [picture.pixels.astype(int) for picture in found]
    assert [picture.recipe.image for picture in found] == [None, night, InputPicture(pixels).ref]
    assert over.mean() < plain.mean() - 50
    np.testing.assert_array_equal(inpainted[:, 32:], pixels[:, 32:])
    assert (inpainted[:, :32] != pixels[:, :32]).any()


def _png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_what_cannot_start_says_so_in_one_line(start):
    process = start("serve", "--port", str(free_port()), "--model", "nothing-of-that-name")
    assert process.wait() == 2
    said = start.said(process)
    assert "no model is called" in said or "nothing-of-that-name" in said.splitlines()[-1]
    assert "Traceback" not in said


def _wait_for(url, *processes):
    while True:
        assert all(process.poll() is None for process in processes)
        try:
            if httpx2.get(url).status_code == 200:
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.1)
