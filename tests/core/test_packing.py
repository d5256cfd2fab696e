"""Rows that share a prompt are read as one sequence, and nothing else changes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dovetail as dt
from dovetail.runtime.forward import forward
from dovetail.runtime.packing import Packed, bundles, cut, micro_batches

SIZE = {"vocab_size": 50, "bos_token_id": None, "eos_token_id": 1}


def rollouts(prompt_lengths, samples, seed=0, longest=12):
    draw = torch.Generator().manual_seed(seed)
    rows, origins = [], []
    for length in prompt_lengths:
        prompt = torch.randint(2, 50, (length,), generator=draw)
        for _ in range(samples):
            own = torch.randint(2, 50, (int(torch.randint(1, longest + 1, (), generator=draw)),), generator=draw)
            rows.append(torch.cat([prompt, own]))
            origins.append(torch.tensor([0] * length + [1] * len(own), dtype=torch.uint8))
    return dt.Rollouts(
        tokens=dt.Ragged.from_rows(rows),
        origin=dt.Ragged.from_rows(origins),
        groups=torch.arange(len(prompt_lengths)).repeat_interleave(samples),
        tasks=dt.Tasks([dt.Task.of("", id=str(row)) for row in range(len(rows))]),
    )


def agent_of(config):
    import transformers

    agent = dt.Agent.tiny(dtype="float64", trainable=True)
    torch.manual_seed(0)
    vars(agent)["_loaded"] = transformers.AutoModelForCausalLM.from_config(config).double(), agent.tokenizer
    return agent


def gpt2():
    import transformers

    return transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=256, **SIZE)


def llama(**changes):
    import transformers

    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    return transformers.LlamaConfig(**shape, intermediate_size=64, **SIZE, **changes)


def outputs(agent, batch, together):
    agent.model.zero_grad()
    given = forward(agent, batch, {"logprobs", "entropy"}, together)
    values = torch.cat([given["logprobs"].values, given["entropy"].values])
    (values * torch.sin(torch.arange(len(values)).double())).sum().backward()
    grads = [p.grad.flatten() for p in agent.model.parameters() if p.grad is not None]
    return values.detach(), torch.cat(grads)


# Llama's norm computes in float32 whatever the weights are, so its gradient cannot agree to more digits than that.
@pytest.mark.parametrize(("config", "tolerance"), [(gpt2, 1e-9), (llama, 1e-6)])
def test_sharing_a_prompt_changes_neither_log_probs_nor_gradients(config, tolerance):
    """Float64, prompts of several lengths, completions of several lengths."""
    agent, batch = agent_of(config()), rollouts([40, 7, 40], samples=5)
    together = bundles(batch, agent.packing_width)
    assert max(len(bundle.rows) for bundle in together) > 1
    shared, alone = outputs(agent, batch, together), outputs(agent, batch, bundles(batch, None))
    for ours, expected in zip(shared, alone, strict=True):
        assert (ours - expected).norm() <= tolerance * expected.norm()


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=4), st.integers(1, 9), st.integers(0, 99), st.integers(8, 4096)
)
def test_every_row_is_in_one_micro_batch_and_every_token_in_its_place(lengths, samples, seed, budget):
    """Whatever the prompts, the budget and the group."""
    batch = rollouts(lengths, samples, seed)
    pieces = micro_batches(batch, budget, 16)
    assert sorted(row for piece in pieces for row in piece.rows.tolist()) == list(range(len(batch)))
    for piece in pieces:
        rows = batch.select(piece.rows)
        packed = Packed(rows.tokens, piece.together)
        assert packed.tokens.numel() <= budget or len(piece.together) == 1
        assert packed.tokens.flatten()[packed.place].tolist() == rows.tokens.values.tolist()
        if packed.positions is not None:
            assert packed.positions.flatten()[packed.place].tolist() == rows.tokens.positions.tolist()
            attended = packed.mask[:, 0].sum(-1).flatten()[packed.place]
            assert attended.tolist() == (rows.tokens.positions + 1).tolist()


def test_long_prompts_are_shared_and_short_ones_are_not():
    """The bundle pays by what it saves."""
    assert [len(bundle.rows) for bundle in bundles(rollouts([512], 16, longest=32), 256)] == [16]
    assert {len(bundle.rows) for bundle in bundles(rollouts([6], 8, longest=128), 128)} == {1}


@pytest.mark.parametrize("reason", ["option", "window", "state"])
def test_a_model_that_cannot_share_does_not(reason):
    """By the user's word, for a sliding window, and for a model whose tokens see what a mask hides."""
    import transformers

    agent = agent_of(llama())
    if reason == "option":
        agent.share_prompts = False
    if reason == "window":
        config = transformers.Qwen2Config(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, use_sliding_window=True,
            sliding_window=8, max_window_layers=0, **SIZE,
        )  # fmt: skip
        agent = agent_of(config)
    if reason == "state":
        embedding = agent.model.model.embed_tokens
        plain = embedding.forward
        embedding.forward = lambda tokens: plain(tokens).cumsum(1)
    assert agent.packing_width is None


def test_a_micro_batch_more_is_cut_where_it_spares_more_padding_than_it_costs():
    """A few long rows apart from many short ones, but not ten from eleven tokens."""
    lengths = torch.tensor([10] * 100 + [500] * 2 + [11] * 50)
    pieces = [sorted({int(lengths[row]) for row in piece}) for piece in cut(lengths, 4096)]
    assert pieces == [[500], [10, 11]]
