"""The folder of a run: how full it is, and how to be rid of it whatever a program has made there."""

from __future__ import annotations

import errno
import os


def is_fuller(folder: str, size: int, entries: int) -> bool:
    """Whether a folder holds more than so many bytes or entries. It stops counting there."""
    todo = [folder]
    while todo:
        try:
            with os.scandir(todo.pop()) as found:
                for entry in found:
                    entries -= 1
                    size -= entry.stat(follow_symlinks=False).st_blocks * 512
                    if size < 0 or entries < 0:
                        return True
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(entry.path)
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:  # so deep that it cannot be looked into
                return True
    return False


def remove(folder: str) -> None:
    """Remove a folder, however deep and whatever its modes: folders are moved up, so that no path gets too long."""
    while True:
        folders = []
        os.chmod(folder, 0o700)
        with os.scandir(folder) as found:
            for entry in found:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                else:
                    os.unlink(entry.path)
        for path in folders:
            os.chmod(path, 0o700)
            with os.scandir(path) as found:
                inner = [entry.path for entry in found]
            for entry_path in inner:
                if os.path.isdir(entry_path) and not os.path.islink(entry_path):
                    os.chmod(entry_path, 0o700)
                os.rename(entry_path, f"{folder}/{os.urandom(12).hex()}")
            os.rmdir(path)
        if not folders:
            break
    os.rmdir(folder)
