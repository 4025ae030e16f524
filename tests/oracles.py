"""Every rule and craft once more in float64 NumPy, written from its paper and not from our code.

A rule's oracle takes the present rows only: ``oracle(rows[n, d], weights[n], root[d], **fields)``.
A pre-aggregator's returns rows: ``oracle(rows[n, d], **fields)``.
A craft's takes the honest rows and returns the row that all colluders send.
"""

import numpy as np


def norms(rows):
    return np.linalg.norm(rows, axis=1)


def clip_rows(rows, max_norm):
    """Scales down the rows that are longer than ``max_norm``, and only those."""
    factors = [max_norm / norm if norm > max_norm else 1.0 for norm in norms(rows)]
    return rows * np.array(factors)[:, None]


def mean(rows, weights, root):
    """McMahan et al. 2017: sum_k (n_k / n) u_k."""
    return np.average(rows, axis=0, weights=weights)


def median(rows, weights, root):
    """Yin et al. 2018, definition 1."""
    return np.median(rows, axis=0)


def trimmed_mean(rows, weights, root, beta):
    """Yin et al. 2018, definition 2: without the largest and smallest beta share of the values."""
    cut = int(np.floor(round(beta * len(rows), 6)))
    return np.sort(rows, axis=0)[cut : len(rows) - cut].mean(axis=0)


def norm_bound(rows, weights, root, max_norm):
    """Sun et al. 2019: average of u_k / max(1, |u_k| / M)."""
    return np.average(clip_rows(rows, max_norm), axis=0, weights=weights)


def clipped_median(rows, weights, root, max_norm):
    """Li et al. 2022, appendix: norm clipping, then the coordinate-wise median."""
    return np.median(clip_rows(rows, max_norm), axis=0)


def clipped_trimmed_mean(rows, weights, root, clip, trim, min_clip, max_clip, max_trim):
    """Clip to a multiple of the median norm, then linear interpolation between integer trims.

    Of cut = c + r rows a side, c go and the next one keeps the weight 1 - r.
    """
    multiple = np.inf if clip >= 1 else np.geomspace(min_clip, max_clip, 2001)[_step(clip)]
    if np.isfinite(multiple):
        rows = clip_rows(rows, multiple * np.median(norms(rows)))
    cut = (trim + 1) / 2 * max_trim * len(rows)
    whole = int(np.floor(cut))
    kept = np.sort(rows, axis=0)[whole : len(rows) - whole]
    weights = np.ones(len(kept))
    weights[[0, -1]] -= cut - whole
    return np.average(kept, axis=0, weights=weights) if len(kept) > 1 else kept[0]


def _step(clip):
    """Index of a knob in [-1, 1] on a scale of 2001 points; tests use such points only."""
    index = round((clip + 1) * 1000)
    assert abs(index / 1000 - 1 - clip) < 1e-9
    return index


def krum_scores(rows, f):
    """Blanchard et al. 2017: sum of the n - f - 2 smallest squared distances to the others."""
    distances = np.sum((rows[:, None] - rows[None]) ** 2, axis=2)
    others = [np.sort(np.delete(row, i)) for i, row in enumerate(distances)]
    return np.array([row[: max(int(len(rows) - f - 2), 1)].sum() for row in others])


def krum(rows, weights, root, f):
    """The first row of the smallest score."""
    return rows[np.argmin(krum_scores(rows, f))]


def multi_krum(rows, weights, root, f, m):
    """Blanchard et al. 2017, section 4: mean of the m rows of the smallest scores, scored once."""
    m = int(len(rows) - f) if m is None else min(int(m), len(rows))
    best = sorted(range(len(rows)), key=lambda i: krum_scores(rows, f)[i])[:m]
    return rows[best].mean(axis=0)


def half_radius(rows):
    """Radius of the smallest ball around a row that holds more than half of the rows."""
    distances = np.linalg.norm(rows[:, None] - rows[None], axis=2)
    return np.sort(distances, axis=1)[:, len(rows) // 2].min()


def geometric_median(rows, weights, root, smoothing, tolerance, iterations):
    """Pillutla et al. 2022, algorithm 2, on the vectors themselves and until nothing moves."""
    nu, z = max(smoothing * half_radius(rows), 1e-18), np.median(rows, axis=0)
    for _ in range(20000):
        shares = 1 / np.maximum(np.linalg.norm(rows - z[None], axis=1), nu)
        before, z = z, shares @ rows / shares.sum()
        if np.abs(z - before).max() <= 1e-14 * np.abs(z).max():
            break
    return z


def fltrust(rows, weights, root):
    """Cao et al. 2021, equations 2-4."""
    trust = np.maximum(rows @ root / (norms(rows) * np.linalg.norm(root)), 0)
    scaled = rows * (np.linalg.norm(root) / norms(rows))[:, None]
    return trust @ scaled / trust.sum() if trust.sum() > 0 else np.zeros_like(root)


def trusted_trimmed_mean(rows, weights, root, clip, trim, min_clip, max_clip, max_trim, trust):
    """A convex combination of the two."""
    steered = clipped_trimmed_mean(rows, weights, root, clip, trim, min_clip, max_clip, max_trim)
    share = (trust + 1) / 2
    return (1 - share) * steered + share * fltrust(rows, weights, root)


def client_trust(rows, weights, root, clip, trim, own, min_clip, max_clip, max_trim):
    """Without an action everybody is trusted; the weighted mean where nothing is trimmed."""
    if trim > -1:
        steered = clipped_trimmed_mean(
            rows, weights, root, clip, trim, min_clip, max_clip, max_trim
        )
    else:
        steered = np.average(
            rows
            if clip >= 1
            else clip_rows(
                rows, np.geomspace(min_clip, max_clip, 2001)[_step(clip)] * np.median(norms(rows))
            ),
            axis=0,
            weights=weights,
        )
    share = (own + 1) / 2
    return (1 - share) * steered + share * root


RULES = {
    "mean": mean,
    "client_trust": client_trust,
    "median": median,
    "trimmed_mean": trimmed_mean,
    "clipped_trimmed_mean": clipped_trimmed_mean,
    "trusted_trimmed_mean": trusted_trimmed_mean,
    "norm_bound": norm_bound,
    "clipped_median": clipped_median,
    "krum": krum,
    "multi_krum": multi_krum,
    "geometric_median": geometric_median,
    "fltrust": fltrust,
}


def nnm(rows, f):
    """Allouah et al. 2023, algorithm 1: each row's n - f nearest, itself included, averaged."""
    distances = np.linalg.norm(rows[:, None] - rows[None], axis=2)
    kept = int(len(rows) - f)
    return np.stack([rows[np.argsort(to, kind="stable")[:kept]].mean(axis=0) for to in distances])


PRE = {"nnm": nnm}


def ipm(honest, scale):
    """Xie et al. 2020: -epsilon / (n - q) * sum of the honest updates."""
    return -scale * honest.mean(axis=0)


def alie(honest, z):
    """Baruch et al. 2019, algorithm 3: mu_j - z sigma_j."""
    return honest.mean(axis=0) - z * honest.std(axis=0)


def lmp(honest, z):
    """Fang et al. 2020, section IV.C: z deviations from the mean, against its sign s_j."""
    mu, sigma = honest.mean(axis=0), honest.std(axis=0)
    return np.where(mu > 0, mu - z * sigma, np.where(mu < 0, mu + z * sigma, mu))


CRAFTS = {"ipm": ipm, "alie": alie, "lmp": lmp}
