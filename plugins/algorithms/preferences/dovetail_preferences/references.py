"""Log-probs of the reference, computed each time, or kept in a file for later epochs and runs."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dovetail as dt

if TYPE_CHECKING:
    from torch import Tensor

    from dovetail import Agent, Ragged, Rollouts


def ref_logprobs(ref_policy: Any, rows: Any, cache: str | None) -> Any:
    """A node with the reference's log-probs of ``rows``, through the file ``cache`` if there is one."""
    if cache is None:
        return dt.logprobs(ref_policy, rows, name="ref_logprobs")
    return cached_logprobs(ref_policy, rows, cache=cache, name="ref_logprobs")


@dt.op
def cached_logprobs(agent: Agent, rows: Rollouts, cache: str) -> Ragged:
    """Log-probs of the sampled tokens; what the file does not hold is computed and added to it.

    An entry belongs to the weights of the model, its dtype, and the tokens of a row: whatever changes, nothing stale is
    read. A file that cannot be used is a DataError.
    """
    import torch

    from dovetail import Ragged
    from dovetail.runtime.forward import forward_all

    keys = [_key(_fingerprint(agent), *row) for row in zip(rows.tokens, rows.origin, strict=True)]
    with _opened(cache) as database:
        known = {key: _read(database, key) for key in keys}
        missing = [row for row, key in enumerate(keys) if known[key] is None]
        if missing:
            budget = 4_096 if agent.device.type == "cpu" else 16_384
            computed = forward_all(agent, rows.select(missing), ("logprobs",), budget)["logprobs"]
            for row, logprobs in zip(missing, computed.to("cpu", torch.float32), strict=True):
                known[keys[row]] = logprobs
                entry = keys[row], logprobs.numpy().tobytes()
                database.execute("INSERT OR REPLACE INTO logprobs VALUES (?, ?)", entry)
    return Ragged.from_rows([known[key] for key in keys], dtype=torch.float32)


def _fingerprint(agent: Agent) -> bytes:
    """A digest of the weights and of how they are used; taken once, because a reference does not learn."""
    if "reference_fingerprint" not in vars(agent):
        import torch

        digest = hashlib.sha256(f"{agent.dtype} {agent.autocast}".encode())
        # Adapters are off in a reference that shares its model with a policy that learns them.
        weights = {name: weight for name, weight in agent.model.state_dict().items() if "lora_" not in name}
        for name, weight in weights.items():
            digest.update(f"{name} {list(weight.shape)}".encode())
            digest.update(weight.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
        vars(agent)["reference_fingerprint"] = digest.digest()
    return vars(agent)["reference_fingerprint"]  # type: ignore[no-any-return]


def _key(fingerprint: bytes, tokens: Tensor, origin: Tensor) -> bytes:
    return hashlib.sha256(fingerprint + tokens.numpy().tobytes() + origin.numpy().tobytes()).digest()


@contextlib.contextmanager
def _opened(cache: str) -> Iterator[sqlite3.Connection]:
    """The database; what was added is kept if nothing fails."""
    try:
        Path(cache).parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(cache)) as database, database:
            database.execute("CREATE TABLE IF NOT EXISTS logprobs (key BLOB PRIMARY KEY, value BLOB)")
            yield database
    except (sqlite3.Error, OSError) as error:
        hint = "give another path as ref_cache, or remove the file"
        raise dt.DataError(f"the cache of reference log-probs {cache} cannot be used: {error}", hint=hint) from error


def _read(database: sqlite3.Connection, key: bytes) -> Tensor | None:
    import torch

    found = database.execute("SELECT value FROM logprobs WHERE key = ?", (key,)).fetchone()
    return None if found is None else torch.frombuffer(bytearray(found[0]), dtype=torch.float32)
