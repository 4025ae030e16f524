"""From settings to a game: host-side NumPy, once a run."""

import jax.numpy as jnp
import numpy as np

from metasg_jax.aggregators import AGGREGATORS, Composed
from metasg_jax.config import FLConfig, GameConfig
from metasg_jax.data import PARTITIONS, TRIGGERS, Dataset, Splits, load, pool, require_arrays, split
from metasg_jax.data.simulated import Simulated, simulate, with_simulated_clients
from metasg_jax.errors import ConfigError
from metasg_jax.fl.data import ClientData
from metasg_jax.game.bsmg import FLGame, owned_images
from metasg_jax.game.observations import OBSERVATIONS, attacker_projection
from metasg_jax.game.types import make_prior, parse_type
from metasg_jax.limits import BOUND, COUNT, KNOB, NOT_NEGATIVE, POSITIVE, STEPS, Limit, check_fields
from metasg_jax.models import make_model
from metasg_jax.post_defenses import POST_DEFENSES
from metasg_jax.post_defenses import Composed as ComposedDefense
from metasg_jax.pre_aggregators import PRE_AGGREGATORS
from metasg_jax.registry import parse_variant
from metasg_jax.types import Aggregator, Model, PostDefense


def make_rule(
    text: str, num_sampled: int, assumed_share: float, model: Model | None = None
) -> Aggregator:
    """A registered rule; the assumed share of malicious clients sets what it asks for of it.

    That is ``f = round(n x share)``, or ``beta``, the share that is trimmed at each side.

    ``nnm+krum`` puts pre-aggregators before the rule, in the order of their names. Fields are
    set as in ``norm_bound:max_norm=0.5`` and ``bucketing:s=3+median``.

    Args:
        text: the rule.
        num_sampled: n.
        assumed_share: the server's guess of the share of malicious clients.
        model: what the clients train; asked for by ``deepsight`` only.

    Raises:
        UnknownNameError: for a name that is not registered.
        ConfigError: for an unknown field, and where :func:`check_rule` says so.

    Example:
        >>> make_rule("krum", 10, 0.2).f
        2.0
    """
    *first, last = text.split("+")
    f = float(round(num_sampled * assumed_share))
    pre = tuple(parse_variant(PRE_AGGREGATORS, part, "rule", f=f) for part in first)
    rule = parse_variant(AGGREGATORS, last, "rule", f=f, beta=float(assumed_share), model=model)
    return check_rule(Composed(pre, rule) if pre else rule, num_sampled)


def check_rule(rule, num_sampled: int):
    """Returns the rule if its numbers are in range for n sampled clients.

    A rule is called with traced numbers, which can't be compared; so they are checked here, where
    a rule enters.

    Raises:
        ConfigError: where f is not in [0, n / 2), beta or max_trim not in [0, 0.5), m or s not in
            [1, n], clip, trim or trust not in [-1, 1], smoothing not in (0, 1), a bound, a scale or
            a tolerance not positive, sigma or noise below 0, iterations below 1, floor not in
            [0, 1) or max_suspicious not in (0, 1]; and what ``check_clients`` of a rule refuses.
    """
    if isinstance(rule, Composed):
        for pre in rule.pre:
            check_rule(pre, num_sampled)
            num_sampled = pre.num_rows(num_sampled)
        check_rule(rule.rule, num_sampled)
        return rule
    n = f"with num_sampled = {num_sampled}"
    one_to_n: Limit = (lambda v: 1 <= v <= num_sampled, f"in [1, n] {n}")
    check_fields(
        rule,
        f=(lambda v: 0 <= v < num_sampled / 2, f"in [0, n / 2) {n}"),
        m=one_to_n,
        s=one_to_n,
        beta=(lambda v: 0 <= v < 0.5, "in [0, 0.5)"),
        trust=KNOB,
        own=KNOB,
        max_norm=BOUND,
        scale=POSITIVE,
        sigma=NOT_NEGATIVE,
        noise=NOT_NEGATIVE,
        smoothing=(lambda v: 0 < v < 1, "in (0, 1)"),
        tolerance=POSITIVE,
        iterations=STEPS,
        floor=(lambda v: 0 <= v < 1, "in [0, 1)"),
        clip=KNOB,
        trim=KNOB,
        min_clip=POSITIVE,
        max_clip=POSITIVE,
        max_trim=(lambda v: 0 <= v < 0.5, "in [0, 0.5)"),
        max_suspicious=(lambda v: 0 < v <= 1, "in (0, 1]"),
    )
    # a rule that asks more of the number of clients says so itself
    if hasattr(rule, "check_clients"):
        rule.check_clients(num_sampled)
    return rule


def make_post_defense(text: str) -> PostDefense:
    """A registered post-training defence; ``prune+fine_tune`` applies one after the other.

    Fields are set as in ``neuron_clip:range=-0.2``.

    Raises:
        UnknownNameError: for a name that is not registered.
        ConfigError: for an unknown field or one out of range.
    """
    parts = tuple(parse_variant(POST_DEFENSES, part, "post_defense") for part in text.split("+"))
    for part in parts:
        part.check()
    return parts[0] if len(parts) == 1 else ComposedDefense(parts)


def make_observation(text: str):
    """A registered observation; ``statistics:decay=0`` sets fields, here that of its memory.

    Raises:
        UnknownNameError: for a name that is not registered.
        ConfigError: for an unknown field or one out of range.
    """
    observation = parse_variant(OBSERVATIONS, text, "observation")
    check_fields(
        observation,
        decay=(lambda v: 0 <= v < 1, "in [0, 1)"),
        units=COUNT,
        leak=(lambda v: 0 < v <= 1, "in (0, 1]"),
        radius=(lambda v: 0 < v < 1, "in (0, 1)"),
        side=COUNT,
        images=COUNT,
    )
    return observation


def make_game(
    config: GameConfig | None = None,
    fl: FLConfig | None = None,
    dataset: Dataset | None = None,
    simulated: Simulated | None = None,
) -> FLGame:
    """Builds the FL game: splits, partition, model, prior, rules.

    Args:
        config: what is played; the embedded digits by default.
        fl: how clients train.
        dataset: images to use in place of ``load(config.dataset)``.
        simulated: what clients hold instead of the data set's images: the server's own world, in
            which validation and test images are simulated too.

    Raises:
        UnknownNameError: for any name that is not registered.
        ConfigError: for a setting out of range.
        DataError: where the data set can't be had, or holds what a game would misread (see
            :func:`~metasg_jax.data.require_arrays`); of simulated images likewise.

    Example:
        >>> from metasg_jax.config import FLConfig, GameConfig
        >>> fl = FLConfig(num_clients=20, num_sampled=5, horizon=2)
        >>> game = make_game(GameConfig(types=("none", "ipm@0.2")), fl)
        >>> len(game.prior), game.action_names
        (2, ('clip', 'trim', 'range'))
    """
    config, fl = config or GameConfig(), fl or FLConfig()
    config.check()
    fl.check()
    if fl.weighting == "auto":
        fl = fl.replace(weighting="size" if config.partition == "dirichlet" else "equal")
    if dataset is None:
        dataset = load(config.dataset)
    require_arrays(dataset)
    rng = np.random.default_rng(config.seed)
    splits = splits_of(rng, config, dataset)
    if simulated is None:
        dataset = pool(dataset, config.pool)
    else:
        dataset, splits = with_simulated_clients(dataset, splits, simulated, config.pool)
    shape = dataset.train_x.shape[1:]
    data = deal(rng, dataset, splits, config, fl.num_clients)

    if not 0 <= config.target < dataset.num_classes:
        raise ConfigError(f"target = {config.target}: between 0 and {dataset.num_classes - 1}")
    trigger = TRIGGERS[config.trigger](shape, config.trigger_size, position=config.trigger_position)
    root_x, root_y = owned_images(data, fl.num_clients)
    shift, scale = normalization(np.asarray(root_x)) if config.normalize else ((), ())
    model = make_model(config.model, shape, dataset.num_classes, config.hidden, shift, scale)
    specs = [parse_type(text, fl.num_clients) for text in config.types]
    device = jnp.asarray  # arrays move to the device once
    return FLGame(
        data=data,
        root_x=root_x,
        root_y=root_y,
        validation_x=device(dataset.train_x[splits.validation]),
        validation_y=device(dataset.train_y[splits.validation]),
        test_x=device(dataset.test_x[splits.test]),
        test_y=device(dataset.test_y[splits.test]),
        prior=make_prior(specs, trigger, config.target, config.probabilities),
        rule=make_rule(config.rule, fl.num_sampled, config.assumed_share, model),
        post_defense=make_post_defense(config.post_defense),
        fl=fl,
        backdoor_weight=config.backdoor_weight,
        projection=attacker_projection(model),
        start=None,
        model=model,
        observation=make_observation(config.observation),
        reward=config.reward,
        loss=config.loss,
    )


def normalization(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel of images f32[R, h, w, c], rounded to 0.05, at least that.

    They are part of the model and static: rounded ones are the same in nearly all worlds.
    """

    def rounded(values):
        return tuple(round(max(round(float(v) / 0.05), 1) * 0.05, 2) for v in values)

    return rounded(images.mean((0, 1, 2))), rounded(images.std((0, 1, 2)))


def splits_of(rng, config: GameConfig, dataset: Dataset) -> Splits:
    """The first draw of a game's randomness: who may see which images."""
    return split(
        rng, dataset, config.num_root, config.num_validation, config.num_test or None,
        config.root_class_share,
    )  # fmt: skip


def simulated_clients(
    config: GameConfig, dataset: Dataset, kind: str, count: int
) -> tuple[Simulated, np.ndarray]:
    """What the server of a game can make of its root images: (images, positions i32[R] of these).

    Raises:
        UnknownNameError, ConfigError: see :func:`~metasg_jax.data.simulated.simulate`.
    """
    root = splits_of(np.random.default_rng(config.seed), config, dataset).root
    return simulate(kind, dataset, root, count, config.pool, config.seed), root


def deal(rng, dataset: Dataset, splits, config: GameConfig, num_clients: int) -> ClientData:
    """Deals the clients' images and appends the server as owner N.

    Clients are put in random order: ids 0 .. m - 1 are the malicious ones, and must not be those of
    particular classes.
    """
    labels = dataset.train_y[splits.clients]
    partition = PARTITIONS[config.partition](rng, labels, num_clients, config.level)
    order = rng.permutation(num_clients)
    clients, sizes = splits.clients[partition.index[order]], partition.sizes[order]
    width = max(clients.shape[1], len(splits.root))
    index = np.concatenate([_widen(clients, width), _widen(splits.root[None], width)])
    return ClientData(
        images=jnp.asarray(dataset.train_x),
        labels=jnp.asarray(dataset.train_y),
        index=jnp.asarray(index, jnp.int32),
        sizes=jnp.asarray(np.append(sizes, len(splits.root)), jnp.int32),
    )


def _widen(rows: np.ndarray, width: int) -> np.ndarray:
    repeats = -(-width // rows.shape[1])
    return np.tile(rows, (1, repeats))[:, :width]
