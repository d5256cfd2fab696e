"""What tests of the core and of several plugins share."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytest_plugins = ["fake_distributions", "parts_of_tests"]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Small models are fastest on one thread, and numbers are then the same everywhere."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def gsm8k() -> Path:
    """The real training file, which lies beside a development checkout."""
    path = ROOT / "../shared/data/gsm8k/train.jsonl"
    if not path.exists():
        pytest.skip(f"needs GSM8K's train.jsonl at {path}")
    return path
