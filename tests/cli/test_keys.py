"""`laur keys`, and how `laur serve` takes them."""

import pytest

from laur.serve import start
from laur.serve.access.keys import Keys


def test_a_new_key_opens_what_its_entry_says(laur, tmp_path):
    said = laur("keys", "new", "acme", "--requests-per-second", 5, "--pictures-per-day", 10, "--metrics")
    assert said.code == 0
    secret = said.err.split()[-1]
    (tmp_path / "keys.toml").write_text(said.out + laur("keys", "new", "other").out)
    key = Keys(tmp_path / "keys.toml").find(secret)
    assert (key.tenant, key.requests_per_second, key.pictures_per_day, key.metrics) == ("acme", 5.0, 10, True)
    assert secret not in said.out
    assert laur("keys", "new", "no tenant").code == 2


@pytest.fixture
def started(monkeypatch):
    """What `laur serve` would have begun with."""
    found = {}
    monkeypatch.setattr(start, "make_crew", lambda setup, opened: None)
    monkeypatch.setattr(start, "run", lambda make, host, port, grace: found.update(app=make(lambda: None), host=host))
    return found


@pytest.mark.parametrize(
    ("host", "warns"),
    [("127.0.0.1", False), ("localhost", False), ("::1", False), ("0.0.0.0", True), ("10.1.2.3", True)],
)
def test_an_open_server_is_warned_of(laur, started, host, warns):
    said = laur("serve", "--host", host)
    assert started["host"] == host
    assert ("--keys FILE" in said.err) is warns
    assert len([line for line in said.err.splitlines() if "warning" in line]) == warns


def test_with_keys_there_is_nothing_to_warn_of(laur, started, tmp_path):
    (tmp_path / "keys.toml").write_text(laur("keys", "new", "acme").out)
    assert "warning" not in laur("serve", "--host", "0.0.0.0", "--keys", "keys.toml").err
    assert "Gate" in {middleware.cls.__name__ for middleware in started["app"].user_middleware}


@pytest.mark.parametrize("options", [("--keys", "none.toml"), ("--cors", "example.com"), ("--cors", "https://a/b")])
def test_what_cannot_be_is_said_in_one_line(laur, started, options):
    said = laur("serve", *options)
    assert said.code == 2
    assert "Traceback" not in said.err
    assert not started
