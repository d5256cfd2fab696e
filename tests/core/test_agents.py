"""Agents load what transformers loads, and refuse what would train wrongly."""

from __future__ import annotations

import json

import pytest
import torch
from parts_of_tests import lowercase, tiny_policy

import dovetail as dt
from dovetail.errors import DataError, DovetailError, UserError
from dovetail.settings import LoraSettings, OptimizerSettings
from dovetail_trainer.data import Batches, encode_rows, read_rows
from dovetail_trainer.settings import DataSettings

CHAT = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture
def saved(tmp_path):
    return dt.Agent.tiny(hidden=16, layers=1, heads=2).save(tmp_path / "model")


def test_a_saved_agent_loads_again(saved):
    """The Hugging Face layout, through from_pretrained, with the same numbers."""
    agent = dt.Agent(saved)
    original = dt.Agent.tiny(hidden=16, layers=1, heads=2)
    for name, parameter in original.model.named_parameters():
        assert torch.equal(parameter, dict(agent.model.named_parameters())[name])
    assert agent.encode_text("1+1=") == original.encode_text("1+1=")
    assert agent.decode(agent.encode_text("a b\nc")) == "a b\nc"


def test_what_cannot_be_loaded_is_told(tmp_path, saved):
    """A missing folder, a folder without weights, no model at all, an unknown dtype."""
    with pytest.raises(UserError, match="cannot be loaded"):
        _ = dt.Agent(tmp_path / "nothing").model
    (saved / "model.safetensors").unlink()
    with pytest.raises(UserError, match="it needs config"):
        _ = dt.Agent(saved).model
    with pytest.raises(UserError, match="an agent needs a model"):
        dt.Agent()
    with pytest.raises(UserError, match="dtype 'float31' is unknown"):
        dt.Agent(saved, dtype="float31")


def test_a_tokenizer_without_end_token_is_refused(saved):
    """Without one no completion could end; without a padding token the end token serves."""
    path = saved / "tokenizer_config.json"
    words = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in words.items() if k != "pad_token"}))
    assert dt.Agent(saved).tokenizer.pad_token_id == dt.Agent(saved).tokenizer.eos_token_id
    path.write_text(json.dumps({k: v for k, v in words.items() if k not in ("pad_token", "eos_token")}))
    with pytest.raises(UserError, match="has no end token"):
        _ = dt.Agent(saved).tokenizer


def test_prompts_must_fit(saved):
    """Too long and empty prompts name their task."""
    agent = dt.Agent.tiny(context=16)
    with pytest.raises(DataError, match="the prompt of task 'x' has 20 tokens, and 'tiny' has a context of 16"):
        agent.encode([dt.Task.of("a" * 20, id="x")])
    with pytest.raises(DataError, match="has no tokens"):
        agent.encode([dt.Task.of("", id="x")])


def test_chat_templates_are_used():
    """Prompts go through the template; every assistant turn is a target."""
    agent = tiny_policy()
    agent.tokenizer.chat_template = CHAT
    assert agent.render(dt.Task.of("hi")) == "<user>hi<assistant>"
    row = {
        "messages": [
            {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
            {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"},
        ]
    }  # fmt: skip
    rollouts = encode_rows([row], agent)
    end = agent.tokenizer.eos_token_id
    expected = [*agent.encode_text("b"), end, *agent.encode_text("d"), end]
    assert rollouts.sampled.tolist() == [expected]


def test_a_template_that_rewrites_turns_is_refused():
    """Tokens of earlier turns must stay what they were."""
    agent = tiny_policy()
    agent.tokenizer.chat_template = "{{ messages | length }}" + CHAT
    turns = [{"role": role, "content": "x"} for role in ("user", "assistant", "user", "assistant")]
    with pytest.raises(DataError, match="rewrites earlier turns"):
        encode_rows([{"messages": turns}], agent)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": [{"role": "user", "content": "a"}]}, "no assistant turn"),
        ({"prompt": "", "completion": "b"}, "no prompt before"),
        ({"prompt": "a" * 600, "completion": "b"}, "a row has 602 tokens"),
    ],
)
def test_rows_that_teach_nothing_are_refused(row, message):
    """No target, no prompt, no room."""
    with pytest.raises(DataError, match=message):
        encode_rows([row], tiny_policy())


def test_jsonl_rows_are_checked_with_their_line(tmp_path):
    """A broken line names its number; skip keeps the rest; empty files are refused."""
    path = tmp_path / "rows.jsonl"
    path.write_text(
        '{"prompt": "a", "completion": "b"}\n\n{"prompt": "a"\n{"prompt": "a"}\n[1]\n{"prompt": 1, "completion": "b"}\n'
    )
    with pytest.raises(DataError, match="line 3 cannot be read") as error:
        read_rows(DataSettings(str(path)))
    assert f"{path}:3" in str(error.value)
    assert len(read_rows(DataSettings(str(path), on_broken="skip"))) == 1
    path.write_text('{"messages": [{"role": "user"}]}\n')
    with pytest.raises(DataError, match="line 1 cannot be read: the column 'messages' must list objects"):
        read_rows(DataSettings(str(path)))
    path.write_text('{"prompt": "a"}\n')
    with pytest.raises(DataError, match=r"no column 'completion' \(it has: prompt\)"):
        read_rows(DataSettings(str(path)))
    path.write_text("")
    with pytest.raises(DataError, match="has no rows"):
        read_rows(DataSettings(str(path)))
    with pytest.raises(DataError, match="cannot be read"):
        read_rows(DataSettings(str(tmp_path / "gone.jsonl")))


def test_parquet_goes_through_datasets(tmp_path):
    """Memory-mapped, with the same checks."""
    datasets = pytest.importorskip("datasets")
    path = tmp_path / "rows.parquet"
    datasets.Dataset.from_list([{"prompt": "a", "completion": "b"}] * 3).to_parquet(str(path))
    rows = read_rows(DataSettings(str(path)))
    assert len(rows) == 3
    assert Batches(rows, 2, seed=0)(0)[0]["completion"] == "b"
    with pytest.raises(DataError, match="cannot be loaded"):
        read_rows(DataSettings(str(tmp_path / "gone.parquet")))


def test_batches_follow_from_seed_and_step():
    """Every epoch is a permutation; streams resume where they were; empty sources are told."""
    batches = Batches(range(10), 4, seed=1)
    seen = [item for step in range(5) for item in batches(step)]
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert Batches(range(10), 4, seed=1)(3) == batches(3)
    assert Batches(range(3), 2, seed=0, shuffle=False)(1) == [2, 0]

    class Stream:
        def __iter__(self):
            return iter(range(5))

    stream = Batches(Stream(), 2, seed=0)
    assert [stream(0), stream(1), stream(2)] == [[0, 1], [2, 3], [4, 0]]
    assert Batches(Stream(), 2, seed=0)(2) == [4, 0]
    assert stream(0) == [0, 1]
    with pytest.raises(DataError, match="prompts is empty"):
        Batches([], 2, seed=0, name="prompts")
    with pytest.raises(DataError, match="data is empty"):
        Batches(iter([]), 2, seed=0)(0)


def test_lora_learns_adapters_and_its_reference_is_the_base(tmp_path):
    """Only adapters move; the reference shares the weights; the saved model has them merged."""
    pytest.importorskip("peft")
    policy = tiny_policy(lora=LoraSettings(rank=2))
    compiled = dt.compile(
        dt.recipes["grpo"], policy=policy, ref_policy=policy.frozen(), rewards=[lowercase], beta=0.1, group_size=4,
        sampling=dt.Sampling(max_tokens=6),
    )  # fmt: skip
    base = policy.model.get_base_model().model.embed_tokens.weight.clone()
    first = compiled.run(prompts=["a", "b"])
    second = compiled.run(prompts=["a", "b"])
    assert all("lora" in name for name in policy.named_parameters())
    assert torch.equal(base, policy.model.get_base_model().model.embed_tokens.weight)
    assert first["clipped/kl"] == pytest.approx(0.0, abs=1e-6)
    assert second["clipped/kl"] > 0
    merged = dt.Agent(policy.save(tmp_path / "merged"))
    tokens = torch.arange(5)[None]
    torch.testing.assert_close(policy.model(tokens).logits, merged.model(tokens).logits)


def test_adapters_begin_the_same_in_every_run():
    """They do not depend on what was drawn before."""
    pytest.importorskip("peft")
    weights = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        weights.append(tiny_policy(lora=LoraSettings(rank=2)).named_parameters())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_an_agent_may_be_looked_at_before_it_learns():
    """Loading it does not settle whether it is trainable."""
    policy = dt.Agent.tiny(hidden=16, layers=1, heads=2)
    assert not any(parameter.requires_grad for parameter in policy.model.parameters())
    policy.trainable = True
    assert len(policy.named_parameters()) == len(list(policy.model.parameters()))


def test_a_reference_is_the_policy_as_it_was():
    """Before learning it is loaded lazily, after learning copied."""
    policy = tiny_policy()
    early = policy.frozen()
    assert "_loaded" not in vars(early)
    dt.compile(dt.recipes["grpo"], policy=policy, rewards=[lowercase], sampling=dt.Sampling(max_tokens=6)).run(
        prompts=["a"]
    )
    late = policy.frozen()
    now, then = policy.model.lm_head.weight, early.model.lm_head.weight
    assert torch.equal(late.model.lm_head.weight, now)
    assert not torch.equal(then, now)
    with pytest.raises(DovetailError, match="is not trainable"):
        _ = late.learning


def test_optimizers_and_schedules_come_by_import_path():
    """Warm-up, then any torch schedule; wrong paths and options are told."""
    settings = OptimizerSettings(
        use="torch.optim.SGD", lr=1.0, warmup_steps=2, schedule="torch.optim.lr_scheduler.ExponentialLR",
        schedule_options={"gamma": 0.5}, max_grad_norm=None,
    )  # fmt: skip
    policy = tiny_policy(optimizer=settings)
    rates = []
    for _ in range(4):
        policy.zero_grad()
        next(iter(policy.named_parameters().values())).sum().backward()
        rates.append(policy.update()["lr"])
    assert rates == pytest.approx([1 / 3, 2 / 3, 1.0, 0.5])
    for changed, message in [
        ({"use": "torch.optim.Nothing"}, "cannot be imported"),
        ({"use": "torch.optim.SGD", "options": {"beta": 1}}, "refuses its options"),
        ({"schedule": "torch.optim.lr_scheduler.ExponentialLR"}, "refuses its options"),
    ]:
        with pytest.raises(UserError, match=message):
            _ = tiny_policy(optimizer=OptimizerSettings(**changed)).learning


def test_a_gradient_that_is_not_finite_changes_nothing():
    """The step is refused, the weights stay."""
    policy = tiny_policy()
    parameter = next(iter(policy.named_parameters().values()))
    before = parameter.detach().clone()
    policy.zero_grad()
    (parameter.sum() * float("inf")).backward()
    with pytest.raises(DovetailError, match="the gradient norm is"):
        policy.update()
    assert torch.equal(before, parameter)


def test_a_head_that_does_more_than_we_know_is_refused():
    """Our log-probs are compared with the model's own logits once."""
    policy = tiny_policy()
    policy.model.lm_head.register_forward_hook(lambda module, inputs, output: output * 3)
    with pytest.raises(UserError, match="its output layer does more"):
        policy.head()
    with pytest.raises(DovetailError, match="has no value head"):
        policy.value(torch.zeros(1, 16))


def test_value_heads_are_saved(tmp_path):
    """They start at 0 and lie beside the model."""
    agent = tiny_policy(head="value")
    assert agent.value(torch.randn(3, 16)).tolist() == [0.0, 0.0, 0.0]
    assert (agent.save(tmp_path / "model") / "value_head.safetensors").exists()


def test_a_generator_that_breaks_its_contract_is_named(register):
    """Too few completions."""

    class Lazy:
        @dt.hookimpl
        def generate(self, prompts):
            return None

    register("generators", "lazy", Lazy)
    agent = tiny_policy(generator="lazy")
    with pytest.raises(dt.PartError, match=r"generators part 'lazy'.*1 completions"):
        agent.generate(agent.encode([dt.Task.of("a")]), 1, dt.Sampling(), torch.zeros(1))


def test_a_sequence_that_begins_with_a_target_is_refused():
    """Nothing predicts its first token."""
    tokens = dt.Ragged.from_rows([[5, 6]])
    rollouts = dt.Rollouts(
        tokens, dt.Ragged.from_rows([[1, 1]], dtype=torch.uint8), torch.zeros(1), dt.Tasks([dt.Task.of("a")])
    )
    with pytest.raises(DataError, match="sequence 0 begins with a sampled token"):
        dt.compile(dt.recipes["sft"], policy=tiny_policy()).run(demonstrations=rollouts)
