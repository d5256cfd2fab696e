"""For developers: write the gRPC modules again after a change of environments.proto.

Needs grpcio-tools 1.66.2: what newer ones write does not run under older protobuf. Run it from the distribution's
folder: ``python dovetail_remote/generate.py [FOLDER]``.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

TOOLS = "1.66.2"


def generate(folder: Path) -> None:
    """Write ``environments_pb2.py``, its stubs and ``environments_pb2_grpc.py`` below ``folder/dovetail_remote``."""
    from grpc_tools import protoc

    if version("grpcio-tools") != TOOLS:
        raise SystemExit(f"grpcio-tools {TOOLS} is needed, {version('grpcio-tools')} is installed")
    root = Path(__file__).parents[1]
    outputs = [f"--{kind}_out={folder}" for kind in ("python", "pyi", "grpc_python")]
    if protoc.main(["protoc", f"-I{root}", *outputs, str(root / "dovetail_remote/environments.proto")]):
        raise SystemExit("protoc failed")


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).parents[1])
