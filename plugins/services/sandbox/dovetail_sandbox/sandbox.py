"""Running Python that nobody has read: warm fork servers, one for each worker."""

from __future__ import annotations

import contextlib
import functools
import os
import queue
import socket
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, TypeVar

import attrs

from dovetail_sandbox import interpreter, tiers
from dovetail_sandbox.results import Limits, Result, Status, Verdict, judge
from dovetail_sandbox.server import Run, SandboxFailure, Server, finish
from dovetail_sandbox.session import Session

T = TypeVar("T")
TierOption = Literal["auto", "strict", "basic", "none"]
_TESTS_GRACE = 2.0  # seconds that the tests have beyond the solution, to say what they saw


@attrs.frozen
class Tests:
    """How to test a solution. None of this is ever in the solution's process.

    Args:
        functions: Names that the tests call; ``candidate`` is the first one as well.
        asserts: Source code with ``assert`` statements, each of which is a case.
        setup: Source code run before them.
        cases: Mappings with ``arguments`` and ``expected``, JSON values; a list may be given as a tuple.
        tolerance: Relative, of floating-point numbers in ``cases``.
    """

    __test__ = False  # it is no test class, whatever pytest makes of its name

    functions: Sequence[str]
    asserts: str = ""
    setup: str = ""
    cases: Sequence[Mapping[str, Any]] = ()
    tolerance: float = 1e-6


class Sandbox:
    """A pool of warm fork servers in one tier.

    Args:
        tier: ``auto`` takes the best that works of ``strict`` and ``basic``; ``none`` must be asked for.
        workers: Runs at a time. Servers start when they are first needed.
        python: Path of the interpreter; by default our own, if the sandbox's user can run it, else the system's.

    Raises:
        UserError: The tier does not work on this machine.
    """

    def __init__(self, tier: TierOption = "auto", workers: int | None = None, python: str | None = None) -> None:
        self.tier, self.why = (found := tiers.choose(tier, python)).tier, found.why
        self._interpreter = interpreter.find(python)
        workers = workers or len(os.sched_getaffinity(0))
        self._servers: queue.LifoQueue[Server | None] = queue.LifoQueue()
        for _ in range(workers):
            self._servers.put(None)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="dovetail-sandbox")
        weakref.finalize(self, _close, self._servers)

    def run(self, source: str, *, stdin: str = "", limits: Limits | None = None, seed: int = 0) -> Result:
        """Run a program to its end. ``seed`` is that of the module ``random``."""
        request = {"mode": "program", "source": source, "seed": seed}
        given = stdin.encode("utf-8", "surrogateescape")

        def attempt(server: Server) -> Result:
            return finish(server.start(request, limits or Limits(), given))[0][0]

        return self._tried(attempt, lambda reason: Result(Status.SANDBOX_ERROR, reason))

    def test(self, source: str, tests: Tests, *, limits: Limits | None = None, seed: int = 0) -> Verdict:
        """Load a solution, and run its tests in another process."""
        allowed = limits or Limits()
        solution = {"mode": "serve", "source": source, "seed": seed}
        testing = {"mode": "test", "seed": seed, **attrs.asdict(tests)}

        def attempt(server: Server) -> Verdict:
            ours, theirs = socket.socketpair()
            with ours, theirs:
                first = server.start(solution, allowed, channel=theirs.fileno())
                try:
                    longer = attrs.evolve(allowed, seconds=allowed.seconds + _TESTS_GRACE)
                    second = server.start(testing, longer, channel=ours.fileno())
                except OSError:
                    first.close()
                    raise
            (solved, _), (tested, told) = finish(first, second)
            return judge(solved, tested, told)

        return self._tried(attempt, lambda reason: Verdict(Status.SANDBOX_ERROR, reason=reason))

    def session(self, *, limits: Limits | None = None, seed: int = 0) -> Session:
        """A Python whose names last from one piece of code to the next; ``seconds`` are those of a piece."""

        def start(limits: Limits, channel: int) -> Run:
            with self._server() as server:
                return server().start({"mode": "session", "seed": seed}, limits, channel=channel)

        return Session(start, self._threads, limits or Limits())

    async def run_async(self, source: str, **options: Any) -> Result:
        """As :meth:`run`, for coroutines."""
        return await self._beside(functools.partial(self.run, source, **options))

    async def test_async(self, source: str, tests: Tests, **options: Any) -> Verdict:
        """As :meth:`test`, for coroutines."""
        return await self._beside(functools.partial(self.test, source, tests, **options))

    async def _beside(self, work: Callable[[], T]) -> T:
        import asyncio

        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _tried(self, attempt: Callable[[Server], T], failed: Callable[[str], T]) -> T:
        """Twice, the second time with a new server, before the sandbox is said to have failed."""
        outcome = failed("not run")
        for _ in range(2):
            with self._server() as server:
                try:
                    outcome = attempt(server())
                except (OSError, SandboxFailure) as error:
                    outcome = failed(f"{type(error).__name__}: {error}")
                if outcome.status != Status.SANDBOX_ERROR:  # type: ignore[attr-defined]
                    return outcome
                server.is_broken = True
        return outcome

    @contextlib.contextmanager
    def _server(self) -> Iterator[_Lease]:
        lease = _Lease(self._servers.get(), functools.partial(Server, self.tier, self._interpreter))
        try:
            yield lease
        except BaseException:
            lease.is_broken = True
            raise
        finally:
            if lease.is_broken and lease.server:
                lease.server.close()
                lease.server = None
            self._servers.put(lease.server)

    def close(self) -> None:
        """End the servers that are idle. The sandbox can be used again."""
        _close(self._servers)


def _close(servers: queue.LifoQueue[Server | None]) -> None:
    for _ in range(servers.qsize()):
        if server := servers.get():
            server.close()
        servers.put(None)


class _Lease:
    """A worker's server for one attempt; it starts when it is called for."""

    def __init__(self, server: Server | None, start: Callable[[], Server]) -> None:
        self.server, self._start = server, start
        self.is_broken = False

    def __call__(self) -> Server:
        self.server = self.server or self._start()
        return self.server


def shared(tier: TierOption = "auto", workers: int | None = None, python: str | None = None) -> Sandbox:
    """One sandbox of each kind in a process, whatever the number of its users."""
    return _shared(os.getpid(), tier, workers, python)


@functools.cache
def _shared(_: int, tier: TierOption, workers: int | None, python: str | None) -> Sandbox:
    return Sandbox(tier, workers, python)
