"""How work is dealt to processes, and what one of them does without the others."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dovetail.errors import UserError
from dovetail.parts import hookimpl
from dovetail.registry import as_part
from dovetail_trainer.ranks import Ranks, _by_row, deal

CPU = torch.device("cpu")


@given(st.lists(st.integers(1, 1000), max_size=30), st.integers(1, 8))
def test_work_is_dealt_evenly(costs, ranks):
    """Everything to someone; nobody has more than the mean and one piece, and the order does not depend on who asks."""
    owners = deal(costs, ranks)
    assert len(owners) == len(costs)
    loads = [sum(cost for cost, owner in zip(costs, owners, strict=True) if owner == rank) for rank in range(ranks)]
    assert sum(loads) == sum(costs)
    assert max(loads) <= sum(costs) / ranks + max(costs, default=0)


@given(st.integers(0, 50), st.integers(1, 8))
def test_shares_are_contiguous_and_complete(items, count):
    """Each place belongs to one process, in order, and shares differ by at most one."""
    ranks = [Ranks() for _ in range(count)]
    for rank, each in enumerate(ranks):
        each.rank, each.count = rank, count
    shares = [each.share(items) for each in ranks]
    assert [place for share in shares for place in share] == list(range(items))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_alone_is_found_alone(monkeypatch):
    """Without torchrun's variables, or with one process, nothing is started."""
    assert Ranks.join(CPU).count == 1
    monkeypatch.setenv("WORLD_SIZE", "1")
    ranks = Ranks.join(CPU)
    assert (ranks.count, ranks.is_first, ranks.agree(3), ranks.gather("x", 4)) == (1, True, 3, [4])
    assert not torch.distributed.is_initialized()


def test_half_an_environment_is_refused(monkeypatch):
    """The variable that is missing is named; and so is the address at which nobody answers."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="RANK"):
        Ranks.join(CPU)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("DOVETAIL_SILENCE", "0.2")
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", "1")
    with pytest.raises(UserError, match="process 1 of 2 has not found the others at localhost:1"):
        Ranks.join(CPU)


def test_a_torch_without_gloo_is_refused(monkeypatch):
    """Before anybody waits for anybody."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(torch.distributed, "is_gloo_available", lambda: False)
    with pytest.raises(UserError, match="no gloo"):
        Ranks.join(CPU)


@pytest.mark.parametrize(("device", "problem"), [("cuda:0", "cannot all have cuda:0"), ("cuda", "it has 1")])
def test_processes_that_want_one_gpu_are_refused(monkeypatch, device, problem):
    """One device named for all of them, or more of them than devices."""
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match=problem):
        Ranks.join(torch.device(device))


def test_rewards_by_row_are_told_from_others():
    """One that is shown rows together, or has a state, sees all of them, unless it says that rows do not mind."""

    class ByRow:
        @hookimpl
        def score(self, texts):
            return [0.0 for _ in texts]

    class Together:
        @hookimpl
        def score(self, rollouts):
            return [0.0 for _ in range(len(rollouts))]

    class Indifferent(Together):
        traits = ("by_row",)

    class Remembering(ByRow):
        def state_dict(self):
            return {}

    found = [_by_row(as_part("rewards", kind())) for kind in (ByRow, Together, Indifferent, Remembering)]
    assert found == [True, False, True, False]
