"""Whole files or none, whatever happens while they are written."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from laur.utils import files
from laur.utils.files import atomic_folder, atomic_write, locked, remove_leftovers


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def full_disk(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_bytes_and_writers_end_up_in_the_file(tmp_path):
    assert atomic_write(tmp_path / "a", b"one").read_bytes() == b"one"
    assert atomic_write(tmp_path / "a", lambda file: file.write(b"two")).read_bytes() == b"two"
    assert names(tmp_path) == ["a"]


def test_the_file_has_the_permissions_that_open_gives(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    written = atomic_write(tmp_path / "ours", b"")
    assert written.stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), ValueError()])
def test_a_failing_writer_leaves_the_old_file_and_nothing_else(tmp_path, error):
    atomic_write(tmp_path / "a", b"old")

    def half(file):
        file.write(b"ne")
        raise error

    with pytest.raises(type(error)):
        atomic_write(tmp_path / "a", half)
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_a_disk_that_is_full_when_synced_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(files.os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        atomic_write(tmp_path / "a", b"x")
    assert names(tmp_path) == []


def test_a_name_as_long_as_the_file_system_takes_still_fits(tmp_path):
    atomic_write(tmp_path / ("é" * 127), b"x")
    assert len(names(tmp_path)) == 1


@pytest.mark.skipif(os.name == "nt", reason="no links without rights, no /dev")
def test_links_are_followed_and_devices_stay_devices(tmp_path):
    (tmp_path / "to").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "to" / "a")
    atomic_write(tmp_path / "link", b"x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "to" / "a").read_bytes() == b"x"
    atomic_write("/dev/null", b"x")
    assert Path("/dev/null").is_char_device()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux only")
def test_a_full_device_says_so():
    with pytest.raises(OSError) as caught:
        atomic_write("/dev/full", b"x")
    assert caught.value.errno == errno.ENOSPC


def test_a_missing_folder_is_an_oserror(tmp_path):
    with pytest.raises(FileNotFoundError):
        atomic_write(tmp_path / "no" / "a", b"x")


def test_a_folder_appears_only_when_its_block_ends(tmp_path):
    target = tmp_path / "set"
    with atomic_folder(target) as temporary:
        (temporary / "sub").mkdir()
        (temporary / "sub" / "a").write_bytes(b"x")
        assert not target.exists()
        assert temporary.parent == tmp_path
    assert (target / "sub" / "a").read_bytes() == b"x"
    assert names(tmp_path) == ["set"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failing_block_leaves_no_folder(tmp_path, error):
    with pytest.raises(type(error)), atomic_folder(tmp_path / "set") as temporary:
        (temporary / "a").write_bytes(b"x")
        raise error
    assert names(tmp_path) == []


def test_an_existing_folder_is_kept_unless_it_may_be_replaced(tmp_path):
    target = tmp_path / "set"
    target.mkdir()
    (target / "old").touch()
    with pytest.raises(FileExistsError), atomic_folder(target):
        pass
    assert names(target) == ["old"]
    with atomic_folder(target, replace=True) as temporary:
        (temporary / "new").touch()
    assert names(target) == ["new"]
    assert names(tmp_path) == ["set"]


def test_the_old_folder_comes_back_when_the_new_one_cannot_be_put_there(tmp_path, monkeypatch):
    target = tmp_path / "set"
    target.mkdir()
    (target / "old").touch()
    rename, calls = Path.rename, []

    def second_fails(self, to):
        calls.append(to)
        if len(calls) == 2:
            full_disk()
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", second_fails)
    with pytest.raises(OSError, match="No space"), atomic_folder(target, replace=True) as temporary:
        (temporary / "new").touch()
    assert names(target) == ["old"]
    assert names(tmp_path) == ["set"]


def test_leftovers_of_killed_processes_are_removed_and_nothing_else(tmp_path):
    kill = (
        "import os, sys; from laur.utils.files import atomic_folder, atomic_write\n"
        "with atomic_folder(sys.argv[1]) as t:\n"
        "    (t / 'half').touch(); atomic_write(sys.argv[1], lambda f: os._exit(9))\n"
    )
    target = tmp_path / "set"
    (tmp_path / ".set.keep").touch()
    (tmp_path / "other").touch()
    assert subprocess.run([sys.executable, "-c", kill, str(target)], check=False).returncode == 9
    assert len(names(tmp_path)) == 4
    assert remove_leftovers(target) == 2
    assert names(tmp_path) == [".set.keep", "other"]


def test_one_process_waits_for_the_other_ones_lock(tmp_path):
    """Each child adds one to a counter by reading, waiting and writing; without the lock, additions are lost."""
    add = (
        "import sys, time; from pathlib import Path; from laur.utils.files import locked\n"
        "count = Path(sys.argv[1])\n"
        "for _ in range(5):\n"
        "    with locked(str(count) + '.lock') as held:\n"
        "        assert held; n = int(count.read_text()); time.sleep(0.01); count.write_text(str(n + 1))\n"
    )
    count = tmp_path / "count"
    count.write_text("0")
    children = [subprocess.Popen([sys.executable, "-c", add, str(count)]) for _ in range(3)]
    assert [child.wait() for child in children] == [0, 0, 0]
    assert count.read_text() == "15"


def test_a_file_system_without_locks_is_no_obstacle(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_lock", lambda _file, _wait: False)
    with locked(tmp_path / "lock") as held:
        assert held is False


@pytest.mark.parametrize("links", [True, False])
def test_a_taken_name_is_refused_where_nothing_may_be_replaced(tmp_path, monkeypatch, links):
    if not links:  # as on FAT

        def refuse(self, target):
            raise PermissionError(errno.EPERM, "no hard links here")

        monkeypatch.setattr(Path, "hardlink_to", refuse)
    atomic_write(tmp_path / "a", b"one", replace=False)
    with pytest.raises(FileExistsError):
        atomic_write(tmp_path / "a", b"two", replace=False)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"one")]
    assert (tmp_path / "a").stat().st_nlink == 1


def test_who_does_not_wait_for_a_lock_is_told(tmp_path: Path) -> None:
    with files.locked(tmp_path / "lock") as held, pytest.raises(BlockingIOError):
        assert held
        with files.locked(tmp_path / "lock", wait=False):
            pass
    with files.locked(tmp_path / "lock", wait=False) as held:
        assert held
