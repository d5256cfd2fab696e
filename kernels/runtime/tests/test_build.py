"""Builds are kept, and neither a kill, a full disk nor a second process leaves a wrong one."""

import concurrent.futures
import errno
import logging
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from kernels_of_tests import low_share, rows_of

from dovetail.errors import UserError
from dovetail_kernels import backends, build, cpu, cuda
from dovetail_kernels.program import Program

TEXT = 'extern "C" int answer() { return 42; }\n'
EXPECTED = rows_of([4, 3]).map(lambda t: (t < 2).float()).mean()


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    """A cache folder of this test, and nothing loaded."""
    monkeypatch.setenv("DOVETAIL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(build, "_private", [])
    for function in (backends._chosen, cpu.loaded):
        function.cache_clear()
    yield tmp_path / "cache" / "kernels"
    for function in (backends._chosen, cpu.loaded):
        function.cache_clear()


def without_compiler(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)


def test_a_build_is_found_again_without_a_compiler(monkeypatch):
    """It is called by its content."""
    first = build.build(TEXT)
    without_compiler(monkeypatch)
    assert build.build(TEXT) == first


def test_a_damaged_build_is_built_anew(fresh):
    """What a full disk or a fault cut short is not loaded."""
    first = build.build(TEXT)
    content = first.read_bytes()
    first.write_bytes(content[: len(content) // 2])
    assert build.build(TEXT).read_bytes() == content


def test_a_build_of_another_processor_is_not_taken(monkeypatch):
    """A home folder may be shared between machines."""
    first = build.key_of(TEXT)
    monkeypatch.setattr(platform, "machine", lambda: "another")
    assert build.key_of(TEXT) != first


def test_what_a_killed_build_leaves_is_never_taken(fresh):
    """It has another name than a whole one."""
    fresh.mkdir(parents=True)
    (fresh / f".{build.key_of(TEXT)}-0000.so.abc").write_bytes(b"half")
    (fresh / f"{build.key_of(TEXT)}-0123456789abcdef.so").write_bytes(b"half")
    assert build.build(TEXT).stat().st_size > 1000


def test_concurrent_builds_agree(fresh):
    """Several processes may start at once; each finds a whole build, and nothing is left over."""
    code = f"from dovetail_kernels.build import build; print(build({TEXT!r}))"
    with concurrent.futures.ThreadPoolExecutor() as pool:
        command = [sys.executable, "-c", code]
        runs = list(pool.map(lambda _: subprocess.run(command, capture_output=True, text=True, check=True), range(4)))
    assert len({run.stdout for run in runs}) == 1
    assert [path.name for path in fresh.iterdir()] == [Path(runs[0].stdout.strip()).name]


def test_without_a_compiler_torch_computes_it(monkeypatch, caplog):
    """One line says so, once."""
    without_compiler(monkeypatch)
    for _ in range(3):
        assert torch.allclose(low_share(rows_of([4, 3])), EXPECTED)
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert line.endswith("torch computes it, more slowly, because there is no C++ compiler on the path")
    monkeypatch.setenv("DOVETAIL_KERNELS", "cpu")
    with pytest.raises(UserError, match="no C\\+\\+ compiler") as caught:
        low_share(rows_of([4, 3]))
    assert "DOVETAIL_KERNELS" in caught.value.hint


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC])
def test_a_cache_folder_that_takes_nothing_costs_only_time(monkeypatch, caplog, number):
    """Read-only or full: builds go to a folder of this process, and one line says so."""
    written = build._written

    def refuse(folder, *rest):
        if folder == build.cache_folder():
            raise OSError(number, "refused")
        return written(folder, *rest)

    monkeypatch.setattr(build, "_written", refuse)
    first = build.build(TEXT)
    assert build.build(TEXT) == first
    (line,) = [record.getMessage() for record in caplog.records]
    assert "cannot be written (refused)" in line


def test_a_cache_folder_below_a_file_costs_only_time(monkeypatch, tmp_path, caplog):
    """As a home that is none has it."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("DOVETAIL_CACHE", str(tmp_path / "file"))
    assert torch.allclose(low_share(rows_of([4, 3])), EXPECTED)
    assert "set DOVETAIL_CACHE to another folder" in caplog.text


def test_no_room_anywhere_leaves_it_to_torch(tmp_path):
    """A process that may write no byte into files still has the right numbers."""
    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from kernels_of_tests import low_share, rows_of\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
        "assert low_share(rows_of([4, 3])).tolist() == rows_of([4, 3]).map(lambda t: (t < 2).float()).mean().tolist()"
    )
    command = [sys.executable, "-B", "-c", code]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent)
    assert ran.returncode == 0, ran.stderr
    assert "torch computes it, more slowly, because" in ran.stderr


def test_a_compiler_that_fails_leaves_it_to_torch(monkeypatch, caplog):
    """CXX may name anything."""
    monkeypatch.setenv("CXX", "false")
    assert torch.allclose(low_share(rows_of([4, 3])), EXPECTED)
    assert "false failed (1)" in caplog.text


# As much of CuPy as is asked before a launch.
CUPY = """
class runtime:
    @staticmethod
    def getDeviceCount():
        {devices}

class compiler:
    class CompileException(Exception):
        pass

class Device:
    attributes = {{}}
    def __init__(self, index):
        pass
    def __enter__(self):
        return self
    def __exit__(self, *error):
        pass

class cuda:
    runtime, compiler, Device = runtime, compiler, Device

def RawModule(code, options):
    {module}
"""
OLD_DRIVER = "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version"
OLD_PTX = "CUDA_ERROR_UNSUPPORTED_PTX_VERSION: the provided PTX was compiled with an unsupported toolchain."


@pytest.fixture
def cupy(monkeypatch, tmp_path):
    """make(…) installs builds of a CuPy on a machine like that."""

    def make(*builds: str, devices: str = f"raise RuntimeError({OLD_DRIVER!r})", module: str = "") -> None:
        for name in builds:
            (tmp_path / f"{name.replace('-', '_')}-13.0.dist-info").mkdir()
            (tmp_path / f"{name.replace('-', '_')}-13.0.dist-info/METADATA").write_text(
                f"Name: {name}\nVersion: 13.0\n"
            )
        (tmp_path / "cupy.py").write_text(CUPY.format(devices=devices, module=module or "pass"))
        monkeypatch.syspath_prepend(str(tmp_path))
        sys.modules.pop("cupy", None)
        backends.cupy_problem.cache_clear()

    yield make
    backends.cupy_problem.cache_clear()
    sys.modules.pop("cupy", None)


ONE = ("cupy-cuda12x",)


@pytest.mark.parametrize(
    ("builds", "how", "problem"),
    [
        (ONE, {}, f"CuPy finds no CUDA driver that it can use: {OLD_DRIVER}"),
        (ONE, {"devices": "return 0"}, "CuPy finds no GPU"),
        ((*ONE, "cupy-cuda13x"), {}, "cupy-cuda12x and cupy-cuda13x exclude each other; pip uninstall one"),
    ],
)
def test_a_cupy_that_cannot_launch_is_told(cupy, monkeypatch, builds, how, problem):
    """By the reason, where CUDA is demanded; a CPU tensor needs none."""
    cupy(*builds, **how)
    assert torch.allclose(low_share(rows_of([4, 3])), EXPECTED)
    monkeypatch.setenv("DOVETAIL_KERNELS", "cuda")
    with pytest.raises(UserError, match=problem):
        low_share(rows_of([4, 3]))


@pytest.mark.parametrize(
    "raised", [f"RuntimeError({OLD_PTX!r})", "compiler.CompileException('nvrtc: error: invalid --gpu-architecture')"]
)
def test_a_driver_and_a_toolkit_that_do_not_fit_leave_it_to_torch(cupy, monkeypatch, caplog, raised):
    """Told when the kernel is loaded: one line with CuPy's own words; where CUDA is demanded, an error."""
    cupy(*ONE, devices="return 1", module=f"raise {raised}")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    program = Program.of((low_share.kernel,))
    cuda.loaded.cache_clear()
    assert backends.choose(program, torch.device("cuda")) == "reference"
    assert "because CuPy cannot load it: " in caplog.text
    with pytest.raises(UserError, match="CuPy cannot load it: "):
        backends.choose(program, torch.device("cuda"), "cuda")


def test_cuda_without_cupy_names_the_extra(monkeypatch):
    """Where it is demanded."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("DOVETAIL_KERNELS", "cuda")
    backends.cupy_problem.cache_clear()
    with pytest.raises(UserError, match=r'CuPy is not installed; pip install "dovetail\[cuda12\]"'):
        low_share(rows_of([4, 3]))
    backends.cupy_problem.cache_clear()


def test_cuda_tensors_without_cupy_are_left_to_torch(monkeypatch, caplog):
    """One line names the extra to install."""
    monkeypatch.setattr(backends, "cupy_problem", lambda: 'CuPy is not installed; pip install "dovetail[cuda12]"')
    assert backends.choose(Program.of((low_share.kernel,)), torch.device("cuda")) == "reference"
    assert "because CuPy is not installed" in caplog.text


def test_other_devices_are_left_to_torch(caplog):
    """One line says so."""
    assert backends.choose(Program.of((low_share.kernel,)), torch.device("mps")) == "reference"
    assert "there is no back end for mps tensors" in caplog.text
