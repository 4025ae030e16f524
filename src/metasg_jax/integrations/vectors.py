"""What learners of elsewhere ask of a game: a vector to see, a vector to play."""

from metasg_jax.errors import ConfigError
from metasg_jax.game.bsmg import FLGame


def require_vectors(game: FLGame) -> None:
    """Checks that the defender turns knobs and sees an f32[O].

    Raises:
        ConfigError: where there is nothing to turn, or the observation is a view of the clients.
    """
    if not game.action_names:
        raise ConfigError(
            "rule: neither it nor the post-training defence has knobs; take one that is steered: "
            "clipped_trimmed_mean, trusted_trimmed_mean, client_trust"
        )
    if not isinstance(game.observation_spec, int):
        raise ConfigError(
            "observation = 'clients': a vector is needed: statistics, inversion, reservoir or paper"
        )
