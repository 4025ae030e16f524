"""A responder by its name."""

from metasg_jax.errors import ConfigError
from metasg_jax.registry import Registry
from metasg_jax.responders.gradient import Gradient
from metasg_jax.responders.knowledge import Knowledge
from metasg_jax.responders.looking import Looking, mixtures

RESPONDERS = Registry("responder", {"looking": Looking, "gradient": Gradient})
OPTIONS = ("kept", "sleepers", "no_rows", "no_root")


def make_responder(text: str, action_size: int) -> Looking | Gradient | None:
    """Reads ``none`` or ``NAME[ / option ..]``.

    Options: ``kept``, what is kept pays, not the round's reward; ``sleepers``, half or a quarter of
    the colluders may act; ``no_rows`` and ``no_root``, without the others' updates or the server's.

    Args:
        text: the name.
        action_size: A, of the game's attackers.

    Raises:
        UnknownNameError: for a name that is not registered.
        ConfigError: for an option that is none.

    Example:
        >>> make_responder("looking / kept", 4).pays
        'kept'
    """
    name, *options = (part.strip() for part in text.split(" / "))
    if name == "none" and not options:
        return None
    kind = RESPONDERS[name]
    for option in options:
        if option not in OPTIONS:
            allowed = ", ".join(OPTIONS)
            raise ConfigError(f"responder {text!r}: option {option!r}: one of {allowed}")
    knows = Knowledge(rows="no_rows" not in options, root="no_root" not in options)
    actions = mixtures(action_size)
    if "sleepers" in options:
        actions = mixtures(action_size, (0.0, 0.2, 0.5, 1.0), (1.0, 0.5, 0.25))
    looking = Looking(actions, knows, "kept" if "kept" in options else "reward")
    return Gradient(looking) if kind is Gradient else looking
