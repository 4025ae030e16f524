"""What a round says in numbers, of clients who choose some of these."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flwr.app import Message, MetricRecord

from metasg_jax.integrations.flower.replies import Answer

_log = logging.getLogger("flwr")


def averaged(
    messages: Sequence[Message], average: Callable, weighted_by_key: str
) -> MetricRecord | None:
    """Metrics of the clients that have the same ones as most of them; None if they have none.

    Args:
        messages: replies with content.
        average: of Flower: (contents, key of the weights) -> MetricRecord.
        weighted_by_key: a metric.
    """
    records = [
        (message.content, next(iter(message.content.metric_records.values())))
        for message in messages
        if len(message.content.metric_records) == 1
    ]
    forms = [_form(metrics) for _, metrics in records]
    usual = max(forms, key=forms.count, default=())
    if dict(usual).get(weighted_by_key) != -1:
        return None
    alike = [content for (content, _), form in zip(records, forms, strict=True) if form == usual]
    try:
        return average(alike, weighted_by_key)
    except Exception as error:  # numbers that clients chose, in a function of the caller's
        _log.warning("TrustedFedAvg: metrics could not be averaged: %s", error)
        return None


def _form(metrics: Mapping[str, Any]) -> tuple:
    """Names, and lengths of lists; -1 is a number."""
    return tuple(sorted((k, len(v) if isinstance(v, list) else -1) for k, v in metrics.items()))


def skipped(number: int, answers: list[Answer], refused: dict[int, str]) -> dict[str, Any]:
    """The report of a round with too few answers to compare."""
    return {
        "round": number,
        "trust": {},
        "kept": [],
        "left_out": [],
        "rejected": {},
        "refused": refused,
        "outside": 0.0,
        "note": f"{len(answers)} usable answers, at least 2 are needed: the model stays",
    }
