"""What a round of a defender says of itself: whom it kept, and what to make of that."""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from metasg_jax.features import FEATURES, NAMES
from metasg_jax.types import Info

_STRANGE = 0.2
"""Share of inputs outside of the range of training from which a report warns."""

_GIVEN_BY = {
    "root_update": "root_params",
    "apply": "apply and root",
    "last": "a last matrix with a column a class",
    "memory": "client_ids",
}
"""What a caller hands in, by what feature families need."""


def report_of(
    names: Sequence[Hashable],
    trust: np.ndarray,
    kept: np.ndarray,
    rejected: dict[Hashable, str],
    info: Info,
) -> dict[str, Any]:
    """The report of :meth:`~metasg_jax.defender.defender.Defender.aggregate`.

    Args:
        names: of the n clients.
        trust: f32[n].
        kept: bool[n].
        rejected: why, by name, of those who sent something unusable.
        info: of :meth:`~metasg_jax.defender.defender.Defender.step`.
    """
    outside = float(info["outside"])
    known = np.asarray(info["known"])
    needs = {name: family.needs for name, family in FEATURES.items()} | {"memory": ("memory",)}
    missing = [name for name, k in zip(needs, known, strict=True) if not k]
    left = [name for name, k in zip(names, kept, strict=True) if not k]
    note = f"{int(kept.sum())} of {len(names)} clients kept"
    if rejected:
        note += f", {len(rejected)} not usable"
    if info["unsure"]:
        note += (
            " by their median: fewer than half were believed, and nothing of the server's own "
            "tells who is right"
        )
    if not kept.any():
        note += "; the model stays as it was"
    if outside > _STRANGE:
        worst = ", ".join(NAMES[i] for i in np.argsort(-np.asarray(info["outside_by_feature"]))[:3])
        note += (
            f"; {outside:.0%} of what is seen lies outside of what this defender was trained "
            f"on ({worst} most of all): judge it in simulation before you rely on it"
        )
    if missing:
        wanting = dict.fromkeys(_GIVEN_BY[need] for name in missing for need in needs[name])
        note += f"; not seen, for want of {', '.join(wanting)}: {', '.join(missing)}"
    return {
        "trust": {name: float(t) for name, t in zip(names, trust, strict=True)},
        "kept": [name for name, k in zip(names, kept, strict=True) if k],
        "left_out": left,
        "unsure": bool(info["unsure"]),
        "rejected": rejected,
        "knobs": {k: float(info[k]) for k in ("clip_multiple", "trim_share", "own_share")},
        "outside": outside,
        "missing": missing,
        "note": note,
    }
