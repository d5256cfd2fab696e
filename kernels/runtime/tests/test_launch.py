"""What a launch gives, and what it refuses."""

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels_of_tests import Weigh, low_share, rows_of, weigh_inputs

import dovetail as dt
from dovetail.errors import UserError
from dovetail_kernels.kernel import Call
from dovetail_kernels.launch import launch
from dovetail_kernels.program import Program, launch_op
from dovetail_kernels.source import KernelError

LENGTHS = st.lists(st.integers(0, 40), max_size=9)


@settings(deadline=None)
@given(LENGTHS, st.integers(0, 5), st.integers(0, 1000))
def test_a_launch_gives_what_the_reference_gives(lengths, bound, seed):
    """On random ragged rows, empty ones included; scores and values per token."""
    rows = rows_of(lengths, seed=seed)
    calls = [
        Call.bind(low_share.kernel, rows, bound=bound, scale=0.5),
        Call.bind(Weigh.weigh.kernel, Weigh(), **{**weigh_inputs(lengths, seed=seed), "tokens": rows}),
    ]
    launched, referred = (launch(calls, [2.0, -1.0], back_end=choice) for choice in ("cpu", "reference"))
    assert torch.allclose(launched.parts, referred.parts, atol=1e-6)
    assert torch.allclose(launched.total, referred.total, atol=1e-5)
    assert torch.allclose(launched.results[1][1].values, referred.results[1][1].values, atol=1e-6)


def test_many_threads_share_out_the_rows(monkeypatch):
    """Each row is done once, whoever does it."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    rows = rows_of([300] * 200)
    assert torch.allclose(low_share(rows, bound=3), rows.map(lambda t: (t < 3).float()).mean())


def test_the_reference_gives_gradients(monkeypatch):
    """Row functions have none, so torch computes what wants one."""
    inputs = weigh_inputs([3, 2])
    live = inputs["values"].map(lambda values: values.requires_grad_())
    Weigh().weigh(**{**inputs, "values": live})[1].values.sum().backward()
    assert bool(live.values.grad.any())


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"tokens": rows_of([3, 2]).map(lambda t: t - 9)}, "tokens holds -"),
        ({"tokens": rows_of([3, 2]).map(lambda t: t + 8)}, "which is no token id from 0 to 7"),
        ({"tokens": rows_of([3, 2]).map(lambda t: t.float())}, "tokens must be torch.int32, got torch.float32"),
        ({"values": weigh_inputs([3, 2])["values"].map(lambda v: v.double())}, "values must be torch.float32"),
        ({"values": rows_of([2, 3]).map(lambda t: t.float())}, "values has other rows"),
        ({"values": torch.zeros(5)}, "values must be a Ragged, got Tensor"),
        ({"values": dt.Ragged(torch.zeros(5, 2), rows_of([3, 2]).offsets)}, "a number for each token"),
        ({"by_row": [1.0, 2.0]}, "by_row must be a tensor, got list"),
        ({"by_row": torch.zeros(2, device="meta")}, "by_row is on meta, and the rows on cpu"),
    ],
)
@pytest.mark.parametrize("choice", ["cpu", "reference"])
def test_what_does_not_fit_is_refused_by_name(change, problem, choice):
    """Whatever computes it: the error names the kernel, the argument and the way it is wrong."""
    call = Call.bind(Weigh.weigh.kernel, Weigh(), **{**weigh_inputs([3, 2]), **change})
    with pytest.raises(KernelError, match=problem) as caught:
        launch([call], back_end=choice)
    assert "kernel 'weigh'" in str(caught.value)


@pytest.mark.parametrize("choice", ["cpu", "reference"])
def test_every_kernel_of_a_launch_keeps_its_own_vocabulary(choice):
    """What suits the first, which has none, may be beyond the table of the second."""
    inputs = weigh_inputs([3, 2])
    rows = inputs["tokens"].map(lambda tokens: tokens + 8)
    calls = [Call.bind(low_share.kernel, rows), Call.bind(Weigh.weigh.kernel, Weigh(), **{**inputs, "tokens": rows})]
    with pytest.raises(KernelError, match=r"kernel 'weigh': tokens holds .*, which is no token id from 0 to 7"):
        launch(calls, back_end=choice)


@pytest.mark.parametrize("choice", ["cpu", "reference"])
@pytest.mark.parametrize("offsets", [[0, 3, 2, 4], [1, 4], [0, 3], [0, 5], [0, -1, 4], [0, 2**63 - 1, 4]], ids=str)
def test_offsets_that_are_no_rows_are_refused(offsets, choice):
    """Also where nobody checked them before: they fall, begin or end elsewhere."""
    rows = dt.Ragged._trusted(torch.zeros(4, dtype=torch.int64), torch.tensor(offsets))
    with pytest.raises(KernelError, match="row offsets must be int64 and rise from 0 to the number of tokens"):
        launch([Call.bind(low_share.kernel, rows)], back_end=choice)


def test_offsets_of_another_type_are_refused():
    """As numbers of 64 bits they would be read wrongly."""
    rows = dt.Ragged._trusted(torch.zeros(4, dtype=torch.int64), torch.tensor([0, 4], dtype=torch.int32))
    with pytest.raises(KernelError, match="row offsets must be int64"):
        low_share(rows)


@pytest.mark.parametrize("bound", [2.5, 2**31, -(2**31) - 1, float("nan")])
def test_a_number_that_would_be_cut_off_is_refused(bound):
    """An option of the row function's type int."""
    with pytest.raises(KernelError, match="bound must be a whole number of 32 bits, got"):
        low_share(rows_of([3]), bound=bound)


def test_the_total_is_weighted_where_weights_are_given():
    """And otherwise the sum."""
    calls = [Call.bind(low_share.kernel, rows_of([4, 3]), bound=bound) for bound in (1, 3)]
    for choice in ("cpu", "reference"):
        plain, weighted = launch(calls, back_end=choice), launch(calls, [0.5, -2.0], back_end=choice)
        assert torch.allclose(plain.total, plain.parts.sum(0))
        assert torch.allclose(weighted.total, 0.5 * plain.parts[0] - 2 * plain.parts[1])


def test_a_name_that_nothing_has_is_refused():
    """The error shows near misses."""

    @attrs.frozen
    class Misspelt(Weigh):
        def tables(self):
            return {"by_tokens": torch.zeros(8)}

    with pytest.raises(KernelError, match=r"asks for 'by_token'(.|\n)*did you mean 'by_tokens'"):
        launch([Call.bind(Weigh.weigh.kernel, Misspelt(), **weigh_inputs([2]))], back_end="cpu")


def test_tables_are_asked_for_once(monkeypatch):
    """They may cost much to make."""
    asked = []

    @attrs.frozen
    class Costly(Weigh):
        def tables(self):
            asked.append(1)
            return super().tables()

    part = Costly()
    for _ in range(3):
        launch([Call.bind(Weigh.weigh.kernel, part, **weigh_inputs([2, 1]))], back_end="cpu")
    assert len(asked) == 1


def test_torch_takes_the_operator_for_one_of_its_own():
    """opcheck passes, fake tensors have the right shapes, torch.compile goes through without a break."""
    program = Program.of((low_share.kernel, Weigh.weigh.kernel))
    rows = rows_of([3, 0, 2])
    inputs = weigh_inputs([3, 0, 2])
    ids = rows.values.int()
    tensors = [
        ids,
        ids,
        inputs["values"].values,
        inputs["mask"].values.to(torch.uint8),
        torch.ones(8),
        inputs["by_row"],
    ]
    arguments = (program.name, rows.offsets, tensors, [2.0, 1.0], torch.ones(2))
    op = launch_op()
    torch.library.opcheck(op, arguments)

    def doubled(values):
        return op(program.name, rows.offsets, [*tensors[:2], values, *tensors[3:]], [2.0, 1.0], torch.ones(2))[1] * 2

    compiled = torch.compile(doubled, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(tensors[2]), doubled(tensors[2]))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_launch_can_be_captured(device):
    """Nothing in it waits for values: it runs on fake tensors, of a GPU that is not there, too."""
    from torch._subclasses import FakeTensorMode

    program, op = Program.of((low_share.kernel,)), launch_op()
    with FakeTensorMode(), torch.no_grad():
        offsets, values = (
            torch.zeros(4, dtype=torch.int64, device=device),
            torch.zeros(5, dtype=torch.int32, device=device),
        )
        parts, total = op(program.name, offsets, [values], [2.0, 1.0], torch.ones(1, device=device))
    assert parts.shape == (1, 3)
    assert total.device.type == device


def test_an_unknown_back_end_is_refused(monkeypatch):
    """The error lists those that there are."""
    monkeypatch.setenv("DOVETAIL_KERNELS", "gpu")
    with pytest.raises(UserError, match="DOVETAIL_KERNELS is 'gpu'"):
        low_share(rows_of([2]))
