"""Runs a function in several processes that find one another, as torchrun's would, and what such tests run in them."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

PRELOADED = ["torch", "transformers.models.llama.modeling_llama", "dovetail_trainer.trainer", "dovetail_trainer.tiny"]


class Killed(Exception):
    """A process ended without a word."""


def in_processes(count: int, work: Callable[..., Any], *arguments: Any, timeout: float = 240.0) -> list[Any]:
    """What ``work(*arguments)`` gives in each, or the error that it raised; Killed where it gave neither.

    The processes are forked off a server that has imported what is slow to import; ``work`` is a function of a module.
    """
    import torch.distributed as dist

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port)}
    shared |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0", "DOVETAIL_SILENCE": "120"}
    results: list[Any] = [Killed()] * count
    ends: dict[Connection, int] = {}
    processes = []
    for rank in range(count):
        ours, theirs = context.Pipe(duplex=False)
        environment = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        processes.append(context.Process(target=_run, args=(environment, theirs, work, arguments), daemon=True))
        processes[-1].start()
        theirs.close()
        ends[ours] = rank
    try:
        while ends:
            ready = wait(list(ends), timeout)
            assert ready, f"no process has said anything for {timeout:g} s"
            for end in ready:
                rank = ends.pop(end)
                with contextlib.suppress(EOFError):
                    results[rank] = end.recv()
    finally:
        for process in processes:
            process.kill()
            process.join()
    return results


def _run(environment: dict[str, str], end: Connection, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ.update(environment)
    import torch

    torch.set_num_threads(1)
    try:
        end.send(work(*arguments))
    except Exception as error:
        end.send(type(error)(str(error)) if len(error.args) == 1 else RuntimeError(repr(error)))


def kill_myself() -> None:
    """As a machine does that has no memory left."""
    os.kill(os.getpid(), signal.SIGKILL)
