"""Does ppo with a learnt reward model make film reviews kinder, and stay near what it was?

python benchmarks/sentiment.py --data rt-polarity --out benchmarks/results/sentiment.md

The folder holds ``rt-polarity.pos`` and ``rt-polarity.neg``: 10,662 sentences of film reviews (Pang and Lee 2005). A tiny
model over whole words learns to go on from the first three words of a sentence; a reward model learns which of two
continuations is a positive sentence's; then ppo follows the reward model. What it wrote is judged by somebody else: a
classifier over whole sentences of another half of the data, which neither of the two has seen. Prompts of the evaluation
are of sentences that no stage has seen. The exit status is 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import platform
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

import dovetail as dt
from dovetail_trainer.data import encode_rows
from dovetail_trainer.layouts import layout_of

WORDS, OPENING, LENGTH = 2000, 3, 12  # vocabulary; words of a prompt; most words of an answer
NATS, GAIN = 10.0, 0.1  # the goals: at most so far from the start, and so many more positive answers
HELD_OUT = 512
Sentence = tuple[list[str], bool]  # words, and whether it is positive


def sentences(folder: Path, seed: int) -> list[Sentence]:
    """All, in a random order."""
    found = [
        (line.split(), name == "pos")
        for name in ("pos", "neg")
        for line in (folder / f"rt-polarity.{name}").read_text(encoding="latin-1").splitlines()
        if len(line.split()) > OPENING + 2
    ]
    random.Random(seed).shuffle(found)
    return found


def reader(known: list[Sentence], folder: Path) -> None:
    """A random model, and a tokenizer of the most frequent words, in the Hugging Face layout."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    counts = Counter(word for words, _ in known for word in words)
    names = ["<pad>", "<end>", "<rare>", *(word for word, _ in counts.most_common(WORDS))]
    split = Tokenizer(models.WordLevel({name: token for token, name in enumerate(names)}, unk_token="<rare>"))
    split.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "eos_token": "<end>", "unk_token": "<rare>"}
    PreTrainedTokenizerFast(tokenizer_object=split, **special).save_pretrained(folder)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(
        vocab_size=len(names), max_position_embeddings=64, pad_token_id=0, eos_token_id=1, bos_token_id=None, **shape
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def opened(sentence: Sentence) -> tuple[str, str]:
    """The prompt, and how the sentence goes on."""
    words = sentence[0]
    return " ".join(words[:OPENING]), " ".join(words[OPENING : OPENING + LENGTH])


def agent(folder: Path, lr: float, **options: Any) -> dt.Agent:
    return dt.Agent(str(folder), trainable=True, optimizer=dt.OptimizerSettings(lr=lr), **options)


def imitate(start: Path, known: list[Sentence], steps: int, out: Path) -> None:
    """A language model of the answers."""
    policy = agent(start, 3e-3)
    compiled = dt.compile("sft", policy=policy)
    draw = random.Random(0)
    for _ in range(steps):
        rows = [dict(zip(("prompt", "completion"), opened(each), strict=True)) for each in draw.sample(known, 64)]
        compiled.run(demonstrations=encode_rows(rows, policy))
    policy.save(out)


def rank(start: Path, known: list[Sentence], steps: int, out: Path) -> float:
    """A reward model, and how often it prefers the positive one of two held-out continuations."""
    judge = agent(start, 1e-3, head="value")
    compiled = dt.compile("reward-model", policy=judge)
    draw = random.Random(1)
    kind, harsh = ([each for each in known if each[1] is positive] for positive in (True, False))
    unseen = min(len(kind), len(harsh)) // 10

    def pairs(count: int, *, held_out: bool) -> Any:
        chosen, rejected = (draw.sample(side[:unseen] if held_out else side[unseen:], count) for side in (kind, harsh))
        prompts = [opened(draw.choice(pair))[0] for pair in zip(chosen, rejected, strict=True)]
        rows = [
            {"prompt": prompt, "chosen": opened(better)[1], "rejected": opened(worse)[1]}
            for prompt, better, worse in zip(prompts, chosen, rejected, strict=True)
        ]
        return encode_rows(rows, judge, layout_of("pairs"))

    for _ in range(steps):
        compiled.run(pairs=pairs(32, held_out=False))
    told = compiled.learn(compiled.collect(pairs=pairs(unseen, held_out=True)), update=False)
    judge.save(out)
    return next(value for name, value in told.items() if name.endswith("/accuracy"))


def classifier(known: list[Sentence]) -> tuple[Any, float]:
    """Logistic regression over the words of a sentence, and how often it is right about others."""
    counts = Counter(word for words, _ in known for word in set(words))
    places = {word: place for place, word in enumerate(word for word, count in counts.items() if count > 1)}

    def features(texts: list[list[str]]) -> torch.Tensor:
        rows = torch.zeros(len(texts), len(places))
        for row, words in enumerate(texts):
            rows[row, [places[word] for word in set(words) if word in places]] = 1.0
        return rows

    cut = len(known) * 9 // 10
    inputs, labels = features([words for words, _ in known]), torch.tensor([float(positive) for _, positive in known])
    torch.manual_seed(0)
    model = torch.nn.Linear(len(places), 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02, weight_decay=1e-4)
    for _ in range(80):
        optimizer.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(model(inputs[:cut])[:, 0], labels[:cut]).backward()
        optimizer.step()

    def positive(texts: list[str]) -> torch.Tensor:
        with torch.no_grad():
            return model(features([text.split() for text in texts]))[:, 0] > 0

    right = (positive([" ".join(words) for words, _ in known[cut:]]) == labels[cut:].bool()).float().mean().item()
    return positive, right


def positive_rate(policy: dt.Agent, prompts: list[str], positive: Any) -> tuple[float, list[str]]:
    """Of one answer to each prompt, at temperature 1."""
    asked = policy.encode([dt.Task.of(prompt, id=str(row)) for row, prompt in enumerate(prompts)])
    generated = policy.generate(asked, 1, dt.Sampling(max_tokens=LENGTH), torch.arange(len(prompts)))
    texts = [policy.decode(row) for row in generated.completions.tolist()]
    return positive(
        [f"{prompt} {text}" for prompt, text in zip(prompts, texts, strict=True)]
    ).float().mean().item(), texts


def reinforce(language: Path, judge: Path, prompts: list[str], steps: int) -> tuple[dt.Agent, list[float]]:
    """PPO against the reward model, and the KL to the start in nats for each answer, by step."""
    policy, critic = agent(language, 1e-3), agent(judge, 1e-3, head="value")
    compiled = dt.compile(
        dt.recipes.ppo(epochs=2, kl_coef=0.15), policy=policy, value_model=critic,
        ref_policy=dt.Agent(str(language)), rewards=[dt.rewards["reward-model"](models=[str(judge)])],
        sampling=dt.Sampling(max_tokens=LENGTH),
    )  # fmt: skip
    draw = random.Random(2)
    return policy, [compiled.run(prompts=draw.sample(prompts, 64))["gae/kl"] for _ in range(steps)]


def one(data: Path, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    torch.manual_seed(seed)
    everything, started = sentences(data, seed), time.perf_counter()
    half = len(everything) // 2
    ours, theirs = everything[:half], everything[half:]
    positive, right = classifier(theirs)
    unseen, known = [opened(each)[0] for each in ours[:HELD_OUT]], ours[HELD_OUT:]
    with tempfile.TemporaryDirectory() as root:
        folders = [Path(root) / name for name in ("random", "language", "judge")]
        reader(known, folders[0])
        imitate(folders[0], known, arguments.imitation, folders[1])
        accuracy = rank(folders[1], known, arguments.ranking, folders[2])
        before, _ = positive_rate(dt.Agent(str(folders[1])), unseen, positive)
        policy, nats = reinforce(folders[1], folders[2], [opened(each)[0] for each in known], arguments.steps)
        after, texts = positive_rate(policy, unseen, positive)
    return {
        "judge": right, "ranks": accuracy, "before": before, "after": after, "nats": max(nats), "last": nats[-1],
        "seconds": time.perf_counter() - started, "samples": list(zip(unseen, texts, strict=True))[:3],
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with rt-polarity.pos and rt-polarity.neg")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--imitation", type=int, default=400, help="steps of sft")
    parser.add_argument("--ranking", type=int, default=150, help="steps of the reward model")
    parser.add_argument("--steps", type=int, default=80, help="steps of ppo")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        "| seed | judge is right | reward model ranks | positive before | positive after | most KL, nats | seconds |"
    ]
    lines.append("|---|" + "---|" * 6)
    results = []
    for seed in arguments.seeds:
        results.append(found := one(arguments.data, seed, arguments))
        shown = " | ".join(f"{found[key]:.2f}" for key in ("judge", "ranks", "before", "after", "nats"))
        lines.append(f"| {seed} | {shown} | {found['seconds']:.0f} |")
        print(lines[-1], found["samples"], flush=True)
    machine = f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, one thread, torch {torch.__version__}."
    page = [
        "# Film reviews, by ppo and a learnt reward model", "", machine, "",
        "    python benchmarks/sentiment.py --data rt-polarity", "", *lines, "",
        f"{arguments.imitation} steps of sft, {arguments.ranking} of the reward model, {arguments.steps} of ppo.",
        f"The positive rate is that of one answer, at temperature 1, to each of {HELD_OUT}",
        "held-out openings, by a classifier that nothing was trained on, which is itself right as often as the table says.",
        "The KL is to the policy at the start, summed over an answer of at most 12 words, and the largest of any step.",
        "", *(f"- {prompt} … {text}" for prompt, text in results[0]["samples"]), "",
    ]  # fmt: skip
    if arguments.out:
        arguments.out.write_text("\n".join(page), encoding="utf-8")
    met = all(found["after"] - found["before"] >= GAIN and found["nats"] <= NATS for found in results)
    gain = statistics.fmean(found["after"] - found["before"] for found in results)
    print("\n".join(page), f"mean gain {gain:+.2f}, goals {'met' if met else 'missed'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
