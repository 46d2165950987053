"""Pictures by address: only where the operator allows it, only from where they may come, only as much as is read."""

import socketserver
import ssl
import threading
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from laur.core.errors import LaurError, PictureError, RecipeError
from laur.serve import addresses
from laur.serve.addresses import Allowed, check_text, is_public, target
from laur.serve.fetching import Fetcher

pytestmark = pytest.mark.anyio
OUTSIDE = "127.0.0.2"
"""Stands for an address of the public internet in these tests."""


class Far(BaseHTTPRequestHandler):
    """Answers by path, and remembers what was asked for."""

    asked: list[tuple[str, str | None]]

    def do_GET(self):
        self.asked.append((self.path, self.headers["Host"]))
        path, _, rest = self.path.partition("?")
        if path == "/to":
            self._answer(302, b"", Location=rest)
        elif path == "/bare":
            self._answer(301, b"")
        elif path == "/gone":
            self._answer(404, b"nothing")
        elif path == "/unannounced":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"x" * 3000)
        elif path == "/slow":
            time.sleep(1.0)
            self._answer(200, b"late")
        elif path == "/drip":
            self.send_response(200)
            self.end_headers()
            for _ in range(40):
                self.wfile.write(b"x")
                time.sleep(0.05)
        else:
            self._answer(200, b"picture", **({"Content-Encoding": "gzip"} if path == "/packed" else {}))

    def _answer(self, status, body, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(5000 if self.path == "/large" else len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """The client went away, which it may."""


@pytest.fixture(scope="module")
def far():
    handler = type("Handler", (Far,), {"asked": []})
    socketserver.TCPServer.allow_reuse_address = True
    server = Server((OUTSIDE, 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def asked(far, monkeypatch):
    """With the server's address for a public one; what it was asked for."""
    real = addresses.is_public
    monkeypatch.setattr(addresses, "is_public", lambda address: address == OUTSIDE or real(address))
    far.RequestHandlerClass.asked.clear()
    return far.RequestHandlerClass.asked


class Resolver:
    """Names of these tests; each time that a name is looked up its next address is given, and then the last again."""

    def __init__(self, **names):
        self.names = {name: list(found) for name, found in names.items()}
        self.looked = []

    async def __call__(self, host, port):
        self.looked.append(host)
        name = host.removesuffix(".test")
        if name not in self.names:
            raise OSError("its name is not known")
        found = self.names[name]
        return [found.pop(0) if len(found) > 1 else found[0]]


def fetcher(resolve=None, **options):
    resolve = resolve or Resolver(pictures=[OUTSIDE], inner=["127.0.0.1"], cloud=["169.254.169.254"])
    return Fetcher(allowed=Allowed.PUBLIC, resolve=resolve, **options)


async def test_off_unless_allowed(far):
    with pytest.raises(RecipeError, match="--image-urls public"):
        await Fetcher().get(f"http://{OUTSIDE}:{far.server_port}/a.png")


async def test_a_picture_is_fetched_from_the_address_that_was_looked_at(far, asked):
    resolve = Resolver(pictures=[OUTSIDE, "127.0.0.1"])
    place = f"pictures.test:{far.server_port}"
    assert await fetcher(resolve).get(f"http://{place}/a.png?x=1#part") == b"picture"
    assert resolve.looked == ["pictures.test"]
    assert asked == [("/a.png?x=1", place)]


async def test_redirects_are_looked_at_and_counted(far, asked):
    port = far.server_port
    start = f"http://pictures.test:{port}"
    assert await fetcher().get(f"{start}/to?/a.png") == b"picture"
    assert await fetcher().get(f"{start}/to?/to?/to?//pictures.test:{port}/b") == b"picture"
    asked.clear()
    for onward in (
        f"http://inner.test:{port}/",
        f"http://127.0.0.1:{port}/",
        "http://cloud.test/latest/meta-data",
        "http://unknown.test/",
        "file:///etc/passwd",
        "http://u:p@pictures.test/",
        "gopher://pictures.test/",
    ):
        with pytest.raises(RecipeError):
            await fetcher().get(f"{start}/to?{onward}")
    assert {path.partition("?")[0] for path, _ in asked} == {"/to"}
    for path, said in (("/to?/to?/to?/to?/a", "more than 3 times"), ("/bare", "to nowhere")):
        with pytest.raises(PictureError, match=said):
            await fetcher().get(start + path)


async def test_a_name_that_changes_its_meaning_is_looked_at_anew_on_every_hop(far, asked):
    resolve = Resolver(pictures=[OUTSIDE, "10.0.0.1"])
    with pytest.raises(RecipeError, match="public network"):
        await fetcher(resolve).get(f"http://pictures.test:{far.server_port}/to?/a.png")
    assert len(asked) == 1


async def test_sizes_and_times_are_bounded(far, asked):
    start = f"http://pictures.test:{far.server_port}"
    for path in ("/large", "/unannounced"):
        with pytest.raises(PictureError, match="more than the 2,000 bytes"):
            await fetcher(bytes=2000).get(start + path)
    for path in ("/slow", "/drip"):
        began = time.monotonic()
        with pytest.raises(PictureError, match=r"did not come within 0.2 seconds|Timeout"):
            await fetcher(seconds=0.2).get(start + path)
        assert time.monotonic() - began < 5
    assert await fetcher().get(f"{start}/packed") == b"picture"
    with pytest.raises(PictureError, match="answered 404"):
        await fetcher().get(f"{start}/gone")
    with pytest.raises(PictureError, match="ConnectError"):
        await fetcher().get("http://pictures.test:9/")


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
        "255.255.255.255", "240.0.0.1", "198.18.0.1", "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fec0::1",
        "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1", "2002:7f00:1::",
        "::127.0.0.1", "2002:a00:1::", "2001:0:1::", "2001:db8::1", "nonsense", "",
    ],
)  # fmt: skip
async def test_private_addresses_however_they_are_written(address):
    async def resolve(host, port):
        return ["93.184.216.34", address]

    assert not is_public(address)
    with pytest.raises(RecipeError):
        await target("x", "http://host.test/", Allowed.PUBLIC, resolve)


def test_public_addresses():
    for address in ("93.184.216.34", "2606:2800:220:1::1", "::ffff:8.8.8.8", "64:ff9b::808:808"):
        assert is_public(address)


@pytest.mark.parametrize(
    "address",
    ["http://2130706433/", "http://0x7f.1/", "http://127.1/", "http://localhost/", "http://[::1]/", "http://[::ffff:7f00:1]/"],
)  # fmt: skip
async def test_the_systems_resolver_is_looked_at_too(address):
    with pytest.raises(LaurError, match="public network"):
        await Fetcher(allowed=Allowed.PUBLIC).get(address)


@pytest.mark.parametrize(
    "address",
    ["", "a.png", "//host/a", "ftp://host/", "file:///etc/passwd", "http://", "http://u:p@host/", "http://host:99999/",
     "http://ho\u2100st/", "http://[::1", "http://ho\nst/", "data:image/png;base64,AA=="],
)  # fmt: skip
def test_what_is_no_address(address):
    with pytest.raises(RecipeError) as refused:
        check_text("a picture's address", address)
    assert "\n" not in str(refused.value)


async def test_any_means_any(far):
    resolve = Resolver(inner=[OUTSIDE])
    found = await Fetcher(allowed=Allowed.ANY, resolve=resolve).get(f"http://inner.test:{far.server_port}/a")
    assert found == b"picture"


# ------------------------------------------------------------------ https


@pytest.fixture
def secure(far, tmp_path):
    """The same over TLS, as pictures.test; its port, and a context that trusts its certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "pictures.test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(days=1), now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("pictures.test")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM)
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (tmp_path / "pem").write_bytes(pem + key.private_bytes(encoding, form, serialization.NoEncryption()))
    server = Server((OUTSIDE, 0), far.RequestHandlerClass)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server.server_port, ssl.create_default_context(cadata=pem.decode())
    server.shutdown()
    thread.join()
    server.server_close()


async def test_certificates_are_those_of_the_name_though_the_address_is_called(secure, asked, monkeypatch):
    port, trusting = secure
    url = f"https://pictures.test:{port}/a.png"
    with pytest.raises(PictureError, match="ConnectError"):
        await fetcher().get(url)
    monkeypatch.setattr(httpx2, "AsyncClient", partial(httpx2.AsyncClient, verify=trusting))
    assert await fetcher().get(url) == b"picture"
    assert asked == [("/a.png", f"pictures.test:{port}")]
    resolve = Resolver(others=[OUTSIDE])
    for other in (f"https://others.test:{port}/a.png", f"https://{OUTSIDE}:{port}/a.png"):
        resolve.names[OUTSIDE] = [OUTSIDE]
        with pytest.raises(PictureError, match="ConnectError"):
            await fetcher(resolve).get(other)
