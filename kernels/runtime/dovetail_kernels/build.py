"""Building for the CPU: the compiler that is found, once for each text, kept in the user's cache folder."""

from __future__ import annotations

import atexit
import hashlib
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from dovetail.errors import UserError
from dovetail_kernels.source import KernelError

log = logging.getLogger("dovetail.kernels")

FLAGS = ("-O3", "-std=c++17", "-shared", "-fPIC", "-pthread")


class BuildUnavailable(UserError):
    """This machine cannot build kernels: no compiler, a broken one, or no room for its output."""


def cache_folder() -> Path:
    """``DOVETAIL_CACHE``, else the user's cache folder."""
    if chosen := os.environ.get("DOVETAIL_CACHE"):
        return Path(chosen) / "kernels"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "dovetail" / "kernels"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dovetail" / "kernels"


def find_compiler() -> str | None:
    """``CXX``, else the first of g++, clang++, c++ on the path."""
    names = (os.environ.get("CXX") or "g++", "g++", "clang++", "c++")
    return next((path for name in names if (path := shutil.which(name))), None)


def key_of(text: str, flags: Sequence[str] = FLAGS) -> str:
    """What a build is called by: its text wherever its files lie, the flags, the processor's type and the system."""
    text = re.sub(r"^#line.*$", "", text, flags=re.M)
    made_for = [text, *flags, platform.machine(), platform.system(), str(sys.maxsize)]
    return hashlib.sha256("\0".join(made_for).encode()).hexdigest()[:24]


def build(text: str, flags: Sequence[str] = FLAGS) -> Path:
    """A shared library (or what other flags say) of C++ ``text``, built unless it is cached.

    A build is written aside and put in place whole under the hash of its content, so neither a kill nor a second
    process can leave one that is half there; one that was damaged later is built anew.

    Raises:
        KernelError: The text does not compile; the error shows the plugin's file and line.
        BuildUnavailable: This machine cannot build it.
    """
    key = key_of(text, flags)
    for folder in (cache_folder(), *_private):
        if found := _cached(folder, key):
            return found
    return _kept(compiled(text, flags), key)


_private: list[Path] = []  # where builds lie if the cache folder cannot be written: a folder of this process


def _cached(folder: Path, key: str) -> Path | None:
    try:
        return next((path for path in sorted(folder.glob(f"{key}-*.so")) if path.stem.endswith(_digest(path))), None)
    except OSError:
        return None


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _kept(built: bytes, key: str) -> Path:
    name = f"{key}-{hashlib.sha256(built).hexdigest()[:16]}.so"
    try:
        return _written(cache_folder(), name, built)
    except OSError as error:
        folder = f"{cache_folder()} cannot be written ({error.strerror})"
    if not _private:
        try:
            _private.append(Path(tempfile.mkdtemp(prefix="dovetail-kernels-")))
        except OSError as error:
            raise BuildUnavailable(f"{folder}, and neither can the temporary folder ({error.strerror})") from error
        atexit.register(shutil.rmtree, _private[0], ignore_errors=True)
        log.warning("%s: each process builds its kernels anew; set DOVETAIL_CACHE to another folder", folder)
    try:
        return _written(_private[0], name, built)
    except OSError as error:
        raise BuildUnavailable(f"{folder}, and neither can {_private[0]} ({error.strerror})") from error


def _written(folder: Path, name: str, content: bytes) -> Path:
    """Write a file so that it is there whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{name}.", delete=False) as aside:
        try:
            aside.write(content)
            aside.close()
            os.chmod(aside.name, 0o700)
            os.replace(aside.name, folder / name)
        except BaseException:
            Path(aside.name).unlink(missing_ok=True)
            raise
    return folder / name


def compiled(text: str, flags: Sequence[str]) -> bytes:
    """What the compiler makes of C++ ``text``; raises as :func:`build`."""
    compiler = find_compiler()
    if compiler is None:
        hint = "install g++ or clang++, or set CXX"
        raise BuildUnavailable("there is no C++ compiler on the path", hint=hint)
    try:
        with tempfile.TemporaryDirectory(prefix="dovetail-build-") as folder:
            out = Path(folder) / "out"
            command = [compiler, *flags, "-x", "c++", "-", "-o", str(out)]
            finished = subprocess.run(command, input=text, capture_output=True, text=True)
            if finished.returncode == 0:
                return out.read_bytes()
    except OSError as error:
        raise BuildUnavailable(f"{compiler} cannot be run here: {error}", hint="set CXX to another compiler") from error
    raise compile_error(finished.stderr) or BuildUnavailable(
        f"{compiler} failed ({finished.returncode}): {finished.stderr.strip()[-400:]}",
        hint="set CXX to another compiler",
    )


def compile_error(log: str) -> KernelError | None:
    """The first error in a compiler's log that lies in a kernel's file; NVRTC writes ``(3)`` for ``:3``."""
    found = re.search(r"^(.+?\.cu)(?::(\d+)(?::\d+)?|\((\d+)\)): (?:fatal )?error:? (.*)", log, re.M)
    if found is None:
        return None
    where = f"{found[1]}:{found[2] or found[3]}"
    hint = "mend the line, or let torch do it: DOVETAIL_KERNELS=reference"
    return KernelError(f"the kernel does not compile: {found[4]}", where=[where], hint=hint)
