"""Interleaved measurement of one case: in every repetition each contestant in turn."""

import dataclasses
import statistics
from collections.abc import Callable

from benchmarks.cases import Case
from benchmarks.process import Process, WorkerFailed

# A call that is expected to take longer by what a smaller case took is not made.
_TOO_LONG_SECONDS = 3.0
# These are called all the same: without them a row has no ratio.
_ALWAYS = ("ours", "floor", "Gram product", "NumPy")


@dataclasses.dataclass
class Measurement:
    """Seconds of one unit of work by one contestant.

    Attributes:
        samples: one a repetition, in their order; empty where ``error`` says why.
        error: the reason why there is nothing.
        note: what to know about it.
        result: some coordinates of what was computed.
        facts: numbers for the report.
    """

    samples: list[float] = dataclasses.field(default_factory=list)
    error: str = ""
    note: str = ""
    result: list[float] | None = None
    facts: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def median(self) -> float:
        """Median of the samples, in seconds; NaN without any."""
        return statistics.median(self.samples) if self.samples else float("nan")

    def ratio_to(self, other: "Measurement") -> float:
        """How many times as long as ``other``: the median over repetitions of the ratio in each."""
        if not self.samples or not other.samples:
            return float("nan")
        pairs = zip(self.samples, other.samples, strict=False)
        return statistics.median(mine / theirs for mine, theirs in pairs)


Measured = dict[str, Measurement]


def measure(
    case: Case,
    processes: list[Process],
    repetitions: int,
    smaller: Measured | None,
    progress: Callable[[str], None],
) -> Measured:
    """Measures all contestants of a case.

    Args:
        case: what.
        processes: the workers; one of them is busy at a time.
        repetitions: of each contestant, fewer where it is slow.
        smaller: what the case of ``case.grows_from`` gave.
        progress: told what goes on.

    Returns:
        Measurements by contestant, in the order in which tables show them.
    """
    measured: Measured = {}
    places: dict[str, Process] = {}
    for process in processes:
        try:
            places |= dict.fromkeys(process.contestants(case), process)
        except WorkerFailed as death:
            measured[process.name] = Measurement(error=str(death))
    left: dict[str, int] = {}
    for name, process in places.items():
        measured[name] = each = Measurement()
        progress(f"{case}: {name}: preparing")
        expected = _expected(case, name, smaller)
        if expected > _TOO_LONG_SECONDS:
            each.error = f"not run: about {expected:.0f} s by its time in a smaller case"
            continue
        answer = _ask(process.prepare, name)
        each.error, each.note = answer.get("error", ""), answer.get("note", "")
        each.result, each.facts = answer.get("result"), answer.get("facts", {})
        if each.error:
            continue
        if answer["once"]:
            each.samples = [answer["seconds"]]
            each.note = "; ".join(filter(None, [each.note, "a single call"]))
        else:
            left[name] = min(repetitions, answer["repetitions"])
    for repetition in range(repetitions):
        names = [name for name, count in left.items() if count > repetition]
        # who comes first, and so who comes after whom, changes
        start = repetition % max(1, len(names))
        for name in names[start:] + names[:start]:
            progress(f"{case}: {name}: {repetition + 1}/{left[name]}")
            answer = _ask(places[name].sample, name)
            if "error" in answer:
                measured[name].error, left[name] = answer["error"], 0
                measured[name].samples = []
            else:
                measured[name].samples.append(answer["seconds"])
    return measured


def _expected(case: Case, name: str, smaller: Measured | None) -> float:
    if case.grows_from is None or smaller is None or name not in smaller or name in _ALWAYS:
        return 0.0
    seconds = smaller[name].median * case.grows_from[1]
    return 0.0 if seconds != seconds else seconds


def _ask(request: Callable[[str], dict], name: str) -> dict:
    try:
        return request(name)
    except WorkerFailed as death:
        return {"error": str(death)}
