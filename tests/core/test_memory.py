"""Nothing of size tokens times vocabulary is ever whole: a step under a hard memory limit."""

import subprocess
import sys

import pytest

STEP = """
import resource, tempfile
import torch
import dovetail as dt

torch.set_num_threads(1)
policy = dt.Agent.tiny(hidden=256, layers=2, trainable=True, characters="".join(map(chr, range(0x3400, 0x3400 + 32_000))))
dt.rewards.register("length-of", lambda completions: completions.lengths.float() + torch.rand(len(completions)))
trainer = dt.Trainer(
    dt.recipes.grpo(group_size=8), policy=policy, prompts=["\u4e00\u4e01"] * 8, rewards=["length-of"], batch_size=8,
    sampling=dt.Sampling(max_tokens={tokens}, min_tokens={tokens}), checkpoint_every=0, rollouts_every=0,
    run_dir=tempfile.mkdtemp(),
)
trainer.compiled.run(prompts=["\u4e00"], seed=0)  # gradients and optimizer state exist from here on
state = 4 * sum(parameter.numel() * parameter.element_size() for parameter in policy.model.parameters())
in_use = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (in_use + 2 * state,) * 2)
metrics = trainer.step()
assert metrics["tokens"] == 64 * {tokens}, metrics["tokens"]
print(round(state / 2**20), "MB of state")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit on address space is Linux's")
def test_a_step_fits_in_three_times_its_state():
    """4,096 sampled tokens, a vocabulary of 32,000: all logits in float32 alone would be twice the state."""
    done = subprocess.run([sys.executable, "-c", STEP.replace("{tokens}", "64")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
