"""Runs: what goes wrong in a part is counted or told, never hidden; what is killed goes on."""

from __future__ import annotations

import asyncio
import json
import threading

import attrs
import pytest
import torch
from parts_of_tests import every_tenth_fails, lowercase, patient, tiny_policy
from safetensors import SafetensorError

import dovetail as dt
from dovetail.errors import CheckpointError, DataError, PartError, RecipeError, TooManyInvalid, UserError
from dovetail_trainer import checkpoint
from dovetail_trainer.lock import plugin_lock
from dovetail_trainer.run import Run

SHORT = dt.Sampling(max_tokens=4)


def compiled(rewards, **settings):
    chosen = dt.TrainSettings(sampling=SHORT, **settings)
    return dt.compile(dt.recipes["grpo"], policy=tiny_policy(), rewards=rewards, group_size=2, settings=chosen)


def test_a_step_reports_the_promised_metrics():
    """Rewards by name, invalid rate, KL to the sampler, entropy, clip fraction, effective sample size, times."""
    metrics = compiled([lowercase, dt.rewards.length(weight=0.5)]).run(prompts=["a", "b"])
    wanted = (
        "loss reward reward/lowercase reward/length invalid invalid/length kl_to_sampler entropy clipped/clip_fraction "
        "effective_sample_size completion_length truncated grad_norm lr time/generate time/learn time/optimizer"
    )
    assert set(wanted.split()) <= set(metrics)


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (lambda texts: [1.0], "returned 1 values for 4 sequences"),
        (lambda texts: "good", "returned str 'good'"),
        (lambda texts: ["good"] * 4, "returned str 'good' for sequence 0"),
        (lambda texts: torch.zeros(4, 2), r"returned a tensor of shape \[4, 2\]"),
        (lambda texts: 3.0, "returned float 3.0"),
    ],
)
def test_a_reward_that_breaks_its_contract_stops_the_run(reward, message):
    """Wrong length, shape or type: the part is named, and what to return instead."""
    with pytest.raises(PartError, match=message) as error:
        compiled([reward]).run(prompts=["a", "b"])
    assert "rewards part" in str(error.value)
    assert "dovetail.Invalid(reason)" in str(error.value)


def test_samples_without_a_score_are_invalid_never_zero():
    """NaN, None, Invalid and exceptions leave the row out; the reasons are kept."""

    def patchy(texts):
        return [float("nan"), None, dt.Invalid("too odd"), 1.0]

    collected = compiled([patchy], max_invalid=1.0).collect(prompts=["a", "b"])
    scores = collected.rollouts.rewards["patchy"]
    assert collected.valid.tolist() == [False, False, False, True]
    assert list(scores.reasons.values()) == ["returned nan", "returned None", "too odd"]
    assert collected.metrics["invalid"] == 0.75
    assert collected.metrics["reward/patchy"] == 1.0


def test_an_invalid_sample_needs_no_reason():
    """An empty reason is one too."""
    collected = compiled([lambda texts: [dt.Invalid(""), 1.0]], max_invalid=1.0).collect(prompts=["a"])
    assert collected.valid.tolist() == [False, True]


@pytest.mark.parametrize("is_async", [False, True])
def test_one_row_that_raises_costs_the_others_nothing(is_async):
    """Rows are scored again one by one; the reason names the user's line."""

    def fragile(texts, tasks):
        if any(task.id == "1" for task in tasks):
            raise ValueError("bad task")
        return [1.0 for _ in texts]

    async def fragile_async(texts, tasks):
        await asyncio.sleep(0)
        return fragile(texts, tasks)

    reward = fragile_async if is_async else fragile
    collected = compiled([reward], max_invalid=1.0).collect(prompts=["a", "b"])
    assert collected.valid.tolist() == [True, True, False, False]
    (reason,) = set(collected.rollouts.rewards[reward.__name__].reasons.values())
    assert reason.startswith("ValueError: bad task at")
    assert "test_runs.py" in reason


def test_a_reward_that_sees_groups_fails_as_a_whole():
    """Scoring its rows one by one would change what it means."""

    def contextual(texts, groups):
        raise RuntimeError("no")

    collected = compiled([contextual], max_invalid=1.0).collect(prompts=["a", "b"])
    assert not bool(collected.valid.any())
    assert compiled([contextual], max_invalid=1.0).run(prompts=["a", "b"])["loss"] == 0.0


@pytest.mark.parametrize("is_async", [False, True])
def test_a_reward_that_hangs_times_out(is_async):
    """The rows are TIMEOUT, the run stops above max_invalid, and the process can end."""
    forever = threading.Event()

    def hangs(texts):
        forever.wait()

    async def hangs_async(texts):
        await asyncio.Event().wait()

    with pytest.raises(TooManyInvalid) as error:
        compiled([hangs_async if is_async else hangs], reward_timeout=0.2).run(prompts=["a", "b"])
    forever.set()
    assert "100% of the samples have no valid reward, and max_invalid allows 10%" in str(error.value)
    assert "no answer within 0.2 s" in str(error.value)


def test_invalid_samples_are_dumped_with_what_reproduces_them(tmp_path):
    """Also when the run stops because there are too many."""
    trainer = dt.Trainer(
        "grpo", policy=tiny_policy(), prompts=["a", "b"], rewards=[lambda texts: [None] * len(texts)],
        sampling=SHORT, batch_size=2, run_dir=tmp_path / "run",
    )  # fmt: skip
    with pytest.raises(TooManyInvalid) as error:
        trainer.fit(1)
    (path,) = (tmp_path / "run" / "invalid").iterdir()
    assert str(path) in str(error.value)
    line = json.loads(path.read_text().splitlines()[0])
    assert line["rewards"]["<lambda>"] == {"value": None, "status": "INVALID", "reason": "returned None"}
    assert line["prompt"] in ("a", "b")


def test_estimators_and_losses_are_checked_at_the_border(register):
    """Wrong shapes and values that are not finite name the part."""

    def short(rewards):
        return rewards[:-1]

    def infinite(rewards):
        return rewards / 0

    def plain(logprobs):
        return logprobs

    def unreduced(logprobs):
        return dt.LossTerms(logprobs.sum(), "token_mean")

    def broken(logprobs):
        return dt.LossTerms(logprobs * float("nan"))

    for name, function in (("short", short), ("infinite", infinite)):
        register("advantages", name, function)
    for name, function in (("plain", plain), ("unreduced", unreduced), ("broken", broken)):
        register("losses", name, function)

    @dt.recipe
    def odd(policy, prompts, *, estimator="group", loss="clipped"):
        completions = dt.generate(policy, prompts, samples=2)
        policy_logprobs = dt.logprobs(policy, prompts, completions, name="policy_logprobs")
        advantages = dt.advantages(estimator, dt.run_rewards(completions), name="advantages")
        ports = (advantages, policy_logprobs) if loss == "clipped" else (policy_logprobs,)
        dt.set_loss(dt.loss(loss, *ports))

    for options, message in [
        ({"estimator": "short"}, r"advantages must be \[4\] or a Ragged"),
        ({"estimator": "infinite"}, "are not finite"),
        ({"loss": "plain"}, "returned Ragged"),
        ({"loss": "unreduced"}, "use batch_mean"),
        ({"loss": "broken"}, "not finite"),
    ]:
        run = dt.compile(odd, policy=tiny_policy(), rewards=[lowercase], sampling=SHORT, **options)
        with pytest.raises(PartError, match=message):
            run.run(prompts=["a", "b"])


def test_folding_never_loads_the_reference(capsys):
    """beta=0 removes the reference pass; explain() says so."""
    reference = dt.Agent("/nowhere/at/all")
    run = dt.compile(
        dt.recipes["grpo"], policy=tiny_policy(), ref_policy=reference, rewards=[lowercase], sampling=SHORT
    )
    run.run(prompts=["a"])
    assert "_loaded" not in vars(reference)
    text = run.explain()
    assert "fold: loss leaves ref_logprobs, sampled_logprobs, entropy unused" in text or "ref_logprobs" in text
    assert "dead: ref_logprobs is not needed and goes" in text
    assert "policy_logprobs@old is the live value, detached" in text


def test_async_work_overlaps_the_reference_pass():
    """The schedule starts rewards before model passes and awaits them after."""
    policy = tiny_policy()
    run = dt.compile(
        dt.recipes["grpo"], policy=policy, ref_policy=policy.frozen(), rewards=[patient], beta=0.1, sampling=SHORT
    )
    names = [node.name for node in run.plan.collect]
    assert names.index("reward_patient") < names.index("ref_logprobs") < names.index("rewards")
    assert "reward_patient run beside ref_logprobs" in run.explain()


def test_common_nodes_are_merged_and_neutral_arithmetic_folded():
    """Two passes of the same agent over the same rollouts are one."""

    @dt.algorithm(using=dt.recipes["grpo"])
    def doubled(graph):
        again = dt.logprobs(graph.policy, graph.prompts, graph.completions, name="again")
        dt.add_loss(dt.loss("clipped", graph.advantages * 1, again))
        dt.add_loss(dt.loss("nll", again), weight=0.0)

    run = dt.compile(doubled, policy=tiny_policy(), rewards=[lowercase], sampling=SHORT)
    assert "common: again is the same as policy_logprobs" in run.explain()
    assert "mul changes nothing and goes" in run.explain()
    assert "nll_loss has weight 0 and goes" in run.explain()


def test_static_checks_refuse_or_warn():
    """Groups of one and greedy groups are refused; truncated sampling and token means are warned of."""

    def check(sampling=SHORT, **options):
        return dt.compile(dt.recipes["grpo"], policy=tiny_policy(), rewards=[lowercase], sampling=sampling, **options)

    with pytest.raises(RecipeError, match="every group has one: its advantage is always 0"):
        check(group_size=1)
    with pytest.raises(RecipeError, match="greedy sampling makes them all the same"):
        check(dt.Sampling(temperature=0))
    assert "drawn from a truncated one" in check(dt.Sampling(top_p=0.9)).warnings[0]
    assert check().warnings == ()


def test_traits_of_parts_lead_to_warnings(register):
    """A sequence ratio under a token mean, a KL term in a normalised reward."""

    @attrs.frozen
    class SequenceRatio:
        reduction: str = "token_mean"
        traits = ("sequence_ratio",)

        @dt.hookimpl
        def loss_terms(self, logprobs, old_logprobs):
            return dt.LossTerms(logprobs - old_logprobs)

    register("losses", "sequence-ratio", SequenceRatio)

    @dt.algorithm(using=dt.recipes["grpo"])
    def odd(graph):
        penalty = dt.op(lambda logprobs: logprobs.sum())(graph.ref_logprobs)
        graph.rewards.replace_with(graph.rewards - penalty)
        dt.add_loss(dt.loss("sequence-ratio", graph.policy_logprobs))

    policy = tiny_policy()
    warnings = dt.compile(odd, policy=policy, ref_policy=policy.frozen(), rewards=[lowercase], sampling=SHORT).warnings
    assert any("one ratio for a whole sequence" in line for line in warnings)
    assert any("hold a KL term" in line for line in warnings)


def test_missing_agents_inputs_and_rewards_are_told():
    """Each error says what to pass."""
    recipe = dt.recipes["grpo"]
    with pytest.raises(RecipeError, match="the agent 'ref_policy' is missing"):
        dt.compile(recipe, policy=tiny_policy(), rewards=[lowercase], beta=0.1)
    with pytest.raises(RecipeError, match="has no reward to run"):
        dt.compile(recipe, policy=tiny_policy())
    with pytest.raises(RecipeError, match="two rewards are called 'lowercase'"):
        dt.compile(recipe, policy=tiny_policy(), rewards=[lowercase, lowercase])
    run = dt.compile(recipe, policy=tiny_policy(), rewards=[lowercase], sampling=SHORT)
    with pytest.raises(RecipeError, match="the input 'prompts' is missing"):
        run.run()
    with pytest.raises(RecipeError, match="did you mean 'prompts'"):
        run.run(promts=["a"])
    with pytest.raises(RecipeError, match="the recipe has no agent 'prompts'"):
        dt.compile(recipe, policy=tiny_policy(), prompts=tiny_policy(), rewards=[lowercase])


def test_rewards_and_ops_compose_in_a_recipe():
    """dt.reward with weights, arithmetic, sync and async ops; invalid rows stay invalid."""

    @dt.op
    async def doubled(rewards: torch.Tensor) -> torch.Tensor:
        await asyncio.sleep(0)
        return rewards * 2

    @dt.op
    def split(rewards: torch.Tensor, share: float = 0.5) -> {part: torch.Tensor, rest: torch.Tensor}:
        return {"part": rewards * share, "rest": rewards * (1 - share)}

    @dt.op
    def penalty(logprobs: dt.Ragged) -> dt.LossTerms:
        return dt.LossTerms(logprobs * 0.01)

    @dt.recipe
    def composed(policy, prompts):
        completions = dt.generate(policy, prompts, samples=2)
        policy_logprobs = dt.logprobs(policy, prompts, completions, name="policy_logprobs")
        length = dt.reward("length", weight=0.5, target=4, rollout=completions)
        pieces = split(2 - length / 2 - 1, share=0.25)
        total = doubled(pieces.part + pieces.rest)
        advantages = dt.advantages("group", total, scale="none", name="advantages")
        dt.set_loss(dt.loss("clipped", advantages, policy_logprobs) * 2 + penalty(policy_logprobs))

    for mode in ("auto", "eager"):
        run = dt.compile(composed, policy=tiny_policy(), sampling=SHORT, mode=mode)
        metrics = run.run(prompts=["a", "b"], trace=True)
        assert metrics["loss"] == pytest.approx(2 * metrics["loss/clipped_loss"] + metrics["loss/penalty"], abs=1e-6)
        assert any(line.startswith("doubled: ") for line in run.trace)
        run.close()


def test_operations_mean_what_they_say():
    """A tensor minus scores, plain values for unannotated parameters, a function that bears a built-in name, inputs."""

    @dt.op
    def entropy(rewards):
        return rewards.new_full(rewards.shape, 3.0)

    @dt.op
    async def weights(logprobs: dt.Ragged) -> {first: torch.Tensor, second: torch.Tensor}:
        return {"first": logprobs.sum(), "second": logprobs.sum() * 0 + 2}

    @dt.op
    def scaled(logprobs: dt.Ragged, weight: torch.Tensor, strength):
        return dt.LossTerms(logprobs * 0 + weight * strength)

    @dt.recipe
    def odd(policy, prompts, strength):
        completions = dt.generate(policy, prompts, samples=2)
        policy_logprobs = dt.logprobs(policy, prompts, completions)
        length = dt.reward("length", weight=0.5, target=100, rollout=completions, name="length")
        flipped = dt.op(lambda logprobs: logprobs.sum() * 0 + 1)(policy_logprobs) - length
        dt.advantages("group", entropy(flipped) - flipped, name="advantages")
        losses = weights(policy_logprobs)
        dt.set_loss(scaled(policy_logprobs, losses.second, strength, name="scaled"))

    @dt.algorithm(using=odd)
    def graded(graph):
        dt.add_loss(dt.loss("clipped", graph.advantages, graph.logprobs, name="clipped"))

    for mode in ("auto", "eager"):
        run = dt.compile(graded, policy=tiny_policy(), sampling=SHORT, mode=mode)
        collected = run.collect(prompts=["a", "b"], strength=0.25)
        metrics = run.learn(collected)
        assert metrics["loss/scaled"] == pytest.approx(0.5)
        assert metrics["reward/length"] == pytest.approx(-0.96)
        assert collected.values["length"]["out"].values.tolist() == pytest.approx([-0.48] * 4)
        assert collected.values["sub"]["out"].values.tolist() == pytest.approx([1.48] * 4)
        assert collected.values["entropy"]["out"].values.tolist() == [3.0] * 4
        run.close()


def test_what_a_part_or_function_owes_is_told():
    """An estimator without returns for a value loss, an async function without an answer."""

    @dt.algorithm(using=dt.recipes["grpo"])
    def with_critic(graph, value_model):
        dt.add_loss(dt.loss("value", dt.values(value_model, graph.prompts, graph.completions)))

    critic = tiny_policy(head="value", seed=4)
    run = dt.compile(with_critic, policy=tiny_policy(), value_model=critic, rewards=[lowercase], sampling=SHORT)
    with pytest.raises(PartError, match="advantages part 'group': gave no 'returns'"):
        run.run(prompts=["a"])

    @dt.op
    async def hangs(rewards):
        await asyncio.Event().wait()

    @dt.algorithm(using=dt.recipes["grpo"])
    def waiting(graph):
        graph.rewards.replace_with(hangs(graph.rewards))

    chosen = dt.TrainSettings(sampling=SHORT, reward_timeout=0.2)
    run = dt.compile(waiting, policy=tiny_policy(), rewards=[lowercase], settings=chosen)
    with pytest.raises(PartError, match=r"op 'hangs' gave no answer within 0\.2 s"):
        run.run(prompts=["a"])


def test_nodes_that_share_a_model_pass_are_watched_too():
    """Each has its line in the trace, and stops at its breakpoint."""
    run = dt.compile(
        dt.recipes["grpo"], policy=tiny_policy(), rewards=[lowercase], entropy_coef=0.01, group_size=2, sampling=SHORT
    )
    run.run(prompts=["a"], trace=True)
    assert any(line.startswith("policy_logprobs@entropy: out [2 rows") for line in run.trace)


def test_breakpoints_stop_at_a_node(monkeypatch):
    """Python's debugger is entered before the node; an unknown name is refused."""
    stopped = []
    monkeypatch.setattr("sys.breakpointhook", lambda: stopped.append(True))
    run = compiled([lowercase])
    run.run(prompts=["a"], breakpoints=["advantages", "loss"])
    assert len(stopped) == 2
    with pytest.raises(RecipeError, match="did you mean 'advantages'"):
        run.run(prompts=["a"], breakpoints=["advantage"])


def trainer(folder, **options):
    return dt.Trainer(
        dt.recipes["grpo"](group_size=2), policy=tiny_policy(), run_dir=folder, sampling=SHORT, batch_size=4,
        environment=dt.environments.math(digits=1, final_answer="whole", symbolic=False),
        **{"rewards": [dt.rewards.length(target=3, weight=0.1)], "checkpoint_every": 2, **options},
    )  # fmt: skip


def lines(folder):
    return [json.loads(line)["metrics"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_resumed_run_is_bit_identical(tmp_path):
    """Metrics and weights equal those of a run that was never interrupted."""
    trainer(tmp_path / "whole").fit(5)
    trainer(tmp_path / "cut").fit(3)
    again = dt.Trainer.resume(tmp_path / "cut")
    assert again.run.step == 3
    again.fit(5)
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")
    whole, cut = ((tmp_path / name / "final" / "model.safetensors").read_bytes() for name in ("whole", "cut"))
    assert whole == cut


def test_a_resume_before_the_first_checkpoint_begins_again(tmp_path):
    """The evaluation before the first step is not told twice."""

    class Killed:
        @dt.hookimpl
        def on_rollouts(self, run):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "run", evaluate_every=9, evaluate_tasks=4, extensions=[Killed()]).fit(1)
    again = trainer(tmp_path / "run", evaluate_every=9, evaluate_tasks=4)
    again.load_checkpoint()
    again.fit(1)
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [0, 1]


def test_a_part_that_fails_at_the_start_leaves_no_logger_open(tmp_path):
    """The run ends as failed, and its loggers are closed."""
    seen = []

    class Failing:
        @dt.hookimpl
        def on_run_start(self, run):
            raise RuntimeError("not today")

        @dt.hookimpl
        def on_run_end(self, outcome):
            seen.append(outcome)

    class Open:
        @dt.hookimpl
        def log_metrics(self, step, metrics):
            pass

        @dt.hookimpl
        def close(self):
            seen.append("closed")

    with pytest.raises(RuntimeError, match="not today"):
        trainer(tmp_path / "run", loggers=[Open()], extensions=[Failing()]).fit(1)
    assert seen == ["failed: not today", "closed"]


def test_a_lora_run_with_a_reference_can_be_resumed(tmp_path):
    """The reference is checked with the adapters off, whatever they have learnt."""
    pytest.importorskip("peft")

    def lora_trainer(folder):
        optimizer = dt.OptimizerSettings(lr=0.1)
        return dt.Trainer(
            dt.recipes["grpo"](group_size=4, beta=0.05), prompts=["a", "b"], run_dir=folder, sampling=SHORT, batch_size=4,
            policy=tiny_policy(lora=dt.LoraSettings(rank=2), optimizer=optimizer), rewards=[lowercase],
        )  # fmt: skip

    lora_trainer(tmp_path / "whole").fit(8)
    lora_trainer(tmp_path / "cut").fit(6)
    again = lora_trainer(tmp_path / "cut")
    again.load_checkpoint()
    again.fit(8)
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")
    assert lines(tmp_path / "cut")[-1]["clipped/kl"] > 0


def test_an_evaluation_that_hangs_is_counted(tmp_path):
    """Its episodes are invalid after the deadline; an event loop may run around it, as in a notebook."""

    class Hanging:
        @dt.hookimpl
        def tasks(self, split):
            return [dt.Task.of("a", id="0")]

        @dt.hookimpl
        async def make(self):
            await asyncio.Event().wait()

    chosen = dt.TrainSettings(sampling=SHORT, reward_timeout=0.2)
    run = dt.Trainer("grpo", policy=tiny_policy(), environment=Hanging(), settings=chosen, run_dir=tmp_path / "run")

    async def notebook():
        return run.evaluate()

    assert asyncio.run(notebook())["eval/invalid"] == 1.0


def test_samples_are_written_whatever_the_input_is_called(tmp_path):
    """What counts is that the recipe reads prompts."""

    @dt.recipe
    def asked(policy, questions):
        completions = dt.generate(policy, questions, samples=2)
        policy_logprobs = dt.logprobs(policy, questions, completions, name="policy_logprobs")
        advantages = dt.advantages("group", dt.run_rewards(completions), name="advantages")
        dt.set_loss(dt.loss("clipped", advantages, policy_logprobs))

    policy, folder = tiny_policy(), tmp_path / "run"
    dt.Trainer(asked, policy=policy, prompts=["a"], rewards=[lowercase], sampling=SHORT, run_dir=folder).fit(1)
    assert list((folder / "rollouts").iterdir())


def test_lifecycle_hooks_are_called_in_order(tmp_path):
    """Every active part may listen; state is checkpointed."""
    seen = []

    @attrs.define(eq=False)
    class Listener:
        count: int = 0

        @dt.hookimpl
        def on_run_start(self, run):
            seen.append("start")

        @dt.hookimpl
        def on_rollouts(self, rollouts):
            seen.append(f"rollouts {len(rollouts)}")

        @dt.hookimpl
        def on_step_end(self, run, step):
            self.count += 1
            seen.append(f"step {step}")
            if step == 2:
                run.stop("enough")

        @dt.hookimpl
        def on_checkpoint(self, path):
            seen.append(path.name)

        @dt.hookimpl
        def on_run_end(self, outcome):
            seen.append(outcome)
            raise RuntimeError("too late to matter")

        def state_dict(self):
            return {"count": self.count}

        def load_state_dict(self, state):
            self.count = state["count"]

    run = trainer(tmp_path / "run", extensions=[Listener()], evaluate_every=2, evaluate_tasks=4)
    run.fit(5)
    assert seen == [
        "start", "step 0", "rollouts 8", "step 1", "rollouts 8", "step 2", "step-000002", "stopped: enough",
    ]  # fmt: skip
    assert "eval/reward" in lines(tmp_path / "run")[0]
    fresh = trainer(tmp_path / "run", extensions=[Listener()])
    fresh.load_checkpoint()
    assert fresh.extensions[0].instance.count == 3


def test_a_failing_logger_is_switched_off_and_the_run_goes_on(tmp_path):
    """It is reported once."""
    calls = []

    class Fragile:
        @dt.hookimpl
        def log_metrics(self, step, metrics):
            calls.append(step)
            raise OSError("disk gone")

    trainer(tmp_path / "run", loggers=[Fragile()]).fit(3)
    assert calls == [1]


def test_a_damaged_checkpoint_is_told(tmp_path):
    """Truncated, missing and foreign files name the way back."""
    trainer(tmp_path / "run").fit(4)
    newest = checkpoint.found(tmp_path / "run" / "checkpoints")[-1]
    weights = newest / "policy.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="is damaged or cut short") as error:
        dt.Trainer.resume(tmp_path / "run")
    assert f"remove {newest} to resume from the checkpoint before it" in str(error.value)
    weights.unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        dt.Trainer.resume(tmp_path / "run")
    with pytest.raises(CheckpointError, match="is no run"):
        dt.Trainer.resume(tmp_path)


def test_a_checkpoint_of_other_versions_is_told(tmp_path, monkeypatch):
    """The lock names what changed; --ignore-lock accepts it."""
    trainer(tmp_path / "run").fit(2)
    real = plugin_lock
    monkeypatch.setattr("dovetail_trainer.trainer.plugin_lock", lambda parts: {**real(parts), "core": "9.9"})
    with pytest.raises(CheckpointError, match=r"dovetail-core: 0\.1\.0 then, 9\.9 now"):
        dt.Trainer.resume(tmp_path / "run")
    assert dt.Trainer.resume(tmp_path / "run", ignore_lock=True).run.step == 2


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    """The error says what to do; nothing half-written stays."""
    run = trainer(tmp_path / "run")
    run.fit(2)
    monkeypatch.setattr(checkpoint, "_sync", lambda path: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(CheckpointError, match="No space left on device"):
        run.checkpoint()
    full = SafetensorError("I/O error: No space left on device (os error 28)")
    monkeypatch.setattr(checkpoint, "save_file", lambda tensors, path: (_ for _ in ()).throw(full))
    with pytest.raises(CheckpointError, match="No space left on device"):
        run.checkpoint()
    (only,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert checkpoint.load(only)["step"] == 2


def test_no_write_permission_is_told(tmp_path):
    """The run folder is tried before anything is computed."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        Run(blocked / "run", "x")


def test_trainers_refuse_what_does_not_fit(tmp_path):
    """Unknown settings, no prompts, no data, an empty data set."""
    with pytest.raises(RecipeError, match="did you mean 'batch_size'"):
        trainer(tmp_path / "run", batch_sise=3)
    with pytest.raises(DataError, match="needs prompts"):
        dt.Trainer("grpo", policy=tiny_policy(), rewards=[lowercase], run_dir=tmp_path / "a")
    with pytest.raises(DataError, match="prompts is empty"):
        dt.Trainer("grpo", policy=tiny_policy(), rewards=[lowercase], prompts=[], run_dir=tmp_path / "b")
    with pytest.raises(DataError, match="reads rows"):
        dt.Trainer("sft", policy=tiny_policy(), run_dir=tmp_path / "c")
    with pytest.raises(dt.DovetailError, match="needs an environment"):
        dt.Trainer("grpo", policy=tiny_policy(), rewards=[lowercase], prompts=["a"], run_dir=tmp_path / "d").evaluate()


def test_every_tenth_sample_fails_on_real_problems(tmp_path, gsm8k):
    """GSM8K, four rewards of which one is async and one fails: counted, written, finished."""
    run = dt.Trainer(
        dt.recipes["grpo"](group_size=2), policy=tiny_policy(context=1024), batch_size=16, run_dir=tmp_path / "run",
        environment=dt.environments.math(path=str(gsm8k), final_answer="last_number"), sampling=dt.Sampling(max_tokens=6),
        rewards=[dt.rewards.length(weight=0.1), lowercase, patient, every_tenth_fails], max_invalid=0.5,
    )  # fmt: skip
    run.fit(3)
    rates = [metrics["invalid/every_tenth_fails"] for metrics in lines(tmp_path / "run")]
    assert 0 < sum(rates) / 3 < 0.5
    assert {f"reward/{name}" for name in ("math", "length", "lowercase", "patient")} <= set(lines(tmp_path / "run")[0])
    assert list((tmp_path / "run" / "invalid").iterdir())


def test_a_folder_that_holds_a_run_is_not_mixed_with_another(tmp_path):
    """The second run is refused before it writes, and the first can still be continued."""
    chosen = {"prompts": ["a"], "rewards": [lowercase], "sampling": SHORT, "run_dir": tmp_path / "run"}
    first = dt.Trainer(dt.recipes["grpo"](group_size=2), policy=tiny_policy(), **chosen)
    first.fit(1)
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    with pytest.raises(dt.UserError, match="holds a run already") as caught:
        dt.Trainer(dt.recipes["grpo"](group_size=2), policy=tiny_policy(), **chosen).fit(1)
    assert "--resume" in caught.value.hint
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == before
    first.fit(2)
    assert first.run.step == 2
