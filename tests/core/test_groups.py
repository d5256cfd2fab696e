"""Losses that look at whole groups, and operations that are given an agent."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dovetail as dt
from dovetail.errors import UserError
from dovetail.runtime.packing import micro_batches
from dovetail.testing import tiny_agent, tiny_rollouts


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), min_size=1, max_size=6),
    st.integers(1, 60),
    st.sampled_from([None, 16]),
)
def test_groups_stay_together_in_order_and_within_the_budget(groups, budget, width):
    """Whatever their sizes; only a group larger than the budget exceeds it, alone."""
    rows = [torch.full((length,), 5) for lengths in groups for length in lengths]
    numbers = torch.tensor([group for group, lengths in enumerate(groups) for _ in lengths])
    tokens = dt.Ragged.from_rows([torch.cat([torch.tensor([1, 2]), row]) for row in rows])
    origin = tokens.with_values((tokens.positions >= 2).to(torch.uint8))
    tasks = dt.Tasks([dt.Task.of("", id=str(row)) for row in range(len(rows))])
    batch = dt.Rollouts(tokens=tokens, origin=origin, groups=numbers, tasks=tasks)
    batches = micro_batches(batch, budget, width, by_group=True)
    assert sorted(torch.cat([piece.rows for piece in batches]).tolist()) == list(range(len(rows)))
    for piece in batches:
        places, lines = piece.rows, piece.together
        assert places.tolist() == sorted(places.tolist())
        inside = set(numbers[places].tolist())
        assert len(places) == sum(len(groups[group]) for group in inside)
        assert len(inside) == 1 or len(lines) * max(line.length for line in lines) <= budget


class Contrast:
    """The mean of a group's log-probs against that of its first row: wrong if a group is ever cut or disordered."""

    @dt.hookimpl
    def loss_terms(self, logprobs, groups):
        first = [groups.tolist().index(group) for group in groups.tolist()]
        sums = logprobs.sum()
        return dt.LossTerms((sums - sums[first]).square(), "batch_mean")


@dt.recipe
def contrast(policy, rows, *, minibatches: int = 1):
    """Learns from whole groups."""
    dt.set_loss(dt.loss("contrast", dt.logprobs(policy, rows), rollouts=rows), minibatches=minibatches)


@pytest.fixture
def contrast_loss():
    dt.losses.register("contrast", Contrast)
    yield
    dt.losses._own.pop("contrast")


def gradient(agent, mode="auto", **changes):
    settings = dt.TrainSettings(**changes)
    compiled = dt.compile(contrast, policy=agent, settings=settings, mode=mode)
    collected = compiled.collect(rows=tiny_rollouts(lengths=(5, 1, 12, 2, 3, 7, 7, 9)))
    loss = compiled.learn(collected, update=False)["loss"]
    return loss, torch.cat([p.grad.flatten() for p in agent.model.parameters() if p.grad is not None])


@pytest.mark.usefixtures("contrast_loss")
def test_a_loss_on_groups_does_not_depend_on_the_cut():
    """Loss and gradient, in one micro-batch, in many, and in eager mode."""
    agent = tiny_agent(dtype="float64", trainable=True, characters="".join(map(chr, range(130))))
    loss, whole = gradient(agent, micro_batch_tokens=10_000)
    for changes in ({"micro_batch_tokens": 1}, {"micro_batch_tokens": 60}, {"mode": "eager"}):
        again, cut = gradient(agent, **changes)
        assert again == pytest.approx(loss, rel=1e-9)
        assert (cut - whole).norm() < 1e-6 * whole.norm()  # the model normalises in float32


@pytest.mark.usefixtures("contrast_loss")
def test_minibatches_hold_whole_groups():
    """A group that was cut in two would lose its contrast: the mean over minibatches is then smaller."""
    agent = tiny_agent(dtype="float64", trainable=True, characters="".join(map(chr, range(130))))
    rows = tiny_rollouts(lengths=(5, 1, 12, 2, 3, 7, 7, 9))
    losses = []
    for minibatches in (1, 2):
        compiled = dt.compile(contrast(minibatches=minibatches), policy=agent)
        losses.append(compiled.learn(compiled.collect(rows=rows), update=False)["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-9)


def test_an_operation_is_given_the_agent():
    """And what it computes with gradients reaches the weights."""

    @dt.op
    def likelihood(agent: dt.Agent, rows: dt.Rollouts) -> dt.LossTerms:
        from dovetail.runtime.forward import forward

        assert isinstance(agent, dt.Agent)
        return dt.LossTerms(-forward(agent, rows, {"logprobs"})["logprobs"])

    @dt.recipe
    def by_hand(policy, rows):
        """Maximum likelihood."""
        dt.set_loss(likelihood(policy, rows))

    agent = tiny_agent(
        trainable=True, optimizer=dt.OptimizerSettings(lr=1e-2), characters="".join(map(chr, range(130)))
    )
    compiled = dt.compile(by_hand, policy=agent)
    rows = tiny_rollouts(lengths=(4, 6), group_size=2)
    losses = [compiled.run(rows=rows)["loss"] for _ in range(8)]
    assert losses[-1] < losses[0]


def test_what_is_read_only_before_the_step_is_not_learnt_from():
    """Log-probs of other rows, reduced once a step, need no second batch in learning."""

    @dt.op
    async def other_rows(rows: dt.Rollouts) -> dt.Rollouts:
        return rows.select([1, 0])

    @dt.op
    async def mean(logprobs: dt.Ragged) -> torch.Tensor:
        return logprobs.mean().mean().expand(len(logprobs))

    @dt.op
    def loss(logprobs: dt.Ragged, level) -> dt.LossTerms:
        return dt.LossTerms(-logprobs * level)

    @dt.recipe
    def levelled(policy, rows):
        """A loss weighed by a statistic of another batch."""
        level = mean(dt.logprobs(policy, other_rows(rows)), name="level")
        dt.set_loss(loss(dt.logprobs(policy, rows, name="live"), level, name="loss"))

    agent = tiny_agent(trainable=True, characters="".join(map(chr, range(130))))
    compiled = dt.compile(levelled, policy=agent)
    assert [node.name for node in compiled.plan.learn] == ["live", "loss"]
    assert compiled.run(rows=tiny_rollouts(lengths=(4, 6), group_size=2))["loss"] < 0


def test_a_value_head_is_saved_and_loaded(tmp_path):
    """Beside the model; a folder without one starts at 0."""
    agent = tiny_agent(head="value", trainable=True)
    torch.nn.init.ones_(agent.value_head.weight)
    agent.save(tmp_path)
    assert dt.Agent(tmp_path, head="value").value_head.weight.tolist() == agent.value_head.weight.tolist()
    (tmp_path / "value_head.safetensors").unlink()
    assert not dt.Agent(tmp_path, head="value").value_head.weight.any()


def test_a_head_with_objectives_is_saved_with_their_names(tmp_path):
    """A value for each; an agent that asks for other ones is told which there are."""
    agent = tiny_agent(head="value", objectives=["help", "harm"], trainable=True)
    torch.nn.init.normal_(agent.value_head.weight)
    agent.save(tmp_path)
    again = dt.Agent(tmp_path, head="value", objectives=["help", "harm"])
    hidden = torch.randn(3, 16)
    assert agent.value(hidden).shape == (3, 2)
    assert torch.equal(again.value(hidden), agent.value(hidden))
    for other in (["help"], ["harm", "help"], []):
        with pytest.raises(UserError, match=r"has the objectives \['help', 'harm'\]") as error:
            _ = dt.Agent(tmp_path, head="value", objectives=other).value_head
        assert error.value.hint == "objectives: [help, harm]"


def test_what_is_nan_in_a_metric_counts_nowhere():
    """The mean is over the other rows, however the batch is cut; a metric that no row has is left out."""

    @dt.op
    def partly(logprobs: dt.Ragged) -> dt.LossTerms:
        rows = logprobs.lengths.double()
        metrics = {"some": torch.where(rows > 3, rows, torch.nan), "none": rows * torch.nan, "all": rows}
        return dt.LossTerms(logprobs.sum(), "batch_mean", metrics=metrics)

    @dt.recipe
    def measured(policy, rows):
        """A loss with metrics that not every row has."""
        dt.set_loss(partly(dt.logprobs(policy, rows), name="loss"))

    agent = tiny_agent(trainable=True, characters="".join(map(chr, range(130))))
    rows = tiny_rollouts(lengths=(2, 4, 0, 9, 3, 5), group_size=2)
    for budget in (1, 24, None):
        settings = dt.TrainSettings(micro_batch_tokens=budget)
        metrics = dt.compile(measured, policy=agent, settings=settings).run(rows=rows)
        assert metrics["loss/some"] == pytest.approx((4 + 9 + 5) / 3)
        assert metrics["loss/all"] == pytest.approx(23 / 5)
        assert "loss/none" not in metrics
