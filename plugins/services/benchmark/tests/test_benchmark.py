"""What the monitor, the profile and the floor promise."""

import json
import sys

import attrs
import pytest
import torch

import dovetail as dt
from dovetail import catalog
from dovetail.benchmark import TrainingMonitor
from dovetail.errors import OptionError, UserError
from dovetail.registry import registry
from dovetail.testing import part_checks, tiny_rollouts
from dovetail_benchmark.floor import Shape, Work, decode_bytes, forward_flops
from dovetail_benchmark.machine import measure, product_rate
from dovetail_benchmark.phases import phase_flops
from dovetail_benchmark.report import StepRecord, table
from dovetail_trainer.cli.main import main
from dovetail_trainer.config.build import describe_run

TINY = {"hidden": 32, "layers": 2, "heads": 4, "context": 64}


@pytest.mark.parametrize("name", ["monitor", "profile"])
def test_conformance(name):
    """Each keeps what every part promises."""
    for check in part_checks("extensions", name):
        check()


def from_rewards(rewards):
    """An estimator, so that these tests need no plugin."""
    return rewards - rewards.mean()


def drawn(model, tokenizer, prompts, samples, sampling, seeds):
    """A generator, likewise: tokens of two lengths."""
    rows = [torch.arange(3 + row % 2 * 4) + 5 for row in range(len(prompts) * samples)]
    completions = dt.Ragged.from_rows(rows)
    zeros = completions.with_values(torch.zeros(len(completions.values)))
    return dt.Generated(completions, zeros, ("stop",) * len(rows))


def lengths(completions):
    """A reward, likewise."""
    return completions.lengths.float()


@dt.recipe
def plain(policy, ref_policy, prompts, *, epochs=1):
    """Sample, score, learn; the reference is asked too."""
    completions = dt.generate(policy, prompts, samples=4, name="completions")
    logprobs = dt.logprobs(policy, prompts, completions, name="policy_logprobs")
    reference = dt.logprobs(ref_policy, prompts, completions, name="ref_logprobs")
    rewards = dt.run_rewards(completions)
    advantages = dt.advantages("from-rewards", rewards)
    dt.set_loss(dt.loss("with-reference", advantages, logprobs, reference), epochs=epochs)


def with_reference(advantages, logprobs, ref_logprobs):
    """A loss that needs the reference."""
    return dt.LossTerms(-(advantages * logprobs) + (logprobs - ref_logprobs) * 0)


@pytest.fixture(autouse=True)
def parts():
    """The parts of these tests, by name."""
    own = {
        "advantages": {"from-rewards": from_rewards},
        "losses": {"with-reference": with_reference, "likelihood": likelihood},
    }
    own |= {"generators": {"drawn": drawn}, "rewards": {"lengths": lengths}}
    own |= {"recipes": {"plain": plain, "imitate": imitate}}
    for kind, named in own.items():
        for name, target in named.items():
            registry(kind).register(name, target)
    yield
    for kind, named in own.items():
        for name in named:
            registry(kind)._own.pop(name)


def trainer(run_dir, *extensions, algorithm=plain, **agent):
    return dt.Trainer(
        algorithm, policy=dt.Agent.tiny(**TINY, generator="drawn", **agent), prompts=["one", "three", "seven"],
        rewards=[dt.rewards["lengths"]()], extensions=extensions, batch_size=2, run_dir=run_dir,
    )  # fmt: skip


# ---- the monitor


def test_a_run_ends_with_a_table_and_a_picture(tmp_path, capsys):
    """Every phase has its row, the shares add up, and both files lie in the run's folder."""
    pytest.importorskip("matplotlib")
    monitor = TrainingMonitor()
    trainer(tmp_path, monitor).fit(4)
    shown = capsys.readouterr().out
    written = (tmp_path / "monitor.md").read_text()
    assert written in shown
    rows = {cells[0]: cells[1:] for cells in cells_of(written)}
    assert {"generate", "learn", "optimizer", "forward", "elsewhere", "step"} <= set(rows)
    shares = [float(cells[1].rstrip("%")) for name, cells in rows.items() if name not in ("phase", "step")]
    assert sum(shares) == pytest.approx(100, abs=0.5)
    assert rows["phase"] == ["median ms", "share of step", "µs per token", "of its floor"]
    assert all(0 < float(rows[name][3].rstrip("%")) < 100 for name in ("generate", "forward", "learn", "step"))
    assert rows["optimizer"][3] == ""
    assert "3 steps (and 1 of warm-up, left out)" in written
    assert "RSS at most" in written
    assert "float32 matrix products on cpu" in written
    assert (tmp_path / "monitor.png").stat().st_size > 5000


def cells_of(text):
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_it_goes_by_its_name_in_a_configuration(tmp_path):
    """The words of a run that it serves in build it again."""
    described = describe_run(trainer(tmp_path, "monitor"))
    assert described["extensions"] == [{"use": "monitor", "warmup": 1, "floor": True, "picture": True}]


def test_without_matplotlib_there_is_a_table_and_the_way_to_a_picture(tmp_path, capsys, monkeypatch):
    """The run counts as done."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    monitor = TrainingMonitor(floor=False)
    trainer(tmp_path, monitor).fit(1)
    assert "monitor.md" in capsys.readouterr().out
    assert not (tmp_path / "monitor.png").exists()
    with pytest.raises(UserError, match=r"needs matplotlib\n  try: pip install \"dovetail-benchmark\[plot\]\""):
        monitor.draw(tmp_path / "monitor.png")


def test_a_table_of_nothing_is_refused():
    """It says how to get one."""
    with pytest.raises(UserError, match=r"extensions=\[TrainingMonitor\(\)\]"):
        TrainingMonitor().table()


def test_options_that_do_not_fit_are_refused():
    """A warm-up cannot be negative; a trace holds a step at least."""
    with pytest.raises(OptionError, match="warmup"):
        dt.extensions["monitor"](warmup=-1)
    with pytest.raises(OptionError, match="steps"):
        dt.extensions["profile"](steps=0)


def test_medians_shares_and_floors_are_those_of_the_steps():
    """By hand: two steps, a phase that only one of them has, and a floor."""
    steps = [
        StepRecord(1, {"generate": 0.4, "learn": 0.5, "step": 1.0}, 100, 50.0, 7.0, {"generate": 0.1}),
        StepRecord(2, {"generate": 0.6, "learn": 0.5, "eval": 1.8, "step": 3.0}, 100, 60.0, 9.0, {"generate": 0.1}),
    ]
    text = table(steps, 0, 2e9, "here")
    assert cells_of(text) == [
        ["phase", "median ms", "share of step", "µs per token", "of its floor"],
        ["eval", "1800.00", "45.0%", "9000.00", ""],
        ["generate", "500.00", "25.0%", "5000.00", "20.0%"],
        ["learn", "500.00", "25.0%", "5000.00", ""],
        ["elsewhere", "100.00", "5.0%", "1000.00", ""],
        ["step", "2000.00", "100.0%", "20000.00", "5.0%"],
    ]
    assert "2 steps; 50 tokens/s; RSS at most 60 MB, allocated on the device at most 9 MB." in text
    bare = [attrs.evolve(step, floor={}) for step in steps]
    assert "floor" not in table(bare)


# ---- the floor


def test_a_shape_counts_the_numbers_of_the_models_matrices():
    """Grouped keys and a gated MLP included; embeddings and norms are no matrix products."""
    import transformers

    config = transformers.Qwen2Config(
        hidden_size=32, num_hidden_layers=3, intermediate_size=48, vocab_size=50, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config)
    shape = Shape.of(model)
    matrices = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    assert shape.body + shape.head == sum(layer.weight.numel() for layer in matrices)
    assert (shape.queries, shape.keys) == (32, 16)


def test_a_plain_mlp_has_two_matrices():
    """Which one a model has is seen from its modules."""
    import transformers

    config = transformers.GPTNeoXConfig(
        hidden_size=32, num_hidden_layers=3, intermediate_size=48, vocab_size=50, num_attention_heads=4
    )
    model = transformers.AutoModelForCausalLM.from_config(config)
    matrices = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    shape = Shape.of(model)
    assert shape.body + shape.head == sum(layer.weight.numel() for layer in matrices)


def test_a_config_without_a_shape_has_no_floor(tmp_path, capsys):
    """GPT-2 gives no width of its MLP, a mixture of experts uses a part of its weights: the column is left out."""
    import transformers

    small = {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 48, "vocab_size": 99}
    experts = transformers.MixtralConfig(**small, num_attention_heads=4, num_key_value_heads=2, num_local_experts=2)
    gpt2 = transformers.GPT2Config(vocab_size=99, n_positions=64, n_embd=32, n_layer=1, n_head=4)
    models = [transformers.AutoModelForCausalLM.from_config(config) for config in (experts, gpt2)]
    assert [Shape.of(model) for model in models] == [None, None]
    agent = dt.Agent.tiny(**TINY)
    models[1].save_pretrained(tmp_path / "model")
    agent.tokenizer.save_pretrained(tmp_path / "model")
    policy = dt.Agent(tmp_path / "model", generator="drawn")
    dt.Trainer(
        plain, policy=policy, prompts=["one", "two"], rewards=[dt.rewards["lengths"]()], batch_size=2,
        extensions=[TrainingMonitor(picture=False)], run_dir=tmp_path / "run",
    ).fit(2)  # fmt: skip
    assert "floor" not in capsys.readouterr().out.lower()


def test_the_flops_are_those_that_torch_counts():
    """Of a forward pass; torch counts the masked half of the attention as well."""
    from torch.utils.flop_counter import FlopCounterMode

    model = dt.Agent.tiny(**TINY).model
    model.set_attn_implementation("eager")  # torch does not count the fused one on the CPU
    shape, work = Shape.of(model), Work.even(prompts=3, group=1, prompt=0, completion=40)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.zeros(3, 40, dtype=torch.int64))
    whole = attrs.evolve(work, pairs=2 * work.pairs)
    assert forward_flops(shape, whole) == pytest.approx(counter.get_total_flops(), rel=1e-6)
    assert forward_flops(shape, work) < counter.get_total_flops()
    assert forward_flops(shape, work) - forward_flops(shape, work, head=False) == 2 * shape.head * 120


def test_work_counts_a_prompt_once_for_its_group():
    """Row by row as in the even case."""
    even = tiny_rollouts(lengths=(6, 6, 6, 6), group_size=2)  # prompts of 3 and 4 tokens
    found = Work.of(even)
    assert found.tokens == 3 + 4 + 24
    assert found.sampled == 24
    assert found.pairs == 2 * 6 * (3 + 3) + 2 * 6 * (4 + 3) + (9 + 16) / 2
    assert Work.of(tiny_rollouts(lengths=(5, 5), group_size=2)) == Work.even(1, 2, 3, 5)


def test_decoding_reads_every_weight_and_every_cached_number():
    """By hand: 2 rows of one prompt, 2 steps."""
    shape = Shape(hidden=2, layers=1, intermediate=4, vocabulary=5)
    weights, own, prompt = (4 * 4 + 3 * 8 + 10) * 2, 2 * 2 * 2, 3 * 2
    assert decode_bytes(shape, prompts=1, group=2, prompt=3, completion=2, width=2) == 2 * (
        weights + 2 * 2 * own / 2 + 2 * 2 * prompt
    )


def test_each_phase_has_the_passes_of_its_plan(tmp_path):
    """The reference goes forward; what learns goes three times for each epoch, adapters twice."""
    found, shape, rollouts = flops_of(trainer(tmp_path))
    once = forward_flops(shape, Work.of(rollouts))
    assert found == {"generate": once, "forward": once, "learn": 3 * once}
    assert flops_of(trainer(tmp_path, algorithm=plain(epochs=2)))[0]["learn"] == 6 * once
    pytest.importorskip("peft")
    assert flops_of(trainer(tmp_path, lora=dt.LoraSettings(rank=2)))[0]["learn"] == 2 * once


def test_rows_without_a_score_are_not_learnt_from(tmp_path):
    """They were sampled all the same."""
    run = trainer(tmp_path)
    found, _, rollouts = flops_of(run)
    half = dt.Scores(torch.ones(8), torch.tensor([0, 1] * 4, dtype=torch.uint8))
    fewer = phase_flops(run.compiled, rollouts.with_rewards(lengths=half))
    assert fewer["generate"] == found["generate"]
    assert fewer["learn"] < found["learn"]


def flops_of(run):
    collected = run.compiled.collect(prompts=run.prompts[:2], seed=0)
    found = phase_flops(run.compiled, collected.rollouts)
    return found, Shape.of(run.policy.model), collected.rollouts


def test_rates_are_measured():
    """Products and copies take a time that is not zero; smaller products give no larger a rate than a machine has."""
    machine = measure()
    assert 1e8 < machine.flops < 1e15
    assert 1e7 < machine.bandwidth < 1e14
    assert product_rate("cpu", torch.float64, size=64) > 0


# ---- the profile


@dt.recipe
def imitate(policy, data):
    """Supervised, so that a file names all that it needs."""
    dt.set_loss(dt.loss("likelihood", dt.logprobs(policy, data)))


def likelihood(logprobs):
    """Minus the log-probs."""
    return dt.LossTerms(-logprobs)


@pytest.fixture
def config(tmp_path):
    """A run of four steps."""
    (tmp_path / "rows.jsonl").write_text('{"prompt": "ab", "completion": "cd"}\n' * 4)
    path = tmp_path / "run.yaml"
    path.write_text(
        "algorithm: imitate\npolicy: {tiny: {hidden: 16, layers: 1, heads: 2}, generator: drawn}\n"
        f"data: {tmp_path / 'rows.jsonl'}\nrun_dir: {tmp_path / 'run'}\nsteps: 4\nbatch_size: 2\n"
    )
    return path


def test_train_with_profile_writes_a_trace(config, capsys):
    """Of the steps after the warm-up; it parses, holds operations, and the run goes on to its end."""
    assert main(["train", str(config), "--profile"]) == 0
    shown = capsys.readouterr().out
    trace = config.parent / "run" / "profile-steps-2-4.json"
    assert f"profile of steps 2 to 4: {trace}" in shown
    assert "https://ui.perfetto.dev" in shown
    assert "chrome://tracing" in shown
    assert "4 steps done" in shown
    names = [event.get("name", "") for event in json.loads(trace.read_text())["traceEvents"]]
    assert {"aten::mm", "aten::embedding"} <= set(names)
    assert sum(name.startswith("Optimizer.step") for name in names) == 3


def test_a_profile_that_the_configuration_asks_for_is_the_only_one(config, capsys):
    """Its options hold; a resumed run is not traced a second time, and cannot be asked to."""
    config.write_text(config.read_text() + "extensions: [{use: profile, steps: 1, warmup: 2}]\n")
    assert main(["train", str(config), "--profile"]) == 0
    run = config.parent / "run"
    assert [path.name for path in run.glob("profile*")] == ["profile-steps-3-3.json"]
    assert main(["train", "--resume", str(run), "--steps", "9"]) == 0
    assert [path.name for path in run.glob("profile*")] == ["profile-steps-3-3.json"]
    assert main(["train", "--resume", str(run), "--profile"]) == 2
    assert "--profile cannot change a run that is resumed" in capsys.readouterr().err


def test_a_run_that_ends_in_its_warm_up_says_why_there_is_no_trace(config, capsys):
    """One that ends early has the steps that there were."""
    assert main(["train", str(config), "--profile", "--steps", "1"]) == 0
    assert "no profile: a run must go on for 2 steps" in capsys.readouterr().out
    assert main(["train", "--resume", str(config.parent / "run"), "--steps", "3"]) == 0
    assert (config.parent / "run" / "profile-steps-3-3.json").exists()


def test_without_the_part_the_option_tells_what_to_install(config, capsys, monkeypatch):
    """Nothing is run."""
    monkeypatch.setattr(catalog, "entries", lambda: ())
    assert main(["train", str(config), "--profile"]) == 2
    assert 'pip install "dovetail[benchmark]"' in capsys.readouterr().err
    assert not (config.parent / "run").exists()
