"""Small runs of every program that keeps files, made once, and how each goes on from a copy."""

import contextlib
import csv
import dataclasses
import functools
import os
from pathlib import Path
from unittest import mock

import jax
import numpy as np
from rich.console import Console

from metasg_jax import checkpoint, files
from metasg_jax.config import Adaptation, FLConfig, GameConfig, MetaConfig, RunConfig
from metasg_jax.data import DATASETS, cache, load, prepare
from metasg_jax.data.content import canonical, digest
from metasg_jax.defender import save_defender
from metasg_jax.defender.files import read_defender
from metasg_jax.errors import DataError
from metasg_jax.features.view import view_spec
from metasg_jax.game.make import make_game
from metasg_jax.game.rollout import Player, init_normalizer
from metasg_jax.learning.state import KNOBS, init_state
from metasg_jax.policies import SetPolicy
from metasg_jax.programs import adapt, exploit, matrix, pretrain, run_directory
from metasg_jax.programs.pretrain import pretrain_program
from metasg_jax.programs.simulate import Plan
from metasg_jax.programs.simulated_images import own_images
from metasg_jax.testing import tiny_dataset

DATASET = tiny_dataset(side=6)
GAME = GameConfig(
    hidden=(6,), level=0.5, num_root=12, num_validation=30, target=1, types=("none", "ipm@0.25")
)
FL = FLConfig(num_clients=8, num_sampled=4, batch_size=4, horizon=2, local_lr=0.5)
CONFIG = RunConfig(GAME, FL, MetaConfig(hidden=(4,), adapt_steps=0, group_size=2), steps=3, chunk=1)
PLAN = Plan(
    dataclasses.replace(GAME, types=("none",)), FL, ("none", "ipm@0.25"), ("mean",), ("none",), 2, 2
)
QUIET = Console(quiet=True)
ASKED = Adaptation("bfl@0.25", block=2)


def no_picture(*args, **kwargs):
    """Pictures take most of the time, and are read by nobody."""


def quick():
    """Everything real but pictures and TensorBoard's files."""
    return mock.patch.multiple(
        pretrain, learning_curve=no_picture, SummaryWriter=mock.MagicMock()
    )  # fmt: skip


class Room:
    """Where runs are made, and a second one of other seeds whose files are swapped in."""

    def __init__(self, folder: Path):
        self.folder = folder

    def pretrain(self, folder: Path, steps: int = 3, seed: int = 0, resume: bool = True):
        """Goes on, and returns what must not depend on how often it was cut."""
        config = dataclasses.replace(CONFIG, steps=steps, seed=seed)
        with quick():
            state = pretrain_program(config, DATASET, folder, resume, QUIET)
        owner = checkpoint.mark(checkpoint.lasting(config))
        rows = run_directory.keep_metrics_until(folder, state.num_steps, owner)
        return checkpoint.digest(state), [(row["step"], row["return_D"]) for row in rows]

    @functools.cached_property
    def pretrained(self) -> tuple[Path, Path, object]:
        """(a run after two steps, another one, what three steps give)."""
        base, other = self.folder / "run", self.folder / "other"
        self.pretrain(base, 2, resume=False)
        self.pretrain(other, 2, seed=1, resume=False)
        return base, other, self.pretrain(self.folder / "whole", resume=False)

    def matrix(self, folder: Path, plan: Plan = PLAN):
        with mock.patch.object(matrix, "heat_map", no_picture):
            matrix.matrix_program(plan, DATASET, folder, QUIET)
        with (folder / "matrix.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        return sorted(tuple(v for k, v in row.items() if k != "seconds") for row in rows)

    @functools.cached_property
    def matrices(self) -> tuple[Path, Path, object]:
        base, other = self.folder / "matrix", self.folder / "other matrix"
        right = self.matrix(base)
        game = dataclasses.replace(PLAN.game, seed=1)
        self.matrix(other, dataclasses.replace(PLAN, game=game))
        return base, other, right

    def exploit(self, folder: Path, seed: int = 0):
        game = dataclasses.replace(GAME, seed=seed)

        def judged(state, config, dataset, worlds, names, stream):
            scores = (np.arange(len(names))[None] + worlds[0]) / 7 + seed
            return {"score": scores, "accuracy": scores, "asr": scores * np.nan}

        with mock.patch.object(exploit, "judge", judged):
            rows = exploit.exploit_program(
                ("krum",), (), game, FL, lambda name: DATASET, {"selection": 1, "final": 2}, folder,
                QUIET, ("none", "ipm@0.25"),
            )  # fmt: skip
        return [row[:7] for row in rows]

    @functools.cached_property
    def exploits(self) -> tuple[Path, Path, object]:
        base, other = self.folder / "exploit", self.folder / "other exploit"
        right = self.exploit(base)
        self.exploit(other, 1)
        return base, other, right

    def adaptation(self, folder: Path, world: int = 0, write: bool = False):
        """Its files without its play: two blocks of a run."""
        about = dataclasses.asdict(dataclasses.replace(ASKED, world=world))
        run_directory.begin(folder / "adapt.json", about, resume=True)
        owner = checkpoint.mark(about)
        path = folder / "adapt.csv"
        if write:
            rows = [{"round": 2.0 * i, "belief none": 0.25 + world, "decision": ""} for i in (1, 2)]
            files.write_lines(path, [*rows[0]], rows, owner)
        return adapt.rows_of(path, 2, owner)

    @functools.cached_property
    def adaptations(self) -> tuple[Path, Path, object]:
        base, other = self.folder / "adapt", self.folder / "other adapt"
        self.adaptation(other, 1, write=True)
        return base, other, self.adaptation(base, write=True)

    def adapt(self, folder: Path):
        """The program itself, on a run of two blocks."""
        config = dataclasses.replace(CONFIG, fl=FL.replace(horizon=4))
        asked = dataclasses.replace(ASKED, psi="mixture:clips=2,trims=2,levels=2", num_simulated=60)
        game = make_game(config.game, config.fl, DATASET)
        state = init_state(jax.random.key(0), game, config.meta)
        with mock.patch.object(adapt, "adaptation", no_picture):
            return adapt.adapt_program(state, config, DATASET, asked, folder, True, QUIET)

    @functools.cached_property
    def adapted(self) -> object:
        return self.adapt(self.folder / "adapted")

    def defender(self, folder: Path):
        return checkpoint.digest(read_defender(folder)[0])

    @functools.cached_property
    def defenders(self) -> tuple[Path, Path, object]:
        base, other = self.folder / "defender", self.folder / "other defender"
        for seed, folder in enumerate((base, other)):
            policy = SetPolicy(1, KNOBS, (4, 4))
            params = policy.init(jax.random.key(seed), view_spec(1))
            player = Player(params, init_normalizer(view_spec(1)), policy, True)
            save_defender(folder, player, {"trained_on": {"worlds": []}})
        return base, other, self.defender(base)

    def images(self, folder: Path, seed: int = 0):
        game = dataclasses.replace(GAME, seed=seed)
        config = dataclasses.replace(CONFIG, game=game, clients="augmented", num_simulated=60)
        with mock.patch("metasg_jax.programs.simulated_images.image_grid", no_picture):
            made = own_images(config, DATASET, folder, QUIET, begun=True)
        return made.images.tobytes() + made.labels.tobytes()

    @functools.cached_property
    def imagined(self) -> tuple[Path, Path, object]:
        base, other = self.folder / "images", self.folder / "other images"
        self.images(other, 1)
        return base, other, self.images(base)

    def data(self, folder: Path):
        """Loaded from the cache, or refused: nothing can be fetched here."""
        with self.published():
            found = load("mnist", cache_dir=folder, say=None)
        return digest(found), found.num_classes

    @contextlib.contextmanager
    def published(self):
        """mnist is tiny, and out of reach."""
        tiny = canonical(tiny_dataset(10))
        known = dataclasses.replace(
            DATASETS["mnist"], image_shape=(4, 4, 1), num_train=300, num_test=90,
            sha256=digest(tiny),
        )  # fmt: skip

        def unreachable(name, own, tell):
            raise DataError(f"{own}: can't be reached")

        with mock.patch.dict(DATASETS, mnist=known), mock.patch.dict("os.environ"), \
                mock.patch.object(prepare, "prepare", unreachable):  # fmt: skip
            os.environ.pop("TFDS_DATA_DIR", None)
            yield

    @functools.cached_property
    def caches(self) -> tuple[Path, Path, object]:
        base, other = self.folder / "cache", self.folder / "other cache"
        for seed, folder in enumerate((base, other)):
            tiny = canonical(tiny_dataset(10, seed=seed))
            cache.write(dataclasses.replace(tiny, name="mnist"), folder, "a test")
        return base, other, self.data(base)
