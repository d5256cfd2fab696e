"""A real OpenEnv server with two environments of our own: guessing a number, and the same with tools.

python openenv_server.py PORT
"""

from __future__ import annotations

import random
import sys
import time

# ruff: noqa: E402
# Its page for browsers needs much that takes long to import; without it the server is the same.
sys.modules["openenv.core.env_server.web_interface"] = None

import uvicorn
from fastapi import FastAPI
from openenv.core.env_server import Action, Environment, Observation, State, create_fastapi_app
from openenv.core.env_server.mcp_types import (
    CallToolAction,
    CallToolObservation,
    ListToolsAction,
    ListToolsObservation,
    Tool,
)
from pydantic import Field


class Guess(Action):
    number: int = Field(ge=0, le=99)


class Hint(Observation):
    hint: str


class Guessing(Environment):
    """Reward 1 for the number, which the seed decides; three guesses."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def reset(self, seed=None, episode_id=None, number=None, **_):
        self._number = random.Random(seed).randrange(100) if number is None else number
        self._left = 3
        return Hint(hint=f"a number below 100, and you may try {self._left} times")

    def step(self, action, timeout_s=None, **_):
        guess = action.number
        if guess == 66:
            raise RuntimeError("the number of the beast")
        if guess == 77:
            time.sleep(3600)
        self._left -= 1
        right = guess == self._number
        said = "right" if right else "too low" if guess < self._number else "too high"
        return Hint(hint=said, done=right or not self._left, reward=float(right))

    @property
    def state(self):
        return State()


class GuessingByTools(Guessing):
    """The same by calls of a tool."""

    def step(self, action, timeout_s=None, **_):
        if isinstance(action, ListToolsAction):
            schema = {"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]}
            return ListToolsObservation(tools=[Tool(name="guess", description="Guess.", input_schema=schema)])
        if action.tool_name != "guess" or not isinstance(action.arguments.get("number"), int):
            error = {"error_type": "invalid_args", "message": f"no such call of {action.tool_name}"}
            return CallToolObservation(tool_name=action.tool_name, error=error)
        hint = super().step(Guess(number=action.arguments["number"]))
        return CallToolObservation(tool_name="guess", result=hint.hint, done=hint.done, reward=hint.reward)


if __name__ == "__main__":
    app = FastAPI()
    app.mount("/guess", create_fastapi_app(Guessing, Guess, Hint, max_concurrent_envs=64))
    app.mount("/full", create_fastapi_app(Guessing, Guess, Hint, max_concurrent_envs=3))
    tools = create_fastapi_app(GuessingByTools, CallToolAction, CallToolObservation, max_concurrent_envs=64)
    app.mount("/tools", tools)
    uvicorn.run(app, port=int(sys.argv[1]), log_level="critical")
