import os
import time

import pytest

from laur.core.errors import MissingDependencyError, NotFoundError, OutputError
from laur.serve.store import Store

KEY = "ab" * 32 + ".png"


@pytest.fixture(params=["folder", "memory"])
def store(request, tmp_path):
    yield Store(tmp_path / "results" if request.param == "folder" else f"memory://laur-{tmp_path.name}")


def test_the_first_content_of_a_key_stays(store):
    assert not store.has(KEY)
    assert store.put(KEY, b"one") == b"one"
    assert store.put(KEY, b"two") == b"one"
    assert (store.has(KEY), store.get(KEY)) == (True, b"one")
    assert -60 < store.age(KEY) < 60


def test_only_keys_are_names(store):
    for name in ("../../etc/passwd", "ab", KEY + "/..", KEY.upper(), "/" + KEY, ""):
        for ask in (store.get, store.has, lambda name: store.put(name, b"")):
            if ask == store.has:
                assert not ask(name)
                continue
            with pytest.raises(NotFoundError):
                ask(name)
    with pytest.raises(NotFoundError):
        store.get(KEY)


def test_old_files_leave_and_others_files_stay(tmp_path):
    store = Store(tmp_path, keep=100.0)
    other = "cd" * 32 + ".png"
    (tmp_path / "ab").mkdir()
    (tmp_path / "ab" / "notes.txt").write_text("mine")
    for key in (KEY, other):
        store.put(key, b"x")
    old = time.time() - 200
    os.utime(tmp_path / "ab" / KEY, (old, old))
    os.utime(tmp_path / "ab" / "notes.txt", (old, old))
    assert store.sweep() == 1
    assert (store.has(KEY), store.has(other), (tmp_path / "ab" / "notes.txt").exists()) == (False, True, True)
    assert Store(tmp_path / "nothing").sweep() == 0


def test_what_cannot_be_written_is_said_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError) as refused:
        Store(tmp_path / "file").put(KEY, b"x")
    assert "\n" not in str(refused.value)
    for url in ("nonsense://x", "s3://bucket/x"):
        try:
            Store(url)
        except (MissingDependencyError, OutputError) as error:
            assert "\n" not in str(error)
