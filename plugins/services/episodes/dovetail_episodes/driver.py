"""The driver: plays an environment's episodes with a policy, and gives rollouts."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import attrs
import torch

from dovetail.errors import UserError
from dovetail.messages import Environment, Tasks
from dovetail.parts import Part, check_options
from dovetail.ragged import Ragged
from dovetail.runtime.scoring import Offloader
from dovetail.sampling import Sampling
from dovetail.settings import TrainSettings
from dovetail_episodes.conversation import Conversation
from dovetail_episodes.desk import Desk, Request, Turn
from dovetail_episodes.episode import CLOSING_SECONDS, Episode, Table
from dovetail_episodes.rendering import Renderer
from dovetail_episodes.reward import EnvironmentReward
from dovetail_episodes.rows import as_rollouts, metrics_of
from dovetail_episodes.settings import EpisodeSettings
from dovetail_episodes.threads import DaemonThreads

_GRACE_SECONDS = 10.0  # past a deadline, until an event loop that says nothing is given up
_QUIET_STEPS = 4  # close, make, reset and a step may follow one another before an episode asks again


class Driver:
    """Plays the episodes of an environment.

    Episodes run on the offloader's event loop, the policy in the calling thread. Whenever the policy is free it takes
    the episodes that are ready in one batch; those that wait for a tool hold nobody up. A turn draws from a seed of its
    own, so its tokens do not depend on which episodes are beside it.
    """

    def __init__(self, environment: Part, settings: TrainSettings) -> None:
        mistakes, options = check_options(EpisodeSettings, settings.episodes)
        if mistakes:
            raise UserError("; ".join(f"episodes: {text}" for _, text in mistakes))
        try:
            self.settings = EpisodeSettings(**options)
        except ValueError as error:
            raise UserError(f"episodes: {error.args[0]}") from error
        self._environment = environment
        self._step_timeout = self.settings.step_timeout or settings.reward_timeout

    @property
    def many_turns(self) -> bool:
        """Whether episodes may have several turns."""
        return "multi_turn" in getattr(self._environment.instance, "traits", ())

    def reward(self) -> Part:
        """The environment's reward as a reward part."""
        return attrs.evolve(self._environment, kind="rewards", instance=EnvironmentReward(self._environment))

    def play(
        self,
        agent: Any,
        tasks: Tasks,
        samples: int,
        sampling: Sampling,
        seed: int,
        offloader: Offloader,
        places: Sequence[int] | None = None,
    ) -> dict[str, Any]:
        """Play ``samples`` episodes of each task; with ``places``, of the tasks there alone, as if all were played.

        Returns:
            ``out``, the rollouts, and ``metrics``.

        Raises:
            DataError: The chat template cannot continue a conversation.
        """
        numbers = random.Random(seed)
        seeds = [numbers.getrandbits(31) for _ in tasks]
        draws = [[numbers.getrandbits(62) for _ in range(samples)] for _ in tasks]
        episodes = [
            Episode(row * samples + sample, tasks[place], seeds[place], draws[place][sample])
            for row, place in enumerate(range(len(tasks)) if places is None else places)
            for sample in range(samples)
        ]
        game = _Game(self, agent, sampling, episodes, offloader)
        game.play()
        unheard = [agent.tokenizer.pad_token_id]
        facts = {"sampling": sampling, "policy_version": agent.version, "decode": agent.decode}
        rollouts = as_rollouts(episodes, samples, self._environment.label, unheard, **facts)
        return {"out": rollouts, "metrics": metrics_of(episodes, game.batches)}

    def table(self, desk: Desk, agent: Any, sampling: Sampling) -> Table:
        """What the episodes of a batch share."""
        stops = frozenset(agent.stop_tokens(sampling))
        keep = self.settings.rewrites == "keep"

        def open(environment: Environment) -> Conversation:
            return Conversation(Renderer(agent, tuple(environment.tools), keep), stops)

        return Table(desk, open, self.settings, self._step_timeout, sampling.max_tokens, agent.context)

    async def make(self) -> Environment:
        """A new instance of the environment."""
        environment: Environment = await self._environment.instance.make()
        return environment


class _Game:
    """A batch of episodes in play."""

    def __init__(
        self, driver: Driver, agent: Any, sampling: Sampling, episodes: Sequence[Episode], offloader: Offloader
    ) -> None:
        self._driver, self._agent, self._sampling, self._offloader = driver, agent, sampling, offloader
        self._desk = Desk()
        self._table = driver.table(self._desk, agent, sampling)
        self._episodes, self._left = episodes, deque(episodes)
        self._errors: list[BaseException] = []
        self.batches: list[int] = []  # how many turns the policy was asked for at a time

    def play(self) -> None:
        """Until every episode has ended, or one has raised what is wrong in all of them."""
        count = min(self._driver.settings.in_flight, len(self._left))
        self._desk.enter(count)
        self._offloader.submit(_use_daemon_threads()).result()
        lanes = [self._offloader.submit(self._lane()) for _ in range(count)]
        silence = self._table.step_timeout + _GRACE_SECONDS
        try:
            while not self._errors and (requests := self._next(silence)):
                self._desk.answer(requests, self._sample(requests))
        except TimeoutError as error:  # nobody is left who would answer, or be cancelled
            self._offloader.close()
            for episode in self._episodes:
                episode.give_up(str(error))
        except BaseException:
            self._stop(lanes)
            raise
        if self._errors:
            self._stop(lanes)
            raise self._errors[0]

    def _next(self, silence: float) -> list[Request] | None:
        """The next requests. A TimeoutError if the event loop is held up, or if all that is left cannot be cancelled."""
        for _ in range(_QUIET_STEPS):
            with contextlib.suppress(TimeoutError):
                return self._desk.take(self._driver.settings.patience, silence)
            probe = asyncio.sleep(0)
            try:
                self._offloader.submit(probe).result(_GRACE_SECONDS)
            except TimeoutError:
                probe.close()
                raise TimeoutError(f"the event loop has been held up for {silence:g} s") from None
        raise TimeoutError(f"neither an answer nor an end within {_QUIET_STEPS} deadlines")

    def _stop(self, lanes: Sequence[Future[Any]]) -> None:
        """Cancel what still plays, and let it close its environments."""
        for lane in lanes:
            lane.cancel()
        self._desk.wait_until_empty(CLOSING_SECONDS)

    async def _lane(self) -> None:
        """Play one episode after the other, as long as there are any."""
        try:
            while self._left:
                await self._left.popleft().play(self._driver.make, self._table)
        except BaseException as error:
            self._errors.append(error)
            raise
        finally:
            self._desk.leave()

    def _sample(self, requests: Sequence[Request]) -> list[Turn]:
        """A turn for each request. Those with other limits are sampled apart."""
        self.batches.append(len(requests))
        turns: dict[int, Turn] = {}
        by_limit = defaultdict(list)
        for request in requests:
            by_limit[request.limit].append(request)
        for limit, alike in by_limit.items():
            turns.update(zip((id(request) for request in alike), self._batch(alike, limit), strict=True))
        return [turns[id(request)] for request in requests]

    def _batch(self, requests: Sequence[Request], limit: int) -> list[Turn]:
        sampling = attrs.evolve(self._sampling, max_tokens=limit, min_tokens=min(limit, self._sampling.min_tokens))
        copies = Counter(tuple(request.prompt) for request in requests)
        # A prompt is read once for the samples that share it, where all of them do so: at the first turn.
        shared = set(copies.values())
        samples = shared.pop() if len(shared) == 1 else 1
        ordered = sorted(requests, key=lambda request: request.prompt) if samples > 1 else list(requests)
        prompts = Ragged.from_rows([request.prompt for request in ordered[::samples]], dtype=torch.int64)
        seeds = torch.tensor([request.seed for request in ordered], dtype=torch.int64)
        generated = self._agent.generate(prompts, samples, sampling, seeds)
        rows = zip(generated.completions.tolist(), generated.logprobs.tolist(), strict=True)
        turns = {id(request): turn for request, turn in zip(ordered, rows, strict=True)}
        return [turns[id(request)] for request in requests]


async def _use_daemon_threads() -> None:
    """Let blocking environments of this loop run where a call that hangs blocks nobody."""
    asyncio.get_running_loop().set_default_executor(DaemonThreads())
