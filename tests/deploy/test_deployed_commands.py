"""What the deployment files start is what the commands take, and what scales the workers counts what it should."""

import re
from pathlib import Path

import pytest
import typer
import yaml

from helpers.redis_server import RedisServer
from laur.cli.app import app
from laur.core.recipe import Recipe
from laur.serve.job import Failure, Job, Result
from laur.serve.queue import QueueOptions, WorkerCard, open_queue

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"


def _commands():
    """(file, arguments) of everything that starts `laur`."""
    for path in sorted((DEPLOY / "kubernetes").rglob("*.yaml")):
        for text in re.findall(r"^\s*args: (\[.*\])", path.read_text(), re.M):
            yield path.name, yaml.safe_load(text)
    services = yaml.safe_load((DEPLOY / "docker" / "compose.yaml").read_text())["services"]
    yield from (("compose.yaml", entry["command"]) for entry in services.values() if "build" in entry)
    [command] = re.findall(r"^CMD (\[.*\])", (DEPLOY / "docker" / "Dockerfile").read_text(), re.M)
    yield "Dockerfile", yaml.safe_load(command)
    for text in re.findall(
        r"laur ((?:serve|worker) --.*?)(?: &)?$", (DEPLOY / "skypilot" / "serve.yaml").read_text(), re.M
    ):
        yield "serve.yaml", text.split()


COMMANDS = list(_commands())


def test_all_commands_are_found():
    assert len(COMMANDS) == 10
    assert {arguments[0] for _, arguments in COMMANDS} == {"serve", "worker"}


@pytest.mark.parametrize(("file", "arguments"), COMMANDS)
def test_commands_take_their_arguments(file, arguments, monkeypatch):
    monkeypatch.setenv("LAUR_REDIS", "redis://localhost:6379/0")
    command = typer.main.get_command(app).commands[arguments[0]]
    with command.make_context(arguments[0], list(arguments[1:])) as context:
        assert context.params["host"] in {"0.0.0.0", "127.0.0.1"}
        assert context.params["redis"] == "redis://localhost:6379/0"


def _trigger():
    text = (DEPLOY / "kubernetes" / "components" / "keda" / "scaled-object.yaml").read_text()
    [scaled] = [each for each in yaml.safe_load_all(text) if each["kind"] == "ScaledObject"]
    [trigger] = scaled["spec"]["triggers"]
    return trigger["metadata"]


@pytest.fixture
def redis_url(tmp_path):
    if RedisServer.binary is None:
        pytest.skip("no redis-server on this machine; install it with: apt-get install redis-server")
    server = RedisServer(tmp_path)
    server.start()
    yield server.url
    server.stop()


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_stream_that_keda_measures_has_one_entry_for_each_job_that_is_not_final(redis_url):
    """Waiting, drawn, delayed and handed back do, done, failed and cancelled do not; the group's lag cannot tell."""
    queue = open_queue(redis_url, QueueOptions(retry_delay=60.0))
    stream = _trigger()["stream"]
    try:
        for number in range(6):
            await queue.submit(Job(recipe=Recipe(prompt="a fox"), id=f"job{number}"))
        counted = [await queue.link.client.xlen(stream)]
        first, second, third, fourth = await queue.claim(WorkerCard(name="w1"), 4)
        counted.append(await queue.link.client.xlen(stream))
        await queue.start(first)
        await queue.finish(first, _result())
        await queue.start(second)
        await queue.fail(second, Failure(kind="fault", message="again", status=500, retry=True))
        await queue.release(third)
        counted.append(await queue.link.client.xlen(stream))
        await queue.cancel("job5")
        counted.append(await queue.link.client.xlen(stream))
        assert counted == [6, 6, 5, 4]
        stats = await queue.stats()
        assert stats.waiting + stats.running == 4
        [group] = await queue.link.client.xinfo_groups(stream)
        assert group["last-delivered-id"] == "0-0"
        assert group["lag"] is None  # Redis cannot tell it once an entry in the middle is gone
        await queue.release(fourth)
        for number in (1, 2, 3, 4):
            await queue.cancel(f"job{number}")
        assert await queue.link.client.xlen(stream) == 0
    finally:
        await queue.close()


def _result():
    recipe = Recipe(prompt="a fox", seed=1)
    return Result(
        key=f"{'0' * 64}.png", media_type="image/png", size=3, sha256="0" * 64, width=64, height=64, recipe=recipe
    )


def test_keda_counts_the_streams_length():
    assert set(_trigger()) == {"address", "stream", "streamLength", "databaseIndex"}


def test_the_image_takes_what_this_repository_pins():
    pinned = dict(re.findall(r"^([\w.-]+)==(.+)$", (ROOT / "constraints.txt").read_text(), re.M))
    own = dict(re.findall(r"^([\w.-]+)==(.+)$", (DEPLOY / "docker" / "s3.txt").read_text(), re.M))
    assert own["s3fs"] == pinned["fsspec"]  # which s3fs is released with
    assert {name for name in own if name in pinned and own[name] != pinned[name]} <= {"python-dateutil"}
