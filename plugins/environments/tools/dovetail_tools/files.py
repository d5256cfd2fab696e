"""A folder of the episode's own, and tools that cannot leave it."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from dovetail import Task
from dovetail_tools.tool import ToolError

LARGEST = 1 << 20  # bytes of a file
MOST = 256  # entries in the whole folder
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe in the place of a file must hold nobody up


class Files:
    """The folder of an episode, made at its beginning and removed at its end.

    A path is walked name by name from the folder's own descriptor and no link is followed, so there is no moment
    between a check and its use, and neither ``..`` nor a symbolic link leads out.
    """

    def __init__(self) -> None:
        self._root: Path | None = None

    async def open(self, task: Task) -> Sequence[Callable[..., str]]:
        """Begin with the files that the task brings; what the policy may call."""
        self.fill(task.columns.get("files", {}))
        return (self.list_files, self.read_file, self.write_file)

    async def close(self) -> None:
        """Remove the folder."""
        self.remove()

    def fill(self, files: Mapping[str, str]) -> None:
        """Make the folder, with these files in it."""
        self.remove()
        self._root = Path(tempfile.mkdtemp(prefix="dovetail-files-"))
        for name, text in files.items():
            self.write_file(name, text)

    def remove(self) -> None:
        """Remove the folder, if there is one."""
        if self._root is not None:
            shutil.rmtree(self._root, ignore_errors=True)
            self._root = None

    def list_files(self, folder: str = ".") -> str:
        """List a folder, one name to a line; folders end in a slash.

        Args:
            folder: A path inside the working folder.
        """
        with self._folder(_names(folder)) as descriptor:
            kinds = {entry.name: entry.is_dir(follow_symlinks=False) for entry in os.scandir(descriptor)}
        return "\n".join(f"{name}/" if is_folder else name for name, is_folder in sorted(kinds.items()))

    def read_file(self, path: str) -> str:
        """Read a text file.

        Args:
            path: Inside the working folder.
        """
        with self._parent(path) as (folder, name), _told(path):
            descriptor = os.open(name, os.O_RDONLY | _FILE, dir_fd=folder)
            with os.fdopen(descriptor, "rb") as file:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise ToolError(f"{path!r} is no file")
                content = file.read(LARGEST)
        try:
            return content.decode()
        except UnicodeDecodeError:
            raise ToolError(f"{path!r} is no text: {len(content)} bytes") from None

    def write_file(self, path: str, content: str) -> str:
        """Write a text file; folders on the way are made.

        Args:
            path: Inside the working folder.
            content: The whole new text.
        """
        data = content.encode("utf-8", "replace")
        if len(data) > LARGEST:
            raise ToolError(f"a file may have {LARGEST} bytes, and this one has {len(data)}")
        if sum(len(folders) + len(files) for _, folders, files in os.walk(self._folder_path())) >= MOST:
            raise ToolError(f"there may be {MOST} files and folders, and there are no fewer")
        with self._parent(path, make=True) as (folder, name), _told(path):
            descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | _FILE, 0o600, dir_fd=folder)
            with os.fdopen(descriptor, "wb") as file:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode) or os.fstat(descriptor).st_nlink > 1:
                    raise ToolError(f"{path!r} is no file of its own")
                file.truncate()
                file.write(data)
        return f"{len(data)} bytes written"

    def _folder_path(self) -> Path:
        if self._root is None:
            raise ToolError("the episode is over")
        return self._root

    @contextlib.contextmanager
    def _parent(self, path: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        names = _names(path)
        if not names:
            raise ToolError(f"{path!r} names no file")
        with self._folder(names[:-1], make=make) as descriptor:
            yield descriptor, names[-1]

    @contextlib.contextmanager
    def _folder(self, names: Sequence[str], *, make: bool = False) -> Iterator[int]:
        current = os.open(self._folder_path(), _DIRECTORY)
        try:
            for name in names:
                with _told(name):
                    if make:
                        with contextlib.suppress(FileExistsError):
                            os.mkdir(name, 0o700, dir_fd=current)
                    deeper = os.open(name, _DIRECTORY, dir_fd=current)
                os.close(current)
                current = deeper
            yield current
        finally:
            os.close(current)


def _names(path: str) -> list[str]:
    names = [name for name in path.split("/") if name not in ("", ".")]
    if path.startswith("/") or ".." in names or "\0" in path:
        raise ToolError(f"{path!r} leads out of the working folder")
    return names


@contextlib.contextmanager
def _told(path: str) -> Iterator[None]:
    """The operating system's refusals, without the place where the folder lies."""
    try:
        yield
    except OSError as error:
        raise ToolError(f"{path!r}: {error.strerror}") from None
