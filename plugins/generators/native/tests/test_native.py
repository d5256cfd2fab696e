"""What the generator promises: transformers' own greedy tokens, and rows that follow from their seeds."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dovetail import Ragged, Sampling
from dovetail.testing import part_checks
from dovetail_native.blocks import decodes
from dovetail_native.engine import Engine, _Batch
from dovetail_native.rng import uniform
from dovetail_native.sampler import choose, inverse_cdf, truncated

SIZE = {"vocab_size": 50, "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32}
ROTARY = {**SIZE, "intermediate_size": 48, "num_key_value_heads": 2, "max_position_embeddings": 64}


def build(name, **changes):
    import transformers

    configs = {
        "Llama": lambda: transformers.LlamaConfig(**ROTARY),
        "Qwen2": lambda: transformers.Qwen2Config(**ROTARY),
        "Qwen3": lambda: transformers.Qwen3Config(**ROTARY, head_dim=8),
        "Mistral": lambda: transformers.MistralConfig(**{"sliding_window": 8, **ROTARY}),
        "GPT2": lambda: transformers.GPT2Config(vocab_size=50, n_positions=64, n_embd=32, n_layer=2, n_head=4),
    }
    config = configs[name]()
    for key, value in changes.items():
        setattr(config, key, value)
    config.bos_token_id = config.eos_token_id = None
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()


@pytest.mark.parametrize("check", part_checks("generators", "native"), ids=str)
def test_conformance(check):
    """It keeps what every generator promises."""
    check()


@pytest.mark.parametrize("name", ["Llama", "Qwen2", "Qwen3", "Mistral", "GPT2"])
@pytest.mark.parametrize("batch_rows", [0, 6], ids=["at-once", "refilled"])
def test_greedy_tokens_are_those_of_transformers(name, batch_rows, monkeypatch):
    """Ragged prompts, a shared prefill, rows that end early and rows that take their places change no token."""
    model = build(name)
    rows = [[1, 2, 3, 4, 5, 6, 7, 8, 9], [3], [7, 8, 9, 10], [20, 21], [33] * 17, [40, 2, 40], [5], [14, 15, 16, 17]]
    prompts = Ragged.from_rows(rows, dtype=torch.int64)
    seeds = torch.zeros(16, dtype=torch.int64)
    endless = Engine(model, Sampling(max_tokens=20, temperature=0.0), compact_at=0.1).generate(prompts, 2, seeds)
    ends = {"eos_token_id": [endless.completions.tolist()[2 * row][row] for row in (1, 3, 6)], "pad_token_id": 0}
    sampling = Sampling(max_tokens=20, temperature=0.0, stop_tokens=tuple(ends["eos_token_id"]))
    beside: list[int] = []
    admit = _Batch.admit
    monkeypatch.setattr(_Batch, "admit", lambda self, *more: (beside.append(len(self.rows)), admit(self, *more)))
    found = Engine(model, sampling, compact_at=0.1).generate(prompts, 2, seeds, batch_rows=batch_rows)
    for row, prompt in enumerate(prompts):
        expected = model.generate(prompt[None], max_new_tokens=20, do_sample=False, **ends)[0, len(prompt) :].tolist()
        assert found.completions.tolist()[2 * row] == found.completions.tolist()[2 * row + 1] == expected
    assert any(beside) == bool(batch_rows)


@pytest.mark.parametrize("name", ["Llama", "Qwen2", "Qwen3", "Mistral"])
@pytest.mark.parametrize(
    "lengths",
    [(70, 70), (70, 66), (5, 9), (70, 66, 72, 71, 68), (5, 9, 3, 12, 7)],
    ids=["shared", "shared-ragged", "copied", "shared-refilled", "copied-refilled"],
)
def test_own_blocks_give_the_models_own_tokens(name, lengths):
    """With prompts shared and copied, padded and not, while rows leave and come: same draws, same log-probs."""
    model = build(name, max_position_embeddings=128, sliding_window=None)
    assert decodes(model)
    draw = torch.Generator().manual_seed(3)
    prompts = Ragged.from_rows([torch.randint(0, 50, (length,), generator=draw) for length in lengths])
    sampling = Sampling(max_tokens=40, temperature=0.7, min_tokens=2, stop_tokens=(1, 2, 3))
    seeds = torch.arange(5 * len(prompts)) * 7919
    own, models = (
        Engine(model, sampling, compact_at=0.1, blocks=blocks).generate(prompts, 5, seeds, batch_rows=10)
        for blocks in (True, False)
    )
    assert len(set(own.completions.lengths.tolist())) > 3
    assert own.completions.tolist() == models.completions.tolist()
    torch.testing.assert_close(own.logprobs.values, models.logprobs.values, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["GPT2", "Mistral"])
def test_what_is_not_made_of_known_blocks_goes_through_its_own_forward(name):
    """Another architecture; a sliding window."""
    assert not decodes(build(name))


def test_a_block_that_computes_something_else_is_noticed():
    """A model that wears a known name but scales its output is decoded by its own forward."""
    model = build("Llama")
    model.model.norm.forward = lambda hidden: 3 * hidden
    assert not decodes(model)


@pytest.mark.parametrize("compact_at", [0.01, 0.25, 1.0])
@pytest.mark.parametrize("batch_rows", [0, 3])
def test_a_row_follows_from_its_seed_alone(compact_at, batch_rows):
    """Whatever is beside it, however often the batch is made smaller."""
    model = build("Llama")
    prompts = Ragged.from_rows([[1, 2, 3], [4, 5, 6, 7], [8, 9]], dtype=torch.int64)
    sampling = Sampling(max_tokens=30, stop_tokens=(1, 2, 3, 4, 5, 6))
    seeds = torch.arange(9) * 7919
    together = Engine(model, sampling, compact_at=compact_at).generate(prompts, 3, seeds, batch_rows=batch_rows)
    assert len(set(together.completions.lengths.tolist())) > 3
    for row in range(9):
        alone = Engine(model, sampling, compact_at=0.25).generate(prompts.select([row // 3]), 1, seeds[row : row + 1])
        assert alone.completions.tolist() == [together.completions.tolist()[row]]
        assert alone.finish_reasons[0] == together.finish_reasons[row]


def test_the_context_is_a_limit_for_each_row():
    """A row with a shorter prompt may go on for longer."""
    model = build("GPT2")
    prompts = Ragged.from_rows([[t % 50 for t in range(60)], [t % 50 for t in range(10)]], dtype=torch.int64)
    found = Engine(model, Sampling(max_tokens=100), compact_at=0.25).generate(
        prompts, 1, torch.zeros(2, dtype=torch.int64)
    )
    assert found.completions.lengths.tolist() == [4, 54]
    assert found.finish_reasons == ("length", "length")


def test_draws_follow_the_softmax():
    """Chi-square of 20,000 draws against the distribution, at the 99.9 % quantile."""
    logits = torch.randn(8, generator=torch.Generator().manual_seed(0)).repeat(20_000, 1)
    tokens, logprobs = choose(logits, Sampling(temperature=0.8), uniform(torch.arange(20_000) * 31, 5), None)
    expected = torch.softmax(logits[0] / 0.8, -1) * 20_000
    statistic = ((torch.bincount(tokens, minlength=8) - expected) ** 2 / expected).sum().item()
    assert statistic < 24.3
    torch.testing.assert_close(logprobs, torch.log_softmax(logits / 0.8, -1).gather(-1, tokens[:, None]).squeeze(-1))


def test_uniform_numbers_are_uniform_and_independent_by_position():
    """Mean, variance, and correlation between neighbouring positions."""
    draws = torch.stack([uniform(torch.arange(50_000), position) for position in range(3)])
    assert draws.min() >= 0
    assert draws.max() < 1
    torch.testing.assert_close(draws.mean(1), torch.full((3,), 0.5).double(), atol=0.01, rtol=0)
    assert torch.corrcoef(draws).fill_diagonal_(0).abs().max() < 0.02


@given(st.integers(1, 700), st.integers(0, 2**62), st.floats(0.0, 1.0, exclude_max=True))
def test_a_token_of_weight_zero_is_never_drawn(size, seed, number):
    """The two-level search equals the search in one running sum."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(1, size, generator=generator) * (torch.rand(1, size, generator=generator) > 0.5)
    weights[0, seed % size] = 0.3
    token = int(inverse_cdf(weights, torch.tensor([number], dtype=torch.float64)))
    assert weights[0, token] > 0
    sums = weights[0].double().cumsum(0)
    assert sums[token] >= number * sums[-1] - 1e-9
    assert sums[token] - weights[0, token] <= number * sums[-1] + 1e-9


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(top_k=2), [0, 1]),
        (Sampling(top_p=0.6), [0, 1]),
        (Sampling(top_p=0.05), [0]),
        (Sampling(min_p=0.3), [0, 1, 2]),
        (Sampling(top_k=3, min_p=0.5), [0, 1]),
    ],
)
def test_truncation_keeps_only_what_it_should(sampling, kept):
    """top-k, top-p and min-p on probabilities 0.5, 0.3, 0.15, 0.05."""
    weights = 7 * torch.tensor([[0.5, 0.3, 0.15, 0.05]])
    assert truncated(weights, sampling)[0].nonzero().squeeze(1).tolist() == kept
