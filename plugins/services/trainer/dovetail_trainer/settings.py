"""What a run can be told of its data; apart from what reads them, so that a configuration is checked without torch."""

from __future__ import annotations

from typing import Literal

import attrs


@attrs.frozen
class DataSettings:
    """Rows for an offline recipe."""

    path: str  #: a JSONL or parquet file, or the name of a hub dataset
    split: str = "train"  #: of a hub dataset
    on_broken: Literal["stop", "skip"] = "stop"  #: what to do with a line that cannot be read; skipped ones are counted
    shuffle: bool = True  #: draw the rows in a seeded order, a new one each epoch
