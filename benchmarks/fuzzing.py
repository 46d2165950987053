"""Random requests over every route of an OpenAPI document: right ones, wrong ones, and bytes that are no HTTP."""

from __future__ import annotations

import copy
import json
import random
import string
from dataclasses import dataclass
from typing import Any

PATHS = (
    "../../etc/passwd",
    "..%2f..%2fetc%2fpasswd",
    "/etc/passwd",
    "C:\\windows\\win.ini",
    "%00",
    "a" * 3000,
    "ü%ff",
    "{}",
)
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**80), 0.5, 1e308, float("nan"), float("inf"), "", " ", "a",
    "x" * 5000, "\x00", "\ud800", "../../etc/passwd", "file:///etc/passwd", "http://169.254.169.254/",
    "<lora:../../x:1>", "{a|{b|{c}}}", [], {}, [[]], [None] * 50, {"a": {"b": {"c": {}}}},
    [{"name": "/etc/passwd", "weight": 1e9}],
)  # fmt: skip
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGP4////fwAJ+wP9KobjigAAAABJRU5ErkJggg=="
"""A PNG of one white pixel, in base64."""
SMALL = {"prompt": "a fox", "seed": 1, "steps": 1, "width": 64, "height": 64}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/jobs": {"recipe": SMALL, "priority": 4, "format": "png", "previews": True},
    "/v1/images/generations": {"prompt": "a fox", "size": "64x64", "steps": 1, "n": 1, "stream": False},
    "/v1/images/edits": {"prompt": "a fox", "image": f"data:image/png;base64,{PIXEL}", "size": "64x64", "steps": 1},
    "/sdapi/v1/txt2img": {**SMALL, "cfg_scale": 1.0, "batch_size": 1, "sampler_name": "LCM"},
    "/sdapi/v1/img2img": {**SMALL, "init_images": [PIXEL], "denoising_strength": 0.5},
    "/sdapi/v1/options": {"sd_model_checkpoint": "mini"},
    "/sdapi/v1/png-info": {"image": PIXEL},
}
PREDICTION = {"input": {"prompt": "a fox", "num_inference_steps": 1, "width": 64, "height": 64}, "version": "laur/mini"}
TYPES = (
    "application/json",
    "application/json; charset=utf-16",
    "text/plain",
    "multipart/form-data; boundary=b",
    "",
    "x",
)
HEADERS: dict[str, tuple[str, ...]] = {
    "Laur-Tenant": ("a", "../..", "x" * 200, "ü"),
    "Prefer": ("wait=1", "respond-async", "wait=99999999999", "wait=-1"),
    "If-None-Match": ("*", '"a"', "W/" + '"' * 50),
    "Accept": ("*/*", "text/html", "q"),
    "Authorization": ("Bearer x", "Basic eA==", "Basic ===", "Token", "Bearer " + "x" * 5000),
    "Range": ("bytes=0-", "bytes=9-1"),
    "Host": ("", "a b", "evil.example"),
    "Expect": ("100-continue",),
}


@dataclass(frozen=True, slots=True)
class Request:
    """What goes onto the wire."""

    method: str
    path: str
    raw: bytes
    endless: bool = False
    """Announces more than comes, or asks for a stream: its answer is not waited for."""

    def __str__(self) -> str:
        return f"{self.method} {self.path[:80]} {self.raw[-200:]!r}"


class Fuzz:
    """Draws requests; the same seed gives the same ones."""

    def __init__(self, document: dict[str, Any], seed: int) -> None:
        self._draw = random.Random(seed)
        self._routes = [
            (method.upper(), path)
            for path, item in document["paths"].items()
            for method in item
            if method != "parameters"
        ]
        self.ids: list[str] = ["a"]
        """Of jobs that exist, filled by the caller."""

    def request(self) -> Request:
        """The next one."""
        draw = self._draw
        method, route = draw.choice(self._routes)
        if draw.random() < 0.05:
            method = draw.choice(("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "BREW"))
        path = self._path(route)
        if draw.random() < 0.02:
            return Request(method, path, self._no_http(), True)
        body = b"" if method in {"GET", "HEAD", "DELETE"} and draw.random() < 0.9 else self._body(route)
        kind = TYPES[0] if draw.random() < 0.85 else draw.choice(TYPES)
        headers = {"Host": "localhost", "Content-Type": kind, "Content-Length": str(len(body)), "Connection": "close"}
        for name, values in HEADERS.items():
            if draw.random() < 0.08:
                headers[name] = draw.choice(values)
        endless = draw.random() < 0.02 or "/events" in path or b'"stream"' in body
        if endless and draw.random() < 0.5:
            headers["Content-Length"] = draw.choice(("-1", "x", "99999999999", "0", str(len(body) + 5)))
        head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return Request(method, path, head.encode("utf-8", "replace") + b"\r\n" + body, endless)

    def _path(self, route: str) -> str:
        draw, parts = self._draw, []
        for part in route.split("/"):
            known = "laur" if part == "{owner}" else "mini" if part in {"{name}", "{model}"} else draw.choice(self.ids)
            unknown = draw.choice((*PATHS, self._text()))
            parts.append(part if "{" not in part else known if draw.random() < 0.6 else unknown)
        query = f"?{self._text()}={self._text()}" if draw.random() < 0.05 else ""
        return ("/".join(parts) + query).replace(" ", "%20").replace("\r", "").replace("\n", "")

    def _body(self, route: str) -> bytes:
        draw, kind = self._draw, self._draw.random()
        if kind < 0.05:
            return draw.randbytes(draw.randrange(200))
        if kind < 0.08:
            return b"[" * draw.randrange(3000) + b"]" * draw.randrange(3000)
        base = json.loads(json.dumps(BODIES.get(route, PREDICTION if "predictions" in route else {"prompt": "a fox"})))
        for _ in range(draw.choice((0, 1, 1, 1, 2, 3))):
            self._spoil(base)
        text = json.dumps(base if kind < 0.97 else draw.choice(VALUES))
        return text.encode()[: draw.randrange(len(text)) if draw.random() < 0.03 else None]

    def _spoil(self, value: dict[str, Any]) -> None:
        """Change one field, drop it, or add one."""
        draw = self._draw
        name = draw.choice([*value, self._text(), "image", "adapters", "style", "webhook", "id", "mask"])
        if isinstance(value.get(name), dict) and value[name] and draw.random() < 0.8:
            self._spoil(value[name])
        elif draw.random() < 0.15:
            value.pop(name, None)
        else:
            value[name] = copy.deepcopy(draw.choice((*VALUES, self._text())))  # it may be spoilt in its turn

    def _text(self) -> str:
        return "".join(self._draw.choices(string.printable + "äß漢🎨", k=self._draw.randrange(1, 12)))

    def _no_http(self) -> bytes:
        draw = self._draw
        return draw.choice(
            (b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"A" * 70_000,
             draw.randbytes(100) + b"\r\n\r\n",
             b"POST /v1/jobs HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
        )  # fmt: skip
