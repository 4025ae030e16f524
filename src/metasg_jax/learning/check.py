"""A game outside of what the method assumes is refused, and the assumption named."""

import jax
import numpy as np

from metasg_jax.errors import ConfigError


def check_game(game) -> None:
    """Refuses a game that the method can't be applied to; on the host, nothing is played.

    What is traced is not looked at: checks are for where a game enters. Rewards are looked at when
    they are played; :func:`~metasg_jax.learning.assumptions.probe_rewards` plays some.

    Raises:
        ConfigError: for no types; probabilities that are not a distribution; a defender with
            nothing to choose, hence no parameters; an adaptive type whose attacker has nothing to
            choose; no rounds.
    """
    prior = game.prior
    if len(prior) == 0:
        raise ConfigError("prior: no types; Q is a distribution over at least one (section 2.2)")
    if not isinstance(prior.probabilities, jax.core.Tracer):
        q = np.asarray(prior.probabilities, np.float64)
        if q.shape != (len(prior),) or not (q >= 0).all() or abs(q.sum() - 1) > 1e-5:
            raise ConfigError(
                f"prior: probabilities = {q.tolist()}: one for each of {len(prior)} types, "
                "non-negative, of sum 1; Q is a distribution (section 2.2)"
            )
    if game.horizon < 1:
        raise ConfigError(f"horizon = {game.horizon}: at least 1 round, or no return J is defined")
    # with one of a finite number of actions the policy has no parameter
    least = 2 if game.finite else 1
    if game.action_size < least:
        raise ConfigError(
            f"action_size = {game.action_size}: at least {least}; the defender has no parameters "
            "theta to learn"
        )
    stuck = [n for n, a in zip(prior.names, prior.adaptive, strict=True) if a]
    if stuck and game.attacker_action_size < least:
        raise ConfigError(
            f"attacker_action_size = {game.attacker_action_size}: at least {least}; type "
            f"{stuck[0]!r} is adaptive, but its attacker has no parameters phi to respond with"
        )
