"""Judging defenders: metrics, controls, statistics, tables, plots."""

from metasg_jax.evaluation.evaluate import evaluate
from metasg_jax.evaluation.metrics import Metrics, measure_deployed
from metasg_jax.evaluation.tables import Results

__all__ = ["Metrics", "Results", "evaluate", "measure_deployed"]
