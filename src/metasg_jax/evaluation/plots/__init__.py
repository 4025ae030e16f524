"""Pictures, drawn without a display and without touching a notebook's."""

from metasg_jax.evaluation.plots.curves import (
    accuracy_curves,
    learning_curve,
    simulation_curves,
)
from metasg_jax.evaluation.plots.heat_map import heat_map
from metasg_jax.evaluation.plots.images import image_grid
from metasg_jax.evaluation.plots.online import adaptation
from metasg_jax.evaluation.plots.theory import Line, Panel, log_log, residual_course

__all__ = [
    "Line",
    "Panel",
    "accuracy_curves",
    "adaptation",
    "heat_map",
    "image_grid",
    "learning_curve",
    "log_log",
    "residual_course",
    "simulation_curves",
]
