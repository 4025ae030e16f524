"""What one accelerator does, in one command and under nine minutes.

    python -m benchmarks.accelerator --write docs/accelerator.csv

Runs, one after the other, each only while there is time left for it: the tables of `make bench`
without the peers; rounds per second against model size and against the rollouts played at once,
with the share of the device's own product rate that they reach; the two ways to convolve; the
precisions; and the preset `paper` on MNIST. Without an accelerator it plays toy sizes, says so, and
its numbers mean nothing.
"""

import dataclasses
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

# importing these takes no device; the first call does
import jax
import jax.numpy as jnp
import tyro

from benchmarks import floor, worlds
from benchmarks.report import Table, keep
from metasg_jax.aggregators import Median
from metasg_jax.config import FLConfig
from metasg_jax.fl.simulate import simulate, start
from metasg_jax.game.make import make_game
from metasg_jax.learning import init_state, meta_sl_step
from metasg_jax.models import CNN, LinenModel, make_model
from metasg_jax.presets import PRESETS
from metasg_jax.programs.budget import rounds_per_step

TOY = "toy sizes on a CPU: they show that everything runs, and their numbers mean nothing"


@dataclasses.dataclass(frozen=True)
class Options:
    """What is run, and where it goes."""

    minutes: float = 8.5
    """No part begins after this; a part in progress is finished."""
    tables: bool = True
    """Whether to run the tables of `make bench`, too."""
    write: Path | None = None
    """A CSV file for the tables, those of `make bench` too, written anew."""


def main(options: Options) -> list[Table]:
    """Runs the parts that fit and prints them as they come."""
    begin = time.perf_counter()
    made: list[Table] = []
    with tempfile.TemporaryDirectory() as folder:
        written = options.write or Path(folder) / "tables.csv"
        written.unlink(missing_ok=True)
        if options.tables:
            # by another process, which gives the device's memory back before this one takes it
            _bench(written, begin, options.minutes)

        quick = jax.default_backend() == "cpu"
        device = f"{jax.devices()[0].device_kind} ({jax.default_backend()}), jax {jax.__version__}"
        note = TOY if quick else "medians of repeated calls"
        print(f"{device}; {note}", flush=True)
        for part in PARTS:
            minutes = (time.perf_counter() - begin) / 60
            if minutes > options.minutes:
                name, spent = part.__name__.strip("_"), f"{minutes:.1f} min spent"
                made.append(Table(name, ["part", "not run"], [[name, spent]]))
                continue
            made.append(part(quick))
            print(made[-1].markdown(), flush=True)
        spent = f"{(time.perf_counter() - begin) / 60:.1f} minutes in all."
        print(spent)
        keep(written, f"{device}; {note}. {spent}", {"accelerator": made})
    return made


def _bench(written: Path, begin: float, minutes: float) -> None:
    """Runs the tables of `make bench` without peers, and has them written."""
    command = [sys.executable, "-m", "benchmarks.run", "--no-peers", "--repetitions", "3"]
    probe = "import jax; print(jax.default_backend())"
    backend = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    quick = ["--quick"] if backend.stdout.strip() == "cpu" else []
    left = max(60.0, 60 * minutes * 0.6 - (time.perf_counter() - begin))
    try:
        subprocess.run(
            [*command, *quick, "--suite", "rounds", "rules", "game", "--write", str(written)],
            check=True,
            timeout=left,
        )
    except subprocess.SubprocessError as error:
        print(f"The tables of `make bench` were not finished: {error}", flush=True)


def _size(quick: bool) -> Table:
    """Rounds per second against the width of the hidden layer."""
    rate, rows = product_rate("float32"), []
    for width in (8,) if quick else (64, 128, 512, 2048, 8192):
        seconds, flops = rounds_time(_mlp(width), 1, "float32", quick)
        rows.append([f"{width}", *_speed(seconds, flops, rate)])
    title = "MLP 784-width-10, 10 of 100 clients, batch 128, 1 step, median rule"
    return Table(title, ["width", "rounds/s", "TFLOP/s", "share of the product rate"], rows)


def _rollouts(quick: bool) -> Table:
    """Rounds per second against the rollouts that are played at once."""
    rate, rows = product_rate("float32"), []
    for count in (2,) if quick else (1, 4, 16, 64, 256):
        seconds, flops = rounds_time(_mlp(8 if quick else 128), count, "float32", quick)
        rows.append([f"{count}", *_speed(seconds, flops, rate)])
    title = "Rollouts at once, the same with width 128"
    return Table(title, ["rollouts", "rounds/s", "TFLOP/s", "share of the product rate"], rows)


def _convolutions(quick: bool) -> Table:
    """The two ways to convolve; the faster one should be what ``auto`` takes on this backend."""
    rate, rows = product_rate("float32"), []
    for method in ("patches", "native"):
        hidden = (2, 3, 8) if quick else (32, 64, 128)
        model = LinenModel(CNN(hidden, 10, method, images_at_once=None), (28, 28, 1), 10)
        for steps in (1,) if quick else (1, 2):
            seconds, flops = rounds_time(model, 1 if quick else 4, "float32", quick, steps)
            rows.append([f"{method}, steps: {steps}", *_speed(seconds, flops, rate)])
    title = "CNN 32-64-128, 10 of 100 clients, batch 128, 4 rollouts"
    columns = ["convolution", "rounds/s", "TFLOP/s", "share of the product rate"]
    return Table(title, columns, rows)


def _precisions(quick: bool) -> Table:
    """Rounds per second at each precision of the local training."""
    rows = []
    for precision in ("float32", "tensorfloat32", "bfloat16"):
        rate = product_rate(precision)
        seconds, flops = rounds_time(
            _mlp(8 if quick else 2048), 1 if quick else 16, precision, quick
        )
        rows.append([precision, f"{rate / 1e12:,.1f}", *_speed(seconds, flops, rate)])
    columns = ["precision", "product, TFLOP/s", "rounds/s", "TFLOP/s", "share of the product rate"]
    return Table("Precision of local training, width 2048, 16 rollouts", columns, rows)


def _paper(quick: bool) -> Table:
    """Seconds of a meta-step of the preset ``paper`` and of the whole run."""
    config = PRESETS["paper"].get_config("mnist")
    if quick:
        fl = dataclasses.replace(config.fl, horizon=1, batch_size=4)
        meta = dataclasses.replace(config.meta, adapt_steps=1, num_types=2, hidden=(4,))
        meta = dataclasses.replace(meta, attacker_steps=1)
        game = dataclasses.replace(
            config.game, hidden=(4,), types=("none", "ipm@0.2"), num_validation=100
        )
        config = dataclasses.replace(config, fl=fl, meta=meta, game=game)
    game = make_game(config.game, config.fl, worlds.dataset(2000 if quick else 60_000, 1000))
    state = init_state(jax.random.key(0), game, config.meta)
    begin = time.perf_counter()
    compiled = meta_sl_step.lower(jax.random.key(1), state, game, config.meta).compile()
    compiling = time.perf_counter() - begin
    seconds = []
    for step in range(1 if quick else 3):
        begin = time.perf_counter()
        state, _ = jax.block_until_ready(compiled(jax.random.key(step), state, game, config.meta))
        seconds.append(time.perf_counter() - begin)
    rounds, steps = rounds_per_step(config), config.steps
    each = sorted(seconds)[len(seconds) // 2]
    row = [f"{compiling:.0f}", f"{each:.2f}", f"{rounds / each:,.0f}", f"{steps * rounds:,}"]
    columns = ["compiling, s", "a meta-step, s", "rounds/s", "rounds in all", "all steps, minutes"]
    whole = (compiling + steps * each) / 60
    title = f"Preset paper on images of MNIST's shape: {len(seconds)} of {steps} meta-steps run"
    return Table(title, columns, [[*row, f"{whole:.1f}"]])


PARTS: tuple[Callable[[bool], Table], ...] = (_size, _rollouts, _convolutions, _precisions, _paper)


def product_rate(precision: str, size: int = 4096) -> float:
    """FLOP/s of a square product of this precision, the best of five."""
    size = size if jax.default_backend() != "cpu" else 256
    half = precision == "bfloat16"
    a = jnp.ones((size, size), jnp.bfloat16 if half else jnp.float32)
    multiply = jax.jit(lambda a: jnp.matmul(a, a, precision=None if half else precision))
    return 2 * size**3 / min(_times(lambda: multiply(a).block_until_ready(), 5))


def rounds_time(
    model: LinenModel, rollouts: int, precision: str, quick: bool, steps: int = 1
) -> tuple[float, float]:
    """Seconds of a round (of all rollouts together, over their number) and its FLOPs."""
    batch, images_each, rounds = (4, 4, 2) if quick else (128, 600, 50)
    fl = FLConfig(
        batch_size=batch, local_steps=steps, local_lr=0.05, horizon=1, precision=precision
    )
    data = worlds.dealt(100, images_each)
    keys = jax.random.split(jax.random.key(1), rollouts)
    states = jax.vmap(lambda key: start(key, model, fl, Median()))(keys)

    @jax.jit
    def play(keys, states):
        return jax.vmap(
            lambda key, state: simulate(key, state, model, fl, data, Median(), num_rounds=rounds)
        )(keys, states)

    middle = sorted(_times(lambda: jax.block_until_ready(play(keys, states)), 3))[1]
    kind = "cnn" if isinstance(model.module, CNN) else "mlp"
    flops = steps * floor.training_flops(kind, model.module.hidden, fl.num_sampled * batch)
    return middle / (rounds * rollouts), flops


def _times(run: Callable[[], object], repetitions: int) -> Iterator[float]:
    run()
    for _ in range(repetitions):
        begin = time.perf_counter()
        run()
        yield time.perf_counter() - begin


def _speed(seconds: float, flops: float, rate: float) -> list[str]:
    reached = flops / seconds
    return [f"{1 / seconds:,.0f}", f"{reached / 1e12:.2f}", f"{reached / rate:.1%}"]


def _mlp(width: int):
    return make_model("mlp", (28, 28, 1), 10, (width,))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
