"""What Cog's health check says of an engine and a queue, and webhooks while something does not answer."""

import logging
from types import SimpleNamespace

import httpx2
import pytest
from server import serving

from laur.core.errors import OutputError, UnavailableError
from laur.core.recipe import Recipe
from laur.serve.http import milestones
from laur.serve.http.webhooks import TRIES, Webhooks
from laur.serve.job import Job
from laur.serve.queue import open_queue

pytestmark = pytest.mark.anyio

ENGINE = SimpleNamespace(thread=SimpleNamespace(engine=object()))
NONE = SimpleNamespace(thread=SimpleNamespace(engine=None))
WELL = {"workers": [ENGINE], "fault": None, "live": True, "draining": False, "ready": True, "reason": None}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("states"), work=False, queue={"limit": 3}) as running:
        yield running


@pytest.mark.parametrize(
    ("crew", "status", "setup"),
    [
        ({}, "READY", "succeeded"),
        ({"workers": [NONE], "ready": False, "reason": "the engine is being loaded"}, "STARTING", "starting"),
        ({"workers": [NONE], "fault": OutputError("no such folder"), "live": False}, "SETUP_FAILED", "failed"),
        ({"fault": UnavailableError("the engine ended"), "ready": False}, "DEFUNCT", "succeeded"),
        ({"live": False}, "DEFUNCT", "succeeded"),
        ({"draining": True, "ready": False, "reason": "it is draining"}, "BUSY", "succeeded"),
    ],
)
def test_the_health_check_says_how_the_engine_is(server, crew, status, setup):
    server.app.state.crew = SimpleNamespace(**{**WELL, **crew})
    said = httpx2.get(f"{server.url}/health-check")
    server.app.state.crew = None
    assert said.status_code == 200
    assert (said.json()["status"], said.json()["setup"]["status"]) == (status, setup)


def test_the_health_check_says_busy_where_the_queue_refuses(server):
    with httpx2.Client(base_url=server.url) as http:
        assert http.get("/health-check").json()["status"] == "READY"
        wish = {"json": {"input": {"prompt": "x"}}, "headers": {"Prefer": "respond-async"}}
        number = http.post("/predictions", **wish).json()["id"]
        assert http.get("/health-check").json()["status"] == "BUSY"
        assert http.post("/predictions", **wish).status_code == 409
        http.post(f"/predictions/{number}/cancel")
        assert http.get("/health-check").json()["status"] == "READY"


class Sent(Webhooks):
    """Sends nothing."""

    def __init__(self, arrives=True):
        super().__init__(pause=0.001)
        self.bodies, self.arrives = [], arrives

    async def send(self, url, body, *, tries=TRIES):
        self.bodies.append(body)
        return self.arrives


async def tell(webhooks, failures):
    """See a cancelled prediction's webhook through while reading it fails so often."""
    left = [failures]

    async def read():
        left[0] -= 1
        if left[0] >= 0:
            raise UnavailableError("Redis does not answer")
        return SimpleNamespace(model_dump_json=lambda: "mine")

    async def parts():
        return ["mine"]

    queue = open_queue()
    await queue.submit(Job(recipe=Recipe(prompt="x"), id="mine", note={"count": 1}))
    await queue.cancel("mine")
    listener = milestones.Listener.of("http://a", ["completed"])
    await milestones.tell(webhooks, listener, "prediction mine", queue=queue, parts=parts, read=read)
    await queue.close()


async def test_completed_is_sent_once_what_it_says_can_be_read(caplog):
    webhooks = Sent()
    with caplog.at_level(logging.WARNING):
        await tell(webhooks, TRIES - 1)
    assert webhooks.bodies == ["mine"]
    assert caplog.text.count("tried again: Redis does not answer") == TRIES - 1


@pytest.mark.parametrize(
    ("arrives", "failures", "line"),
    [(True, TRIES, "prediction mine cannot be sent; it is given up"), (False, 0, "prediction mine never arrived")],
)
async def test_a_webhook_that_is_lost_is_logged(caplog, arrives, failures, line):
    with caplog.at_level(logging.WARNING):
        await tell(Sent(arrives), failures)
    assert line in caplog.text


async def test_an_unexpected_fault_of_a_webhook_is_logged(caplog):
    async def fail():
        raise ValueError("odd")

    webhooks = Sent()
    webhooks.start(fail())
    [task] = webhooks._tasks
    with pytest.raises(ValueError, match="odd"):
        await task
    assert "unexpected fault" in caplog.text
