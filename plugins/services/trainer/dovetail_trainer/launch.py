"""Several processes of one machine, started and watched by torch's own launcher."""

from __future__ import annotations

import os
import signal
import sys
import uuid
from collections.abc import Sequence

from dovetail.errors import DovetailError, UserError


def launch(processes: int, words: Sequence[str]) -> int:
    """Run ``dovetail`` with these words in so many processes; one that ends with an error ends the others.

    A UserError if there cannot be so many, a DovetailError that names the process which ended first.
    """
    import logging

    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    if processes < 1:
        raise UserError(f"--processes must be at least 1, got {processes}")
    if "WORLD_SIZE" in os.environ:
        raise UserError("--processes starts processes, and torchrun has done so", hint="leave one of the two out")
    # Each would otherwise take all cores.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # what it says is said below
    place = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "local_addr": "localhost"}
    config = LaunchConfig(1, 1, processes, run_id=uuid.uuid4().hex, max_restarts=0, **place)  # type: ignore[arg-type]
    try:
        elastic_launch(config, sys.executable)("-m", "dovetail_trainer", *words)
    except SignalException as error:  # Ctrl-C, which has ended the processes too
        raise KeyboardInterrupt from error
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        code = failure.exitcode
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with the exit code {code}"
        hint = "its message stands above; continue a run with --resume, with any number of processes"
        raise DovetailError(f"process {rank} of {processes} {how}, and the others with it", hint=hint) from error
    return 0
