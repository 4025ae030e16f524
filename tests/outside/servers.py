"""How a server combines what it was sent: a few rules in NumPy, and a defender that is loaded."""

import numpy as np


def flat(p):
    return np.concatenate([p[k].ravel() for k in sorted(p)])


def unflat(v, like):
    out, at = {}, 0
    for k in sorted(like):
        out[k] = v[at : at + like[k].size].reshape(like[k].shape).astype(np.float32)
        at += like[k].size
    return out


class Server:
    def begin(self, p, federation):
        pass

    def combine(self, p, sent, ids, counts, own, truth):
        with np.errstate(all="ignore"):
            base = flat(p)
            rows = np.stack([flat(s) - base for s in sent])
            ok = np.isfinite((rows**2).sum(1))
            step = self.step(
                rows[ok], flat(own) - base, np.asarray(truth)[ok], np.asarray(counts)[ok]
            )
        return unflat(base + step, p)


class Mean(Server):
    def step(self, rows, own, truth, counts):
        return np.average(rows, 0, counts)


class Perfect(Server):
    """Is told who is malicious."""

    def step(self, rows, own, truth, counts):
        rows = rows[~truth] if (~truth).any() else 0 * rows
        norms = np.linalg.norm(rows, axis=1)
        most = 1.5 * np.median(norms)
        return (rows * np.minimum(1, most / np.maximum(norms, 1e-12))[:, None]).mean(0)


class Median(Server):
    def step(self, rows, own, truth, counts):
        return np.median(rows, 0)


class Trimmed(Server):
    def step(self, rows, own, truth, counts):
        cut = int(0.2 * len(rows) + 1e-9)
        return np.sort(rows, 0)[cut : len(rows) - cut].mean(0)


class FLTrust(Server):
    def step(self, rows, own, truth, counts):
        norms = np.maximum(np.linalg.norm(rows, axis=1), 1e-12)
        trust = np.maximum(rows @ own / norms / np.linalg.norm(own), 0)
        if trust.sum() == 0:
            return 0 * own
        return (trust / norms) @ rows * np.linalg.norm(own) / trust.sum()


class MultiKrum(Server):
    def step(self, rows, own, truth, counts):
        n, f = len(rows), max(1, round(0.2 * len(rows)))
        far = ((rows[:, None] - rows[None]) ** 2).sum(-1)
        score = np.sort(far, 1)[:, 1 : max(2, n - f - 1)].sum(1)
        return rows[np.argsort(score)[: n - f]].mean(0)


class RootOnly(Server):
    def step(self, rows, own, truth, counts):
        return own


class Shipped(Server):
    """The defender under judgement, through its public interface alone."""

    def __init__(self, name, sees_root=True, knows_ids=True):
        self.name, self.sees_root, self.knows_ids = name, sees_root, knows_ids

    def begin(self, p, federation):
        from metasg_jax import load_defender

        extra = {}
        if self.sees_root:
            extra = dict(apply=federation.net.logits, root=(federation.root.x, federation.root.y))
        self.defender = load_defender(self.name, **extra)
        self.state = self.defender.init(p)
        self.kept, self.bad_kept, self.seconds = [], [], []

    def combine(self, p, sent, ids, counts, own, truth):
        import time

        start = time.perf_counter()
        p, self.state, report = self.defender.aggregate(
            self.state, p, sent, client_ids=ids if self.knows_ids else None, weights=counts,
            root_params=own if self.sees_root else None,
        )  # fmt: skip
        self.seconds.append(time.perf_counter() - start)
        names = ids if self.knows_ids else list(range(len(sent)))
        for name, bad in zip(names, truth, strict=True):
            (self.bad_kept if bad else self.kept).append(name in report["kept"])
        self.report = report
        return p


SERVERS = {
    "perfect": Perfect, "mean": Mean, "median": Median, "trimmed": Trimmed, "fltrust": FLTrust,
    "multi_krum": MultiKrum, "root_only": RootOnly,
}  # fmt: skip
