"""An attacker that follows the gradient of its own gain through the defence."""

import jax
import jax.numpy as jnp

from metasg_jax.attacks.through_rule import improve
from metasg_jax.fl.colluders import look_at
from metasg_jax.fl.federation import Federation
from metasg_jax.numerics import row_norms
from metasg_jax.policies import SetPolicy
from metasg_jax.responders.looking import Looking
from metasg_jax.struct import Struct, field

_TINY = 1e-12


class Gradient(Struct):
    """Improves what :class:`Looking` would send, row by row, through several rounds of the defence.

    The rounds ahead are this round's answers again: the defender describes and weighs them anew,
    with what it then remembers, and the model moves on. Gain is what images of its own clients say
    of the model at the end: how likely stamped ones are the target, or how large the loss is. A
    step goes along the gradient by a share of each row's length, a quarter at first; one that does
    not pay under the defender's true decisions is taken back, and the next is half as long. Trust
    is 0 or 1 and has no gradient; that of its probability stands in (straight through).

    Attributes:
        begins: what it improves.
        steps: static, of ascent.
        rounds: static, at least 1.
    """

    begins: Looking
    steps: int = field(static=True, default=4)
    rounds: int = field(static=True, default=3)

    def __call__(self, key, game, state, xi, defender, decide):
        """As :meth:`Looking.__call__`."""
        received, after, _ = self.begins.look(key, game, state, xi, defender, decide)
        malicious = game.malicious(state, xi)
        knows = self.begins.knows
        player = defender if knows.weights is None else knows.weights
        expect = decide if knows.weights is None else player.mode
        sight = knows.replace(weights=None)
        # raw, because a key is taken once, and every trial is to have the same luck
        raw = jax.random.key_data(jax.random.fold_in(jax.random.clone(key), 1_000_004))
        kind = jax.random.key_impl(key)
        federation = Federation(game.model, game.fl, game.data)
        looks = [
            look_at(
                jax.random.fold_in(jax.random.wrap_key_data(raw, impl=kind), i),
                federation, state.w, group,
            )
            for i, group in enumerate(game.prior.colluders(xi))
        ]  # fmt: skip

        def gain(w):
            moved = (state.w - w) / game.fl.server_lr
            planted, harmed = -looks[0](moved, True), looks[1](moved, False)
            return xi.rho * planted + (1 - xi.rho) * harmed

        def softly(obs):
            hard = expect(obs)
            if not isinstance(player.policy, SetPolicy):
                return hard
            likely = player.policy.trust(player.params, player.normalizer(obs))
            slope = 2 * (likely - jax.lax.stop_gradient(likely))
            return hard.at[: game.num_trusted].add(slope)

        def outcome(rows, soft):
            def one(s, _):
                sent = received.replace(updates=rows, w_global=s.w)
                choice, s = sight.decision(game, s, xi, sent, softly if soft else expect)
                key_rule = jax.random.wrap_key_data(raw, impl=kind)
                steered = choice if game.rule.action_spec else None
                update, rule_state, _ = game.rule(key_rule, s.rule_state, sent, steered)
                w = s.w - game.fl.server_lr * update
                s = s.replace(w=w, round=s.round + 1, previous_action=choice)
                return s.replace(rule_state=rule_state), None

            return gain(jax.lax.scan(one, after, None, length=self.rounds)[0].w)

        def moved(rows, share):
            ascent = jax.grad(outcome)(rows, True)
            length = jnp.maximum(row_norms(ascent), _TINY)[:, None]
            trial = rows + share * row_norms(rows)[:, None] * ascent / length
            return jnp.where(malicious[:, None] & jnp.isfinite(trial), trial, rows)

        def value(rows):
            return outcome(rows, False)

        begun = received.updates
        rows = improve(begun, value(begun), value, moved, self.steps)
        received = received.replace(updates=rows)
        return received, *game.observe(after, received)
