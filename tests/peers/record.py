"""Writes what the installed peers make of the inputs: ``python -m tests.peers.record --out FILE``.

Runs in the peers' environment, without JAX and pytest; ``make test-peers`` does that.
"""

import argparse
import importlib.metadata
import json
import sys
import time
from pathlib import Path

import numpy as np

from tests.peers.calls import PEERS
from tests.peers.inputs import byzantine, cases

DIGITS = 8


def version_of(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def record_peer(peer: str, seed: int) -> dict:
    """{seed, versions, outputs: {call: {case: nested lists of floats}}}."""
    calls, distributions = PEERS[peer]
    outputs: dict[str, dict[str, list]] = {}
    for name, call in calls().items():
        outputs[name] = {}
        for case, rows in cases(seed).items():
            np.random.seed(seed)  # noqa: NPY002 (what ByzFL draws from)
            output = np.asarray(call(rows.copy(), byzantine(len(rows))), np.float64)
            outputs[name][case] = _rounded(output)
    versions = {name: version_of(name) for name in (*distributions, "numpy")}
    return {"seed": seed, "versions": versions, "outputs": outputs}


def _rounded(values: np.ndarray) -> list:
    if values.ndim > 1:
        return [_rounded(row) for row in values]
    return [float(f"{value:.{DIGITS}g}") for value in values]


def dumps(record: dict) -> str:
    """JSON with a line a case: short, and readable as a diff."""
    lines = ["{"]
    for peer, entry in record.items():
        head = f'  "{peer}": {{"seed": {entry["seed"]}, "versions": {json.dumps(entry["versions"])}'
        lines.append(head + ', "outputs": {')
        for name, outputs in entry["outputs"].items():
            lines.append(f'    "{name}": {{')
            lines += [f'      "{case}": {json.dumps(value)},' for case, value in outputs.items()]
            lines[-1] = lines[-1][:-1]
            lines.append("    },")
        lines[-1] = "    }"
        lines.append("  }},")
    lines[-1] = "  }}"
    return "\n".join([*lines, "}"]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    record = {}
    for peer, (_, distributions) in PEERS.items():
        missing = [name for name in distributions if version_of(name) is None]
        start = time.perf_counter()
        if not missing:
            record[peer] = record_peer(peer, options.seed)
        note = f"without {', '.join(missing)}" if missing else "recorded"
        print(f"{peer}: {note} ({time.perf_counter() - start:.1f} s)", file=sys.stderr)
    if not record:
        raise SystemExit("no peer is installed here")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(dumps(record))


if __name__ == "__main__":
    main()
