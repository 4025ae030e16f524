"""Certificates: residuals and constants along a run, as tables, CSV and a plot."""

from metasg_jax.programs.certify.measure import Budget, certify_state, digest, plays
from metasg_jax.programs.certify.page import tables
from metasg_jax.programs.certify.program import certify_program, find_checkpoints
from metasg_jax.programs.certify.rows import PRIOR, Row, read_rows, write_rows

__all__ = [
    "PRIOR",
    "Budget",
    "Row",
    "certify_program",
    "certify_state",
    "digest",
    "find_checkpoints",
    "plays",
    "read_rows",
    "tables",
    "write_rows",
]
