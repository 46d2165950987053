"""Fetching politely, and packages out of a registry that may fail in every way."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest
from fake_server import Answer, Asked, Server, quick

from laur.core.errors import DataError, UnavailableError
from laur.train.data.sources import web
from laur.train.data.sources.npm import Package, Packages
from laur.train.data.sources.web import LONGEST_WAIT, Refused

MOST = 1 << 20


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAUR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_requests_say_who_asks(server: Server) -> None:
    server.answers["/a"] = [Answer(b"{}", "Application/JSON; charset=utf-8")]
    assert quick().get(f"{server.address}/a", {"q": "red fox"}, most=MOST) == (b"{}", "application/json")
    assert server.asked[0].query == {"q": "red fox"}
    assert server.asked[0].headers["User-Agent"].startswith("laur")


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_failure_is_waited_for_twice_as_long_each_time(status: int, server: Server) -> None:
    server.answers["/a"] = [Answer(status=status), Answer(status=status), Answer(b"now")]
    sleeps: list[float] = []
    assert quick(sleeps, pause=1.0).get(f"{server.address}/a", most=MOST)[0] == b"now"
    assert [wait for wait in sleeps if wait >= 1] == [1.0, 2.0]


def test_retry_after_is_kept_to_within_reason(server: Server) -> None:
    headers = [{"Retry-After": "7"}, {"Retry-After": "86400"}, {"Retry-After": "Sat, 21 Nov 2026 09:00:00 GMT"}]
    server.answers["/a"] = [*(Answer(status=429, headers=each) for each in headers), Answer(b"now")]
    sleeps: list[float] = []
    quick(sleeps, pause=1.0).get(f"{server.address}/a", most=MOST)
    assert [wait for wait in sleeps if wait >= 1] == [7.0, LONGEST_WAIT, 4.0]


def test_what_will_not_come_is_refused(server: Server) -> None:
    fetch = quick(tries=3)
    with pytest.raises(Refused, match="404"):
        fetch.get(f"{server.address}/none", most=MOST)
    assert len(server.asked) == 1  # it is not asked for again
    server.answers["/broken"] = [Answer(status=500)]
    with pytest.raises(Refused, match="500 each time"):
        fetch.get(f"{server.address}/broken", most=MOST)
    server.answers["/cut"] = [Answer(b"x" * 1000, cut=100)]
    with pytest.raises(Refused, match="cut off each time"):
        fetch.get(f"{server.address}/cut", most=MOST)
    server.answers["/large"] = [Answer(bytes(3 << 20))]
    with pytest.raises(Refused, match="larger than 1 MB"):
        fetch.get(f"{server.address}/large", most=MOST)


def test_a_service_that_is_away_is_said_to_be(server: Server) -> None:
    server.answers["/a"] = [Answer(status=503)]
    with pytest.raises(UnavailableError, match=r"127.0.0.1:\d+ is busy \(it answers 503\)"):
        quick(tries=3).get(f"{server.address}/a", most=MOST)
    with pytest.raises(UnavailableError, match=r"cannot reach 127.0.0.1:9 \(ConnectionError\)"):
        quick(tries=2).get("http://127.0.0.1:9/a", most=MOST)


def test_only_so_many_requests_a_second(server: Server) -> None:
    server.answers["/a"] = [Answer(b"")]
    sleeps: list[float] = []
    now = [100.0]
    fetch = quick(sleeps, per_second=4, clock=lambda: now[0])
    for _ in range(3):
        fetch.get(f"{server.address}/a", most=MOST)
    assert sleeps == [0.25, 0.5]
    now[0] += 10
    fetch.get(f"{server.address}/a", most=MOST)
    assert sleeps == [0.25, 0.5]


def tarball(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("package/data/link.json")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return buffer.getvalue()


FILES = {
    "package.json": b'{"version": "1.2.3"}',
    "data/a.json": b"[1]",
    "lib/index.js": b"run()",
    "notes/b.md": b"b" * 9999,
}
CONTENT = tarball(FILES)
INTEGRITY = f"sha512-{base64.b64encode(hashlib.sha512(CONTENT).digest()).decode()}"
PACKAGE = Package("@some/icons", "1.2.3", INTEGRITY, ("package.json", "data/*.json"))
PATH = "/@some/icons/-/icons-1.2.3.tgz"


def unpacked(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def ranged(asked: Asked) -> Answer:
    """As registries answer a request for the rest of a file."""
    start = int(asked.headers["Range"].removeprefix("bytes=").removesuffix("-")) if "Range" in asked.headers else 0
    return Answer(CONTENT[start:], "application/octet-stream", 206 if start else 200)


def test_a_package_is_fetched_once_checked_and_only_what_is_kept_unpacked(server: Server, cache: Path) -> None:
    server.answers[PATH] = [Answer(CONTENT)]
    said: list[str] = []
    packages = Packages(server.address, web=quick(), report=said.append)
    folder = packages.folder(PACKAGE)
    assert unpacked(folder) == {name: FILES[name] for name in ("package.json", "data/a.json")}
    assert packages.folder(PACKAGE) == Packages(server.address, web=quick()).folder(PACKAGE) == folder
    assert server.paths() == [PATH]
    assert said == ["fetching @some/icons@1.2.3"]
    assert not list(cache.rglob("*.tgz"))


def test_a_package_with_other_content_is_refused_and_not_kept(server: Server, cache: Path) -> None:
    server.answers[PATH] = [Answer(tarball({**FILES, "data/a.json": b"[2]"})), Answer(CONTENT)]
    packages = Packages(server.address, web=quick())
    with pytest.raises(DataError, match=r"not what @some/icons@1.2.3 is known to hold \(sha512\)"):
        packages.folder(PACKAGE)
    assert not [path for path in cache.rglob("*") if path.suffix in {".tgz", ".json"}]
    assert unpacked(packages.folder(PACKAGE))["data/a.json"] == b"[1]"


def test_an_interrupted_download_goes_on(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a file from a run before, and a connection that breaks again: only the rest is asked for each time."""
    monkeypatch.setattr(web, "CHUNK", 10)
    half = len(CONTENT) // 2
    home = cache / "packages"
    home.mkdir(parents=True)
    (home / PACKAGE.tarball).write_bytes(CONTENT[:half])
    breaks = iter([True, False])

    def answer(asked: Asked) -> Answer:
        found = ranged(asked)
        found.cut = 15 if next(breaks) else None
        return found

    server.answers[PATH] = answer
    assert unpacked(Packages(server.address, web=quick()).folder(PACKAGE))["data/a.json"] == b"[1]"
    assert [asked.headers["Range"] for asked in server.asked] == [f"bytes={half}-", f"bytes={half + 10}-"]


def test_a_whole_download_that_was_not_unpacked_is_taken(server: Server, cache: Path) -> None:
    server.answers[PATH] = [Answer(status=416)]
    (cache / "packages").mkdir(parents=True)
    (cache / "packages" / PACKAGE.tarball).write_bytes(CONTENT)
    assert unpacked(Packages(server.address, web=quick()).folder(PACKAGE))["data/a.json"] == b"[1]"


def test_a_registry_without_the_package(server: Server, cache: Path) -> None:
    with pytest.raises(
        DataError, match=r"@some/icons@1.2.3 cannot be had .* 404; give a folder that holds it with --from"
    ):
        Packages(server.address, web=quick()).folder(PACKAGE)


@pytest.mark.parametrize("name", ["data/../../../stray.json", "data//../../../../stray.json", "/data/stray.json"])
def test_what_lies_outside_of_a_package_is_not_written(server: Server, cache: Path, name: str) -> None:
    content = tarball({**FILES, name: b"stray"})
    integrity = f"sha512-{base64.b64encode(hashlib.sha512(content).digest()).decode()}"
    server.answers[PATH] = [Answer(content)]
    package = Package("@some/icons", "1.2.3", integrity, ("package.json", "*data/*.json"))
    with pytest.raises(DataError, match="is damaged; get it again"):
        Packages(server.address, web=quick()).folder(package)
    assert not [path for path in cache.parent.rglob("*") if path.name in {"stray.json", "package.json"}]


def test_packages_out_of_a_folder(cache: Path, tmp_path: Path) -> None:
    """As `npm pack` leaves them, and as `npm install` does."""
    packed = tmp_path / "packed"
    packed.mkdir()
    with pytest.raises(DataError, match=f"npm pack --pack-destination {packed} @some/icons@1.2.3"):
        Packages(str(packed)).folder(PACKAGE)
    (packed / "some-icons-1.2.3.tgz").write_bytes(CONTENT)
    assert unpacked(Packages(str(packed)).folder(PACKAGE))["data/a.json"] == b"[1]"
    assert (packed / "some-icons-1.2.3.tgz").exists()

    installed = tmp_path / "installed" / "node_modules" / "@some" / "icons"
    installed.mkdir(parents=True)
    (installed / "package.json").write_bytes(FILES["package.json"])
    assert Packages(str(tmp_path / "installed")).folder(PACKAGE) == installed
    (installed / "package.json").write_text(json.dumps({"version": "2.0.0"}))
    with pytest.raises(DataError, match=r"is version 2.0.0; @some/icons@1.2.3 is wanted"):
        Packages(str(tmp_path / "installed")).folder(PACKAGE)


def test_a_packed_file_that_is_not_the_package_is_left_where_it_is(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "some-icons-1.2.3.tgz").write_bytes(b"something of the user's")
    with pytest.raises(DataError, match="is not what"):
        Packages(str(tmp_path)).folder(PACKAGE)
    assert (tmp_path / "some-icons-1.2.3.tgz").read_bytes() == b"something of the user's"
