"""What `metasg matrix` and `metasg exploit` play by default, and who is compared with whom."""

from collections.abc import Sequence

from metasg_jax.game.types import parse_type

# 20 % of the clients where the attack is untargeted, 5 % or 20 % where it plants a backdoor
ATTACKS = (
    "none",
    "ipm:scale=0.5@0.2",
    "ipm:scale=5@0.2",
    "alie@0.2",
    "lmp@0.2",
    "lmp_krum@0.2",
    "lmp_trim@0.2",
    "min_max@0.2",
    "min_sum@0.2",
    "eb@0.2",
    "sign_flip:scale=3@0.2",
    "gaussian:sigma=0.1@0.2",
    "label_flip@0.2",
    "mimic@0.2",
    "bfl@0.05",
    "bfl@0.2",
    "bfl:replace_model=1@0.05",
    "dba@0.2",
    "pgd@0.05",
    "neurotoxin@0.2",
    "ipm:scale=2@0.1+bfl:boost=3@0.05",
)

# the same attacks at other scales: a line search, for the worst case of a defence
SCALES = (
    *(f"ipm:scale={scale}@0.2" for scale in (0.1, 1, 2, 10)),
    *(f"alie:z={z}@0.2" for z in (0.75, 1.5, 3)),
    *(f"lmp:z={z}@0.2" for z in (0.5, 4)),
    *(f"sign_flip:scale={scale}@0.2" for scale in (1, 10)),
    *(f"bfl:boost={boost}@0.2" for boost in (2, 5, 10)),
)
# what knows the rule, and looks for the worst it can do to it in each round
TAILORED = ("tailored@0.2", "tailored:steps=20@0.2", "tailored_bfl@0.2")
FIXED = tuple(dict.fromkeys((*ATTACKS, *SCALES)))
ZOO = (*FIXED, *TAILORED)
# those of the fixed attacks that compute with all honest updates, from the colluders' own instead
_COMPUTE = ("ipm", "alie", "lmp", "lmp_krum", "lmp_trim", "min_max", "min_sum")
OWN_KNOWLEDGE = tuple(
    f"{name}{',' if ':' in name else ':'}knowledge=own@{share}"
    for name, _, share in (text.partition("@") for text in FIXED if "+" not in text)
    if name.partition(":")[0]
    in ("ipm", "alie", "lmp", "lmp_krum", "lmp_trim", "min_max", "min_sum")
)
RULES = (
    "mean",
    "median",
    "trimmed_mean",
    "clipped_trimmed_mean",
    "norm_bound:max_norm=0.4",
    "weak_dp:max_norm=0.4",
    "clipped_median:max_norm=0.4",
    "krum",
    "multi_krum",
    "bulyan:f=1",
    "geometric_median",
    "meamed",
    "mda",
    "centered_clip",
    "fltrust",
    "sign_majority",
    "flame",
    "deepsight",
    "crfl",
    "foolsgold:num_clients=100",
    "nnm+trimmed_mean",
    "nnm+krum",
    "bucketing+median",
    "clipping:max_norm=0.4+geometric_median",
)
POSTS = ("none", "neuron_clip", "guarded_prune", "prune+fine_tune")


def comparable_attacks(attack: str, num_clients: int, zoo: Sequence[str]) -> tuple[str, ...]:
    """The zoo's fixed attacks of the same kind, at the same share; none for a mixed type.

    Attacks tailored to the rule aren't among them: what they do is a check on its own.

    Example:
        >>> comparable_attacks("brl@0.05", 100, FIXED)[:2]
        ('bfl@0.05', 'bfl:replace_model=1@0.05')
    """
    if "+" in attack:
        return ()
    share = attack.rpartition("@")[2]
    named = (f"{text.partition('@')[0]}@{share}" for text in zoo if "+" not in text)
    return tuple(each for each in dict.fromkeys(named) if is_comparable(each, attack, num_clients))


def is_comparable(text: str, attack: str, num_clients: int, own: bool = False) -> bool:
    """Whether a type is a fixed attack with the same clients on the same side as ``attack``.

    With ``own`` only those count that compute with the colluders' own updates.
    """
    one, other = parse_type(text, num_clients), parse_type(attack, num_clients)
    knows = {one.untargeted.knowledge, one.backdoor.knowledge}
    if one.adaptive or "rule" in knows or text.partition("@")[0] == "none":
        return False
    if own and "all" in knows:
        return False
    return (one.num_untargeted, one.num_backdoor) == (other.num_untargeted, other.num_backdoor)
