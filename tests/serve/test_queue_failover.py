"""A fail-over: Redis's own Sentinel makes the replica the primary, and the queue goes on there."""

import shutil
import socket
import subprocess
import time

import pytest
from kit import CARD, job, result

from helpers.redis_server import RedisServer, free_port, require_redis
from laur.serve.job import State
from laur.serve.queue import QueueOptions, open_queue

pytestmark = pytest.mark.anyio


class Sentinel:
    """`redis-server --sentinel`, which watches one primary; its word alone is enough."""

    def __init__(self, folder, primary):
        self.port, self.folder = free_port(), folder
        lines = [
            f"port {self.port}",
            "bind 127.0.0.1",
            f"dir {folder}",
            f"sentinel monitor jobs 127.0.0.1 {primary} 1",
            "sentinel down-after-milliseconds jobs 500",
            "sentinel failover-timeout jobs 3000",
        ]
        (folder / "sentinel.conf").write_text("\n".join(lines) + "\n")
        command = [shutil.which("redis-server"), str(folder / "sentinel.conf"), "--sentinel"]
        with (folder / "sentinel.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def ask(self, *words):
        """The answer of a command, as Redis sends it."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=2) as wire:
            wire.sendall((" ".join(words) + "\r\n").encode())
            return wire.recv(65536).decode()

    def until(self, *words, holds):
        while True:
            assert self.process.poll() is None, (self.folder / "sentinel.log").read_text()[-2000:]
            try:
                if holds(self.ask(*words)):
                    return
            except OSError:
                pass
            time.sleep(0.05)

    def stop(self):
        self.process.terminate()
        self.process.wait()


@pytest.fixture
def cluster(tmp_path):
    """A primary, its replica, and a sentinel that knows both."""
    require_redis()
    servers = []
    for name, options in (("primary", ()), ("replica", ("--replicaof", "127.0.0.1"))):
        (tmp_path / name).mkdir()
        more = (*options, str(servers[0].port)) if options else ()
        servers.append(RedisServer(tmp_path / name, "--repl-diskless-sync-delay", "0", *more))
        servers[-1].start()
    (tmp_path / "sentinel").mkdir()
    sentinel = Sentinel(tmp_path / "sentinel", servers[0].port)
    sentinel.until("INFO sentinel", holds=lambda said: "slaves=1" in said)
    yield *servers, sentinel
    sentinel.stop()
    for server in servers:
        server.stop()


async def test_the_queue_follows_the_primary(cluster):
    """What waits, what is drawn and who watches live through the primary's death; its work goes on on the other."""
    primary, replica, sentinel = cluster
    queue = open_queue(f"redis+sentinel://127.0.0.1:{sentinel.port}/jobs/0", QueueOptions(lease=30.0))
    for name in ("drawn", "waits"):
        await queue.submit(job(name, id=name))
    [lease] = await queue.claim(CARD, 1)
    assert await queue.start(lease)
    assert int(await queue.link.client.execute_command("WAIT", 1, 5000)) == 1  # the replica has it all
    primary.stop()
    assert await queue.renew([lease]) == []  # waits until there is a primary again
    pool = queue.link.client.connection_pool
    assert (await pool.get_master_address())[1] == replica.port
    assert await queue.finish(lease, result())
    assert (await queue.get("drawn")).state is State.DONE
    assert [lease.job.id for lease in await queue.claim(CARD, 5)] == ["waits"]
    assert (await queue.submit(job("new", id="new"))).state is State.QUEUED
    assert queue.link.breaks > 0
    await queue.close()
