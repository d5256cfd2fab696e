"""An environment whose answers vary and sometimes fail; ``python flaky.py CONFIG`` serves it."""

from __future__ import annotations

import sys

import dovetail as dt


class Flaky:
    """Reward: share of vowels. Text with a 3 in it makes it fail."""

    @dt.hookimpl
    def tasks(self, split):
        return [dt.Task(f"{split}-{number}", (dt.Message("user", f"{number}?"),)) for number in range(40)]

    @dt.hookimpl
    async def make(self):
        return Episode()


class Episode(dt.SyncEnvironment):
    def on_reset(self, seed, task):
        return dt.StepResult(task.messages)

    def on_step(self, action):
        if "3" in action.content:
            raise ValueError(f"a 3 in {action.content!r}")
        share = sum(map("aeiou".count, action.content)) / max(len(action.content), 1)
        return dt.StepResult(reward=share, reward_components={"vowels": share}, terminated=True)


if __name__ == "__main__":
    from dovetail_trainer.cli.main import main

    dt.environments.register("flaky", Flaky)
    sys.exit(main(["serve", "environments", sys.argv[1]]))
