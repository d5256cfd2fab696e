"""How many steps a second go through a remote environment on loopback, and how long each takes.

    python benchmarks/remote.py [--episodes 200] [--seconds 5] [--tls]

Server and client are two processes. The environment answers at once with the message it got (2,000 characters), so
that what is measured is the way there and back. Goal: 2,000 steps/s with 200 in flight, p99 under 200 ms; 500 episodes
at a time hold.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import dovetail as dt


class Echo:
    """An episode that says again what it hears, without end."""

    tools, agents = (), ("agent",)

    async def reset(self, *, seed, task=None):
        return dt.StepResult(messages=task.messages)

    async def step(self, action):
        return dt.StepResult(messages=(dt.Message("user", action.content),), reward=1.0)

    async def close(self):
        pass


class Echoes:
    @dt.hookimpl
    def tasks(self, split):
        return [dt.Task.of("hello", "0")]

    @dt.hookimpl
    async def make(self):
        return Echo()


def serve(config: str) -> int:
    from dovetail_trainer.cli.main import main

    dt.environments.register("echo", Echoes)
    return main(["serve", "environments", config])


async def load(remote: dt.Part, episodes: int, seconds: float) -> list[float]:
    """Seconds of each step of so many episodes at a time."""
    (task,) = remote.call("tasks", {"split": "train"})
    action = dt.Message("assistant", "y" * 2000)
    taken: list[float] = []

    async def episode(until: float) -> None:
        environment = await remote.instance.make()
        await environment.reset(seed=0, task=task)
        while (started := time.perf_counter()) < until:
            result = await environment.step(action)
            taken.append(time.perf_counter() - started)
            assert result.reward == 1.0
        await environment.close()

    until = time.perf_counter() + seconds
    await asyncio.gather(*(episode(until) for _ in range(episodes)))
    return taken


def report(remote: dt.Part, episodes: int, seconds: float) -> None:
    taken = asyncio.run(load(remote, episodes, seconds))
    quantiles = statistics.quantiles(taken, n=100)
    rate, median, p99 = len(taken) / seconds, quantiles[49] * 1e3, quantiles[98] * 1e3
    print(f"{episodes:>9} {rate:>9.0f} {median:>11.1f} {p99:>9.1f}")


def certify(folder: Path) -> list[str]:
    """Write a server's certificate, and give the words of a configuration that name it."""
    import trustme

    authority = trustme.CA()
    server = authority.issue_cert("localhost", "127.0.0.1")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    server.private_key_pem.write_to_path(folder / "key.pem")
    server.cert_chain_pems[0].write_to_path(folder / "server.pem")
    (folder / "token").write_text("a-token")
    return [f"{word}: {folder / file}" for word, file in
            {"certificate": "server.pem", "key": "key.pem", "token_file": "token"}.items()]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, nargs="+", default=[1, 200, 500])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--tls", action="store_true", help="with TLS and a token")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        sys.exit(serve(arguments.serve))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = ["environments: [echo]", "address: 127.0.0.1:0", *(certify(folder) if arguments.tls else [])]
        (folder / "serve.yaml").write_text("\n".join(words))
        command = [sys.executable, __file__, "--serve", str(folder / "serve.yaml")]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            address = server.stdout.readline().split()[-1]
            secrets = {"ca": str(folder / "ca.pem"), "token_file": str(folder / "token")} if arguments.tls else {}
            remote = dt.environments.remote(address=address, max_in_flight=1000, **secrets)
            print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores{', TLS' * arguments.tls}")
            print(" episodes   steps/s   median ms    p99 ms")
            for episodes in arguments.episodes:
                report(remote, episodes, arguments.seconds)
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
