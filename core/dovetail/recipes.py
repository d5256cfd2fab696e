"""Recipes of installed plugins by name: ``dt.recipes["name"]``, ``from dovetail.recipes import name``."""

import sys

from dovetail.registry import registry

sys.modules[__name__] = registry("recipes")  # type: ignore[assignment]
