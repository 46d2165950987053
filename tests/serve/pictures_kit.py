"""Pictures as clients send them."""

import base64
import io
import time

import numpy as np
from PIL import Image

from laur.input.image import read_mask, read_picture

SIDE = 32


def pixels(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), np.uint8)


def png(array, **how):
    file = io.BytesIO()
    Image.fromarray(array).save(file, how.pop("format", "PNG"), **how)
    return file.getvalue()


def holed(seed=0, hole=SIDE // 2):
    """RGBA, transparent on its left."""
    alpha = np.full((SIDE, SIDE, 1), 255, np.uint8)
    alpha[:, :hole] = 0
    return np.concatenate([pixels(seed), alpha], axis=2)


def data_url(content, kind="image/png"):
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def drawn(http, recipe, **headers):
    answer = http.post("/v1/jobs", json={"recipe": {"prompt": "a pear", **recipe}}, headers=headers)
    if answer.status_code != 202:
        return answer.status_code, answer.json()["detail"]
    while (job := http.get(f"/v1/jobs/{answer.json()['id']}").json())["state"] in {"queued", "running"}:
        time.sleep(0.02)
    return job["state"], job["result"] and job["result"]["recipe"]


APPLE, HOLE = png(pixels()), png(holed())
IMAGE, MASK = read_picture(APPLE).ref, read_mask(HOLE).ref
