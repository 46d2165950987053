"""Whole files or none: write to a temporary name in the same folder, sync, then rename.

Everything here raises plain `OSError` (full disk, read-only folder); callers put it into their users' words. Whatever
goes wrong, Ctrl-C included, the temporary file or folder is removed. Only a killed process leaves one behind; its
name is `.NAME.TOKEN.tmp`, see `remove_leftovers`.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

Writer = Callable[[BinaryIO], object]
"""Writes a file's content to the open binary file that it is given."""


def atomic_write(path: str | os.PathLike[str], content: bytes | Writer, *, replace: bool = True) -> Path:
    """Write `content` to `path` so that nobody ever sees half of it. Returns the path written.

    An existing file is replaced, or with `replace` False FileExistsError raised, also when another process came first;
    a link is followed. A device or pipe (/dev/stdout) is written to directly, as there is nothing to rename. The folder
    must exist.
    """
    target = Path(os.path.realpath(path))
    if _is_special(target):
        with target.open("wb") as file:
            _fill(file, content)
        return target
    temporary = _temporary(target)
    try:
        with temporary.open("xb") as file:
            _fill(file, content)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            temporary.replace(target)
        else:
            _rename_new(temporary, target)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)
    return target


@contextmanager
def atomic_folder(path: str | os.PathLike[str], *, replace: bool = False) -> Generator[Path]:
    """Give a temporary folder to fill; when the block ends without an exception, it becomes `path`.

    Raises FileExistsError if `path` exists by then, unless `replace`: then what was there is moved aside, and removed
    once the new folder stands. The parent folder must exist.
    """
    target = Path(os.path.realpath(path))
    temporary = _temporary(target)
    try:
        temporary.mkdir()
        yield temporary
        _sync_tree(temporary)
        _put_in_place(temporary, target, replace=replace)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sync_folder(target.parent)


@contextmanager
def locked(path: str | os.PathLike[str], *, wait: bool = True) -> Generator[bool]:
    """Hold the lock file `path`, waiting for other processes; it is given back by the system if this one dies.

    Without `wait`, BlockingIOError where another process holds it.
    Yields False where the file system has no locks (some network shares): the block runs all the same. The empty lock
    file stays, as removing it would let two processes lock two different files of that name.
    """
    with Path(path).open("a+b") as file:
        held = _lock(file, wait)
        try:
            yield held
        finally:
            if held:
                _unlock(file)


def remove_leftovers(path: str | os.PathLike[str]) -> int:
    """Remove temporary files and folders that killed processes left beside `path`; returns how many.

    Only safe while no other process writes `path`: hold its lock.
    """
    target = Path(os.path.realpath(path))
    prefix = _prefix(target)
    found = [p for p in target.parent.iterdir() if p.name.startswith(prefix) and p.name.endswith(".tmp")]
    for leftover in found:
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            with suppress(OSError):
                leftover.unlink()
    return len(found)


def _prefix(target: Path) -> str:
    # forty characters at most, so that a name of the longest length the file system takes still fits
    return f".{target.name[:40]}."


def _temporary(target: Path) -> Path:
    return target.with_name(f"{_prefix(target)}{secrets.token_hex(8)}.tmp")


def _fill(file: BinaryIO, content: bytes | Writer) -> None:
    if callable(content):
        content(file)
    else:
        file.write(content)


def _rename_new(temporary: Path, target: Path) -> None:
    """Rename where nothing stands yet: a hard link is the one step that both names a file and refuses a taken name."""
    try:
        target.hardlink_to(temporary)
    except FileExistsError:
        raise
    except OSError:
        # file systems without hard links (FAT, some shares): the moment between look and rename cannot be closed
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        temporary.rename(target)
    else:
        temporary.unlink()


def _is_special(target: Path) -> bool:
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _put_in_place(temporary: Path, target: Path, *, replace: bool) -> None:
    if not os.path.lexists(target):
        temporary.rename(target)
        return
    if not replace:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    aside = _temporary(target)
    target.rename(aside)
    try:
        temporary.rename(target)
    except BaseException:
        aside.rename(target)
        raise
    if aside.is_dir():
        shutil.rmtree(aside, ignore_errors=True)
    else:
        aside.unlink()


def _sync_tree(folder: Path) -> None:
    for root, _, names in os.walk(folder):
        for name in names:
            # Windows only syncs what is open for writing; elsewhere reading is enough, and a file may be read-only
            with (Path(root) / name).open("rb+" if os.name == "nt" else "rb") as file:
                os.fsync(file.fileno())
        _sync_folder(Path(root))


def _sync_folder(folder: Path) -> None:
    """Make renames and new names durable; Windows cannot open a folder, and some file systems cannot sync one."""
    if os.name == "nt":
        return
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


if os.name == "nt":
    import msvcrt
    import time

    def _lock(file: BinaryIO, wait: bool) -> bool:
        while True:
            try:
                file.seek(0)
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
                return True
            except OSError as error:
                if error.errno not in {errno.EACCES, errno.EDEADLK}:
                    return False
                if not wait:
                    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), file.name) from None
                time.sleep(0.05)

    def _unlock(file: BinaryIO) -> None:
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _lock(file: BinaryIO, wait: bool) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:
            return False
        return True

    def _unlock(file: BinaryIO) -> None:
        fcntl.flock(file, fcntl.LOCK_UN)
