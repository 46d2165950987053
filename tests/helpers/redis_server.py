"""Debian's redis-server on a free port with a folder of its own, and a wire to it that can be cut."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class RedisServer:
    """With an append-only file; stopped, killed and started again on the same port and folder."""

    binary = shutil.which("redis-server")

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.port = free_port()
        self.options = options
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        assert self.binary
        command = [self.binary, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        command += ["--appendonly", "yes", "--save", "", "--daemonize", "no", *self.options]
        with (self.folder / "redis.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        while not self.answers():
            assert self.process.poll() is None, (self.folder / "redis.log").read_text()[-2000:]
            time.sleep(0.02)

    def answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as wire:
                wire.sendall(b"PING\r\n")
                return wire.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait()
        self.process = None

    def restart(self, how: signal.Signals = signal.SIGTERM, away: float = 0.0) -> None:
        self.stop(how)
        time.sleep(away)
        self.start()


class Proxy:
    """Passes TCP on to a port, until it is cut: then what stands breaks, and nobody gets through."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.whole = threading.Event()
        self.whole.set()
        self._wires: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def cut(self) -> None:
        self.whole.clear()
        with self._lock:
            wires, self._wires = self._wires, set()
        for wire in wires:
            _close(wire)

    def mend(self) -> None:
        self.whole.set()

    def close(self) -> None:
        self._server.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            try:
                if not self.whole.is_set():
                    raise OSError("cut")
                far = socket.create_connection(("127.0.0.1", self.target), timeout=5)
                far.settimeout(None)
            except OSError:
                near.close()
                continue
            with self._lock:
                self._wires |= {near, far}
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for wire in (source, sink):
            with self._lock:
                self._wires.discard(wire)
            _close(wire)


def _close(wire: socket.socket) -> None:
    with contextlib.suppress(OSError):
        wire.shutdown(socket.SHUT_RDWR)
    wire.close()


def require_redis() -> None:
    """Skip, or fail where LAUR_REQUIRE_REDIS is 1, without a redis-server."""
    if RedisServer.binary is None:
        reason = "no redis-server on this machine; install it with: apt-get install redis-server"
        if os.environ.get("LAUR_REQUIRE_REDIS") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
