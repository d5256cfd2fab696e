"""From a file to a plan: presets, references between stages, and every mistake at once, before anything runs."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import attrs

from dovetail.errors import CheckpointError, ConfigError, DovetailError, UserError, did_you_mean
from dovetail.parts import check_options
from dovetail.settings import TrainSettings
from dovetail_rlhf.preset import is_reference, merged, preset_text
from dovetail_rlhf.stages import ROWS, Output, Plan, Stage, StepConfig
from dovetail_rlhf.steps import STEPS
from dovetail_trainer.config.load import read_file
from dovetail_trainer.config.schema import Locate, RunConfig, read_mapping, read_word, show
from dovetail_trainer.config.schema import Path as ConfigPath

WORDS = ("use", "inputs", "stages", "run_dir", "seed", "threads")
NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
VALUE_HEAD = "value_head.safetensors"
RECORD = "pipeline.json"


def read(path: str | Path, overrides: Iterable[str] = ()) -> Plan:
    """Read and check a pipeline.

    Raises:
        ConfigError: With every mistake, its path and its line.
        UserError: The file cannot be read.
    """
    raw, locate = read_file(path, overrides)
    folder = Path(path).parent.resolve()
    return _Reader(locate, folder).read(raw, Path("runs") / f"{Path(path).stem}-{time.strftime('%Y%m%d-%H%M%S')}")


def read_again(directory: str | Path) -> Plan:
    """The plan of a pipeline that was begun in this folder."""
    record = Path(directory) / RECORD
    if not record.exists():
        raise CheckpointError(f"{directory} is no pipeline: it has no {RECORD}", hint="give the folder of a pipeline")
    saved = json.loads(record.read_text(encoding="utf-8"))
    words = {**saved["words"], "run_dir": str(directory)}
    plan = _Reader(lambda _: record.name, Path(saved["folder"])).read(words, Path(directory))
    return attrs.evolve(plan, is_begun=True)


class _Reader:
    """Reads the stages in order, and collects what is wrong with them."""

    def __init__(self, locate: Locate, folder: Path) -> None:
        self._locate, self._folder = locate, folder
        self._mistakes: list[str] = []
        self._stages: dict[str, Stage] = {}
        self._inputs: Mapping[str, Any] = {}
        self._within: list[str] = []  # inputs that are being read
        self._all: list[str] = []  # names of stages, also of later ones

    def read(self, raw: Any, default: Path) -> Plan:
        if not isinstance(raw, Mapping):
            raise ConfigError([f"a mapping was expected, got {type(raw).__name__}"])
        words = self._with_preset(raw)
        for key in words:
            if key not in WORDS:
                self._mistake(f"unknown option {key!r}, {did_you_mean(str(key), WORDS)}", (), key)
        stages, self._inputs = words.get("stages"), words.get("inputs") or {}
        if not isinstance(self._inputs, Mapping):
            self._mistake("`inputs` maps names to paths and other values", ("inputs",))
            self._inputs = {}
        if not isinstance(stages, Mapping) or not stages:
            self._mistake("`stages` maps the name of each stage to what it does", ("stages",))
            raise ConfigError(self._mistakes)
        directory = Path(str(words.get("run_dir") or default))
        self._all = [str(name) for name in stages]
        shared = {key: words[key] for key in ("seed", "threads") if words.get(key) is not None}
        for name, said in stages.items():
            self._stages[str(name)] = self._stage(str(name), said, shared, directory)
        if self._mistakes:
            raise ConfigError(self._mistakes)
        return Plan(directory, tuple(self._stages.values()), words, self._folder)

    def _with_preset(self, raw: Mapping[str, Any]) -> Mapping[str, Any]:
        if "use" not in raw:
            return raw
        from ruamel.yaml import YAML

        try:
            text = preset_text(str(raw["use"]))
        except UserError as error:
            raise ConfigError([f"{error.what}, {error.hint}  at use ({self._locate(('use',))})"]) from error
        own = {key: value for key, value in raw.items() if key != "use"}
        return cast(Mapping[str, Any], merged(YAML(typ="safe", pure=True).load(text), own))

    def _mistake(self, text: str, path: ConfigPath, *key: str) -> None:
        line = self._locate((*path, *key))
        self._mistakes.append(f"{text}  at {' '.join(filter(None, [show(path), f'({line})']))}")

    def _stage(self, name: str, said: Any, shared: Mapping[str, Any], directory: Path) -> Stage:
        at: ConfigPath = ("stages", name)
        folder = directory / name
        if not NAME.fullmatch(name):
            self._mistake(f"{name!r} cannot name a folder: letters, digits, '-', '_' and '.'", at)
        if not isinstance(said, Mapping):
            self._mistake("a stage is a mapping: `algorithm: …` to train, or `make: …`", at)
            return _likely(name, {}, folder)
        if said.get("replace") is not None:
            return self._replaced(name, said["replace"], folder)
        words = {key: value for key, value in said.items() if key not in ("skip", "replace")}
        before, uses = len(self._mistakes), list[tuple[ConfigPath, Stage]]()
        if said.get("skip"):
            return self._skipped(
                name, self._resolved({"policy": words.get("policy")}, (), at, uses), "make" in words, folder
            )
        resolved = self._resolved(words, (), at, uses)
        if ("algorithm" in words) == ("make" in words):
            self._mistake("give either `algorithm: …` (it trains) or `make: …` (it makes data)", at)
        if len(self._mistakes) > before:
            return _likely(name, words, folder)
        if "make" in words:
            return self._step(name, {**shared, **resolved}, folder, uses)
        return self._training(name, {**shared, **resolved}, folder, uses)

    def _replaced(self, name: str, path: Any, folder: Path) -> Stage:
        """What the path holds tells what the stage gives."""
        found = Path(str(path))
        output: Output = "rows"
        if found.is_dir():
            output = "reward model" if (found / VALUE_HEAD).exists() else "model"
        elif not found.exists():
            self._mistake(f"there is no {found}", ("stages", name, "replace"))
        return Stage(name, folder, None, output, str(found), "replaced")

    def _skipped(self, name: str, words: Mapping[str, Any], makes_data: bool, folder: Path) -> Stage:
        """The model that it would have begun with goes on."""
        policy = words["policy"]
        model = policy.get("model") if isinstance(policy, Mapping) else None
        given = None if model is None or makes_data else str(model)
        return Stage(name, folder, None, "model", given, "skipped")

    def _resolved(self, value: Any, inside: ConfigPath, at: ConfigPath, uses: list[tuple[ConfigPath, Stage]]) -> Any:
        """The value with paths in the place of references; what they refer to is added to ``uses``."""
        if is_reference(value):
            ((kind, name),) = value.items()
            return (self._input if kind == "input" else self._output)(name, inside, at, uses)
        if isinstance(value, Mapping):
            return {key: self._resolved(each, (*inside, key), at, uses) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [self._resolved(each, (*inside, place), at, uses) for place, each in enumerate(value)]
        return value

    def _input(self, name: Any, inside: ConfigPath, at: ConfigPath, uses: list[tuple[ConfigPath, Stage]]) -> Any:
        if name not in self._inputs:
            near = did_you_mean(str(name), map(str, self._inputs))
            self._mistake(f"`inputs` does not give {name!r}, {near}", (*at, *inside))
            return None
        if name in self._within:
            self._mistake(f"the input {name!r} holds itself", (*at, *inside))
            return None
        self._within.append(name)
        value = self._resolved(self._inputs[name], inside, at, uses)
        self._within.pop()
        return value

    def _output(self, name: Any, inside: ConfigPath, at: ConfigPath, uses: list[tuple[ConfigPath, Stage]]) -> Any:
        place = (*at, *inside)
        if name not in self._stages:
            is_later = name in self._all
            problem = f"the stage {name!r} does not come before this one" if is_later else f"there is no stage {name!r}"
            self._mistake(problem if is_later else f"{problem}, {did_you_mean(str(name), self._stages)}", place)
            return None
        stage = self._stages[name]
        wanted = _wanted(inside)
        if stage.gives is None and stage.fate == "skipped":
            self._mistake(f"the stage {name!r} is skipped and leaves nothing here: give it `replace: PATH`", place)
        elif wanted and stage.output not in wanted:
            self._mistake(
                f"the stage {name!r} gives {_article(stage)}, and {_ARTICLES[wanted[0]]} is needed here", place
            )
        uses.append((inside, stage))
        return stage.gives

    def _training(
        self, name: str, words: Mapping[str, Any], folder: Path, uses: Iterable[tuple[ConfigPath, Stage]]
    ) -> Stage:
        at: ConfigPath = ("stages", name)
        if "run_dir" in words:
            self._mistake("a stage has its own folder in that of the pipeline, so no `run_dir`", at, "run_dir")
        try:
            config = read_mapping(words, self._locate, self._folder, at)
        except ConfigError as error:
            self._mistakes += error.mistakes
            return _likely(name, words, folder)
        self._check_run(config, at, uses)
        return attrs.evolve(_likely(name, words, folder), config=config)

    def _check_run(self, config: RunConfig, at: ConfigPath, uses: Iterable[tuple[ConfigPath, Stage]]) -> None:
        """What would otherwise be found out when the stage begins, perhaps after hours."""
        from dovetail.graph.recipe import as_recipe
        from dovetail_trainer.agents import complete_agents
        from dovetail_trainer.config.build import build_agent

        try:
            graph = as_recipe(config.algorithm.use)(**config.algorithm.options).trace()
            complete_agents(graph, build_agent(config.policy), {k: build_agent(v) for k, v in config.agents.items()})
        except DovetailError as error:
            self._mistake(", ".join(filter(None, [error.what, error.hint])), at)
            return
        self._check_data(config.data, "pairs" in graph.input_types(), at, uses)

    def _check_data(
        self, data: Any, needs_pairs: bool, at: ConfigPath, uses: Iterable[tuple[ConfigPath, Stage]]
    ) -> None:
        if data is None:
            return
        sources = [stage for inside, stage in uses if inside[0] == "data"]
        if needs_pairs and any(stage.output == "answers" for stage in sources):
            self._mistake(f"the stage {sources[0].name!r} gives answers, and pairs are needed here", (*at, "data"))
        is_made = any(stage.fate == "runs" for stage in sources)
        if not is_made and Path(data.path).suffix in (".jsonl", ".json", ".parquet") and not Path(data.path).exists():
            self._mistake(f"there is no file {data.path}", (*at, "data"))

    def _step(
        self, name: str, words: Mapping[str, Any], folder: Path, uses: Iterable[tuple[ConfigPath, Stage]]
    ) -> Stage:
        at: ConfigPath = ("stages", name)
        made = words["make"]
        made = {"use": made} if isinstance(made, str) else made
        if not isinstance(made, Mapping) or made.get("use") not in STEPS:
            told = made.get("use") if isinstance(made, Mapping) else made
            self._mistake(f"nothing is made by {told!r}, {did_you_mean(str(told), STEPS)}", (*at, "make"))
            return _likely(name, words, folder)
        cls = STEPS[made["use"]]
        before, settings = len(self._mistakes), [field.name for field in attrs.fields(TrainSettings)]
        known = [*cls.needs, *cls.takes, "make"]
        for key in words:
            if key not in known and key not in settings:
                self._mistake(f"unknown option {key!r}, {did_you_mean(str(key), [*known, *settings])}", at, key)
        for key in cls.needs:
            if key not in words:
                self._mistake(f"the option {key!r} is required", at)
        read: dict[str, Any] = {}
        for key in (*cls.needs, *cls.takes):
            if words.get(key) is not None:
                read[key] = self._word(key, words[key], at)
        read["settings"] = self._word("settings", {key: words[key] for key in settings if key in words}, at)
        step = self._made(cls, {key: value for key, value in made.items() if key != "use"}, (*at, "make"))
        if read.get("data") is not None:
            self._check_data(read["data"], cls.reads == "pairs", at, uses)
        config = StepConfig(step, **read) if len(self._mistakes) == before else None
        return attrs.evolve(_likely(name, words, folder), config=config)

    def _word(self, key: str, raw: Any, at: ConfigPath) -> Any:
        value, mistakes = read_word(key, raw, self._locate, self._folder, at)
        self._mistakes += mistakes
        return value

    def _made(self, cls: Any, options: Mapping[str, Any], at: ConfigPath) -> Any:
        mistakes, checked = check_options(cls, options)
        for name, text in mistakes:
            self._mistake(text, at, *([name] if name in options else []))
        try:
            return None if mistakes else cls(**checked)
        except (TypeError, ValueError) as error:
            self._mistake(str(error.args[0]), at)
            return None


def _likely(name: str, words: Mapping[str, Any], folder: Path) -> Stage:
    """What the words say that a stage gives, also where there are mistakes in them: they are told once, where they are."""
    made, policy = words.get("make"), words.get("policy")
    if made is not None:
        cls = STEPS.get(made.get("use", "") if isinstance(made, Mapping) else str(made))
        output = cast(Output, cls.output) if cls is not None else "rows"
        return Stage(name, folder, None, output, None if output == "figures" else str(folder / "rows.jsonl"))
    has_head = isinstance(policy, Mapping) and policy.get("head") == "value"
    return Stage(name, folder, None, "reward model" if has_head else "model", str(folder / "final"))


def _wanted(inside: ConfigPath) -> tuple[Output, ...]:
    """What fits where a reference stands."""
    keys = [step for step in inside if isinstance(step, str)]
    if keys[0] == "data":
        return ROWS
    if keys[0] == "rewards" and keys[-1] == "models":
        return ("reward model",)
    return ("model", "reward model") if keys[-1] in ("model", "models") else ()


_ARTICLES = {
    "model": "a model", "reward model": "a reward model (`policy: {head: value}`)", "rows": "a file of rows",
    "pairs": "pairs", "answers": "answers", "figures": "figures alone",
}  # fmt: skip


def _article(stage: Stage) -> str:
    return _ARTICLES[stage.output] if stage.output != "reward model" else "a reward model"
