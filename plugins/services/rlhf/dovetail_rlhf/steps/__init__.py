"""What stages do that learn nothing: they make data, or figures.

Each is a class whose fields are its options. ``needs`` and ``takes`` name the words of a run's configuration that it
reads beside them, ``reads`` the kind of its rows, ``output`` what it leaves to other stages. ``make`` does the work in
the stage's folder, line by line, and gives the figures for the report.
"""

from dovetail_rlhf.steps.evaluate import Evaluate
from dovetail_rlhf.steps.prefer import Prefer
from dovetail_rlhf.steps.rank import Rank
from dovetail_rlhf.steps.revise import Critique, Revise
from dovetail_rlhf.steps.sample import Sample

STEPS = {cls.name: cls for cls in (Sample, Prefer, Critique, Revise, Rank, Evaluate)}
