"""How settings declare a field that recompiles when it changes."""

from metasg_jax.struct import field


def static(default):
    """A static field of this default; what is not declared so is traced."""
    return field(static=True, default=default)
