"""How well the rules agree with people: pairs of arguments of which people found one more convincing."""

from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path

import pytest

from dovetail_debate.rules import score_argument

DATA = Path(__file__).parents[4] / "../shared/data/ukpconvarg"


def read_pairs():
    """Topic, stance file, whether the first was preferred, and the two arguments (UKPConvArg1Strict)."""
    for path in sorted(DATA.glob("UKPConvArg1Strict-CSV__*.csv")):
        stance = path.stem.partition("__")[2]
        for line in path.read_text(encoding="utf-8").splitlines()[1:]:
            if line.strip():
                _, label, first, second = line.split("\t")
                texts = [text.replace("<br/>", "\n") for text in (first, second)]
                yield stance, stance.replace("-", " ").replace("_", " "), label == "a1", *texts


def right(prefers_first, first, second):
    """1 if the greater score is the preferred one, 0.5 if they are equal."""
    return 0.5 if first == second else float((first > second) == prefers_first)


def bootstrapped(hits, rounds=1000):
    """A 95 % interval of the mean. Whole stances are drawn, because the pairs of one share their arguments."""
    rng, stances, means = random.Random(0), list(hits), []
    for _ in range(rounds):
        drawn = [hit for stance in rng.choices(stances, k=len(stances)) for hit in hits[stance]]
        means.append(sum(drawn) / len(drawn))
    means.sort()
    return means[int(0.025 * rounds)], means[int(0.975 * rounds)]


def test_the_rules_agree_with_people_more_often_than_length_does(capsys):
    """On all strict pairs; the interval of the difference to the better of two length baselines is above 0."""
    if not DATA.exists():
        pytest.skip(f"needs UKPConvArg1 at {DATA}")
    hits = {name: defaultdict(list) for name in ("rules", "characters", "words")}
    known = {}

    def total(text, topic):
        if (text, topic) not in known:
            known[text, topic] = score_argument(text, topic).total
        return known[text, topic]

    for stance, topic, label, first, second in read_pairs():
        scores = {
            "rules": (total(first, topic), total(second, topic)),
            "characters": (len(first), len(second)),
            "words": (len(first.split()), len(second.split())),
        }
        for name, pair in scores.items():
            hits[name][stance].append(right(label, *pair))
    flat = {name: [hit for found in by_stance.values() for hit in found] for name, by_stance in hits.items()}
    accuracy = {name: sum(found) / len(found) for name, found in flat.items()}
    best = max(("characters", "words"), key=accuracy.__getitem__)
    gain = {s: [a - b for a, b in zip(hits["rules"][s], hits[best][s], strict=True)] for s in hits["rules"]}
    low, high = bootstrapped(gain)
    with capsys.disabled():
        print(f"\n{len(flat['rules'])} strict pairs of UKPConvArg1, {len(gain)} stances")
        for name, value in accuracy.items():
            print("  {:<10} {:.3f}  [{:.3f}, {:.3f}]".format(name, value, *bootstrapped(hits[name])))
        print(f"  rules - {best}: {accuracy['rules'] - accuracy[best]:+.3f}  [{low:+.3f}, {high:+.3f}]")
    assert len(flat["rules"]) > 5000
    assert low > 0
    assert accuracy["rules"] > 0.79
