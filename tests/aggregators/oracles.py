"""More rules in float64 NumPy, as in ``tests/oracles.py``: from the papers and not from our code.

``oracle(rows[n, d], weights[n], root[d], **fields)``, of present rows only.
"""

import bisect
import itertools

import jax
import numpy as np
from sklearn.cluster import HDBSCAN

from metasg_jax.aggregators.deepsight import CHUNK, EPSILON, noise_images
from tests import oracles
from tests.oracles import clip_rows, krum_scores, norms


def mean_around_median(rows, kept):
    """Xie et al. 2018, definition 9: the mean of the values nearest to the median.

    One value at a time; values at the same distance as the last one share its place.
    """
    out = np.zeros(rows.shape[1])
    for j, column in enumerate(rows.T):
        away = np.abs(column - np.median(column))
        last = np.sort(away)[kept - 1]
        nearer, tied = column[away < last], column[away == last]
        out[j] = (nearer.sum() + (kept - len(nearer)) * tied.mean()) / kept
    return out


def meamed(rows, weights, root, f):
    """Xie et al. 2018: the n - f nearest to the median."""
    return mean_around_median(rows, max(int(len(rows) - f), 1))


def centered_clip(rows, weights, root, max_norm, iterations, centre=0.0):
    """Karimireddy et al. 2021, equation 4: l steps from the last round's result, here 0."""
    centre = np.zeros(rows.shape[1]) + centre
    for _ in range(iterations):
        centre = centre + clip_rows(rows - centre, max_norm).mean(axis=0)
    return centre


def sign_majority(rows, weights, root, scale):
    """Bernstein et al. 2019, algorithm 1: sign of the sum of signs."""
    return scale * np.sign(np.sum(np.sign(rows), axis=0))


def bulyan(rows, weights, root, f):
    """El Mhamdi et al. 2018, section 4: Krum until theta are chosen, then each coordinate.

    The paper names no tie; by the sum of all distances then, which the order of rows can't change.
    """
    left, theta = list(range(len(rows))), max(int(len(rows) - 2 * f), 1)
    chosen = []
    while len(chosen) < theta:
        scores = krum_scores(rows[left], f) if len(left) > 1 else [0.0]
        sums = np.sum((rows[left][:, None] - rows[left][None]) ** 2, axis=(1, 2))
        best = min(range(len(left)), key=lambda i: (scores[i], sums[i]))
        chosen.append(left.pop(best))
    return mean_around_median(rows[chosen], max(int(theta - 2 * f), 1))


def mda(rows, weights, root, f):
    """El Mhamdi et al. 2020: the n - f rows of the smallest diameter; then of the smallest sum."""
    distances = np.sum((rows[:, None] - rows[None]) ** 2, axis=2)
    best, chosen = (np.inf, np.inf), None
    for subset in itertools.combinations(range(len(rows)), int(len(rows) - f)):
        between = distances[np.ix_(subset, subset)]
        if (between.max(), between.sum()) < best:
            best, chosen = (between.max(), between.sum()), list(subset)
    return rows[chosen].mean(axis=0)


def weak_dp(rows, weights, root, max_norm, sigma):
    """Sun et al. 2019, section 4: norm bounding, and noise apart."""
    assert sigma == 0
    return oracles.norm_bound(rows, weights, root, max_norm)


def crfl(rows, weights, root, max_norm, sigma, w_global=0.0):
    """Xie et al. 2021, algorithm 1: Clip of the averaged model; its noise apart."""
    assert sigma == 0
    model = w_global - np.average(rows, axis=0, weights=weights)
    return w_global - model / max(1.0, np.linalg.norm(model) / max_norm)


def foolsgold_alpha(history):
    """Fung et al. 2020, algorithm 1: the learning rate of each client; one pair at a time."""
    n, length = len(history), norms(history)
    cs = history @ history.T / length[:, None] / length[None]
    np.fill_diagonal(cs, 0)
    v = cs.max(axis=1)
    for i in range(n):
        for j in range(n):
            if v[j] > v[i]:
                cs[i, j] *= v[i] / v[j]
    alpha = 1 - cs.max(axis=1)
    alpha[alpha < 1e-9] = 0  # parallel rows
    if alpha.max() == 0:
        return alpha
    alpha = alpha / alpha.max()
    alpha[alpha == 1] = 0.99
    with np.errstate(divide="ignore"):
        return np.clip(np.log(alpha / (1 - alpha)) + 0.5, 0, 1)


def foolsgold(rows, weights, root, num_clients):
    """Fung et al. 2020, with the rows of one round as histories; the weights sum to 1."""
    alpha = foolsgold_alpha(rows)
    return alpha @ rows / max(alpha.sum(), 1e-12)


def sklearn_hdbscan(distances, min_cluster_size, min_samples, allow_single_cluster):
    """Scikit-learn's labels; each cluster is called by its first row."""
    labels = (
        HDBSCAN(
            metric="precomputed",
            min_cluster_size=min_cluster_size,
            min_samples=min_samples,
            allow_single_cluster=allow_single_cluster,
            copy=True,
        )
        .fit(np.float64(distances))
        .labels_
    )
    return by_first_row(labels)


def by_first_row(labels):
    return np.array([-1 if label < 0 else np.argmax(labels == label) for label in labels])


def hdbscan(distances, min_cluster_size, min_samples, allow_single_cluster=False):
    """Campello, Moulavi, Sander 2013, from the top down; what joins at one distance joins at once.

    A cluster shrinks with the distance until at least two parts of it are large enough; its mass is
    the sum over its rows of 1 / (distance where they leave) - 1 / (distance where it began).
    """
    distances, n = np.array(distances, np.float64), len(distances)
    np.fill_diagonal(distances, 0)
    core = np.sort(distances, axis=1)[:, min(min_samples, n) - 1]
    distances = np.maximum(distances, np.maximum(core[:, None], core[None]))

    def components(rows, joined):
        left, found = set(rows), []
        while left:
            component = [left.pop()]
            for i in component:
                component += [j for j in left if joined[i, j]]
                left -= set(component)
            found.append(sorted(component))
        return found

    def fall_apart(rows):
        """The distance at which the rows become one component, and the parts just below it."""
        heights = np.unique(distances[np.ix_(rows, rows)])
        place = bisect.bisect(heights, 0, key=lambda h: len(components(rows, distances <= h)) == 1)
        return heights[place], components(rows, distances < heights[place])

    def grow(rows, birth, is_root=False):
        """The mass of the best choice of clusters among ``rows``, and these clusters."""
        whole, mass = rows, 0.0
        while True:
            height, parts = fall_apart(rows)
            density = 1 / height if height > 0 else np.inf
            large = [part for part in parts if len(part) >= min_cluster_size]
            stay = large[0] if len(large) == 1 else []
            mass += (density - birth) * (len(rows) - len(stay))
            if not stay:
                break
            rows = stay
        inner = [grow(part, density) for part in large]
        total = sum(mass for mass, _ in inner)
        if total > mass or (is_root and not allow_single_cluster):
            return total, [cluster for _, clusters in inner for cluster in clusters]
        return mass, [rows if is_root else whole]

    labels = np.full(n, -1)
    for cluster in grow(list(range(n)), 0.0, is_root=True)[1] if n > 1 else []:
        labels[cluster] = cluster[0]
    return labels


def flame_cluster(distances):
    """HDBSCAN as Nguyen et al. 2022 configure it, by scikit-learn."""
    return sklearn_hdbscan(distances, len(distances) // 2 + 1, 1, True) >= 0


def flame(rows, weights, root, noise):
    """Nguyen et al. 2022, algorithm 1, of updates; its noise apart."""
    assert noise == 0
    units = rows / norms(rows)[:, None]
    distances = np.round(np.maximum(1 - units @ units.T, 0) * 2**20) / 2**20
    np.fill_diagonal(distances, 0)
    kept = rows[flame_cluster((distances + distances.T) / 2)]
    return clip_rows(kept, np.median(norms(rows))).mean(axis=0)


def own_clusters(labels):
    """Whether two rows are apart, bool[n, n]; a row that is noise is apart from all others."""
    alone = np.where(labels < 0, np.arange(len(labels)), labels)
    return alone[:, None] != alone[None]


def deepsight(
    rows,
    weights,
    root,
    model,
    num_inputs,
    num_seeds,
    min_cluster_size,
    min_samples,
    floor,
    max_suspicious,
    w_global=0.0,
):
    """Rieger et al. 2022, with the noise images that the rule draws."""
    return deepsight_steps(**locals())[0]


def deepsight_steps(
    rows,
    weights,
    root,
    model,
    num_inputs,
    num_seeds,
    min_cluster_size,
    min_samples,
    floor,
    max_suspicious,
    w_global=0.0,
):
    """(update, accepted bool[n], suspicious bool[n]), one client at a time."""
    n, w_global = len(rows), np.zeros(rows.shape[1]) + w_global
    neups, biases = [], []
    for row in rows:
        head = model.unravel(row)["head"]
        energy = np.abs(head["bias"]) + np.abs(head["kernel"]).sum(axis=0)
        neups.append(energy**2 / np.sum(energy**2))
        biases.append(head["bias"])
    neups, biases = np.array(neups), np.array(biases)
    share = max(floor, 1 / neups.shape[1])
    exceedings = np.array([np.sum(neup > share * neup.max()) for neup in neups])
    suspicious = exceedings <= np.median(exceedings) / 2

    def between(points):
        return np.linalg.norm(points[:, None] - points[None], axis=2)

    def clusters(distances):
        return hdbscan(distances, min_cluster_size, min_samples)

    def probabilities(w, images):
        logits = np.float64(model.apply(model.unravel(np.float32(w)), images))
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        return exponentials / exponentials.sum(axis=1, keepdims=True)

    assert num_inputs <= CHUNK
    key = jax.random.fold_in(jax.random.key(0), 0)
    votes = []
    for images in np.asarray(noise_images(key, num_seeds, num_inputs, model.input_shape)):
        base = probabilities(w_global, images) + EPSILON
        ddifs = [np.mean(probabilities(w_global - row, images) / base, axis=0) for row in rows]
        votes.append(own_clusters(clusters(between(np.array(ddifs)))))
    units = biases / np.linalg.norm(biases, axis=1)[:, None]
    cosines = np.maximum(np.round((1 - units @ units.T) * 2**20) / 2**20, 0)
    votes += [own_clusters(clusters(between(neups)))] * num_seeds
    votes += [own_clusters(clusters((cosines + cosines.T) / 2))] * num_seeds

    merged = np.sum(votes, axis=0) / len(votes)
    apart = own_clusters(hdbscan(merged, min_cluster_size, min_samples, allow_single_cluster=True))
    accepted = np.array([suspicious[~apart[i]].mean() < max_suspicious for i in range(n)])
    clipped = clip_rows(rows, np.median(norms(rows)))
    update = clipped[accepted].mean(axis=0) if accepted.any() else np.zeros(rows.shape[1])
    return update, accepted, suspicious


RULES = oracles.RULES | {
    "meamed": meamed,
    "centered_clip": centered_clip,
    "sign_majority": sign_majority,
    "bulyan": bulyan,
    "mda": mda,
    "weak_dp": weak_dp,
    "crfl": crfl,
    "foolsgold": foolsgold,
    "flame": flame,
    "deepsight": deepsight,
}
