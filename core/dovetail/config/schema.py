"""The words of a configuration, and the check that finds every mistake at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import attrs
from attrs.validators import ge, instance_of

from dovetail.errors import ConfigError, DovetailError, OptionError, did_you_mean
from dovetail.graph.recipe import as_recipe
from dovetail.parts import check_options
from dovetail.registry import registry
from dovetail.settings import DataSettings, LoraSettings, OptimizerSettings, TinySettings, TrainSettings
from dovetail.structure import converter, explain

Path = tuple[str | int, ...]
Locate = Callable[[Path], str]


@attrs.frozen
class PartConfig:
    """``{use: name, weight: …, name: …, …options}``, or the name alone."""

    use: str
    weight: float = 1.0
    name: str | None = None
    options: Mapping[str, Any] = attrs.field(factory=dict)


@attrs.frozen
class AgentConfig:
    """An agent: ``model`` or ``tiny``, and the options of ``dt.Agent``."""

    model: str | None = None
    tiny: TinySettings | None = None
    trainable: bool = False
    generator: Any = "native"
    lora: LoraSettings | None = None
    head: Literal["value"] | None = None
    optimizer: OptimizerSettings = attrs.field(factory=OptimizerSettings)
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = "float32"
    device: str = "auto"
    autocast: Literal["bfloat16", "float16"] | None = None
    gradient_checkpointing: bool = False
    trust_remote_code: bool = False


@attrs.frozen
class RunConfig:
    """A whole run. Every field of TrainSettings stands at the top level of a file."""

    algorithm: PartConfig
    policy: AgentConfig
    steps: int = attrs.field(default=100, validator=[instance_of(int), ge(1)])
    agents: Mapping[str, AgentConfig] = attrs.field(factory=dict)
    environment: PartConfig | None = None
    data: DataSettings | None = None
    rewards: tuple[PartConfig, ...] = ()
    loggers: tuple[PartConfig, ...] = ()
    extensions: tuple[PartConfig, ...] = ()
    run_dir: str | None = None
    settings: TrainSettings = attrs.field(factory=TrainSettings)


_KIND_OF = {"algorithm": "recipes", "environment": "environments"}
_LISTS = ("rewards", "loggers", "extensions")


class Checker:
    """Reads plain data into a RunConfig and collects what is wrong with it.

    Args:
        locate: Path in the configuration to a text such as ``run.yaml:12``.
    """

    def __init__(self, locate: Locate = lambda _: "") -> None:
        self._locate = locate
        self.mistakes: list[str] = []

    def read(self, raw: Any) -> RunConfig:
        """Read a configuration.

        Raises:
            ConfigError: With every mistake, its path and its line.
        """
        if not isinstance(raw, Mapping):
            raise ConfigError([f"a mapping was expected, got {type(raw).__name__}{self._place(())}"])
        settings_names = [field.name for field in attrs.fields(TrainSettings)]
        own_names = [field.name for field in attrs.fields(RunConfig) if field.name != "settings"]
        for key in raw:
            if key not in settings_names and key not in own_names:
                self.mistake(
                    (key,), f"unknown option {key!r}, {did_you_mean(str(key), [*own_names, *settings_names])}", own=True
                )
        fields: dict[str, Any] = {}
        for key in ("algorithm", "policy"):
            if key not in raw:
                self.mistake((), f"the option {key!r} is required")
        for key, kind in _KIND_OF.items():
            if raw.get(key) is not None:
                fields[key] = self._part(kind, raw[key], (key,))
        for key in _LISTS:
            if raw.get(key) is not None:
                fields[key] = self._parts(key, raw[key])
        if "policy" in raw:
            fields["policy"] = self._agent(raw["policy"], ("policy",))
        if raw.get("agents"):
            fields["agents"] = {name: self._agent(value, ("agents", name)) for name, value in raw["agents"].items()}
        if raw.get("data") is not None:
            data = {"path": raw["data"]} if isinstance(raw["data"], str) else raw["data"]
            fields["data"] = self._typed(data, DataSettings, ("data",))
        for key, primitive in (("steps", int), ("run_dir", str)):
            if raw.get(key) is not None:
                fields[key] = self._typed(raw[key], primitive, (key,))
        chosen = {key: value for key, value in raw.items() if key in settings_names}
        fields["settings"] = self._typed(chosen, TrainSettings, ())
        if isinstance(fields.get("steps"), int) and fields["steps"] < 1:
            self.mistake(("steps",), f"steps must be at least 1, got {fields['steps']}")
        if self.mistakes:
            raise ConfigError(self.mistakes)
        return RunConfig(**fields)

    def mistake(self, path: Path, text: str, *, own: bool = False) -> None:
        """Note one. ``own`` says that the last step of the path is the mistake itself, so its parent is shown."""
        self.mistakes.append(text + self._place(path, own=own))

    def _place(self, path: Path, *, own: bool = False) -> str:
        line = self._locate(path)
        shown = show(path[:-1] if own else path)
        place = " ".join(filter(None, [shown, f"({line})" if line else ""]))
        return f"  at {place}" if place else ""

    def _parts(self, key: str, raw: Any) -> tuple[PartConfig, ...]:
        if not isinstance(raw, list | tuple):
            self.mistake((key,), f"a list was expected, got {type(raw).__name__}")
            return ()
        found = (self._part(key, value, (key, index)) for index, value in enumerate(raw))
        return tuple(part for part in found if part is not None)

    def _part(self, kind: str, raw: Any, path: Path) -> PartConfig | None:
        if isinstance(raw, str):
            raw = {"use": raw}
        if not isinstance(raw, Mapping) or not isinstance(raw.get("use"), str):
            self.mistake(path, "a part is written {use: <name>, …options} or as its name")
            return None
        core = ("use", "weight", "name")
        options = {key: value for key, value in raw.items() if key not in core}
        weight = self._typed(raw.get("weight", 1.0), float, (*path, "weight"))
        try:
            for name, text in self._option_mistakes(kind, raw["use"], options):
                own = name in options and text.startswith("unknown")
                self.mistake((*path, name) if name in options else path, text, own=own)
        except DovetailError as error:
            hint = f", {error.hint}" if error.hint else ""
            self.mistake((*path, "use"), error.what + hint, own=True)
        return PartConfig(raw["use"], weight if weight is not None else 1.0, raw.get("name"), options)

    def _option_mistakes(self, kind: str, name: str, options: Mapping[str, Any]) -> list[tuple[str, str]]:
        if kind != "recipes":
            return check_options(registry(kind).target(name)[0], options)[0]
        recipe = as_recipe(name)
        mistakes = []
        for key, value in options.items():
            try:
                recipe(**{key: value})
            except OptionError as error:
                known = [option.name for option in recipe.options]
                unknown = f"unknown option {key!r}, {did_you_mean(key, known)}"
                mistakes.append((key, error.what.partition(": ")[2] if key in known else unknown))
        return mistakes

    def _agent(self, raw: Any, path: Path) -> AgentConfig | None:
        if isinstance(raw, str):
            raw = {"model": raw}
        if isinstance(raw, Mapping) and raw.get("tiny") is True:
            raw = {**raw, "tiny": {}}
        agent: AgentConfig | None = self._typed(raw, AgentConfig, path)
        if agent is not None and (agent.model is None) == (agent.tiny is None):
            self.mistake(path, "an agent needs either `model` or `tiny`")
        if agent is not None:
            generator = self._part("generators", agent.generator, (*path, "generator"))
            agent = attrs.evolve(agent, generator=generator)
        return agent

    def _typed(self, raw: Any, kind: Any, path: Path) -> Any:
        try:
            return converter().structure(raw, kind)
        except Exception as error:  # cattrs groups errors of many types; each becomes a line
            for inner, text in explain(error):
                self.mistake((*path, *_steps(inner)), text)
            return None


def _steps(path: str) -> Path:
    return tuple(step for step in path.replace("[", ".").replace("]", "").split(".") if step)


def show(path: Path) -> str:
    """``rewards[0].target``"""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text
