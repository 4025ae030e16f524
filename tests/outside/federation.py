"""Federated averaging as a server of one's own would have it: objects, dicts of arrays, a loop.

Nothing here knows of metasg_jax. Whatever is random is drawn from (seed, purpose, round, client),
never from a generator that is carried along, so that two runs of one seed meet the same clients,
batches and attackers whatever the server makes of them.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

IDS, SIZES, DEAL, EVIL, ROOT, TEST, INIT, SAMPLE, BATCH, ROOT_BATCH, NOISE, PLOT = range(12)


def dice(seed, *where):
    return np.random.default_rng([seed, *where])


# --- models: a dict of arrays and a function -------------------------------------------------


class Perceptron:
    """One hidden layer."""

    def __init__(self, shape=(28, 28, 1), hidden=100, classes=10):
        self.inputs, self.hidden, self.classes = int(np.prod(shape)), hidden, classes

    def fresh(self, rng):
        return {
            "w1": he(rng, self.inputs, self.hidden),
            "b1": np.zeros(self.hidden, np.float32),
            "w2": he(rng, self.hidden, self.classes),
            "b2": np.zeros(self.classes, np.float32),
        }

    def apply(self, params, x):
        x = x.reshape(x.shape[0], -1)
        x = jax.nn.relu(x @ params["w1"] + params["b1"][None, :])
        return x @ params["w2"] + params["b2"][None, :]


class ConvNet:
    """Three 3x3 convolutions, each halved by its averages, and a dense head."""

    def __init__(self, shape=(28, 28, 1), channels=(8, 16, 16), classes=10):
        self.channels, self.classes = (shape[2], *channels), classes
        shrink = 2 ** len(channels)
        self.flat = (shape[0] // shrink) * (shape[1] // shrink) * channels[-1]

    def fresh(self, rng):
        params = {}
        for i, (a, b) in enumerate(zip(self.channels, self.channels[1:], strict=False), start=1):
            params[f"conv{i}/w"] = he(rng, 9 * a, b).reshape(3, 3, a, b)
            params[f"conv{i}/b"] = np.zeros(b, np.float32)
        params["head/w"] = he(rng, self.flat, self.classes)
        params["head/b"] = np.zeros(self.classes, np.float32)
        return params

    def apply(self, params, x):
        for i in range(1, len(self.channels)):
            kernel, bias = params[f"conv{i}/w"], params[f"conv{i}/b"]
            x = jax.lax.conv_general_dilated(
                x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = halve(jax.nn.relu(x + bias[None, None, None, :]))
        return x.reshape(x.shape[0], -1) @ params["head/w"] + params["head/b"][None, :]


def he(rng, fan_in, fan_out):
    return (rng.standard_normal((fan_in, fan_out)) * np.sqrt(2 / fan_in)).astype(np.float32)


def halve(x):
    n, h, w, c = x.shape
    x = x[:, : h // 2 * 2, : w // 2 * 2, :]
    return x.reshape(n, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))


def cross_entropy(logits, labels):
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)
    return -chosen.mean()


def as_row(model):
    return np.concatenate([np.ravel(model[k]) for k in sorted(model)])


def as_model(row, like):
    model, start = {}, 0
    for k in sorted(like):
        stop = start + like[k].size
        model[k] = row[start:stop].reshape(like[k].shape).astype(np.float32)
        start = stop
    return model


# --- training --------------------------------------------------------------------------------


class Learner:
    """SGD over a fixed number of mini-batches, compiled once for a model."""

    def __init__(self, model, mean, std, lr=0.1, momentum=0.0):
        self.model, self.mean, self.std = model, float(mean), float(std)

        def prepare(images):
            return (images.astype(jnp.float32) / 255.0 - self.mean) / self.std

        def loss(params, images, labels):
            return cross_entropy(model.apply(params, prepare(images)), labels)

        def step(carry, batch):
            params, speed = carry
            slope = jax.grad(loss)(params, *batch)
            speed = {k: momentum * speed[k] + slope[k] for k in slope}
            return ({k: params[k] - lr * speed[k] for k in params}, speed), None

        @jax.jit
        def train(params, images, labels):
            still = {k: jnp.zeros_like(v) for k, v in params.items()}
            # unrolled: on CPUs, XLA runs convolutions in a loop on one slow path
            (params, _), _ = jax.lax.scan(step, (params, still), (images, labels), unroll=True)
            return params

        self.prepare = prepare
        self.loss = jax.jit(loss)
        self._train = train
        self._guess = jax.jit(lambda params, images: model.apply(params, prepare(images)).argmax(1))

    def train(self, params, images, labels):
        """images u8[steps, batch, h, w, c]."""
        return {k: np.asarray(v) for k, v in self._train(params, images, labels).items()}

    def guess(self, params, images):
        return np.asarray(self._guess(params, images))


# --- who takes part --------------------------------------------------------------------------


class Client:
    """Holds images of its own; works for an attack where it is one of its members."""

    def __init__(self, number, client_id, images, labels, seed, malicious):
        self.number, self.id, self.seed, self.malicious = number, client_id, seed, malicious
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.labels)

    def batches(self, round_, steps, size):
        rng = dice(self.seed, BATCH, round_, self.number)
        return shuffled_batches(self.images, self.labels, steps, size, rng)

    def work(self, round_, steps, size, attack):
        """What it trains on in this round."""
        images, labels = self.batches(round_, steps, size)
        if self.malicious and attack.awake(round_):
            return attack.poison(images.copy(), labels.copy(), round_)
        return images, labels


def shuffled_batches(images, labels, steps, size, rng):
    """Epoch after epoch, each in an order of its own."""
    need, order = steps * size, []
    while sum(map(len, order)) < need:
        order.append(rng.permutation(len(labels)))
    order = np.concatenate(order)[:need].reshape(steps, size)
    return images[order], labels[order]


def uneven_sizes(clients, total, rng, least=30):
    """Sizes of at least ``least`` that sum to ``total``, a few of them several times the others."""
    if total < least * clients:
        raise ValueError(f"{total} images are too few for {clients} clients of {least}")
    share = np.minimum(rng.lognormal(sigma=0.9, size=clients), 4.0)
    sizes = least + np.floor((total - least * clients) * share / share.sum()).astype(int)
    sizes[np.argmin(sizes)] += total - sizes.sum()
    return sizes


def deal(labels, sizes, alpha, rng):
    """Hands out different images: each client asks for classes as Dirichlet(alpha) has it."""
    classes = int(labels.max()) + 1
    piles = [list(rng.permutation(np.flatnonzero(labels == c))) for c in range(classes)]
    hands = []
    for size in sizes:
        taste, hand = rng.dirichlet([alpha] * classes), []
        while len(hand) < size:
            left = np.array([len(p) for p in piles])
            wish = np.where(left > 0, taste, 0.0)
            wish = left / left.sum() if wish.sum() < 1e-6 else wish / wish.sum()
            for c, n in enumerate(rng.multinomial(size - len(hand), wish)):
                n = min(n, len(piles[c]))
                hand += [piles[c].pop() for _ in range(n)]
        hands.append(np.array(hand))
    return hands


@dataclass
class Pictures:
    """Images u8[n, h, w, c] with labels, for training and for the test."""

    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    classes: int = 10


@dataclass
class Delivery:
    """What lies before the server's rule in a round."""

    round: int
    sent_out: dict
    models: list
    ids: list
    counts: list
    malicious: list  # for the perfect filter alone
    root_model: dict | None = None


@dataclass
class Scene:
    """What the members of an attack see in a round."""

    round: int
    sent_out: dict
    past: list  # of models sent out, this round's last
    colluders: list  # models that members trained in this round
    rng: np.random.Generator


@dataclass
class Outcome:
    score: float
    accuracy: float
    success: float | None
    kept_honest: float | None
    kept_malicious: float | None
    seconds: float
    rule_seconds: float
    curve: list = field(default_factory=list)
    sampled: list = field(default_factory=list)
    final: dict = field(default_factory=dict)


class Federation:
    """A server with images of its own, and clients that it samples."""

    def __init__(
        self,
        pictures,
        model,
        seed=0,
        clients=40,
        sampled=8,
        malicious_share=0.2,
        alpha=0.5,
        images=6000,
        root=200,
        tests=2000,
        steps=10,
        batch=20,
        lr=0.1,
        momentum=0.0,
        learner=None,
        workers=2,
    ):
        self.seed, self.sampled, self.steps, self.batch = seed, sampled, steps, batch
        self.model, self.classes, self.workers = model, pictures.classes, workers
        self.learner = learner or Learner(
            model, pictures.train_x.mean() / 255, pictures.train_x.std() / 255, lr, momentum
        )
        x, y = pictures.train_x, pictures.train_y.astype(np.int32)
        mine = self._balanced(y, root, dice(seed, ROOT))
        self.root_x, self.root_y = x[mine], y[mine]
        theirs = np.setdiff1d(np.arange(len(y)), mine)
        sizes = uneven_sizes(clients, min(images, len(theirs)), dice(seed, SIZES))
        hands = deal(y[theirs], sizes, alpha, dice(seed, DEAL))
        evil = dice(seed, EVIL).permutation(clients)[: round(malicious_share * clients)]
        ids = dice(seed, IDS).integers(0, 2**64, clients, dtype=np.uint64)
        self.clients = [
            Client(i, int(ids[i]), x[theirs[h]], y[theirs[h]], seed, i in evil)
            for i, h in enumerate(hands)
        ]
        tested = dice(seed, TEST).permutation(len(pictures.test_y))[:tests]
        self.test_x = pictures.test_x[tested]
        self.test_y = pictures.test_y[tested].astype(np.int32)

    def _balanced(self, labels, count, rng):
        each = count // self.classes
        return np.concatenate(
            [rng.permutation(np.flatnonzero(labels == c))[:each] for c in range(self.classes)]
        )

    def root_for_defender(self):
        """Images as the model takes them, and labels."""
        return np.asarray(self.learner.prepare(self.root_x)), self.root_y

    def draw(self, round_):
        picks = dice(self.seed, SAMPLE, round_).permutation(len(self.clients))[: self.sampled]
        return [self.clients[i] for i in picks]

    def run(self, rule, attack, rounds=60, judged=5):
        """Trains from scratch; the score is the mean of the last ``judged`` rounds."""
        began, in_rule = time.perf_counter(), 0.0
        model = self.model.fresh(dice(self.seed, INIT))
        rule.begin(model)
        past, judgements, sampled = [], [], []
        kept = {False: [], True: []}
        with ThreadPoolExecutor(self.workers) as pool:
            for t in range(rounds):
                past.append(model)
                crew = self.draw(t)
                models, root_model = self._collect(pool, t, crew, attack, past, rule.wants_root)
                villains = [c.malicious and attack.name != "none" for c in crew]
                delivery = Delivery(
                    t, model, models, [c.id for c in crew], [len(c) for c in crew], villains
                )
                delivery.root_model = root_model
                start = time.perf_counter()
                model, kept_now = rule.aggregate(delivery)
                in_rule += time.perf_counter() - start
                sampled.append(delivery.ids)
                if kept_now is not None:
                    for villain, k in zip(villains, kept_now, strict=True):
                        if not villain or attack.awake(t):
                            kept[villain].append(float(k))
                if t % 10 == 9 or t >= rounds - judged:
                    judgements.append((t + 1, *self.judge(model, attack)))
        last = judgements[-judged:]
        accuracy = float(np.mean([a for _, a, _ in last]))
        success = None if last[0][2] is None else float(np.mean([s for _, _, s in last]))
        return Outcome(
            score=accuracy - (success or 0.0),
            accuracy=accuracy,
            success=success,
            kept_honest=float(np.mean(kept[False])) if kept[False] else None,
            kept_malicious=float(np.mean(kept[True])) if kept[True] else None,
            seconds=time.perf_counter() - began,
            rule_seconds=in_rule,
            curve=judgements,
            sampled=sampled,
            final=model,
        )

    def _collect(self, pool, t, crew, attack, past, wants_root):
        """The models that clients send, and the server's own where the rule wants one."""
        model, awake = past[-1], attack.awake(t)
        workers = list(crew)
        if awake and attack.gathers and any(c.malicious for c in crew):
            workers += [c for c in self.clients if c.malicious and c not in crew]
        jobs = [c.work(t, self.steps, self.batch, attack) for c in workers]
        if wants_root:
            rng = dice(self.seed, ROOT_BATCH, t)
            jobs.append(shuffled_batches(self.root_x, self.root_y, self.steps, self.batch, rng))
        train = partial(self.learner.train, model)
        trained = [train(*jobs[0]), *pool.map(lambda job: train(*job), jobs[1:])]
        root_model = trained.pop() if wants_root else None
        colluders = [m for c, m in zip(workers, trained, strict=True) if c.malicious]
        sent = []
        for client, own in zip(crew, trained, strict=False):
            if client.malicious and awake:
                rng = dice(self.seed, NOISE, t, client.number)
                own = attack.tamper(own, Scene(t, model, past, colluders, rng))
            sent.append(own)
        return sent, root_model

    def judge(self, model, attack):
        """Accuracy, and how often stamped images of other classes are taken for the target."""
        accuracy = float((self.learner.guess(model, self.test_x) == self.test_y).mean())
        if attack.target is None:
            return accuracy, None
        guesses = self.learner.guess(model, attack.stamp(self.test_x.copy()))
        return accuracy, float((guesses == attack.target)[self.test_y != attack.target].mean())
