"""An MCP server for the tests: over standard input and output, or over HTTP on the port that is given."""

from __future__ import annotations

import os
import sys
import time

import anyio
from mcp.server.mcpserver import Image, MCPServer

server = MCPServer("odd")
kept: list[str] = []


@server.tool()
def keep(name: str, count: int = 1) -> str:
    """Keep a name."""
    kept.extend([name] * count)
    return ",".join(kept)


@server.tool()
def die() -> str:
    """End the process."""
    print("out of luck", file=sys.stderr, flush=True)
    os._exit(3)


@server.tool()
async def hang() -> str:
    """Hold up the whole server."""
    time.sleep(3600)
    return ""


@server.tool()
async def wait() -> str:
    """Wait, while others go on."""
    await anyio.sleep(3600)
    return ""


@server.tool()
def refuse() -> str:
    """Raise."""
    raise ValueError("not that one")


@server.tool()
def draw() -> Image:
    """Give a picture."""
    return Image(data=b"\x89PNG", format="png")


@server.tool()
def flood() -> str:
    """Give very much."""
    return "x" * 1_000_000


@server.tool()
def vanish() -> str:
    """Take a tool away, and bring another."""
    server.remove_tool("refuse")
    server.add_tool(lambda: "new", name="late")
    return "gone"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        server.run("streamable-http", port=int(sys.argv[1]))
    else:
        server.run()
