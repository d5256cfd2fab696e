"""tox environments ``plugin-<name>``: the core, the kit and one plugin, really alone. Made from the folders."""

from __future__ import annotations

import tomllib
from pathlib import Path

from tox.config.loader.memory import MemoryLoader
from tox.config.sets import ConfigSet
from tox.config.types import Command
from tox.plugin import impl
from tox.session.state import State

ROOT = Path(__file__).parent
PROJECTS = [path for folder in ("plugins/*/*", "kernels/*") for path in ROOT.glob(f"{folder}/pyproject.toml")]
NAMES = {path.parent: tomllib.loads(path.read_text())["project"]["name"] for path in PROJECTS}
FOLDERS = {name.replace("dovetail-", "plugin-", 1): folder for folder, name in NAMES.items()}

# What compiles kernels for CUDA, without a GPU.
NVRTC = ("nvidia-cuda-nvrtc-cu12>=12.8; sys_platform != 'darwin'",)


@impl
def tox_extend_envs() -> list[str]:
    return sorted(FOLDERS)


@impl
def tox_add_core_config(core_conf: ConfigSet, state: State) -> None:
    for name, folder in FOLDERS.items():
        loader = MemoryLoader(
            description=f"{folder.name} with nothing but the core and the conformance kit",
            skip_install=True,
            deps=[
                "-clocal.txt",
                "-cconstraints.txt",
                NAMES[folder],
                "dovetail-testing",
                "flit_core",  # the kit's tests install the packages that they write
                "hypothesis",
                *(NVRTC if folder.parent == ROOT / "kernels" else ()),
                "pytest",
                "pytest-timeout",
            ],
            commands=[Command(["pytest", str(folder / "tests")])],
        )
        state.conf.memory_seed_loaders[name].append(loader)
