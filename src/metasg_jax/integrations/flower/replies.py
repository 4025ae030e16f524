"""From the replies of a round to answers that can be used; all others are named, with a reason."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from flwr.app import Message

from metasg_jax.errors import ConfigError
from metasg_jax.integrations.flower.records import Arrays, client_arrays, short


@dataclass(frozen=True)
class Answer:
    """A client's model that has the names and shapes of the one that it was sent.

    Attributes:
        node: its id, any whole number below 2^64.
        arrays: by name, in the order of the model that was sent.
        weight: what it claims to weigh, positive and finite.
        message: of Flower, as it came.
    """

    node: int
    arrays: Arrays
    weight: float
    message: Message


def sift(
    replies: Iterable[Message],
    asked: Sequence[int],
    sent: Mapping[str, np.ndarray],
    weighted_by_key: str,
) -> tuple[list[Answer], dict[int, str]]:
    """Parts usable answers from all others.

    Args:
        replies: of Flower's grid, in any order.
        asked: ids of the nodes that a model was sent to.
        sent: that model.
        weighted_by_key: of the metric that says what a client weighs.

    Returns:
        (answers by increasing node id, refused: node id -> why). Who did not answer is refused too.
    """
    replies = list(replies)
    counts = Counter(_node(reply) for reply in replies)
    expected, answers, refused = set(asked), [], {}
    for reply in replies:
        node = _node(reply)
        if node in refused:
            continue
        if counts[node] > 1:
            refused[node] = f"answered {counts[node]} times"
        elif node not in expected:
            refused[node] = "was not asked"
        else:
            try:
                answers.append(_answer(node, reply, sent, weighted_by_key))
            except ConfigError as error:
                refused[node] = str(error)
    for node in expected - counts.keys():
        refused[node] = "no answer in time"
    return sorted(answers, key=lambda answer: answer.node), dict(sorted(refused.items()))


def _node(reply: Message) -> int:
    return int(reply.metadata.src_node_id)


def _answer(node: int, reply: Message, sent, weighted_by_key: str) -> Answer:
    if reply.has_error():
        raise ConfigError(f"error {reply.error.code}: {short(reply.error.reason, 200)}")
    if not reply.has_content():
        raise ConfigError("no content")
    models = list(reply.content.array_records.values())
    if len(models) != 1:
        raise ConfigError(f"{len(models)} ArrayRecords, not 1")
    arrays = client_arrays(models[0], sent)
    return Answer(node, arrays, _weight(reply, weighted_by_key), reply)


def _weight(reply: Message, key: str) -> float:
    metrics = list(reply.content.metric_records.values())
    if len(metrics) != 1:
        raise ConfigError(f"{len(metrics)} MetricRecords, not 1")
    if key not in metrics[0]:
        raise ConfigError(f"no {key} in its MetricRecord")
    value = metrics[0][key]
    try:
        weight = float(value)
    except (TypeError, ValueError, OverflowError):
        weight = math.nan
    # a sum of many must be a float32 still
    if not 1e-30 < weight < 1e30:
        raise ConfigError(f"{key} = {short(value)}: a number above 0, and not beyond 1e30")
    return weight
