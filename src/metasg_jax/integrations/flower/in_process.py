"""A grid in the server's own process: a federation to try things with, without nodes or ports."""

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from metasg_jax.errors import ConfigError


class InProcessGrid(Grid):
    """Calls one ClientApp for all nodes, one after another: ``strategy.start(grid, ...)``.

    Node ids are random unsigned 64-bit numbers and replies come in another order each time, as on
    the wire. A client that raises is an error reply. What a client keeps in its ``Context.state``
    stays there.

    Args:
        client_app: of the nodes.
        num_nodes: at least 1.
        node_config: number of a node -> what its operator configured; by default ``partition-id``
            and ``num-partitions``, as Flower's simulation has it.
        run_config: of the run.
        seed: of ids and of the order of replies.
    """

    def __init__(
        self,
        client_app: ClientApp,
        num_nodes: int,
        node_config: Callable[[int], Mapping[str, Any]] | None = None,
        run_config: Mapping[str, Any] | None = None,
        seed: int = 0,
    ):
        if num_nodes < 1:
            raise ConfigError(f"num_nodes = {num_nodes}: at least 1")
        self._app, self._rng = client_app, np.random.default_rng(seed)
        self._count, self._replies = itertools.count(), {}
        ids = self._rng.integers(1, 2**64, num_nodes, dtype=np.uint64)
        self.contexts = {
            int(node): Context(
                run_id=1,
                node_id=int(node),
                node_config={"partition-id": i, "num-partitions": num_nodes}
                if node_config is None
                else dict(node_config(i)),
                state=RecordDict(),
                run_config=dict(run_config or {}),
            )
            for i, node in enumerate(ids)
        }
        # a Message may be made inside of a task only; this process is one
        for name in ("run_id", "node_id", "task_id"):
            if getattr(TaskIdentity, f"_{name}") is None:
                setattr(TaskIdentity, name, 1)

    def set_run(self, run: Any) -> None:
        """There is one run only."""

    @property
    def run(self) -> Any:
        """None: no SuperLink knows of it."""
        return None

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        """As Flower's constructor of messages."""
        return Message(*args, **kwargs)

    def get_node_ids(self) -> Iterable[int]:
        """All nodes; none ever leaves."""
        return list(self.contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Runs the clients at once."""
        ids = []
        for message in messages:
            number = f"message-{next(self._count)}"
            message.metadata.__dict__["_message_id"] = number
            self._replies[number] = self._answer(message)
            ids.append(number)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies to these messages, in any order; each once."""
        found = [self._replies.pop(number) for number in message_ids if number in self._replies]
        return [found[i] for i in self._rng.permutation(len(found))]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """The replies of all nodes; there is no time to run out of."""
        return self.pull_messages(self.push_messages(messages))

    def _answer(self, message: Message) -> Message:
        context = self.contexts[message.metadata.dst_node_id]
        try:
            return self._app(message, context)
        except Exception as error:  # as a SuperNode does: a client's bug is no bug of the server's
            return Message(
                Error(code=0, reason=f"{type(error).__name__}: {error}"), reply_to=message
            )
