"""What is static is told without a GPU, and a replayed pass gives the gradients of the pass itself."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import dovetail as dt
from dovetail.registry import registry
from dovetail_kernels.replay import ReplayedAgent, bucket
from dovetail_kernels.static import obstacle


class Recorded(TorchDispatchMode):
    """A CUDA graph's ways on a CPU: operations are remembered with their memory, and replayed on it; Python is not."""

    def __init__(self):
        super().__init__()
        self.done = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.done.append((function, args, kwargs or {}, result))
        return result

    def capture(self, work):
        with self:
            return work()

    @torch.no_grad()
    def replay(self):
        for function, args, kwargs, result in self.done:
            again = function(*args, **kwargs)
            for before, now in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(before, torch.Tensor):
                    before.copy_(now)


def agent():
    return dt.Agent.tiny(hidden=16, layers=2, heads=2, trainable=True, dtype="float64", context=40)


def rounds(shapes, seed=0):
    """Tokens, a weight for each hidden state, mask and positions; every other one as rows behind a shared prompt."""
    generator = torch.Generator().manual_seed(seed)
    for number, (lines, width) in enumerate(shapes):
        tokens = torch.randint(0, 20, (lines, width), generator=generator)
        weights = torch.randn((lines, width, 16), generator=generator, dtype=torch.float64)
        mask = torch.ones((lines, 1, width, width), dtype=torch.bool).tril()
        mask[:, :, width // 2 :, 1 : width // 2] = False
        positions = torch.arange(width).expand(lines, width).clone()
        yield tokens, weights, *((mask, positions) if number % 2 else (None, None))


def learn(actor, model, given):
    """Gradients of several passes, added up; and their hidden states."""
    model.zero_grad()
    found = []
    for tokens, weights, mask, positions in given:
        hidden = actor.hidden(tokens, mask, positions)
        (hidden * weights).sum().backward()
        found.append(hidden.detach().clone())
    return found, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


SHAPES = st.lists(st.tuples(st.integers(1, 5), st.integers(2, 20)), min_size=1, max_size=6)


@settings(max_examples=4, deadline=None)
@given(SHAPES)
def test_replayed_passes_have_the_hidden_states_and_gradients_of_eager_ones(shapes):
    """Over several micro-batches of an optimizer step, twice, with shared prompts and without; float64."""
    own = agent()
    replayed = ReplayedAgent(own, Recorded)
    for seed in (1, 2, 3):
        given_rounds = list(rounds(shapes, seed))
        states, gradients = learn(replayed, own.model, given_rounds)
        expected_states, expected = learn(own, own.model, given_rounds)
        assert gradients.keys() == expected.keys()
        for mine, theirs in [
            *zip(states, expected_states, strict=True),
            *((gradients[n], expected[n]) for n in expected),
        ]:
            torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)
    assert replayed._passes, "nothing was captured"


def test_gradients_of_other_passes_stay():
    """What eager passes and the output layer have left in .grad is added to."""
    own = agent()
    replayed = ReplayedAgent(own, Recorded)
    given_rounds = list(rounds([(2, 8)] * 3))[::2]
    learn(replayed, own.model, [given_rounds[0]] * 3)
    _, once = learn(own, own.model, given_rounds[:1])
    own.model.zero_grad()
    for actor in (own, replayed, own, replayed):
        (actor.hidden(given_rounds[0][0]) * given_rounds[0][1]).sum().backward()
    for name, parameter in own.model.named_parameters():
        if name in once:
            torch.testing.assert_close(parameter.grad, 4 * once[name], rtol=1e-10, atol=1e-12)


def test_a_pass_whose_backward_is_to_come_is_not_overwritten():
    """The next pass runs as usual meanwhile; one that is given up holds nothing back."""
    own = agent()
    replayed = ReplayedAgent(own, Recorded)
    first, second = (one for one in rounds([(2, 8), (2, 8), (2, 8)]) if one[2] is None)
    learn(replayed, own.model, [first, first])
    (captured,) = replayed._passes.values()
    replays = []
    captured.ahead, ahead = lambda given: replays.append(1) or ahead(given), captured.ahead

    def both(actor):
        own.model.zero_grad()
        states = [actor.hidden(one[0]) for one in (first, second)]
        sum((state * one[1]).sum() for state, one in zip(states, (first, second), strict=True)).backward()
        return [p.grad.clone() for p in own.model.parameters() if p.grad is not None]

    for mine, theirs in zip(both(replayed), both(own), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)
    assert len(replays) == 1
    replayed.hidden(first[0])
    replayed.hidden(first[0])
    assert len(replays) == 3


@given(st.integers(1, 5000))
def test_a_bucket_adds_at_most_a_quarter(size):
    """And what is a bucket stays one."""
    assert size <= bucket(size) <= max(1.25 * size, 8)
    assert bucket(bucket(size)) == bucket(size)


@pytest.mark.parametrize(
    ("work", "told"),
    [
        (lambda x: x.sum().item(), "_local_scalar_dense.default waits for a value"),
        (lambda x: x[x > 0], "nonzero.default makes a shape of values"),
        (lambda x: torch.unique(x), "makes a shape of values"),
        (lambda x: x if (x > 0).all() else -x, "_local_scalar_dense.default waits for a value"),
        (lambda x: x.tolist(), "waits for a value"),
        (lambda x: x.numpy(), "test_capture.py"),
    ],
)
def test_what_cannot_be_captured_is_told_by_operation_and_line(work, told):
    """The line is the author's, not torch's."""
    why = obstacle(work, torch.randn(4))
    assert told in why
    assert f"{__file__}:{work.__code__.co_firstlineno}" in why


def test_what_is_static_has_no_obstacle():
    """A decode step whose test for the end stays on the device, and arithmetic on rows."""
    ended, tokens = torch.zeros(3, dtype=torch.bool), torch.zeros(3, dtype=torch.int64)
    assert obstacle(lambda ended, tokens: torch.where(ended | (tokens == 2), 2, tokens), ended, tokens) is None
    rows = dt.Ragged.from_rows([[1.0, 2.0], [], [3.0]])
    assert obstacle(lambda values: (rows.with_values(values) - rows.sum()).exp().mean(), rows.values) is None


def spread_of_unique(rewards, groups):
    """An estimator that looks at values."""
    return rewards - rewards.mean() * len(torch.unique(groups))


def centred(rewards):
    """One that does not."""
    return rewards - rewards.mean()


def surrogate(advantages, logprobs):
    """A loss."""
    return dt.LossTerms(-(logprobs * advantages))


def drawn(model, tokenizer, prompts, samples, sampling, seeds):
    """A generator."""
    rows = [torch.arange(2 + int(seed) % 5) % 4 for seed in seeds]
    completions = dt.Ragged.from_rows(rows)
    return dt.Generated(completions, completions.map(lambda v: torch.zeros(len(v))), ("stop",) * len(rows))


def lengths(completions):
    """A reward."""
    return completions.lengths.float()


@pytest.fixture
def parts():
    own = [
        ("rewards", "lengths", lengths), ("generators", "drawn", drawn), ("losses", "surrogate", surrogate),
        ("advantages", "by-unique", spread_of_unique), ("advantages", "centred", centred),
    ]  # fmt: skip
    for kind, name, target in own:
        registry(kind).register(name, target)
    yield
    for kind, name, _ in own:
        registry(kind)._own.pop(name)


def compiled(estimator, **settings):
    @dt.recipe
    def bare(policy, prompts):
        completions = dt.generate(policy, prompts, samples=4, name="completions")
        logprobs = dt.logprobs(policy, prompts, completions, name="policy_logprobs")
        advantages = dt.advantages(estimator, dt.run_rewards(completions), name="advantages")
        dt.set_loss(dt.loss("surrogate", advantages, logprobs, name="loss"))

    policy = dt.Agent.tiny(hidden=16, layers=1, heads=2, generator="drawn", trainable=True)
    return dt.compile(bare, policy=policy, rewards=[dt.rewards.lengths()], settings=dt.TrainSettings(**settings))


def test_explain_tells_what_is_static_and_why_the_rest_is_not(parts):
    """With the operation and the line of the part; where nobody asks for the pass it stays away."""
    text = compiled("by-unique", passes=("capture",)).explain()
    line = spread_of_unique.__code__.co_firstlineno + 2
    assert "capture: advantages is not static: aten._unique2.default makes a shape of values" in text
    assert f"{__file__}:{line}" in text
    assert "capture: loss is static" in text
    assert "capture: policy: forward and backward are static, and run as usual, on cpu" in text
    assert "capture: reward_lengths runs on the host" in text
    text = compiled("centred", passes=("capture",)).explain()
    assert "capture: advantages is static" in text
    assert "capture:" not in compiled("centred").explain()


def test_the_pass_changes_no_number(parts):
    """Nor does it leave anything on the parameters."""
    with_pass, without = compiled("centred", passes=("capture",)), compiled("centred")
    assert all(p.grad is None for p in with_pass.plan.context.agents["policy"].model.parameters())
    mine, theirs = (each.run(prompts=["a", "bc"], seed=3) for each in (with_pass, without))
    assert {k: v for k, v in mine.items() if not k.startswith("time/")} == {
        k: v for k, v in theirs.items() if not k.startswith("time/")
    }


def test_a_pass_that_is_not_installed_is_told(parts):
    """By its name."""
    with pytest.raises(dt.UserError, match="no passes part is named 'captur'"):
        compiled("centred", passes=("captur",))
