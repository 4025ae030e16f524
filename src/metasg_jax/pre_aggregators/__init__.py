"""What changes the rows before a rule sees them: ``pre(key, state, received, action=None)``.

They return ``(received, state, info)``, with a number of rows that is known beforehand
(``num_rows``). Absent rows stay absent. ``nnm+krum`` names NNM followed by Krum: see
:class:`metasg_jax.aggregators.Composed`.
"""

from metasg_jax.pre_aggregators.bucketing import Bucketing
from metasg_jax.pre_aggregators.clipping import Clipping
from metasg_jax.pre_aggregators.nnm import NNM
from metasg_jax.registry import Registry

PRE_AGGREGATORS = Registry(
    "pre-aggregator", {"nnm": NNM, "clipping": Clipping, "bucketing": Bucketing}
)

__all__ = [
    "NNM",
    "PRE_AGGREGATORS",
    "Bucketing",
    "Clipping",
]
