"""The processes of a run: what each does of a step, and how all of them come to have the whole of it.

Every process holds all weights and sees the whole batch; what is dealt out is work: prompts to answer, rows to score,
micro-batches to pass through a model. Results are gathered in the order in which one process would have had them, and
gradients are summed. So whatever needs the batch as a whole (advantages, filters, denominators) is computed by every
process from the same numbers, and no part knows how many there are.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dovetail.agents.agent import Agent
from dovetail.errors import DovetailError, UserError
from dovetail.parts import Part
from dovetail.rollouts import Rollouts, Scores
from dovetail.runtime.packing import MicroBatch, micro_batches
from dovetail.runtime.ranks import Alone
from dovetail.runtime.scoring import Offloader, PendingScores
from dovetail_trainer.joining import one_column

SILENCE = 1800.0  # seconds, as torch has it; a process may be busy with a checkpoint or with a slow reward for so long
_FAILED = "dovetail/failed"


class LostContact(DovetailError):
    """Another process of the run has ended, or is silent."""


class Ranks(Alone):
    """Process ``rank`` of ``count``; alone, it does everything. ``Ranks.join`` finds the others."""

    def __init__(self, rank: int = 0, count: int = 1, store: Any = None, silence: float = SILENCE) -> None:
        self.rank, self.count, self._store, self._silence = rank, count, store, silence
        self.is_apart = False  # whether this process answers prompts by itself, inside a share that it was given
        # Objects travel by gloo whatever the gradients take.
        self._words = dist.new_group(backend="gloo", timeout=timedelta(seconds=silence)) if count > 1 else None

    @classmethod
    def join(cls, device: torch.device) -> Ranks:
        """Find the processes that ``torchrun`` has started, by its variables in the environment; without them, alone.

        ``device`` is where the policy is. What is missing, or too much, is a UserError.
        """
        count = _number("WORLD_SIZE", 1)
        if count == 1:
            return cls()
        rank, silence = _number("RANK"), float(os.environ.get("DOVETAIL_SILENCE", SILENCE))
        _check_backend(device, count)
        if device.type == "cuda":
            torch.cuda.set_device(_number("LOCAL_RANK"))
        if dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size(), silence=silence)
        address = f"{os.environ.get('MASTER_ADDR', 'nowhere')}:{os.environ.get('MASTER_PORT', '')}"
        waiting = timedelta(seconds=silence)
        try:
            from torch.distributed.rendezvous import rendezvous

            store, *_ = next(rendezvous("env://", timeout=waiting))
            backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=waiting)
        except (RuntimeError, ValueError) as error:
            problem = f"process {rank} of {count} has not found the others at {address}: {error}"
            raise UserError(
                problem, hint="start all of them by torchrun, or by dovetail train --processes N"
            ) from error
        atexit.register(_leave)
        return cls(rank, count, store, silence)

    @property
    def is_first(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def share(self, items: int) -> list[int]:
        """This process's places among so many."""
        return torch.tensor_split(torch.arange(items), self.count)[self.rank].tolist()

    # ------------------------------------------------------------------------------------------------ talking
    def gather(self, what: str, mine: Any) -> list[Any]:
        """What each process gives, in the order of their numbers. A LostContact if one is gone."""
        if self.count == 1:
            return [mine]
        found: list[Any] = [None] * self.count
        with self._together(what):
            dist.all_gather_object(found, (what, mine), group=self._words)
        if odd := [f"process {rank}: {label}" for rank, (label, _) in enumerate(found) if label != what]:
            problem = "the processes of this run have got out of step, so that their results do not belong together"
            hint = "look for a part that decides by time, or by numbers that differ from process to process"
            raise DovetailError(problem, where=[f"process {self.rank}: {what}", *odd], hint=hint)
        return [value for _, value in found]

    def agree(self, value: Any) -> Any:
        """The first process's value."""
        return self.gather("agree", value if self.is_first else None)[0]

    @contextlib.contextmanager
    def _together(self, what: str) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # what gloo and NCCL raise
            problem = f"process {self.rank} of {self.count} has lost the others, waiting for them at: {what}"
            told = self._told() or f"one of them was killed, or said nothing for {self._silence:g} s"
            hint = "continue with `dovetail train --resume`, with any number of processes"
            raise LostContact(problem, where=[told], hint=hint) from error

    def tell(self, error: BaseException) -> None:
        """Leave word, for those who will miss this process, of why it ends."""
        if self._store is not None and not isinstance(error, LostContact):
            with contextlib.suppress(RuntimeError):
                what = getattr(error, "what", "") or f"{type(error).__name__}: {error}"
                self._store.set(_FAILED, f"process {self.rank}: {what}")

    @contextlib.contextmanager
    def telling(self) -> Iterator[None]:
        """Tell the others of any error that leaves this context."""
        try:
            yield
        except BaseException as error:
            self.tell(error)
            raise

    def _told(self) -> str:
        with contextlib.suppress(RuntimeError, AttributeError):
            if self._store.check([_FAILED]):
                return str(self._store.get(_FAILED).decode())
        return ""

    # ------------------------------------------------------------------------------------------------ dealing
    def each(
        self,
        work: Callable[[MicroBatch], Any],
        rollouts: Rollouts,
        budget: int,
        width: int | None,
        *,
        by_group: bool = False,
    ) -> list[tuple[Tensor, Any]]:
        """As alone; the micro-batches are cut small enough for everybody to have some, and dealt by their tokens."""
        if self.count == 1:
            return super().each(work, rollouts, budget, width, by_group=by_group)
        lengths = rollouts.tokens.lengths
        total = max(1, int(lengths.sum()))
        rounds = math.ceil(total / (budget * self.count))
        batches = micro_batches(rollouts, math.ceil(total / (rounds * self.count)), width, by_group=by_group)
        owners = deal([int(lengths[batch.rows].sum()) for batch in batches], self.count)
        mine = {place: _at_hand(work(batches[place])) for place, rank in enumerate(owners) if rank == self.rank}
        done = {place: result for share in self.gather("micro-batches", mine) for place, result in share.items()}
        return [(batch.rows, done[place]) for place, batch in enumerate(batches)]

    def add(self, parameters: Iterable[Tensor]) -> None:
        """Sum the gradients. One that no process has stays absent; one that others have counts as 0 here."""
        if self.count == 1:
            return
        parameters = list(parameters)
        present = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.uint8)
        with self._together("gradients"):
            dist.all_reduce(present, dist.ReduceOp.MAX, group=self._words)
            taught = [parameter for parameter, given in zip(parameters, present.tolist(), strict=True) if given]
            for parameter in taught:
                grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad = grad.contiguous()
            for sent in [dist.all_reduce(parameter.grad, async_op=True) for parameter in taught]:
                sent.wait()

    def score(self, part: Part, rollouts: Rollouts, offloader: Offloader, timeout: float) -> Any:
        """As alone. A reward that looks at rows together, or has a state, is asked by the first process alone."""
        if self.count == 1:
            return super().score(part, rollouts, offloader, timeout)
        rows = self.share(len(rollouts)) if _by_row(part) else list(range(len(rollouts) if self.is_first else 0))
        mine = PendingScores(part, rollouts.select(rows), offloader, timeout) if rows else None
        return _SharedScores(self, part, mine)

    def submit(self, offloader: Offloader, start: Callable[[], Any]) -> Future[Any]:
        """As alone; only the first process does it."""
        if self.is_first:
            return offloader.submit(start())
        done: Future[Any] = Future()
        done.set_result(None)
        return done

    def check_weights(self, agents: Mapping[str, Agent]) -> None:
        """Refuse to go on with weights that have drifted apart; compares the norm of every parameter that learns."""
        if self.count == 1:
            return
        norms: dict[str, float] = {}
        for name, agent in agents.items():
            if agent.trainable:
                learns = agent.named_parameters()
                found = torch.stack([parameter.detach().double().norm() for parameter in learns.values()])
                norms |= {f"{name}.{key}": norm for key, norm in zip(learns, found.tolist(), strict=True)}
        first, *others = self.gather("weights", norms)
        for rank, theirs in enumerate(others, start=1):
            if odd := [name for name, norm in first.items() if theirs.get(name) != norm]:
                problem = f"the weights of process {rank} differ from those of process 0, in {len(odd)} parameters"
                hint = "look for a model with random weights, or a part that changes weights in one process"
                raise DovetailError(problem, where=odd[:1], hint=hint)


class _SharedScores:
    """The rows of a reward that each process is asked for."""

    def __init__(self, ranks: Ranks, part: Part, mine: PendingScores | None) -> None:
        self._ranks, self._part, self._mine = ranks, part, mine

    def result(self) -> Scores:
        mine = self._mine.result() if self._mine else None
        shares = self._ranks.gather(f"scores of {self._part.label}", mine)
        return one_column([share for share in shares if share is not None])


def _by_row(part: Part) -> bool:
    """Whether a reward gives each row the same score whatever is beside it."""
    together = {"groups", "rollouts"} & set(part.asks_for("score"))
    return not part.has("state_dict") and (not together or "by_row" in getattr(part.instance, "traits", ()))


def deal(costs: Sequence[int], ranks: int) -> list[int]:
    """Who does which: the dearest first, each to the one with the least to do."""
    load, owners = [0] * ranks, [0] * len(costs)
    for place in sorted(range(len(costs)), key=lambda place: -costs[place]):
        owners[place] = min(range(ranks), key=load.__getitem__)
        load[owners[place]] += costs[place]
    return owners


def _at_hand(result: Any) -> Any:
    """Where it can travel from: off the GPU."""
    if isinstance(result, dict):
        return {name: _at_hand(value) for name, value in result.items()}
    return result.to("cpu") if hasattr(result, "to") else result


def _number(name: str, default: int | None = None) -> int:
    text = os.environ.get(name)
    if text is None and default is not None:
        return default
    try:
        return int(text or "")
    except ValueError:
        problem = f"the variable {name} must be a number where there are several processes, got {text!r}"
        raise UserError(problem, hint="start them by torchrun, or by dovetail train --processes N") from None


def _check_backend(device: torch.device, count: int) -> None:
    if not dist.is_available() or not dist.is_gloo_available():
        raise UserError(
            "this PyTorch cannot train in several processes: it has no gloo", hint="install torch's own build"
        )
    if device.type != "cuda":
        return
    if not dist.is_nccl_available():
        raise UserError("this PyTorch cannot train on several GPUs: it has no NCCL", hint="install torch's own build")
    if device.index is not None:
        problem = f"{count} processes cannot all have {device}"
        raise UserError(problem, hint="say device: cuda, and each process takes the GPU of its number")
    here, gpus = _number("LOCAL_RANK"), torch.cuda.device_count()
    if here >= gpus:
        problem = f"process {here} of this machine has no GPU: it has {gpus}"
        raise UserError(problem, hint=f"start {gpus} processes a machine, or say device: cpu")


def _leave() -> None:
    if dist.is_initialized():
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()
