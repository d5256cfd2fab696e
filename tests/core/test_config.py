"""Configuration: the same words in every format, all mistakes at once, each with its path and line."""

from __future__ import annotations

import json

import attrs
import pytest

import dovetail as dt
from dovetail.errors import ConfigError, UserError
from dovetail.structure import Mistake, read_value
from dovetail_trainer.cli.main import main
from dovetail_trainer.config.build import build, describe_run
from dovetail_trainer.config.load import load, read_mapping

YAML = """
algorithm: {use: grpo, group_size: 4}
policy:
  tiny: {hidden: 16, layers: 1, heads: 2}
  optimizer: {lr: 1e-3}
environment: {use: math, digits: 1}
rewards:
  - {use: length, weight: 0.5, target: 9}
loggers: [console]
steps: 7
sampling: {max_tokens: 5, temperature: 0.8}
"""
WORDS = {
    "algorithm": {"use": "grpo", "group_size": 4},
    "policy": {"tiny": {"hidden": 16, "layers": 1, "heads": 2}, "optimizer": {"lr": 1e-3}},
    "environment": {"use": "math", "digits": 1},
    "rewards": [{"use": "length", "weight": 0.5, "target": 9}],
    "loggers": ["console"],
    "steps": 7,
    "sampling": {"max_tokens": 5, "temperature": 0.8},
}
TOML = """
steps = 7
loggers = ["console"]
algorithm = {use = "grpo", group_size = 4}
environment = {use = "math", digits = 1}
rewards = [{use = "length", weight = 0.5, target = 9}]
sampling = {max_tokens = 5, temperature = 0.8}
[policy]
tiny = {hidden = 16, layers = 1, heads = 2}
optimizer = {lr = 1e-3}
"""


def write(tmp_path, text, name="run.yaml"):
    path = tmp_path / name
    path.write_text(text)
    return path


def mistakes(path, *overrides) -> list[str]:
    with pytest.raises(ConfigError) as error:
        load(path, overrides)
    return list(error.value.mistakes)


def test_every_format_says_the_same(tmp_path):
    """YAML 1.2, TOML, JSON and Python give equal configurations."""
    expected = read_mapping(WORDS)
    assert expected.policy.optimizer.lr == 1e-3
    for name, text in (
        ("run.yaml", YAML), ("run.toml", TOML), ("run.json", json.dumps(WORDS)), ("run.py", f"config = {WORDS!r}"),
    ):  # fmt: skip
        assert load(write(tmp_path, text, name)) == expected, name


def test_all_mistakes_are_told_at_once_with_path_and_line(tmp_path):
    """Unknown options and parts, wrong types, a part of another kind."""
    path = write(
        tmp_path,
        "algorithm: {use: grpo, group_sise: 8}\n"
        "policy:\n  tiny: {hidden: 64}\n  optimizer: {lr: fast}\n"
        "environment: {use: length}\n"
        "rewards:\n  - {use: length, tagret: 3}\n  - lengh\n  - {weight: 2}\n"
        "batch_size: 3.5\nsamplng: {}\nloggers: console\n",
    )
    assert mistakes(path) == [
        "unknown option 'samplng', did you mean 'sampling'?  at (run.yaml:11)",
        "unknown option 'group_sise', did you mean 'group_size'?  at algorithm (run.yaml:1)",
        "no environments part is named 'length', 'length' is installed as a part of kind rewards, not environments"
        "  at environment (run.yaml:5)",
        "unknown option 'tagret', did you mean 'target'?  at rewards[0] (run.yaml:7)",
        "no rewards part is named 'lengh', did you mean 'length'?  at rewards[1] (run.yaml:8)",
        "a part is written {use: <name>, …options} or as its name  at rewards[2] (run.yaml:9)",
        "a list was expected, got str  at loggers (run.yaml:12)",
        "expected float, got str 'fast'  at policy.optimizer.lr (run.yaml:4)",
        "expected int, got float 3.5  at batch_size (run.yaml:10)",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("policy=null", "expected options of AgentConfig, got NoneType None"),
        ("steps=0", "steps must be at least 1"),
        ("policy.tiny=null", "an agent needs either `model` or `tiny`"),
        ("algorithm.group_size=many", "expected int, got str 'many'"),
        ("algorithm.clip=true", "expected float, got bool True"),
        ("loggers.0.metrics=reward", "option 'metrics': expected a list, got str 'reward'"),
        ("rewards.0.target=-1", "'target' must be > 0"),
        ("rewards.3.target=1", "there is no entry 3"),
        ("sampling.top_p=0", "'top_p' must be > 0"),
        ("steps", "--set needs path=value"),
        ("policy.head=vlaue", "value"),
    ],
)
def test_overrides_are_checked_as_the_file_is(tmp_path, change, message):
    """--set changes the words before they are checked, and shows itself in the error."""
    path = write(tmp_path, YAML)
    if change == "rewards.0.target=-1":
        with pytest.raises(UserError, match=message):
            build(load(path, [change]))
    else:
        assert any(message in line for line in mistakes(path, change)), mistakes(path, change)


def test_what_a_part_refuses_is_told_with_the_rest(tmp_path):
    """A value that its validator refuses, beside another mistake; each with its line."""
    text = YAML.replace("[console]", "[{use: console, every: 0}]") + "batch_sise: 3\n"
    refused, unknown = sorted(mistakes(write(tmp_path, text)), key=len)
    assert refused == "'every' must be >= 1: 0  at loggers[0].every (run.yaml:9)"
    assert unknown.startswith("unknown option 'batch_sise'")


OWN = """
import attrs
import dovetail as dt

def brief(completions):
    return -completions.lengths.float()

@attrs.frozen
class Near:
    "Score by distance."
    target: int = 3

    @dt.hookimpl
    def score(self, completions):
        return -(completions.lengths - self.target).abs().float()
"""


def test_a_part_of_an_own_file_needs_no_package(tmp_path, monkeypatch):
    """`use: rewards.py:brief`, relative to the configuration; it trains, and a resume from elsewhere finds it."""
    (tmp_path / "rewards.py").write_text(OWN)
    rewards = ["rewards.py:brief", {"use": "rewards.py:Near", "target": 2, "weight": 0.5}]
    file = write(tmp_path, json.dumps({**WORDS, "rewards": rewards}), "run.json")
    trainer = build(load(file), run_dir=tmp_path / "run")
    assert {"reward/brief", "reward/Near"} <= trainer.fit(1).keys()
    monkeypatch.chdir("/")
    assert dt.Trainer.resume(tmp_path / "run").fit(2).keys() >= {"reward/brief", "reward/Near"}


@pytest.mark.parametrize(
    ("use", "message"),
    [
        ("rewards.py:breif", r"defines no 'breif', did you mean 'brief'\?  at rewards\[0\]"),
        ("gone.py:brief", r"gone\.py does not exist, a path is relative to the configuration  at rewards\[0\]"),
        ("broken.py:brief", r"broken\.py cannot be loaded: ZeroDivisionError"),
    ],
)
def test_mistakes_in_own_files_are_told(tmp_path, use, message):
    """No such name, no such file, a file that fails."""
    (tmp_path / "rewards.py").write_text(OWN)
    (tmp_path / "broken.py").write_text("1 / 0\n")
    with pytest.raises(ConfigError, match=message):
        load(write(tmp_path, json.dumps({**WORDS, "rewards": [use]}), "run.json"))


def test_overrides_reach_every_depth(tmp_path):
    """Values are YAML; missing mappings are made; a bare part name becomes a mapping."""
    path = write(tmp_path, YAML)
    config = load(
        path,
        [
            "algorithm.group_size=16",
            "rewards.0.weight=2",
            "data.path=x.jsonl",
            "policy.lora.rank=4",
            "loggers.0.every=5",
        ],
    )
    assert config.algorithm.options["group_size"] == 16
    assert config.rewards[0].weight == 2.0
    assert config.data.path == "x.jsonl"
    assert config.policy.lora.rank == 4
    assert config.loggers[0].options == {"every": 5}


def test_files_that_cannot_be_read_are_told(tmp_path):
    """Missing, of an unknown format, broken, empty of meaning."""
    with pytest.raises(UserError, match="cannot be read"):
        load(tmp_path / "nothing.yaml")
    with pytest.raises(UserError, match=r"one of \.yaml"):
        load(write(tmp_path, "", "run.ini"))
    assert (
        "run.yaml:1" in mistakes(write(tmp_path, "a: [1,\nb: }"))[0]
        or "run.yaml:2" in mistakes(tmp_path / "run.yaml")[0]
    )
    assert "run.json" in mistakes(write(tmp_path, "{", "run.json"))[0]
    assert "defines no `config`" in mistakes(write(tmp_path, "x = 1", "run.py"))[0]
    assert "a mapping was expected, got list" in mistakes(write(tmp_path, "[1]", "run.json"))[0]
    assert "the option 'algorithm' is required" in mistakes(write(tmp_path, "steps: 3"))[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("algorithm=null", "a part is written {use: <name>, …options} or as its name  at algorithm"),
        ("agents=[a]", "a mapping was expected, got list  at agents (--set agents=[a])"),
        ("rewards.0.name=3", "expected str, got int 3  at rewards[0].name (--set rewards.0.name=3)"),
        ("rewards[0].target=many", "got str 'many'  at rewards[0].target (--set rewards[0].target=many)"),
        (
            "policy.lora={target_modules: [q, 1]}",
            "expected str, got int 1  at policy.lora.target_modules[1] (--set policy",
        ),
        ("steps.half=1", "7 has nothing below it, so no 'half'  at (--set steps.half=1)"),
        ("rewards=[1", "at (--set rewards=[1)"),
    ],
)
def test_no_mistake_of_shape_passes_for_a_crash(tmp_path, change, message):
    """Null, a list for a mapping, a step below a number, broken YAML: each is told with its place."""
    assert any(message in line for line in mistakes(write(tmp_path, YAML), change)), mistakes(
        tmp_path / "run.yaml", change
    )


def test_text_that_is_none_is_told(tmp_path):
    """Bytes that are not UTF-8, and characters that YAML forbids."""
    (tmp_path / "run.yaml").write_bytes(b"a: \xff")
    assert "run.yaml: 'utf-8' codec can't decode" in mistakes(tmp_path / "run.yaml")[0]
    assert "special characters are not allowed" in mistakes(write(tmp_path, "a: \x01"))[0]


def test_lines_are_found_in_toml_and_python_too(tmp_path):
    """Best effort: where the keys of the path follow one another, through the heads of tables."""
    toml = TOML + "[policy.lora]\nrank = 'x'\n"
    assert mistakes(write(tmp_path, toml, "run.toml")) == [
        f"expected int, got str 'x'  at policy.lora.rank (run.toml:{toml.count(chr(10))})"
    ]
    python = f"config = dict({WORDS!r})\nconfig['batch_size'] = 'x'\n"
    assert mistakes(write(tmp_path, python, "run.py")) == ["expected int, got str 'x'  at batch_size (run.py:2)"]


def test_lines_are_found_in_json_too(tmp_path):
    """Best effort: the line of the key."""
    path = write(tmp_path, json.dumps({**WORDS, "batch_sise": 3}, indent=1), "run.json")
    number = path.read_text().splitlines().index(' "batch_sise": 3') + 1
    assert mistakes(path) == [f"unknown option 'batch_sise', did you mean 'batch_size'?  at (run.json:{number})"]


def test_a_trainer_describes_itself_in_the_words_that_build_it(tmp_path):
    """describe -> read -> build -> describe is a fixed point."""
    trainer = build(read_mapping(WORDS), run_dir=tmp_path / "a")
    words = json.loads(json.dumps(describe_run(trainer)))
    again = build(read_mapping(words), run_dir=tmp_path / "b")
    assert describe_run(again) == describe_run(trainer)
    assert words["rewards"] == [{"use": "length", "weight": 0.5, "target": 9, "limit": None, "buffer": None}]


@attrs.frozen
class Nested:
    sizes: tuple[int, ...] = ()
    inner: dt.Sampling = attrs.field(factory=dt.Sampling)


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (3.7, int, "expected int, got float 3.7"),
        ("false", bool, "expected bool, got str 'false'"),
        (True, int, "expected int, got bool True"),
        (1, str, "expected str, got int 1"),
        ({"sizes": [1, "a"]}, Nested, "sizes[1]: expected int, got str 'a'"),
        ({"inner": {"top_p": 3}}, Nested, "inner: 'top_p' must be <= 1"),
        ({"innr": {}}, Nested, "did you mean 'inner'?"),
        (7, Nested, "expected options of Nested, got int 7"),
        ("think", tuple[str, ...], "expected a list, got str 'think'"),
        ("think", list[str] | None, "expected a list, got str 'think'"),
        ("think", frozenset[str], "expected a list, got str 'think'"),
        ({"think": 1}, tuple[str, ...], "expected a list, got dict {'think': 1}"),
        (None, tuple[str, ...], "expected a list, got NoneType None"),
        ([["a"], "bc"], tuple[tuple[str, ...], ...], "[1]: expected a list, got str 'bc'"),
    ],
)
def test_values_are_read_strictly(value, kind, message):
    """Nothing is rounded, nothing is guessed, and inner paths are shown."""
    with pytest.raises(Mistake) as error:
        read_value(value, kind)
    assert message in str(error.value)


def test_what_fits_is_read():
    """int to float is the one conversion; ready instances pass."""
    assert read_value(1, float) == 1.0
    assert read_value({"sizes": [1, 2]}, Nested) == Nested(sizes=(1, 2))
    assert read_value(Nested(), Nested) == Nested()
    assert read_value(None, int | None) is None
    for kind in (tuple, list, set, frozenset):
        assert read_value(["a", "b"], kind[str, ...] if kind is tuple else kind[str]) == kind(["a", "b"])
    assert read_value(len, object) is len


def test_train_from_the_command_line(tmp_path, capsys):
    """train, rollouts, --resume, and the exit codes."""
    path = write(
        tmp_path, YAML.replace("loggers: [console]", "loggers: [jsonl]") + "batch_size: 2\ncheckpoint_every: 2\n"
    )
    run = tmp_path / "run"
    assert main(["train", str(path), "--set", f"run_dir={run}", "--steps", "3"]) == 0
    assert "3 steps done" in capsys.readouterr().out
    assert main(["train", "--resume", str(run), "--steps", "4"]) == 0
    assert main(["rollouts", str(run), "--limit", "1"]) == 0
    shown = capsys.readouterr().out
    assert "8 samples, 1 shown" in shown
    assert "completion" in shown
    assert main(["rollouts", str(run), "--step", "99"]) == 2
    assert "there are steps 000001 to 000004" in capsys.readouterr().err
    assert main(["rollouts", str(tmp_path)]) == 2
    assert main(["train"]) == 2
    assert main(["train", "--resume", str(run), "--set", "a=b"]) == 2
    assert main(["train", str(path), "--set", "steps=x"]) == 2
    assert "expected int, got str 'x'  at steps (--set steps=x)" in capsys.readouterr().err


def test_describe_shows_options_and_needs(capsys):
    """Text and JSON; kinds by singular and plural; near misses."""
    assert main(["describe", "rewards"]) == 0
    assert "length" in capsys.readouterr().out.split()
    assert main(["describe", "reward", "length"]) == 0
    text = capsys.readouterr().out
    assert "target: int | None = None" in text
    assert "score needs: completions" in text
    assert main(["describe", "recipes", "grpo", "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert described["options"][0]["name"] == "group_size"
    assert main(["describe", "rewrds", "length"]) == 2
    assert "did you mean 'rewards'?" in capsys.readouterr().err


def test_errors_fill_one_screen_and_no_more(capsys, monkeypatch):
    """Exit codes, near misses, no traceback unless asked for."""
    assert main([]) == 0
    assert main(["--version"]) == 0
    assert main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.partition("\n{")[2].join(["{", ""]))["torch"]
    assert main(["trian"]) == 2
    assert "did you mean 'train'?" in capsys.readouterr().err
    assert main(["train", "--nonsense"]) == 2

    def explode(arguments):
        raise RuntimeError("boom")

    monkeypatch.setattr("dovetail_trainer.cli.info.run", explode)
    assert main(["info"]) == 1
    assert "RuntimeError: boom" in capsys.readouterr().err
    with pytest.raises(RuntimeError):
        main(["info", "--traceback"])
    monkeypatch.setattr("dovetail_trainer.cli.info.run", lambda arguments: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(["info"]) == 130
