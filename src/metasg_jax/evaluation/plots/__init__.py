"""Pictures, drawn without a display and without touching a notebook's."""

from metasg_jax.evaluation.plots.comparisons import gap_map, heat_map, recovery_bars, worst_cases
from metasg_jax.evaluation.plots.curves import (
    accuracy_curves,
    learning_curve,
    lines_over,
    over_rounds,
    simulation_curves,
)
from metasg_jax.evaluation.plots.images import image_grid
from metasg_jax.evaluation.plots.online import adaptation, gains
from metasg_jax.evaluation.plots.theory import Line, Panel, log_log, residual_course

__all__ = [
    "Line",
    "Panel",
    "accuracy_curves",
    "adaptation",
    "gains",
    "gap_map",
    "heat_map",
    "image_grid",
    "learning_curve",
    "lines_over",
    "log_log",
    "over_rounds",
    "recovery_bars",
    "residual_course",
    "simulation_curves",
    "worst_cases",
]
