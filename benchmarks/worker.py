"""A process that keeps contestants warm and times them on request: JSON lines over its pipes.

Timing happens here, in the contestant's own process and environment, so that neither pipes nor the
driver are in it. The driver never has two workers busy.
"""

import dataclasses
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from benchmarks.cases import Case

_COORDINATES = 16


class NotHere(Exception):
    """A contestant that can't be had; its message is the reason that the table shows."""


@dataclasses.dataclass
class Contestant:
    """Something to time.

    Attributes:
        run: one call; returns once the work is done.
        factor: seconds of a call times this are seconds of one unit of work (a round, say).
        result: the call's output as a vector, by which the driver sees who computes the same.
        clocked: ``run`` returns the seconds itself.
        compiles: the first call compiles, so it says nothing.
        once: one call, the first, is the measurement.
        note: shown beside the table.
        facts: numbers that the report needs, such as FLOPs of a round.
    """

    run: Callable[[], Any]
    factor: float = 1.0
    result: Callable[[Any], Any] | None = None
    clocked: bool = False
    compiles: bool = False
    once: bool = False
    note: str = ""
    facts: dict[str, float] = dataclasses.field(default_factory=dict)

    def seconds(self, count: int) -> float:
        """Seconds of one unit of work, averaged over ``count`` calls."""
        if self.clocked:
            return self.factor * sum(self.run() for _ in range(count)) / count
        begin = time.perf_counter()
        for _ in range(count):
            self.run()
        return self.factor * (time.perf_counter() - begin) / count


Makers = dict[str, Callable[[], Contestant]]


class Worker:
    """Answers requests; holds the contestants of one case at a time."""

    def __init__(self, makers_of: Callable[[Case], Makers], versions: dict[str, str]):
        """Takes what the environment offers.

        Args:
            makers_of: who takes part in a case, and how each is made.
            versions: of the packages that take part.
        """
        self.makers_of, self.known_versions = makers_of, versions
        self.makers: Makers = {}
        self.ready: dict[str, tuple[Contestant, int]] = {}

    def versions(self) -> dict:
        """Names and versions of packages."""
        return {"versions": self.known_versions}

    def contestants(self, case: dict) -> dict:
        """Who takes part in a case; forgets the case before."""
        self.ready.clear()
        self.makers.clear()
        self.makers = self.makers_of(Case(**case))
        return {"names": list(self.makers)}

    def prepare(self, name: str, sample_seconds: float, limit_seconds: float) -> dict:
        """Makes a contestant, compiles or warms it up, and says how long a unit of work takes.

        Where a call takes longer than the limit, a second one is the only sample.
        """
        contestant = self.makers[name]()
        begin = time.perf_counter()
        out = contestant.run()
        each = out if contestant.clocked else time.perf_counter() - begin
        answer: dict[str, Any] = {"note": contestant.note, "facts": contestant.facts}
        if contestant.result is not None:
            answer["result"] = _coordinates(contestant.result(out))
        del out
        if not contestant.once and (contestant.compiles or each > limit_seconds):
            each = contestant.seconds(1) / contestant.factor
        if contestant.once or each > limit_seconds:
            return answer | {"seconds": each * contestant.factor, "once": True}
        if each < sample_seconds:  # a first call says little
            each = min(each, contestant.seconds(3) / contestant.factor)
        count = max(1, round(sample_seconds / max(each, 1e-7)))
        self.ready[name] = (contestant, count)
        repetitions = max(1, int(limit_seconds / max(each * count, 1e-7)))
        return answer | {"once": False, "repetitions": repetitions}

    def sample(self, name: str) -> dict:
        """One sample of a prepared contestant."""
        if name not in self.ready:
            raise NotHere("lost when another contestant ended their process")
        contestant, count = self.ready[name]
        return {"seconds": contestant.seconds(count)}


def serve(makers_of: Callable[[Case], Makers], versions: dict[str, str]) -> None:
    """Answers requests until the driver closes the pipe."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not look like an answer
    worker = Worker(makers_of, versions)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(worker, request.pop("do"))(**request)
        except NotHere as reason:
            answer = {"error": str(reason)}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
        replies.write(json.dumps(answer) + "\n")
        replies.flush()


def _coordinates(vector) -> list[float]:
    step = max(1, len(vector) // _COORDINATES)
    return [float(value) for value in vector[::step][:_COORDINATES]]
