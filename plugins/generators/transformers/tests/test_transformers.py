"""What the generator promises."""

import pytest

from dovetail.testing import part_checks


@pytest.mark.parametrize("check", part_checks("generators", "transformers"), ids=str)
def test_conformance(check):
    """It keeps what every generator promises."""
    check()
