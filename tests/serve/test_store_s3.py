"""Results in S3: the same store over a server that speaks S3's protocol, in a process of its own."""

import os
import secrets
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest

from helpers.redis_server import free_port
from laur.core.errors import NotFoundError, OutputError
from laur.input.image import InputPicture
from laur.serve.inputs import Inputs
from laur.serve.store import Store

BUCKET = "pictures"
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # aiohttp's sessions end with the process


@pytest.fixture(scope="module")
def address():
    """moto's server, with one bucket."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    while True:
        assert process.poll() is None
        try:
            urllib.request.urlopen(urllib.request.Request(f"{url}/{BUCKET}", method="PUT"), timeout=5).close()
            break
        except OSError:
            time.sleep(0.1)
    yield url
    process.kill()
    process.wait()


@pytest.fixture
def place(address, monkeypatch):
    """Where stores lie; what reaches it is in the environment, as on AWS."""
    for name, value in {"ENDPOINT_URL": address, "ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return f"s3://{BUCKET}/{secrets.token_hex(4)}"


def key():
    return secrets.token_hex(32) + ".png"


def test_a_file_is_kept_and_found(place):
    store, name = Store(place), key()
    assert not store.has(name)
    with pytest.raises(NotFoundError):
        store.get(name)
    assert store.put(name, b"first") == b"first"
    assert store.put(name, b"second") == b"first"
    other = Store(place)
    assert (other.get(name), other.has(name)) == (b"first", True)
    assert other.age(name) < 60


def test_only_what_is_old_goes(place):
    name = key()
    Store(place).put(name, b"content")
    assert Store(place, keep=3600.0).sweep() == 0
    time.sleep(1.1)  # S3 tells whole seconds
    assert Store(place, keep=0.5).sweep() == 1
    assert not Store(place).has(name)


def test_what_cannot_be_written_says_so_in_one_line(place):
    store = Store(f"s3://none-of-that-name/{os.getpid()}")
    with pytest.raises(OutputError) as refused:
        store.put(key(), b"content")
    assert "\n" not in str(refused.value)


def test_clients_pictures_are_kept_renewed_and_removed(place):
    picture = InputPicture(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    ref = Inputs(Store(place)).add("anna", picture)
    inputs = Inputs(Store(place, keep=2.0))
    time.sleep(2.1)  # S3 tells whole seconds
    inputs.hold("anna", [ref])
    assert Store(place, keep=2.0).sweep() == 0
    np.testing.assert_array_equal(inputs.load("anna", ref).pixels, picture.pixels)
    with pytest.raises(NotFoundError):
        inputs.load("bert", ref)
    assert (inputs.remove("anna", ref), inputs.remove("anna", ref)) == (True, False)
    with pytest.raises(NotFoundError):
        inputs.hold("anna", [ref])
