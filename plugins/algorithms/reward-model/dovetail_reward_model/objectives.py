"""Learning several objectives at once, from preferences and from ratings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs
from attrs.validators import ge

from dovetail import DataError, hookimpl
from dovetail_reward_model.bradley_terry import bootstrap_counts, preference_terms
from dovetail_reward_model.labels import check_data, labels_of

if TYPE_CHECKING:
    from torch import Tensor

    from dovetail import LossTerms, Tasks


def _weights(instance: Any, attribute: Any, value: Mapping[str, float]) -> None:
    if not value or not all(math.isfinite(weight) and weight > 0 for weight in value.values()):
        raise ValueError(f"objectives names at least one, each with a weight above 0, got {dict(value)}")


@attrs.frozen(eq=False)
class Objectives:
    """``Σ_k w_k [-log σ(s_ik - s_jk) + center (s_ik + s_jk)²]`` for a pair, ``Σ_k w_k (s_ik - y_ik)²`` for a rated answer.

    The sums are over the objectives k that have a label: in a pair those by which i is preferred to j, as in
    ``bradley-terry``; in a rated answer those with a rating y_ik. Squared error against ratings, those that are missing
    left out: Wang et al. 2023 (HelpSteer, arXiv 2311.09528) and 2024 (ArmoRM, arXiv 2406.12845, equation 1). The loss is
    the mean over answers, so each label weighs the same, times its objective's weight.

    Args:
        objectives: Name to weight in the loss.
        center: Weight of the squared sum of a pair's scores, which pulls them towards 0. Usual value 0.01; 0 where
            there are ratings, which say where scores lie.
        bootstrap: As for ``bradley-terry``.
    """

    objectives: Mapping[str, float] = attrs.field(validator=_weights)
    center: float = attrs.field(default=0.0, validator=ge(0))
    bootstrap: int = attrs.field(default=0, validator=ge(0))

    @hookimpl
    def on_run_start(self, run: Any) -> None:
        """Look through the labels of the data."""
        check_data(run.batches.items, self.objectives)

    @hookimpl
    def loss_terms(self, final_values: Tensor, groups: Tensor, tasks: Tasks) -> LossTerms:
        """Terms ``[B]`` of ``final_values`` ``[B, K]``, whose columns are in the order of ``objectives``."""
        import torch

        from dovetail import LossTerms

        names, wanted = list(self.objectives), [len(tasks), len(self.objectives)]
        if list(final_values.shape) != wanted:
            raise DataError(f"scores of the shape {wanted} are needed, for {names}, got {list(final_values.shape)}")
        preferences = labels_of(tasks, "preferences", names, final_values)
        ratings = labels_of(tasks, "ratings", names, final_values)
        counts = bootstrap_counts(tasks, self.bootstrap, final_values)
        terms, metrics = preference_terms(final_values, preferences, groups, center=self.center, counts=counts)
        rated = ~ratings.isnan()
        errors = (final_values - ratings.nan_to_num()).square() * rated
        metrics["squared_error"] = errors.detach().where(rated, torch.nan)
        terms = terms + (errors if counts is None else errors * counts[:, None])
        weights = final_values.new_tensor(list(self.objectives.values()))
        named = {
            f"{metric}/{name}": values[:, column]
            for metric, values in metrics.items()
            for column, name in enumerate(names)
        }
        return LossTerms((terms * weights).sum(1), "batch_mean", metrics=named)
