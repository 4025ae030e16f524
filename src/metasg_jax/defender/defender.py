"""A defender for a server of one's own: which client to believe, and what to make of the rest."""

import functools
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metasg_jax.aggregators import ClientTrust, Median
from metasg_jax.defender.files import find, read_defender
from metasg_jax.defender.report import report_of
from metasg_jax.defender.server import choose_few, look_over, root_images, tune
from metasg_jax.defender.slots import assign
from metasg_jax.errors import ConfigError
from metasg_jax.features import ServerData
from metasg_jax.features.memory import ClientMemory
from metasg_jax.features.view import NUM_FEATURES, begin, describe, is_blind
from metasg_jax.fl.model_form import ModelForm
from metasg_jax.fl.receive import check_sent, check_weights
from metasg_jax.game.rollout import Player
from metasg_jax.policies import SetPolicy
from metasg_jax.struct import Struct, field
from metasg_jax.types import Info, Params, Received


class DefenderState(Struct):
    """What a defender carries from round to round; a pytree of arrays, checkpoint it as you like.

    Attributes:
        memory: of the clients, by slot.
        ids: u32[N, 2], whose slot it is, by a fingerprint of the id; 0 where it is free.
        last_seen: i32[N], the round in which that client answered last; -1 where it is free.
        round: i32[].
        form: static, of the model that it was begun for.
    """

    memory: ClientMemory
    ids: jax.Array
    last_seen: jax.Array
    round: jax.Array
    form: str = field(static=True)


class Defender:
    """Decides about each client of a round with a policy that was trained in simulation.

    Holds no state of a federation: that is in :class:`DefenderState`. Make it by
    :func:`load_defender`.

    Attributes:
        card: what it was trained on, judged on and not meant for.
    """

    def __init__(
        self,
        player: Player,
        card: dict[str, Any],
        apply: Callable[[Params, Any], Any] | None = None,
        root: tuple[Any, Any] | None = None,
        last: str | None = None,
        num_slots: int = 4096,
    ):
        self.card = card
        self._player, self._apply, self._last = player, apply, last
        self._images = root_images(apply, root)
        self._root = None if self._images is None else choose_few(*self._images)
        self._num_slots = num_slots
        self._servers: dict[Hashable, ServerData] = {}
        ranges = card.get("ranges", {})
        low, high = (np.asarray(ranges.get(k, []), np.float32) for k in ("low", "high"))
        fits = low.shape == high.shape == (NUM_FEATURES,)
        nowhere = np.full(NUM_FEATURES, np.inf, np.float32)
        self._ranges = (jnp.asarray(low), jnp.asarray(high)) if fits else (-nowhere, nowhere)

    def init(self, params: Params) -> DefenderState:
        """The state before the first round of a federation that trains this model.

        Args:
            params: any pytree of arrays: NumPy, JAX or PyTorch.

        Raises:
            ConfigError: for a model without floating leaves; where ``apply`` fails on it, or the
                matrix named ``last`` is not there.
        """
        form, _ = self._server(params)
        n = self._num_slots
        return DefenderState(
            memory=begin(n),
            ids=jnp.zeros((n, 2), jnp.uint32),
            last_seen=jnp.full((n,), -1, jnp.int32),
            round=jnp.zeros((), jnp.int32),
            form=form.key,
        )

    def aggregate(
        self,
        state: DefenderState,
        params: Params,
        client_params: Sequence[Params],
        *,
        client_ids: Sequence[Hashable] | None = None,
        weights: Sequence[float] | None = None,
        root_params: Params | None = None,
    ) -> tuple[Params, DefenderState, dict[str, Any]]:
        """The next global model of a round.

        A client whose model has another structure, other shapes or entries that are no finite
        numbers is left out and named in the report; it is never an error.

        Args:
            state: of :meth:`init` or of the round before.
            params: the model that was sent out.
            client_params: n models, at least one.
            client_ids: n different integers of any size, strings or bytes; None where clients can't
                be known again: then nothing is remembered of them.
            weights: n non-negative numbers, of images for instance; equal by default. They count
                where no rows are trimmed, and no client for more than twice the median.
            root_params: the model that the server trained on its own images from ``params``, as a
                client would; None if there is none. One with entries that are not finite is left
                out, and the note says so.

        Returns:
            (params, state, report). The report has ``trust`` (how likely each client is to be worth
            keeping, by id), ``kept`` and ``left_out`` (ids), ``unsure`` (whether, without anything
            of the server's own, fewer than half of the clients were believed: then the median of
            all is taken, and all are kept), ``rejected`` (id -> why), ``knobs``,
            ``outside`` (share of inputs outside of the range of training), ``missing`` (feature
            families that were off) and ``note``, a sentence.

        Raises:
            ConfigError: for a state of another model, no clients, ids or weights that don't fit.
        """
        form, server = self._server(params)
        if state.form != form.key:
            raise ConfigError(
                "params: not the model that the state was begun for (structure or shapes differ); "
                "begin anew with init(params)"
            )
        n = len(client_params)
        if not n:
            raise ConfigError("client_params = []: at least one model")
        names = list(range(n)) if client_ids is None else list(client_ids)
        if len(names) != n:
            raise ConfigError(f"client_ids: {len(names)} of them, not one for each of {n} clients")
        claimed = check_weights(weights, n)
        sent, w_global = check_sent(form, params, "params")
        rows = np.zeros((_padded(n), form.size), np.float32)
        slots, state = self._assign(state, names, client_ids is not None, len(rows))

        models, rejected = [], {}
        for i, each in enumerate(client_params):
            try:
                models.append(form.arrays(each, "model"))
            except ConfigError as error:
                models.append(None)
                rejected[names[i]] = str(error)
                continue
            if not form.difference(sent, models[i], rows[i]):
                rejected[names[i]] = "entries that are not finite, or too large"
        there = np.array([name not in rejected for name in names])
        counted = claimed[there & (claimed > 0)]
        most = 2 * np.median(counted) if len(counted) else 1.0
        padded = np.zeros(len(rows), np.float32)
        # a weight of 0 is an absent row; a claim of many images must not buy a round
        padded[:n] = np.where(there, np.minimum(claimed, most), 0.0) / max(most, 1e-30)

        root_update, root_used = None, True
        if root_params is not None:
            root_update = np.empty(form.size, np.float32)
            own = form.arrays(root_params, "root_params")
            root_used = form.difference(sent, own, root_update)
        received = Received(
            updates=jnp.asarray(rows),
            weights=jnp.asarray(padded),
            client_ids=slots,
            w_global=jnp.asarray(w_global),
            # a root model that diverged would spread to the next one, whatever the clients sent
            root_update=jnp.asarray(root_update) if root_update is not None and root_used else None,
            round=state.round,
        )
        update, state, info = _step(
            self._player, server, self._ranges, state, received, remembers=client_ids is not None
        )
        trust, kept = np.asarray(info["trust"])[:n], np.asarray(info["kept"])[:n] & (padded[:n] > 0)
        others = form.counters(sent, [m for m, k in zip(models, kept, strict=True) if k])
        new = form.moved(sent, np.asarray(update), others)
        report = report_of(names, trust, kept, rejected, info)
        if not root_used:
            report["note"] += "; root_params not used: entries that are not finite, or too large"
        return new, state, report

    def fine_tune(self, params: Params, *, steps: int = 50, lr: float = 0.05) -> Params:
        """The model to deploy after the last round: tuned on all of the server's own images.

        It repairs what leaving out honest clients has cost, and much of a diluted backdoor; what it
        is worth against attackers who know the defence: docs/results/worst_case.md.

        Args:
            params: the global model after the last round.
            steps: gradient steps, each on all images.
            lr: of these steps, positive.

        Returns:
            The tuned model, in the kinds and dtypes of ``params``; counters stay.

        Raises:
            ConfigError: for a defender without ``apply`` and ``root``, numbers out of range, and
                where the model diverges.
        """
        if self._images is None:
            raise ConfigError("fine_tune: load_defender(..) was given no apply and root to tune on")
        if steps < 1:
            raise ConfigError(f"steps = {steps}: at least 1")
        if not 0 < lr < np.inf:
            raise ConfigError(f"lr = {lr:g}: positive and finite")
        form, server = self._server(params)
        sent, w = check_sent(form, params, "params")
        tuned = np.asarray(tune(server.apply, jnp.asarray(w), *self._images, lr, steps))
        if not np.isfinite(tuned).all():
            raise ConfigError(f"lr = {lr:g}: the model diverges; take a smaller one")
        return form.moved(sent, w - tuned, sent)

    def step(
        self,
        state: DefenderState,
        received: Received,
        *,
        server: ServerData,
        remembers: bool = True,
    ) -> tuple[jax.Array, DefenderState, Info]:
        """The same beneath, pure and jitted: (update f32[d] to subtract, state, info).

        Args:
            state: of :meth:`init`.
            received: its ``client_ids`` are slots of the memory.
            server: the server's own images and model, of :meth:`server`.
            remembers: static; whether the slots are the same clients round after round.

        Returns:
            info has ``trust`` f32[n], ``kept`` bool[n], ``unsure`` bool[], ``outside`` f32[], the
            knobs, ``rejected``.

        Raises:
            ConfigError: for ids that are no slots; not where they are traced.
        """
        slots = received.client_ids
        if remembers and not isinstance(slots, jax.core.Tracer):
            slots, most = np.asarray(slots), state.last_seen.shape[0]
            wrong = slots[(slots < 0) | (slots >= most)]
            if wrong.size:  # the memory would take another client's slot for it
                raise ConfigError(f"client_ids: {wrong[0]} is no slot: from 0 to {most - 1}")
        return _step(self._player, server, self._ranges, state, received, remembers=remembers)

    def server(self, params: Params) -> ServerData:
        """What this defender's server has beside the updates of such a model, for :meth:`step`."""
        return self._server(params)[1]

    def _server(self, params: Params) -> tuple[ModelForm, ServerData]:
        form = ModelForm(params)
        key = form.key, form.floating
        if key not in self._servers:
            self._servers[key] = look_over(form, self._apply, self._root, self._last)
        return form, self._servers[key]

    def _assign(self, state: DefenderState, names: list, known: bool, width: int):
        """Slots i32[width], and the state with those of newcomers wiped."""
        if not known:
            return jnp.arange(width, dtype=jnp.int32) % self._num_slots, state
        if width > self._num_slots:
            raise ConfigError(f"client_ids: {len(names)} clients but {self._num_slots} slots")
        found, fresh, ids, last_seen = assign(
            np.asarray(state.ids), np.asarray(state.last_seen), names, int(state.round)
        )
        # rows that are not there get the slots of nobody in this round, and teach them nothing
        spare = np.setdiff1d(np.arange(self._num_slots), found)[: width - len(found)]
        wiped = jnp.asarray(found[fresh])
        memory = state.memory.replace(
            sums=jnp.asarray(state.memory.sums).at[wiped].set(0.0),
            counts=jnp.asarray(state.memory.counts).at[wiped].set(0.0),
        )
        state = state.replace(memory=memory, ids=jnp.asarray(ids), last_seen=jnp.asarray(last_seen))
        return jnp.asarray(np.concatenate([found, spare]), jnp.int32), state


@functools.partial(jax.jit, static_argnames="remembers")
def _step(player: Player, server: ServerData, ranges, state: DefenderState, received, *, remembers):
    view, memory = describe(received, server, state.memory, remembers=remembers)
    obs = player.normalizer(view)
    policy = player.policy
    assert isinstance(policy, SetPolicy)
    action = policy.mode(player.params, obs)
    n = view.present.shape[0]
    some = view.present.any()
    rule = ClientTrust()
    update, _, info = rule(None, (), received, action)
    kept = (action[:n] > 0) & view.present
    # where nothing tells who is right the majority has to be, and a policy that believes fewer than
    # half of the clients may have taken the wrong side
    unsure = some & is_blind(view.known) & (2 * kept.sum() < view.present.sum())
    update = jax.lax.cond(unsure, lambda: Median()(None, (), received)[0], lambda: update)
    kept = jnp.where(unsure, view.present, kept)
    update = jnp.where(some, update, 0.0)
    now, (low, high) = view.clients[:, :NUM_FEATURES], ranges
    beyond = ((now < low[None]) | (now > high[None])) & view.present[:, None]
    by_feature = beyond.sum(axis=0) / jnp.maximum(view.present.sum(), 1)
    info = {
        **info,
        "trust": policy.trust(player.params, obs),
        "kept": kept,
        "unsure": unsure,
        "known": view.known,
        "outside": by_feature.mean(),
        "outside_by_feature": by_feature,
    }
    return update, state.replace(memory=memory, round=state.round + 1), info


def load_defender(
    name: str | Path,
    apply: Callable[[Params, Any], Any] | None = None,
    root: tuple[Any, Any] | None = None,
    *,
    last: str | None = None,
    num_slots: int = 4096,
    threshold: float | None = None,
    trim: float | None = None,
) -> Defender:
    """A defender that was trained in simulation, for a server of one's own.

    Args:
        name: a shipped one (``metasg defenders`` lists them), a directory that
            :func:`save_defender` wrote, or one of a pre-training run.
        apply: ``(params, x) -> logits [B, C]``, traceable by JAX, if the server can run its model.
        root: (x [R, ...], y [R]), images of the server's own as ``apply`` takes them, labels from
            0. Given together with ``apply``; without them the server's sight is worse, as the card
            says.
        last: path of the last matrix, as ``head/kernel``; searched by default.
        num_slots: clients that are remembered; who was seen longest ago is forgotten first.
        threshold: in (0, 1), how sure it must be of a client to keep it; as it was taught, 0.5, and
            ``v3`` 1/7 where the server has nothing of its own to look with. A
            stricter one leaves out diluted attacks and honest clients: see
            :meth:`Defender.fine_tune`.
        trim: from 0 to 0.45, the least share of the kept clients that is dropped at each side of
            every coordinate, against attackers who know the defender and dilute their poison. What
            it costs without them is on the page of the worst case.

    Raises:
        UnknownNameError: for a name that is neither shipped nor a directory.
        CheckpointError: for files that can't be read or belong to other features.
        ConfigError: for root images that don't fit, or a threshold or trim out of range.

    Example:
        >>> defender = load_defender("v3")
        >>> model = {"w": np.zeros((4, 2), np.float32), "b": np.zeros(2, np.float32)}
        >>> state = defender.init(model)
        >>> clients = [jax.tree.map(lambda leaf: leaf + 0.1, model) for _ in range(3)]
        >>> clients.append({"w": model["w"] * np.nan, "b": model["b"]})
        >>> model, state, report = defender.aggregate(state, model, clients)
        >>> report["rejected"]
        {3: 'entries that are not finite, or too large'}
    """
    player, card = read_defender(find(name))
    assert isinstance(player.policy, SetPolicy)
    player = player.replace(policy=player.policy.stricter(threshold, trim))
    return Defender(player, card, apply, root, last, num_slots)


def _padded(n: int) -> int:
    """Rows that a program is compiled for: few sizes serve all rounds."""
    size = 4
    while size < n and size < 64:
        size *= 2
    return size if n <= size else -(-n // 64) * 64
