"""API keys in files and headers, what a key has left, links that open for a while."""

import base64
import secrets
import time
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laur.core.errors import KeysError, LimitError
from laur.serve.access import keys as keys_module
from laur.serve.access.allowance import open_allowance
from laur.serve.access.keys import Key, Keys, hash_of, new, presented, read
from laur.serve.access.links import Links

pytestmark = pytest.mark.anyio
SECRET = "laur_secret"


def entry(tenant="acme", secret=SECRET, **fields):
    lines = [f'tenant = "{tenant}"', f'sha256 = "{hash_of(secret)}"', *(f"{name} = {v}" for name, v in fields.items())]
    return "\n".join(["[[key]]", *lines, ""])


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "keys.toml"
    path.write_text(entry() + entry("other", "second", requests_per_second=2, metrics="true"))
    return path


def test_a_key_opens_what_its_entry_says_and_the_file_holds_no_key(file):
    keys = Keys(file)
    assert (keys.find(SECRET).tenant, keys.find("second").tenant, keys.find("second").bucket) == ("acme", "other", 4)
    for wrong in (None, "", "laur_secre", SECRET + " ", hash_of(SECRET), "x" * 10**6, "\ud800"):
        assert keys.find(wrong) is None
    assert SECRET not in file.read_text()


def test_a_key_that_is_taken_out_opens_nothing_more(file, monkeypatch):
    monkeypatch.setattr(keys_module, "LOOK_AGAIN", 0.0)
    keys, before = Keys(file), Keys(file).secret
    file.write_text("[[key]")  # half written
    assert keys.find(SECRET) is not None
    file.write_text(entry("other", "second"))
    assert (keys.find(SECRET), keys.find("second").tenant) == (None, "other")
    assert keys.secret != before


def test_a_key_ends_on_its_day(tmp_path):
    today = datetime.now(UTC).date()
    for days, opens in ((0, False), (-1, False), (1, True)):
        path = tmp_path / f"{days}.toml"
        path.write_text(entry(expires=today + timedelta(days=days)))
        assert (Keys(path).find(SECRET) is not None) is opens


@pytest.mark.parametrize(
    "text",
    ["", "key = 1", "[[key]]\ntenant = 'a'", entry() + entry("other"), entry("../x"), entry(burst=0), entry(color=1),
     entry(burst="'a'"), entry(metrics=1), entry(burst="true"), entry(requests_per_second="nan"), "x = [",
     "other = 1\n"],
)  # fmt: skip
def test_wrong_files_are_refused_in_one_line(tmp_path, text):
    path = tmp_path / "keys.toml"
    path.write_text(text)
    with pytest.raises(KeysError) as refused:
        read(path)
    assert "\n" not in str(refused.value)
    with pytest.raises(KeysError, match="cannot be read"):
        read(tmp_path / "none.toml")


def test_new_keys_are_long_and_their_entries_can_be_read(tmp_path):
    (first, key), (second, _) = new("acme"), new("acme")
    assert first != second
    assert (len(first), hash_of(first)) == (48, key.sha256)
    with pytest.raises(KeysError):
        new("no tenant")


def test_every_form_of_header():
    basic = base64.b64encode(f"anyone:{SECRET}".encode()).decode()
    for header in (f"Bearer {SECRET}", f"bearer  {SECRET}", f"Token {SECRET}", f"Basic {basic}"):
        assert presented(header) == SECRET
    for header in (None, "", SECRET, "Bearer", "Basic !", "Basic eA==", "Digest a=b", "Basic " + "A" * 10**6):
        assert presented(header) is None


@given(st.text())
def test_no_header_makes_a_fault(text):
    for scheme in ("", "Bearer ", "Token ", "Basic "):
        found = presented(scheme + text)
        assert found is None or isinstance(found, str)


# ----------------------------------------------------------------- allowance


def key(**fields):
    return Key(tenant="acme", sha256=secrets.token_hex(32), **fields)


async def test_a_bucket_lets_through_its_burst_and_then_its_rate(make_queue):
    allowance, limited = open_allowance(make_queue()), key(requests_per_second=0.5, burst=3)
    waits = [await allowance.request(limited) for _ in range(4)]
    assert waits[:3] == [0.0, 0.0, 0.0]
    assert 1.0 < waits[3] <= 2.0
    assert await allowance.request(key()) == 0.0


async def test_a_bucket_fills_again(make_queue):
    allowance, limited = open_allowance(make_queue()), key(requests_per_second=1000.0, burst=1)
    passed = 0
    until = time.monotonic() + 0.2
    while time.monotonic() < until and passed < 5:
        passed += await allowance.request(limited) == 0.0
    assert passed == 5


async def test_a_days_pictures_and_pixels_are_shared_and_given_back(make_queue):
    here, there = open_allowance(make_queue()), None
    if type(here).__name__ == "RedisAllowance":
        there = open_allowance(make_queue())
    limited = key(pictures_per_day=2, pixels_per_day=1000)
    await here.spend(limited, 1, 100)
    await (there or here).spend(limited, 1, 900)
    for pictures, pixels in ((1, 0), (1, 1)):
        with pytest.raises(LimitError, match="2 pictures and 1,000 pixels a day") as refused:
            await here.spend(limited, pictures, pixels)
        assert 1 <= refused.value.retry_after <= 24 * 3600 + 1
    await here.spend(limited, -1, -900)
    with pytest.raises(LimitError):
        await here.spend(limited, 1, 901)
    await here.spend(limited, 1, 900)


# --------------------------------------------------------------------- links


def test_a_link_opens_its_path_only_and_only_for_a_while():
    links = Links(lambda: b"secret", 60.0)
    url = links.signed("http://host:1/v1/pictures/abc.png")
    query = url.partition("?")[2]
    assert links.opens("/v1/pictures/abc.png", query)
    assert not links.opens("/v1/pictures/abd.png", query)
    assert not Links(lambda: b"other", 60.0).opens("/v1/pictures/abc.png", query)
    late = Links(lambda: b"secret", -60.0).signed("http://host/v1/pictures/abc.png").partition("?")[2]
    assert not links.opens("/v1/pictures/abc.png", late)
    later = query.replace("until=", "until=9")
    assert not links.opens("/v1/pictures/abc.png", later)


@given(st.text(max_size=60), st.text(max_size=60))
def test_nothing_else_opens(path, query):
    assert not Links(lambda: b"secret", 60.0).opens(path, query)
    assert not Links(lambda: b"secret", 60.0).opens(path, f"until={query}&signature={query}")
