"""One game, move by move."""

from __future__ import annotations

import importlib
import re
from typing import TYPE_CHECKING, Any

from dovetail import Message, StepResult, StopReason, SyncEnvironment, Task, UserError
from dovetail_gym.spaces import Actions, observation_text, plain

if TYPE_CHECKING:
    from dovetail_gym import Gym

_ANSI = re.compile(r"\x1b\[([0-9;]*)[A-Za-z]")
_COLOURS = ("gray", "red", "green", "yellow", "blue", "magenta", "cyan", "white", "crimson", "")


class Game:
    """A Gymnasium environment, what it shows and what it lets one do, in words."""

    def __init__(self, options: Gym) -> None:
        self._describe = _function(options.describe) if options.describe else None
        wanted = options.show if self._describe is None else "observation"
        self.environment = _make(options)
        has_picture = "ansi" in self.environment.metadata.get("render_modes", ())
        if wanted == "ansi" and not has_picture:
            raise UserError(
                f"{options.id} has no picture in letters", hint="show: observation, or describe: module:function"
            )
        self._shows_picture = wanted != "observation" and has_picture
        if self._shows_picture:
            self.environment.close()
            self.environment = _make(options, render_mode="ansi")
        self.actions = Actions(self.environment.action_space, options.actions, options.pattern)

    def text(self, observation: Any) -> str:
        """What the policy sees."""
        if self._describe is not None:
            return str(self._describe(self.environment, observation))
        if self._shows_picture:
            return picture_text(str(self.environment.render()))
        return observation_text(observation)


def _make(options: Gym, **settings: Any) -> Any:
    import gymnasium

    try:
        return gymnasium.make(options.id, **settings, **options.kwargs)
    except Exception as error:  # whatever a game raises, its name and its options are the user's
        hint = "gymnasium.pprint_registry() lists the games"
        raise UserError(f"{options.id} cannot be made: {type(error).__name__}: {error}", hint=hint) from error


def picture_text(picture: str) -> str:
    """A picture in letters without the codes of a terminal; what was coloured is in brackets, with its colour."""
    shown, colours = [], list[str]()
    for number, piece in enumerate(_ANSI.split(picture)):
        if number % 2:
            codes = [int(code or 0) for code in piece.split(";") if code.isdigit() or not code]
            colours = [] if 0 in codes else [*colours, *(_COLOURS[code % 10] for code in codes if 30 <= code <= 48)]
        elif piece:
            shown.append(f"[{' '.join(colours)} {piece}]" if colours else piece)
    return "".join(shown).strip("\n")


def _function(path: str) -> Any:
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"describe: {path!r} cannot be imported: {error}", hint="module:function") from error


def starts(options: Gym, split: str) -> list[Task]:
    """The tasks of a split."""
    game = Game(options)
    try:
        train = _distinct(options, game, range(options.size))
        if split == "train":
            found = train
        elif split == "test":
            test = _distinct(options, game, range(options.size, options.size + options.test_size))
            found = {text: seed for text, seed in test.items() if len(train) == 1 or text not in train}
        else:
            found = {}
    finally:
        game.environment.close()
    return [Task(f"{split}-{seed}", (Message("user", text),), None, {"seed": seed}) for text, seed in found.items()]


def _distinct(options: Gym, game: Game, seeds: range) -> dict[str, int]:
    found: dict[str, int] = {}
    for seed in seeds:
        found.setdefault(_start(options, game, seed), seed)
    return found


def _start(options: Gym, game: Game, seed: int) -> str:
    observation, _ = game.environment.reset(seed=seed)
    rules = options.rules.format(id=options.id)
    return options.prompt.format(rules=rules, observation=game.text(observation), actions=game.actions)


class GymEpisode(SyncEnvironment):
    """A game from its start to its end, or to the limit of turns."""

    def __init__(self, options: Gym) -> None:
        self._options, self._game = options, Game(options)
        self._turns = 0

    def on_reset(self, seed: int, task: Task | None) -> StepResult:
        """Begin; without a task the seed gives the start too."""
        import numpy

        if task is not None and "seed" not in task.columns:
            raise UserError(f"the task {task.id!r} has no column 'seed', which is its start")
        start = seed if task is None else task.columns["seed"]
        self._turns = 0
        text = _start(self._options, self._game, start)
        self._game.environment.unwrapped.np_random = numpy.random.default_rng([start % 2**64, seed % 2**64])
        return StepResult((Message("user", text),) if task is None else task.messages)

    def on_step(self, action: Message) -> StepResult:
        """Play the move that the text names."""
        self._turns += 1
        move = self._game.actions.read(action.content)
        if move is None:
            return self._refuse()
        observation, reward, terminated, truncated, info = self._game.environment.step(move)
        reward = float(reward)
        prompt = self._options.turn_prompt.format(observation=self._game.text(observation), actions=self._game.actions)
        return self._limited(
            messages=(Message("user", prompt),),
            reward=reward,
            reward_components={"game": reward},
            terminated=bool(terminated),
            truncated=bool(truncated) and not terminated,
            info=plain(info),
        )

    def _refuse(self) -> StepResult:
        penalty = -self._options.penalty or 0.0
        told = {"reward": penalty, "reward_components": {"invalid_action": penalty}}
        if self._options.on_invalid == "end":
            return StepResult(terminated=True, stop_reason=StopReason.PARSE_ERROR, **told)
        text = f"That is no action. Actions: {self._game.actions}."
        return self._limited(messages=(Message("user", text),), **told)

    def _limited(self, **told: Any) -> StepResult:
        """A result that is the last if the turns are used up."""
        over = told.get("terminated", False)
        cut = not over and (told.pop("truncated", False) or self._turns >= self._options.max_turns)
        told["truncated"] = cut
        reason = StopReason.COMPLETED if over else StopReason.MAX_TURNS if cut else None
        return StepResult(stop_reason=reason, **told)

    def on_close(self) -> None:
        """Close the game."""
        self._game.environment.close()
