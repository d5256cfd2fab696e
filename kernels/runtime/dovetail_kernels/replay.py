"""Model passes with gradients, replayed: a forward and a backward graph for each bucket of shapes."""

from __future__ import annotations

import functools
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

_WARM_UP = 3  # passes before a capture, in which libraries choose their algorithms and reserve their workspaces


class Graph(Protocol):
    """What :class:`CudaGraph` is, and what a test puts into its place."""

    def capture(self, work: Callable[[], Any]) -> Any:
        """Do the work once and remember it."""

    def replay(self) -> None:
        """Do it again, on the same memory."""


class CudaGraph:
    """A graph in a pool of memory that several share."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    def capture(self, work: Callable[[], Any]) -> Any:
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=self._pool):
            return work()

    def replay(self) -> None:
        self._graph.replay()


class ReplayedAgent:
    """An agent whose passes with gradients are replayed; all else is the agent's own.

    Lines and width are rounded up to buckets. A bucket is captured when it comes for the second time. What a backward
    graph reads lies in memory that the next forward graph may overwrite, so a pass runs as usual while the backward
    of another is still to come.
    """

    def __init__(self, agent: Any, make_graph: Callable[[], Graph] | None = None) -> None:
        self._agent = agent
        self._make_graph = make_graph or functools.partial(CudaGraph, torch.cuda.graph_pool_handle())
        self._grads = _Grads()
        self._tie = torch.zeros((), requires_grad=True)  # lets autograd come to the backward of a replay
        self._met: Counter[tuple[int, int, bool]] = Counter()
        self._passes: dict[tuple[int, int, bool], _Pass] = {}
        self._pending: Callable[[], Any] = lambda: None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._agent, name)

    def hidden(self, tokens: Tensor, mask: Tensor | None = None, positions: Tensor | None = None) -> Tensor:
        """As :meth:`dovetail.Agent.hidden`."""
        lines, width = bucket(tokens.shape[0]), min(bucket(tokens.shape[1]), self._agent.context or tokens.shape[1])
        key = lines, width, mask is not None
        self._met[key] += 1
        if not torch.is_grad_enabled() or self._met[key] < 2 or self._pending() is not None:
            hidden: Tensor = self._agent.hidden(tokens, mask, positions)
            return hidden
        given = laid(tokens, mask, positions, lines, width)
        if key not in self._passes:
            self._passes[key] = _Pass(self._agent, given, self._grads, (self._make_graph(), self._make_graph()))
        ticket = _Ticket()
        self._pending = weakref.ref(ticket)
        replayed: Tensor = _Replay.apply(self._passes[key], ticket, given, self._tie)  # type: ignore[no-untyped-call]
        return replayed[: tokens.shape[0], : tokens.shape[1]]


def bucket(size: int) -> int:
    """The next of four sizes for each doubling, so that at most a quarter is added; up to 8 every size is one."""
    step = 1 << max((size - 1).bit_length() - 3, 0)
    return -(-size // step) * step


def laid(
    tokens: Tensor, mask: Tensor | None, positions: Tensor | None, lines: int, width: int
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The arguments of a pass with more lines and columns, whose tokens attend to themselves alone."""
    missing = (0, width - tokens.shape[1], 0, lines - tokens.shape[0])
    pad = torch.nn.functional.pad
    if mask is not None:
        itself = torch.eye(width, dtype=torch.bool, device=mask.device)
        mask = pad(mask, (*missing[:2], *missing[:2], 0, 0, *missing[2:])) | itself
    return pad(tokens, missing), mask, None if positions is None else pad(positions, missing)


class _Ticket:
    """Lives as long as a backward may come."""


class _Pass:
    """The two graphs of a bucket, and the memory that they read and write."""

    def __init__(self, agent: Any, given: Sequence[Tensor | None], grads: _Grads, graphs: tuple[Graph, Graph]) -> None:
        self._given = [None if tensor is None else tensor.clone() for tensor in given]
        self._agent, self._grads, (self._ahead, self._back) = agent, grads, graphs
        with torch.enable_grad():
            self._read = _warmed_up(self._parameters_read)  # the output layer, for one, is not
            into = grads.of(self._read)
            live = self._ahead.capture(self._pass)
            self._upstream = torch.zeros_like(live)
            self._back.capture(lambda: torch._foreach_add_(into, self._gradients(live, self._upstream, self._read)))
        self._hidden: Tensor = live.detach()

    def _pass(self) -> Tensor:
        hidden: Tensor = self._agent.hidden(*self._given)
        return hidden

    def _gradients(self, hidden: Tensor, upstream: Tensor, of: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return torch.autograd.grad(hidden, of, upstream, allow_unused=True)

    def _parameters_read(self) -> list[torch.nn.Parameter]:
        hidden = self._pass()
        learnt = [parameter for parameter in self._agent.model.parameters() if parameter.requires_grad]
        grads = self._gradients(hidden, torch.zeros_like(hidden), learnt)
        return [parameter for parameter, grad in zip(learnt, grads, strict=True) if grad is not None]

    def ahead(self, given: Sequence[Tensor | None]) -> Tensor:
        for mine, theirs in zip(self._given, given, strict=True):
            if mine is not None and theirs is not None:
                mine.copy_(theirs)
        self._ahead.replay()
        return self._hidden.clone()

    def back(self, upstream: Tensor) -> None:
        self._grads.become(self._read)
        self._upstream.copy_(upstream)
        self._back.replay()


class _Grads:
    """Where the graphs of all buckets add gradients: memory of its own, so that no bucket keeps any."""

    def __init__(self) -> None:
        self._made: dict[torch.nn.Parameter, Tensor] = {}

    def of(self, parameters: Sequence[torch.nn.Parameter]) -> list[Tensor]:
        return [self._made.setdefault(parameter, torch.zeros_like(parameter)) for parameter in parameters]

    def become(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Be their ``.grad``, which ``zero_grad`` or another pass may have put elsewhere."""
        for parameter, grad in zip(parameters, self.of(parameters), strict=True):
            if parameter.grad is not grad:
                grad.zero_() if parameter.grad is None else grad.copy_(parameter.grad)
                parameter.grad = grad


def _warmed_up(work: Callable[[], Any]) -> Any:
    """Do the work before it is captured, on a stream beside, as torch asks for."""
    if not torch.cuda.is_available():
        return work()
    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        results = [work() for _ in range(_WARM_UP)]
    torch.cuda.current_stream().wait_stream(aside)
    return results[-1]


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, replayed: _Pass, ticket: _Ticket, given: Sequence[Tensor | None], tie: Tensor) -> Tensor:
        ctx.replayed, ctx.ticket = replayed, ticket
        return replayed.ahead(given)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[None, None, None, None]:
        """Gradients are added to ``.grad`` by the graph itself."""
        if ctx.ticket is None:
            raise RuntimeError("a replayed pass has one backward: what it reads may be overwritten by now")
        ctx.ticket = None
        ctx.replayed.back(upstream[0])
        return None, None, None, None
