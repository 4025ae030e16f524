"""What the server makes of the models it was sent, in NumPy."""

import numpy as np

from tests.outside.federation import as_model, as_row


class Rule:
    """``aggregate`` gives the next model, and who was kept (0 to 1 by client) or None."""

    wants_root = False

    def begin(self, model):
        """Called before the first round."""

    def aggregate(self, delivery):
        w = as_row(delivery.sent_out)
        with np.errstate(all="ignore"):
            steps = np.stack([as_row(m) for m in delivery.models]) - w[None, :]
            step, kept = self.step(steps, np.asarray(delivery.counts, np.float64), delivery)
            return as_model(w + step, delivery.sent_out), kept

    def step(self, steps, counts, delivery):
        raise NotImplementedError


class Robust(Rule):
    """Drops what holds no numbers before anything else."""

    def step(self, steps, counts, delivery):
        sound = np.isfinite(steps).all(axis=1)
        kept = np.zeros(len(steps))
        if not sound.any():
            return np.zeros(steps.shape[1]), kept
        step, judged = self.robust(steps[sound], counts[sound], delivery)
        if judged is None:
            return step, None
        kept[sound] = judged
        return step, kept


class Perfect(Rule):
    """Is told who is malicious, and takes the plain mean of the others, none of them too long."""

    def step(self, steps, counts, delivery):
        kept = ~np.array(delivery.malicious, bool)
        if not kept.any():
            return np.zeros(steps.shape[1]), kept.astype(float)
        honest = steps[kept]
        lengths = np.linalg.norm(honest, axis=1)
        most = 1.5 * np.median(lengths)
        shrink = np.minimum(1.0, most / np.maximum(lengths, 1e-12))
        return (honest * shrink[:, None]).mean(axis=0), kept.astype(float)


class Mean(Rule):
    """By the number of images, whatever is in them."""

    def step(self, steps, counts, delivery):
        return np.average(steps, axis=0, weights=counts), None


class Median(Robust):
    def robust(self, steps, counts, delivery):
        return np.median(steps, axis=0), None


class Trimmed(Robust):
    """Mean of each coordinate without its lowest and highest fifth."""

    share = 0.2

    def robust(self, steps, counts, delivery):
        cut = min(round(self.share * len(steps)), (len(steps) - 1) // 2)
        ordered = np.sort(steps, axis=0)
        return ordered[cut : len(steps) - cut].mean(axis=0), None


class MultiKrum(Robust):
    """Mean of those that lie closest to their neighbours; reckons with a fifth of them lying."""

    share = 0.2

    def robust(self, steps, counts, delivery):
        n = len(steps)
        bad = round(self.share * n)
        squares = (steps**2).sum(axis=1)
        apart = squares[:, None] + squares[None, :] - 2 * steps @ steps.T
        np.fill_diagonal(apart, np.inf)
        scores = np.sort(apart, axis=1)[:, : max(1, n - bad - 2)].sum(axis=1)
        kept = np.zeros(n)
        kept[np.argsort(scores)[: max(1, n - bad)]] = 1.0
        return np.average(steps, axis=0, weights=kept), kept


class FLTrust(Robust):
    """Trusts by the cosine with the server's own step, and gives all its length."""

    wants_root = True

    def robust(self, steps, counts, delivery):
        own = as_row(delivery.root_model) - as_row(delivery.sent_out)
        size = np.linalg.norm(own)
        lengths = np.maximum(np.linalg.norm(steps, axis=1), 1e-12)
        trust = np.maximum(steps @ own / (lengths * max(size, 1e-12)), 0.0)
        if trust.sum() <= 0:
            return np.zeros_like(own), np.zeros(len(steps))
        step = np.average(steps * (size / lengths)[:, None], axis=0, weights=trust)
        return step, (trust > 0).astype(float)


class RootOnly(Rule):
    """Trains on the server's own images, and on nothing else."""

    wants_root = True

    def aggregate(self, delivery):
        return delivery.root_model, None


class Shipped(Rule):
    """A defender with ``init`` and ``aggregate``."""

    def __init__(self, defender, own_model=True):
        self.defender, self.wants_root = defender, own_model

    def begin(self, model):
        self.state = self.defender.init(model)

    def aggregate(self, delivery):
        model, self.state, self.report = self.defender.aggregate(
            self.state,
            delivery.sent_out,
            delivery.models,
            client_ids=delivery.ids,
            weights=delivery.counts,
            root_params=delivery.root_model,
        )
        return {k: np.asarray(v) for k, v in model.items()}, self._kept(delivery.ids)

    def _kept(self, ids):
        if "kept" in self.report:
            return [float(i in self.report["kept"]) for i in ids]
        trust = self.report["trust"]
        by_client = [trust[i] for i in ids] if isinstance(trust, dict) else list(trust)
        return [float(t >= 0.5) for t in by_client]


RULES = {
    "perfect": Perfect,
    "mean": Mean,
    "median": Median,
    "trimmed": Trimmed,
    "multi_krum": MultiKrum,
    "fltrust": FLTrust,
    "root_only": RootOnly,
}
