"""A Flower strategy that decides about each client with a shipped defender."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Result, Strategy

from metasg_jax.defender import Defender, DefenderState, load_defender
from metasg_jax.errors import CheckpointError, ConfigError
from metasg_jax.fl.model_form import ModelForm
from metasg_jax.integrations.flower import buffers, checkpoint
from metasg_jax.integrations.flower.metrics import averaged, skipped
from metasg_jax.integrations.flower.records import (
    Arrays,
    as_record,
    by_name,
    few,
    own_arrays,
    to_params,
)
from metasg_jax.integrations.flower.replies import Answer, sift
from metasg_jax.integrations.flower.root import RootSGD
from metasg_jax.integrations.flower.tally import Tally
from metasg_jax.types import Params

RootTraining = Callable[[Mapping[str, np.ndarray], int], Mapping[str, Any]]

# Flower's own, so that what is said of a round stands among its lines
_log = logging.getLogger("flwr")


class TrustedFedAvg(FedAvg):
    """Flower's FedAvg, but a trained defender decides whom to believe.

    A reply that is no usable model (other arrays or shapes, entries that are not finite, text, too
    many bytes, an error, a second answer, none in time) is refused and named; it never stops a
    round. With fewer than two usable replies the model stays as it is.

    Args:
        root: (x [R, ...], y [R]), images of the server's own as ``apply`` takes them and labels
            from 0; 100 are enough. Without them it works on the updates alone, and sees less.
        apply: ``(params, x) -> logits [B, C]``, traceable by JAX. ``params`` are the model's arrays
            by name without its buffers, or a pytree as ``like``.
        defender: a name or a directory for :func:`metasg_jax.load_defender`, or what it returned.
        train_root: how the server trains on its own images each round: a :class:`RootSGD`, which
            needs ``root`` and ``apply``; or ``(arrays by name, round) -> arrays by name`` of your
            own in any framework, the model that it received. None: it does not.
        like: a pytree whose paths are the names of the record, see :func:`to_record`.
        buffer_names: patterns of arrays that are no parameters. They and whole numbers are in no
            distance; they are averaged by the weights of the clients kept.
        detect_only: whether to name suspects and leave the aggregation to ``strategy``, which is
            handed every usable reply.
        strategy: of Flower, aggregates where ``detect_only``; FedAvg by default.
        checkpoint_dir: where state and model are kept; :meth:`start` goes on from there.
        checkpoint_every: rounds between two checkpoints, at least 1.
        fedavg: arguments of Flower's FedAvg, ``min_train_nodes`` for instance. It and
            ``min_available_nodes`` should be the number of your nodes: Flower's first round
            otherwise samples among the few that are there already.

    Attributes:
        report: of the last round, as :meth:`metasg_jax.Defender.aggregate` gives it, with ``round``
            and ``refused`` (node id -> why).
        tally: a :class:`Tally`, what became of each node over all rounds.

    Raises:
        ConfigError: for settings that contradict each other or are out of range.
        CheckpointError: for a defender of other features than this version's.
    """

    def __init__(
        self,
        *,
        root: tuple[Any, Any] | None = None,
        apply: Callable[[Params, Any], Any] | None = None,
        defender: str | Path | Defender = "v3",
        train_root: RootSGD | RootTraining | None = None,
        like: Params | None = None,
        buffer_names: Sequence[str] = buffers.BUFFERS,
        detect_only: bool = False,
        strategy: Strategy | None = None,
        checkpoint_dir: str | Path | None = None,
        checkpoint_every: int = 1,
        **fedavg: Any,
    ):
        fewest = fedavg.get("min_train_nodes", 2)
        if fewest < 2:
            raise ConfigError(f"min_train_nodes = {fewest}: at least 2, to compare clients with")
        if strategy is not None and not detect_only:
            raise ConfigError("strategy: aggregates with detect_only=True only")
        if checkpoint_every < 1:
            raise ConfigError(f"checkpoint_every = {checkpoint_every}: at least 1")
        fedavg.setdefault("min_available_nodes", fewest)
        super().__init__(**fedavg)
        if isinstance(defender, Defender):
            if apply is not None or root is not None:
                raise ConfigError("apply, root: the defender that is given has its own")
            self.defender = defender
        else:
            self.defender = load_defender(defender, apply=apply, root=root)
        if isinstance(train_root, RootSGD):
            if apply is None or root is None:
                raise ConfigError("train_root = RootSGD(..): needs root and apply")
            self._train_root = train_root.trainer(apply, root)
        else:
            self._train_root = train_root
        self._own_training = train_root is not None and not isinstance(train_root, RootSGD)
        if root is None and not isinstance(defender, Defender):
            _log.warning(
                "TrustedFedAvg: no root images: it sees neither what an update does to images nor "
                "the server's own update, and an attack by half of the clients or more can pass; "
                "100 labelled images of your own are enough"
            )
        self.like, self.buffer_names = like, tuple(buffer_names)
        self.detect_only, self.strategy = detect_only, strategy
        self.checkpoint_dir = None if checkpoint_dir is None else Path(checkpoint_dir)
        self.checkpoint_every = checkpoint_every
        self.report: dict[str, Any] = {}
        self.tally = Tally()
        self._state: DefenderState | None = None
        self._sent: Arrays | None = None
        self._asked: list[int] = []
        self._done = 0  # rounds of an earlier start that this one goes on from

    # --- what Flower calls ------------------------------------------------------------------

    def summary(self) -> None:
        """Logs the settings."""
        what = "names suspects only" if self.detect_only else "aggregates"
        _log.info("\t├──> Defender: %s; %s", self.defender.card.get("name", "given"), what)
        super().summary()

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Runs the federation up to ``num_rounds``, from the newest checkpoint if there is one.

        Rounds keep their numbers: a server that was killed in round 7 goes on with 7, and the
        result has the metrics of the rounds from there on.

        Raises:
            ConfigError: before the first round, where ``apply`` fails on the model, a label is
                beyond its classes, or it holds no parameters.
            CheckpointError: for a damaged checkpoint, or one of another model or defender.
        """
        sent = own_arrays(initial_arrays)
        self._begin(sent)
        saved = self._resume(sent)
        if saved is not None:
            initial_arrays, self._done = as_record(saved.model), saved.round
            _log.info("TrustedFedAvg: goes on after round %d", saved.round)
        done = self._done

        def evaluate(round: int, arrays: ArrayRecord) -> MetricRecord | None:
            return evaluate_fn(round + done, arrays) if evaluate_fn else None

        result = super().start(
            grid,
            initial_arrays,
            max(0, num_rounds - done),
            timeout,
            train_config,
            evaluate_config,
            evaluate if evaluate_fn else None,
        )
        if done >= num_rounds:
            result.arrays = initial_arrays
        for name in (
            "train_metrics_clientapp",
            "evaluate_metrics_clientapp",
            "evaluate_metrics_serverapp",
        ):
            setattr(result, name, {r + done: m for r, m in getattr(result, name).items()})
        return result

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Samples nodes as FedAvg does, and keeps the model that they are sent.

        Raises:
            ConfigError: for another model than that of the rounds before, or one node alone.
        """
        self._sent = own_arrays(arrays)
        self._begin(self._sent)
        chosen = self.strategy.configure_train if self.strategy else super().configure_train
        messages = list(chosen(server_round + self._done, arrays, config, grid))
        self._asked = [int(message.metadata.dst_node_id) for message in messages]
        if len(self._asked) == 1:
            raise ConfigError(
                f"round {server_round + self._done}: one node sampled, at least 2 are needed; "
                "set min_train_nodes and min_available_nodes"
            )
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Decides about each reply and makes the next model.

        Returns:
            (the model; None where fewer than two replies are usable, metrics). The metrics have
            ``trust/<node id>`` of each client in [0, 1], the numbers of ``clients-asked``,
            ``-kept``, ``-left-out`` and ``-refused``, ``outside`` (the share of what was seen that
            lies outside of what the defender was taught on), ``defence-seconds`` and
            ``root-seconds``, and the kept clients' own metrics, averaged.
        """
        if not self._asked:
            return None, None
        if self._sent is None or self._state is None:
            raise ConfigError("aggregate_train: configure_train is to be called before it")
        number, sent = server_round + self._done, self._sent
        trained, buffered = self._split(sent)
        answers, refused = sift(replies, self._asked, sent, self.weighted_by_key)
        for answer in answers:
            if not buffers.are_finite(self._split(answer.arrays)[1]):
                refused[answer.node] = "buffers that are not finite, or too large"
        answers = [answer for answer in answers if answer.node not in refused]
        if len(answers) < 2:
            self.report = skipped(number, answers, refused)
            self.tally.add(self._asked, {}, [answer.node for answer in answers], refused)
            return self._finish(number, None, [], {})
        began = time.perf_counter()
        own = self._root_model(trained, sent, number)
        rooted = time.perf_counter()
        new, self._state, report = self.defender.aggregate(
            self._state,
            self._tree(trained),
            [self._tree(self._split(answer.arrays)[0]) for answer in answers],
            client_ids=[answer.node for answer in answers],
            weights=[answer.weight for answer in answers],
            root_params=own,
        )
        refused |= report["rejected"]
        self.report = report | {"round": number, "refused": refused}
        self.tally.add(self._asked, report["trust"], report["kept"], refused)
        kept = [answer for answer in answers if answer.node in set(report["kept"])]
        arrays = None
        if not self.detect_only:
            most = 2 * float(np.median([answer.weight for answer in answers]))
            others = buffers.average(
                buffered,
                [self._split(answer.arrays)[1] for answer in kept],
                [min(answer.weight, most) for answer in kept],
            )
            named = by_name(new) | others
            arrays = as_record(Arrays((name, named[name]) for name in sent))
        usable = [answer for answer in answers if answer.node not in refused]
        seconds = {
            "defence-seconds": time.perf_counter() - rooted,
            "root-seconds": rooted - began,
        }
        return self._finish(number, arrays, usable if self.detect_only else kept, seconds)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """As FedAvg does, or the strategy that aggregates."""
        chosen = self.strategy.configure_evaluate if self.strategy else super().configure_evaluate
        return chosen(server_round + self._done, arrays, config, grid)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """As FedAvg does; replies whose metrics can't be averaged are left out, not an error."""
        if self.strategy:
            return self.strategy.aggregate_evaluate(server_round + self._done, replies)
        whole = [reply for reply in replies if not reply.has_error() and reply.has_content()]
        return averaged(whole, self.evaluate_metrics_aggr_fn, self.weighted_by_key)

    # --- beneath ----------------------------------------------------------------------------

    def _split(self, arrays: Arrays) -> tuple[Arrays, Arrays]:
        """(parameters, buffers), told apart by the model that the server sent."""
        told = self._sent if self._sent is not None else arrays
        mine = {n for n, a in told.items() if buffers.is_buffer(n, a, self.buffer_names)}
        return (
            Arrays((n, a) for n, a in arrays.items() if n not in mine),
            Arrays((n, a) for n, a in arrays.items() if n in mine),
        )

    def _tree(self, trained: Arrays) -> Params:
        return trained if self.like is None else to_params(trained, self.like)

    def _begin(self, sent: Arrays) -> None:
        """The state before the first round; later, that the model is still the same."""
        trained, others = self._split(sent)
        if not trained:
            raise ConfigError(f"arrays: no parameters among {few(sent)}: see buffer_names")
        shapes = tuple((name, array.shape) for name, array in others.items())
        tree = self._tree(trained)
        if self._state is None:
            self._state, self._shapes = self.defender.init(tree), shapes
        elif (ModelForm(tree).key, shapes) != (self._state.form, self._shapes):
            raise ConfigError(
                "arrays: names or shapes are others than in the round before; a strategy defends "
                "one model: make another one"
            )

    def _resume(self, sent: Arrays) -> checkpoint.Saved | None:
        if self.checkpoint_dir is None or self._state is None:
            return None
        saved = checkpoint.latest(self.checkpoint_dir, self._state)
        if saved is None:
            return None
        if saved.defender != self._defender_weights:
            raise CheckpointError(
                f"{self.checkpoint_dir}: a defender with other weights made it; load that one, or "
                "name another checkpoint_dir"
            )
        self._begin(saved.model)
        self._state = saved.state
        self.tally = Tally.from_json(saved.tally, self.tally.most)
        return saved

    @property
    def _defender_weights(self) -> str:
        return str(self.defender.card.get("weights", ""))

    def _root_model(self, trained: Arrays, sent: Arrays, number: int) -> Params | None:
        if self._train_root is None:
            return None
        if not self._own_training:
            return self._train_root(self._tree(trained), number)
        given = self._train_root(Arrays((n, a.copy()) for n, a in sent.items()), number)
        missing = [name for name in trained if name not in given]
        if missing:
            raise ConfigError(f"train_root: what it returned has no {few(missing)}")
        return self._tree(Arrays((name, given[name]) for name in trained))

    def _finish(
        self,
        number: int,
        arrays: ArrayRecord | None,
        counted: list[Answer],
        seconds: Mapping[str, float],
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Metrics, log and checkpoint of a round, and the other strategy's model."""
        report, messages = self.report, [answer.message for answer in counted]
        kept, refused = report["kept"], report["refused"]
        if self.detect_only and len(messages) > 1:
            inner = self.strategy.aggregate_train if self.strategy else super().aggregate_train
            arrays, theirs = inner(number, messages)
        else:
            theirs = averaged(messages, self.train_metrics_aggr_fn, self.weighted_by_key)
        metrics = {
            **(theirs or {}),
            "clients-asked": len(self._asked),
            "clients-kept": len(kept),
            "clients-left-out": len(set(report["left_out"]) - refused.keys()),
            "clients-refused": len(refused),
            "outside": report["outside"],
            **seconds,
            **{f"trust/{node}": trust for node, trust in report["trust"].items()},
        }
        _log.info("TrustedFedAvg: round %d: %s", number, report["note"])
        for node, why in refused.items():
            _log.warning("TrustedFedAvg: round %d: node %d refused: %s", number, node, why)
        due = self.checkpoint_dir is not None and number % self.checkpoint_every == 0
        if due and self._sent is not None and self._state is not None:
            model = self._sent if arrays is None else own_arrays(arrays)
            checkpoint.save(
                self.checkpoint_dir,  # pyrefly: ignore
                checkpoint.Saved(
                    number, model, self._state, self._defender_weights, self.tally.to_json()
                ),
            )
        return arrays, MetricRecord(metrics)
