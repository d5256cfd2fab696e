"""What tests of the core and of several plugins share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytest_plugins = ["fake_distributions", "parts_of_tests"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run tests that take more than half a minute, as CI does")


def pytest_collection_modifyitems(config: pytest.Config, items: Sequence[pytest.Item]) -> None:
    """Leave slow tests to CI, so that the default run stays short."""
    if not (config.getoption("--slow") or os.environ.get("CI")):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="slow: runs in CI, or with --slow"))


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
