"""The Bayesian Stackelberg Markov game of federated learning (section 2.2 of the paper).

One step is one FL round, in two halves: the attacker's clients answer (``attack``), then the server
acts on what it received (``defend``). The post-training defence acts on a copy that enters rewards
and evaluation, never the training: so the paper's two readings of h agree.
"""

from typing import Any

import jax
import jax.numpy as jnp

from metasg_jax.aggregators.presence import presence
from metasg_jax.config import FLConfig
from metasg_jax.fl.colluders import Attackers
from metasg_jax.fl.data import ClientData, to_unit
from metasg_jax.fl.federation import Call, Federation
from metasg_jax.fl.round import aggregate, collect
from metasg_jax.fl.sampling import sample_clients
from metasg_jax.fl.wire import init_unsent, transmit
from metasg_jax.game.observations import ATTACKER_OBSERVATION_SIZE, attacker_observation
from metasg_jax.game.reward import (
    attacker_ceiling,
    attacker_reward,
    defender_reward,
    measure,
    worst_losses,
)
from metasg_jax.game.types import AttackType, Prior
from metasg_jax.post_defenses.none import undefended
from metasg_jax.struct import Struct, field
from metasg_jax.types import Aggregator, Deployed, Info, Key, Model, PostDefense, Received


class GameState(Struct):
    """Between two rounds.

    Attributes:
        w: f32[d], the global model; the last finite one after a divergence.
        client_ids: i32[n], sampled for the coming round: the attacker sees its own among them.
        round: i32[].
        diverged: bool[], whether the global model has ever gone non-finite.
        loss: f32[] in [0, 1], clean root loss of ``w`` as deployed last.
        memory: of the defender's observation.
        previous_action: f32[A], the defender's.
        rule_state: of the server's rule.
        attack_states: of the backdoor's and the untargeted attack.
        unsent: f32[N, d], what compression has kept back of each client's updates; () without.
    """

    w: jax.Array
    client_ids: jax.Array
    round: jax.Array
    diverged: jax.Array
    loss: jax.Array
    memory: Any
    previous_action: jax.Array
    rule_state: Any
    attack_states: tuple[Any, ...]
    unsent: Any


class Step(Struct):
    """What a round pays.

    Attributes:
        defender_reward: f32[], bounded; see :mod:`metasg_jax.game.reward`.
        attacker_reward: f32[], bounded.
        info: scalars for the eye: clean loss, success of the backdoor, malicious clients sampled,
            divergence, and what rule and post-training defence report.
    """

    defender_reward: jax.Array
    attacker_reward: jax.Array
    info: Info


class FLGame(Struct):
    """The FL game; a pytree whose arrays are traced and whose kinds are static.

    Another data set, partition, trigger or learning rate of the same shapes does not recompile.

    Attributes:
        data: clients' and server's images.
        root_x: f32[R, h, w, c], the server's images again, for rewards and calibration.
        root_y: i32[R].
        validation_x: u8[V, h, w, c], for choosing anything.
        validation_y: i32[V].
        test_x: u8[T, h, w, c], for final numbers only.
        test_y: i32[T].
        prior: attacker types and Q.
        rule: the server's aggregation rule.
        post_defense: acts on a copy.
        fl: counts and learning rates.
        backdoor_weight: f32[], w of the second reward.
        projection: f32[F, P], through which the attacker sees the model's last layer.
        start: f32[d], the global model of round 0; None for a fresh one, drawn by ``reset``.
        model: static.
        observation: static.
        reward: static, ``clean`` or ``clean+backdoor``.
        loss: static, ``probability`` or ``cross_entropy``.
    """

    data: ClientData
    root_x: jax.Array
    root_y: jax.Array
    validation_x: jax.Array
    validation_y: jax.Array
    test_x: jax.Array
    test_y: jax.Array
    prior: Prior
    rule: Aggregator
    post_defense: PostDefense
    fl: FLConfig
    backdoor_weight: float
    projection: jax.Array
    start: jax.Array | None
    model: Model = field(static=True)
    observation: Any = field(static=True)
    reward: str = field(static=True)
    loss: str = field(static=True)

    @property
    def horizon(self) -> int:
        """H."""
        return self.fl.horizon

    @property
    def finite(self) -> bool:
        """False: actions are knobs."""
        return False

    @property
    def action_names(self) -> tuple[str, ...]:
        """What the defender turns: trust in each client if the rule asks for it, knobs of the
        rule, then those of the post-training defence.
        """
        trust = tuple(f"trust_{i}" for i in range(self.num_trusted))
        return (*trust, *self.rule.action_spec, *self.post_defense.action_spec)

    @property
    def num_trusted(self) -> int:
        """Entries of an action about a client each: n, or 0."""
        return self.fl.num_sampled if self.rule.per_client else 0

    @property
    def action_size(self) -> int:
        """A; 1 (not read) where there is nothing to turn."""
        return max(1, len(self.action_names))

    @property
    def attacker_action_size(self) -> int:
        """A of the attacker, the same for all types."""
        return self.prior.action_size

    @property
    def observation_spec(self) -> Any:
        """What the defender sees: O of an f32[O], or the shapes of a view of the clients."""
        return self.observation.spec(self.model, self.fl, self.action_size)

    @property
    def attacker_observation_size(self) -> int:
        """O of the attacker."""
        return ATTACKER_OBSERVATION_SIZE

    @property
    def needs_root(self) -> bool:
        """Whether the server trains on its root images each round."""
        return self.rule.needs_root or self.observation.needs_root

    def reset(self, key: Key, xi: AttackType) -> GameState:
        """A fresh model and the first round's clients. ``key`` is consumed."""
        key_model, key_sample = jax.random.split(key)
        w = self.model.ravel(self.model.init(key_model)) if self.start is None else self.start
        n, d = self.fl.num_sampled, w.shape[0]
        deployed = undefended(self.model, self.model.unravel(w))
        return GameState(
            w=w,
            client_ids=sample_clients(key_sample, self.fl.num_clients, n),
            round=jnp.zeros((), jnp.int32),
            diverged=jnp.zeros((), bool),
            loss=self.losses(deployed, xi).clean,
            memory=self.observation.init(self.model, self.fl, self.action_size),
            previous_action=jnp.zeros((self.action_size,), jnp.float32),
            rule_state=self.rule.init(n, d),
            attack_states=(self.prior.backdoor.init(n, d), self.prior.untargeted.init(n, d)),
            unsent=init_unsent(self.fl, d),
        )

    def observe_attacker(self, state: GameState, xi: AttackType) -> jax.Array:
        """What the attacker sees before it acts, f32[attacker_observation_size]."""
        sampled = self.malicious(state, xi).mean()
        progress = state.round / self.fl.horizon
        return attacker_observation(
            self.model, self.projection, state.w, sampled, progress, state.loss,
            self.prior.sees_model(xi),
        )  # fmt: skip

    def attack(
        self, key: Key, state: GameState, xi: AttackType, action: jax.Array
    ) -> tuple[Received, jax.Array, GameState]:
        """First half: clients train and answer, and the defender sees it.

        Args:
            key: consumed.
            state: of :meth:`reset` or :meth:`defend`.
            xi: the type; its indices must not be batched.
            action: f32[A] in [-1, 1], the attacker's.

        Returns:
            (received, the defender's observation, state).
        """
        received, state = self.answer(key, state, xi, action)
        obs, state = self.observe(state, received)
        return received, obs, state

    def answer(
        self, key: Key, state: GameState, xi: AttackType, action: jax.Array
    ) -> tuple[Received, GameState]:
        """What the server receives: (received, state). Arguments as of :meth:`attack`."""
        received, attack_states = collect(
            key,
            Federation(self.model, self.fl, self.data),
            Call(state.w, state.client_ids, state.round),
            Attackers(
                self.prior.colluders(xi), state.attack_states, self.prior.split_action(action)
            ),
            self.rule,
            self.needs_root,
        )
        received, unsent = transmit(key, self.fl, state.unsent, received)
        return received, state.replace(attack_states=attack_states, unsent=unsent)

    def observe(self, state: GameState, received: Received) -> tuple[jax.Array, GameState]:
        """What the defender sees of what was received: (observation, state with its memory)."""
        progress = state.round / self.fl.horizon
        obs, memory = self.observation(
            self.model,
            state.memory,
            received,
            (self.root_x, self.root_y),
            state.loss,
            state.previous_action,
            progress,
        )
        return obs, state.replace(memory=memory)

    def defend(
        self, key: Key, state: GameState, xi: AttackType, received: Received, action: jax.Array
    ) -> tuple[GameState, Step]:
        """Second half: the server aggregates, and both players are paid.

        Args:
            key: consumed.
            state: as :meth:`attack` returned it.
            xi: the type.
            received: as :meth:`attack` returned it.
            action: f32[A] in [-1, 1], the defender's.
        """
        key_rule, key_post, key_sample = jax.random.split(key, 3)
        w, rule_state, rule_info = aggregate(
            key_rule,
            self.rule,
            state.rule_state,
            received,
            self.fl.server_lr,
            action if self.rule.action_spec else None,
        )
        gone = state.diverged | ~jnp.isfinite(w).all()
        w = jnp.where(gone, state.w, w)
        deployed, post_info = self.deploy(key_post, w, action)
        losses = self.losses(deployed, xi)
        worst = worst_losses(xi.has_backdoor)
        losses = jax.tree.map(lambda a, b: jnp.where(gone, a, b), worst, losses)
        malicious = self.malicious(state, xi)
        r_defender = defender_reward(losses, self.reward, self.backdoor_weight)
        r_attacker = jnp.where(
            gone,
            attacker_ceiling(xi.rho, xi.num_backdoor + xi.num_untargeted),
            attacker_reward(losses, xi.rho, malicious.any()),
        )
        info = {
            "loss": losses.clean,
            "backdoor": losses.success,
            "malicious": malicious.sum(dtype=jnp.int32),
            "diverged": gone,
            **{k: v for k, v in {**rule_info, **post_info}.items() if jnp.ndim(v) == 0},
        }
        next_state = state.replace(
            w=w,
            client_ids=sample_clients(key_sample, self.fl.num_clients, self.fl.num_sampled),
            round=state.round + 1,
            diverged=gone,
            loss=losses.clean,
            previous_action=action,
            rule_state=rule_state,
        )
        return next_state, Step(r_defender, r_attacker, info)

    def credits(
        self, key: Key, state: GameState, xi: AttackType, received: Received, action: jax.Array
    ) -> jax.Array:
        """What each client earns the defender in this round by being kept, f32[n]; 0 if absent.

        Its reward with the client kept minus that with it left, the other decisions as they are.
        Arguments as of :meth:`defend`, of which ``key`` is read and not consumed: the same luck.

        Raises:
            ValueError: where the defender does not decide about each client.
        """
        n = self.num_trusted
        if not n:
            raise ValueError("credits: the rule does not decide about each client")

        def reward(i, keep):
            turned = action.at[i].set(keep)
            return self.defend(jax.random.clone(key), state, xi, received, turned)[
                1
            ].defender_reward

        def both(i):
            return reward(i, 1.0) - reward(i, -1.0)

        return jnp.where(presence(received), jax.vmap(both)(jnp.arange(n)), 0.0)

    def deploy(
        self, key: Key, w: jax.Array, action: jax.Array | None = None
    ) -> tuple[Deployed, Info]:
        """The post-training-defended copy of the global model f32[d] under an action f32[A].

        Without an action the defence's own fields act.
        """
        trained = undefended(self.model, self.model.unravel(w))
        calibrated = self.post_defense.calibrate(self.model, trained, self.root_x, self.root_y)
        knobs = None
        if action is not None and self.post_defense.action_spec:
            knobs = action[self.num_trusted + len(self.rule.action_spec) :]
        deployed, _, info = self.post_defense(key, calibrated, trained, knobs)
        return deployed, info

    def losses(self, deployed: Deployed, xi: AttackType):
        """Root losses of a deployed model against a type."""
        return measure(self.model, deployed, self.root_x, self.root_y, xi, self.loss)

    def malicious(self, state: GameState, xi: AttackType) -> jax.Array:
        """Which clients of the coming round attack in it, bool[n]; no player sees it."""
        return xi.active(state.round) & (state.client_ids < xi.num_backdoor + xi.num_untargeted)


def owned_images(data: ClientData, owner: int) -> tuple[jax.Array, jax.Array]:
    """All images f32[R, h, w, c] and labels i32[R] of one owner; not jitted."""
    chosen = data.index[owner, : int(data.sizes[owner])]
    return to_unit(data.images[chosen]), data.labels[chosen]
