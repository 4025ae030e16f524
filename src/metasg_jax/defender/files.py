"""A defender's files: weights as safetensors, a card as JSON. No pickle."""

import dataclasses
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from metasg_jax import files
from metasg_jax.errors import CheckpointError
from metasg_jax.features import VERSION
from metasg_jax.features.layout import path_name
from metasg_jax.features.view import view_spec
from metasg_jax.game.rollout import Normalizer, Player, init_normalizer
from metasg_jax.policies.set_policy import SetPolicy
from metasg_jax.registry import unknown_name

WEIGHTS, CARD = "weights.safetensors", "card.json"
FORMAT = 1


def shipped() -> list[str]:
    """Names of the defenders in the package."""
    room = resources.files("metasg_jax.defender") / "shipped"
    return sorted(each.name for each in room.iterdir() if (each / CARD).is_file())


def save_defender(directory: Path, player: Player, card: dict[str, Any]) -> None:
    """Writes a set policy with its normaliser, and what is to be said of it.

    Args:
        directory: made where it is missing.
        player: with a :class:`~metasg_jax.policies.SetPolicy`.
        card: JSON; ``ranges`` and so on, see :mod:`metasg_jax.defender`. Format, feature version
            and the policy's fields are written whatever it says of them.
    """
    directory.mkdir(parents=True, exist_ok=True)
    named = {
        path_name(path): np.asarray(leaf, np.float32, order="C")
        for path, leaf in jax.tree_util.tree_flatten_with_path(_tensors(player))[0]
    }
    with files.whole(directory / WEIGHTS) as part:
        save_file(named, part)
    policy = dataclasses.asdict(player.policy)  # pyrefly: ignore
    policy.pop("num_clients")
    weights = files.sha256(directory / WEIGHTS)
    own = {"format": FORMAT, "features": VERSION, "policy": policy, "weights": weights}
    whole = own | {name: value for name, value in card.items() if name not in own}
    files.write_json(directory / CARD, whole)


def read_card(directory: Path) -> dict[str, Any]:
    """All that is said of a defender.

    Raises:
        CheckpointError: where the card is damaged.
    """
    return files.read_json(directory / CARD)


def find(name: str | Path) -> Path:
    """The directory of a shipped defender, of one that was saved, or of a pre-training run.

    Raises:
        UnknownNameError: for a name that is neither shipped nor a directory; lists those shipped.
        CheckpointError: for a directory without a defender.
    """
    names = shipped()
    if str(name) in names:
        return Path(str(resources.files("metasg_jax.defender") / "shipped" / str(name)))
    path = Path(name)
    if not path.is_dir():
        raise unknown_name("defender", str(name), names)
    for each in (path, path / "defender"):
        if (each / CARD).is_file() and (each / WEIGHTS).is_file():
            return each
    raise CheckpointError(
        f"{path}: no defender ({CARD} and {WEIGHTS}) in it or in {path}/defender; a run has one "
        "once its first stage is done, if its rule is client_trust"
    )


def read_defender(directory: Path) -> tuple[Player, dict[str, Any]]:
    """The player, its mode, and the card.

    Raises:
        CheckpointError: for files that can't be read, weights of other features than this
            version's, or that don't fit their card.
    """
    try:
        card = read_card(directory)
        tensors = load_file(directory / WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{directory}: the defender can't be read: {error}") from error
    if card.get("format") != FORMAT:
        raise CheckpointError(f"{directory}: format {card.get('format')!r}, not {FORMAT}")
    weights = files.sha256(directory / WEIGHTS)
    if card.get("weights", weights) != weights:
        raise CheckpointError(f"{directory}: {WEIGHTS} is damaged, or of another defender")
    if card.get("features") != VERSION:
        raise CheckpointError(
            f"{directory}: its weights were trained on features {card.get('features')!r}; this "
            f"version computes {VERSION!r}: train it anew, or use the version that it came with"
        )
    try:
        fields: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in card["policy"].items()
        }
        policy = SetPolicy(num_clients=1, **fields)
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{directory}: {CARD} names no policy: {error}") from error
    spec = view_spec(1)
    params = jax.eval_shape(lambda: policy.init(jax.random.key(0), spec))
    blank = Player(params, jax.eval_shape(lambda: init_normalizer(spec)), policy, greedy=True)
    flat, treedef = jax.tree_util.tree_flatten_with_path(_tensors(blank))
    leaves = []
    for path, leaf in flat:
        name = path_name(path)
        if name not in tensors or tensors[name].shape != leaf.shape:
            found = tensors[name].shape if name in tensors else "missing"
            raise CheckpointError(f"{directory}: {name} is {found}, not {leaf.shape}")
        if not np.isfinite(tensors[name]).all():
            raise CheckpointError(f"{directory}: {name} holds values that are not finite")
        leaves.append(jnp.asarray(tensors[name]))
    read = jax.tree.unflatten(treedef, leaves)
    normalizer = Normalizer(read["normalizer"]["count"], *_views(read["normalizer"], spec))
    return blank.replace(params=read["params"], normalizer=normalizer), card


def _tensors(player: Player) -> dict:
    n = player.normalizer
    return {
        "params": player.params,
        "normalizer": {
            "count": n.count,
            "mean": {"clients": n.mean.clients, "round": n.mean.round},
            "m2": {"clients": n.m2.clients, "round": n.m2.round},
        },
    }


def _views(read: dict, spec) -> tuple:
    """Mean and m2 with the leaves of a view that are not normalised."""
    rest = {
        name: jnp.zeros(getattr(spec, name).shape[-1:], jnp.float32)
        for name in ("present", "known")
    }
    return tuple(spec.replace(**read[part], **rest) for part in ("mean", "m2"))
