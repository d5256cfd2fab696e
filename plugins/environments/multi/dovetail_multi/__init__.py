"""A weighted mixture of environments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import attrs
from attrs.validators import ge

from dovetail import Environment, Part, Task, hookimpl


@attrs.frozen(eq=False)
class Multi:
    """Each task is one of one environment, and so are its tools, its turns and its reward.

    The training tasks come as an endless stream in which the environments alternate in proportion to their weights as
    evenly as they can; a list of tasks is shuffled anew each time it is used up. Every task has the column
    ``environment``. A run's metrics tell of each environment its share, its share of invalid samples, and the mean of
    each reward.

    Args:
        environments: Each ``{use: …, weight: …, name: …, …options}`` or a part; two need different names.
        seed: Of the order of the tasks. The weights are by episode, whatever their length.
        test_size: Most test tasks of each environment.
    """

    environments: tuple[Any, ...] = attrs.field(converter=tuple)
    seed: int = 0
    test_size: int = attrs.field(default=1000, validator=ge(0))
    _members: Mapping[str, Part] = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        from dovetail_multi.mixture import members, words

        found = members(self.environments)
        object.__setattr__(self, "_members", found)
        object.__setattr__(self, "environments", tuple(map(words, found.values())))  # as a run's folder keeps them

    @property
    def traits(self) -> tuple[str, ...]:
        """``multi_turn`` if one of the environments has it."""
        found = [trait for part in self._members.values() for trait in getattr(part.instance, "traits", ())]
        return tuple(dict.fromkeys(found))

    @hookimpl
    def tasks(self, split: str) -> Iterable[Task]:
        """An endless stream to train on; the test tasks of all, in the same proportions, each once."""
        from dovetail_multi.mixture import TrainTasks, held_out

        if split == "train":
            return TrainTasks(self._members, self.seed)
        return held_out(self._members, split, self.test_size)

    @hookimpl
    async def make(self) -> Environment:
        """An episode that becomes the one of its task at its reset."""
        from dovetail_multi.episode import MultiEpisode

        return MultiEpisode(self._members)

    @hookimpl
    def on_rollouts(self, run: Any, rollouts: Any) -> None:
        """Add the metrics of each environment to the step's."""
        from dovetail_multi.metrics import by_environment

        run.add_metrics(by_environment(rollouts, list(self._members)))
