"""The words of a configuration, and the check that finds every mistake at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path as FilePath
from typing import Any, Literal

import attrs

from dovetail.errors import ConfigError, DovetailError, did_you_mean
from dovetail.parts import check_options
from dovetail.registry import registry
from dovetail.settings import LoraSettings, OptimizerSettings, TinySettings, TrainSettings
from dovetail.structure import converter, explain
from dovetail_trainer.config.own_code import is_own_code, register
from dovetail_trainer.settings import DataSettings

Path = tuple[str | int, ...]
Locate = Callable[[Path], str]


def parse_path(text: str) -> Path:
    """``rewards[0].target`` or ``rewards.0.target`` as steps."""
    return tuple(int(step) if step.isdigit() else step for step in re.findall(r"[^.\[\]']+", text))


def show(path: Path) -> str:
    """``rewards[0].target``"""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")


@attrs.frozen
class PartConfig:
    """``{use: name, weight: …, name: …, process: …, …options}``, or the name alone; ``process`` is of rewards."""

    use: str
    weight: Any = 1.0  # of a reward: a number, or the PartConfig of a part of kind weights
    name: str | None = None
    process: bool | None = None
    options: Mapping[str, Any] = attrs.field(factory=dict)


@attrs.frozen
class AgentConfig:
    """An agent: ``model`` or ``tiny``, and the options of ``dt.Agent``."""

    model: str | None = None
    tiny: TinySettings | None = None
    trainable: bool = False
    generator: Any = "native"  # a PartConfig once it is checked, if it was given
    lora: LoraSettings | None = None
    head: Literal["value"] | None = None
    objectives: tuple[str, ...] = ()
    optimizer: OptimizerSettings = attrs.field(factory=OptimizerSettings)
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = "float32"
    device: str = "auto"
    autocast: Literal["bfloat16", "float16"] | None = None
    gradient_checkpointing: bool = False
    share_prompts: bool = True
    trust_remote_code: bool = False


@attrs.frozen
class RunConfig:
    """A whole run. Every field of TrainSettings stands at the top level of a file."""

    algorithm: PartConfig
    policy: AgentConfig
    steps: int = 100
    agents: Mapping[str, AgentConfig] = attrs.field(factory=dict)
    environment: PartConfig | None = None
    data: DataSettings | None = None
    rewards: tuple[PartConfig, ...] = ()
    loggers: tuple[PartConfig, ...] = ()
    extensions: tuple[PartConfig, ...] = ()
    run_dir: str | None = None
    settings: TrainSettings = attrs.field(factory=TrainSettings)


def read_mapping(raw: Any, locate: Locate = lambda _: "", folder: FilePath = FilePath(), at: Path = ()) -> RunConfig:
    """Check a configuration; ``locate`` tells the place of a path, such as ``run.yaml:12``, for the ConfigError.

    Files of own code are relative to ``folder``. One that is part of a larger one stands there ``at`` a path.
    """
    return _Reader(locate, folder, at).read(raw)


def read_word(
    word: str, raw: Any, locate: Locate = lambda _: "", folder: FilePath = FilePath(), at: Path = ()
) -> tuple[Any, list[str]]:
    """Check what one word says, such as ``policy`` or ``rewards``, in a configuration of another kind.

    The word ``settings`` stands for a mapping of those of TrainSettings. Gives the value, and the mistakes in it.
    """
    reader = _Reader(locate, folder, at)
    return reader.word(word, raw), reader.mistakes


def _refused(target: Any, options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Pairs of option and message for values that a field's own validator refuses."""
    for field in attrs.fields(target) if attrs.has(target) else ():
        if field.validator is not None and field.alias in options:
            try:
                value = options[field.alias]
                field.validator(None, field, field.converter(value) if callable(field.converter) else value)
            except (ValueError, TypeError) as error:
                yield str(field.alias), str(error.args[0])
            except AttributeError:  # it looks at other fields too, and speaks when the part is made
                continue


class _Reader:
    """Reads plain data and collects what is wrong with it; the reader of a word takes its value and its path."""

    def __init__(self, locate: Locate, folder: FilePath, at: Path) -> None:
        self._locate, self._folder, self._at = locate, folder, at
        self.mistakes: list[str] = []
        self._words: dict[str, Callable[[Any, Path], Any]] = {
            "algorithm": partial(self._part, "recipes"),
            "environment": partial(self._part, "environments"),
            **{kind: partial(self._parts, kind) for kind in ("rewards", "loggers", "extensions")},
            "policy": self._agent,
            "agents": self._agents,
            "data": partial(self._typed, DataSettings),
            "steps": partial(self._typed, int),
            "run_dir": partial(self._typed, str),
        }

    def read(self, raw: Any) -> RunConfig:
        if not self._is_a(raw, (), Mapping):
            raise ConfigError(self.mistakes)
        settings = [field.name for field in attrs.fields(TrainSettings)]
        for key in raw:
            if key == "stages":
                self._mistake("`stages` make a pipeline, which `dovetail pipeline FILE` runs", (), key)
            elif key not in self._words and key not in settings:
                self._mistake(f"unknown option {key!r}, {did_you_mean(str(key), [*self._words, *settings])}", (), key)
        fields: dict[str, Any] = {}
        for key, read in self._words.items():
            required = key in ("algorithm", "policy")
            if required and key not in raw:
                self._mistake(f"the option {key!r} is required", ())
            elif required or raw.get(key) is not None:
                fields[key] = read(raw[key], (key,))
        if (steps := fields.get("steps")) is not None and steps < 1:
            self._mistake(f"steps must be at least 1, got {steps}", ("steps",))
        chosen = {key: raw[key] for key in settings if key in raw}
        fields["settings"] = self._typed(TrainSettings, chosen, ())
        if self.mistakes:
            raise ConfigError(self.mistakes)
        return RunConfig(**fields)

    def word(self, word: str, raw: Any) -> Any:
        return self._typed(TrainSettings, raw, ()) if word == "settings" else self._words[word](raw, (word,))

    def _mistake(self, text: str, path: Path, *key: str) -> None:
        """Note what is wrong at a path; a ``key`` that is the mistake itself gives the line and is not shown."""
        line = self._locate((*self._at, *path, *key))
        place = " ".join(filter(None, [show((*self._at, *path)), line and f"({line})"]))
        self.mistakes.append(f"{text}  at {place}" if place else text)

    def _is_a(self, raw: Any, path: Path, *kinds: type) -> bool:
        if not isinstance(raw, kinds):
            self._mistake(f"a {kinds[0].__name__.lower()} was expected, got {type(raw).__name__}", path)
        return isinstance(raw, kinds)

    def _typed(self, kind: Any, raw: Any, path: Path) -> Any:
        """Strictly; a mere string in the place of fields is the first of them."""
        if attrs.has(kind) and isinstance(raw, str):
            raw = {attrs.fields(kind)[0].name: raw}
        try:
            return converter().structure(raw, kind)
        except Exception as error:  # cattrs groups errors of many types; each becomes a line
            for inner, text in explain(error):
                self._mistake(text, (*path, *parse_path(inner)))
            return None

    def _part(self, kind: str, raw: Any, path: Path) -> Any:
        if isinstance(raw, str):
            raw = {"use": raw}
        if not isinstance(raw, Mapping) or not isinstance(raw.get("use"), str):
            self._mistake("a part is written {use: <name>, …options} or as its name", path)
            return None
        if kind == "recipes" and isinstance(preset := raw.get("preset"), str):
            raw = {**raw, "use": f"{raw['use']}-{preset}"}
            del raw["preset"]
        words = ("use", "weight", "name", *(["process"] if kind == "rewards" else []))
        own = {key: raw[key] for key in words if key in raw}
        options = {str(key): value for key, value in raw.items() if key not in own}
        try:
            if is_own_code(raw["use"]):
                own["use"], short = register(kind, raw["use"], self._folder)
                own.setdefault("name", short)
            target = registry(kind).target(own["use"])[0]
            mistakes, checked = check_options(target, options)
            for name, text in [*mistakes, *_refused(target, checked)]:
                if text.startswith("unknown"):
                    self._mistake(text, path, name)
                else:
                    self._mistake(text, (*path, name) if name in options else path)
        except DovetailError as error:
            self._mistake(", ".join(filter(None, [error.what, error.hint])), path, "use")
        if "weight" in own:
            own["weight"] = self._weight(own["weight"], (*path, "weight"))
        return self._typed(PartConfig, {**own, "options": options}, path)

    def _weight(self, raw: Any, path: Path) -> Any:
        return self._part("weights", raw, path) if isinstance(raw, str | Mapping) else self._typed(float, raw, path)

    def _parts(self, kind: str, raw: Any, path: Path) -> tuple[PartConfig, ...]:
        if not self._is_a(raw, path, list, tuple):
            return ()
        return tuple(self._part(kind, part, (*path, index)) for index, part in enumerate(raw))

    def _agent(self, raw: Any, path: Path) -> AgentConfig | None:
        if isinstance(raw, Mapping) and raw.get("tiny") is True:
            raw = {**raw, "tiny": {}}
        agent: AgentConfig | None = self._typed(AgentConfig, raw, path)
        if agent is None:
            return None
        if (agent.model is None) == (agent.tiny is None):
            self._mistake("an agent needs either `model` or `tiny`", path)
        if "generator" not in raw:  # the default need not be installed where nothing is sampled
            return agent
        return attrs.evolve(agent, generator=self._part("generators", agent.generator, (*path, "generator")))

    def _agents(self, raw: Any, path: Path) -> dict[str, AgentConfig | None]:
        return {name: self._agent(raw[name], (*path, name)) for name in raw} if self._is_a(raw, path, Mapping) else {}
