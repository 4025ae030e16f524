"""Clusters of a round's rows from their distances: HDBSCAN (Campello, Moulavi, Sander; PAKDD 2013).

No tree is built. The smallest largest step on any path between two rows says when single linkage
joins them, and every node of its dendrogram is a row of a comparison with that matrix. All shapes
are static, so it runs under ``jit`` and ``vmap``; it takes n^3 steps: for some hundred clients, not
thousands.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metasg_jax.aggregators.geometry import products, sums_of_ranks

# Of a cosine in float32; closer distances count as equal.
RESOLUTION = 2.0**-20


def cosine_distances(rows: jax.Array, norms: jax.Array) -> jax.Array:
    """1 - cos f32[n, n] of finite rows, in steps of :data:`RESOLUTION`, 0 on the diagonal.

    1 from a zero row to all others.
    """
    lengths = jnp.maximum(norms, 1e-12)
    distances = 1 - products(rows) / lengths[:, None] / lengths[None, :]
    # what rounding made of equal cosines must be equal again, and symmetric
    distances = jnp.round(jnp.maximum(distances, 0.0) / RESOLUTION) * RESOLUTION
    distances = jnp.maximum(distances, distances.T)
    return jnp.where(jnp.eye(len(norms), dtype=bool), 0.0, distances)


def minimax_paths(distances: jax.Array, present: jax.Array) -> jax.Array:
    """The smallest largest step f32[n, n] on any path between two rows: when single linkage joins.

    0 from a row to itself, +inf to and from absent rows. No number is computed, only chosen, so
    that it is exactly an ultrametric: a_ik <= max(a_ij, a_jk).

    Args:
        distances: f32[n, n], symmetric, at least 0; of absent rows, anything.
        present: bool[n].
    """
    n = present.shape[0]
    steps = jnp.where(jnp.eye(n, dtype=bool), 0.0, distances)
    steps = jnp.where(present[:, None] & present[None, :], steps, jnp.inf)

    def through(k, steps):
        return jnp.minimum(steps, jnp.maximum(steps[:, k][:, None], steps[k][None, :]))

    return jax.lax.fori_loop(0, n, through, steps)


def majority_cluster(distances: jax.Array, present: jax.Array) -> jax.Array:
    """The rows bool[n] that HDBSCAN clusters if a cluster must hold more than half of them.

    Two such clusters can't be apart, so its tree never splits: rows only fall off the one cluster
    as the distance shrinks, and the last to stay are its members. They are the first component of
    the single-linkage tree with floor(count / 2) + 1 rows, and what joins at the same distance.
    With min_samples = 1 a core distance is 0, which changes nothing. It is what :func:`hdbscan`
    returns with ``allow_single_cluster``, for less.

    Args:
        distances: f32[n, n], symmetric.
        present: bool[n].
    """
    paths = minimax_paths(distances, present)
    # in order of distance, 0 is the row itself
    half = present.sum() // 2
    reach = sums_of_ranks(paths, half, half)
    reach = jnp.where(present, reach, jnp.inf)
    first = jnp.argmin(reach)
    return present & present[first] & (paths[first] <= reach[first])


def hdbscan(
    distances: jax.Array,
    present: jax.Array,
    min_cluster_size: int | jax.Array,
    min_samples: int | jax.Array,
    allow_single_cluster: bool | jax.Array = False,
) -> jax.Array:
    """Labels i32[n]: the index of the first row of a row's cluster, -1 where it is in none (noise).

    Excess of mass, as in scikit-learn's ``HDBSCAN(metric="precomputed")``. Components that join at
    one distance join at once here, however many they are, so that the order of the rows never
    matters; there they join one after the other, and the partition may change with the order of the
    rows. Both agree where no two distances are equal and ``min_samples`` is at most 2. From 3 on a
    row's core distance is its mutual reachability to several others, which are ties as well.

    A core distance is the ``min_samples``-th smallest distance of a row, the 0 to itself counted:
    with 1 and 2 the clusters are those of the distances themselves. The ``hdbscan`` package doesn't
    count the row itself: its m is m + 1 here. Where fewer rows are present, their number is taken.

    With ``allow_single_cluster`` the root may be the one cluster: then of the rows that are there
    when it splits, or when it falls apart.

    Args:
        distances: f32[n, n], symmetric, finite between present rows.
        present: bool[n]; the others are in no cluster.
        min_cluster_size: at least 2; smaller components are rows that fall off.
        min_samples: at least 1.
        allow_single_cluster: whether all rows may be one cluster.
    """
    paths = minimax_paths(_reachability(distances, present, min_samples), present)
    tree = _dendrogram(paths, present)
    starts = _condense(tree, min_cluster_size)
    chosen = _excess_of_mass(tree, starts, jnp.asarray(allow_single_cluster))
    # of nested clusters the outermost counts
    chosen &= ~jnp.any(tree.inside & chosen[None, :], axis=1)
    rows = jnp.where(starts.is_root[:, None], starts.root_rows[None, :], tree.members)
    rows &= chosen[:, None]
    n = present.shape[0]
    first = jnp.min(jnp.where(rows, jnp.arange(n)[None, :], n), axis=1)
    label = jnp.min(jnp.where(rows, first[:, None], n), axis=0)
    return jnp.where(label < n, label, -1)


def _reachability(distances, present, min_samples):
    """Mutual reachability f32[n, n]: max(core_i, core_j, distance_ij)."""
    n = present.shape[0]
    distances = jnp.where(jnp.eye(n, dtype=bool), 0.0, distances)
    distances = jnp.where(present[:, None] & present[None, :], distances, jnp.inf)
    place = jnp.clip(jnp.minimum(min_samples, present.sum()) - 1, 0, n - 1)
    core = sums_of_ranks(distances, place, place)
    return jnp.maximum(distances, jnp.maximum(core[:, None], core[None, :]))


class _Tree(NamedTuple):
    """The nodes of a dendrogram, ties merged; node i is where row i first joins an earlier row.

    Each node has such a row, often several; the first of them stands for it.
    """

    is_node: jax.Array  # bool[n]
    height: jax.Array  # f32[n], +inf where there is no node
    members: jax.Array  # bool[n, n], the rows of node i
    inside: jax.Array  # bool[n, n], whether node i is inside of node k and not equal to it


def _dendrogram(paths: jax.Array, present: jax.Array) -> _Tree:
    n = present.shape[0]
    earlier = jnp.tril(jnp.ones((n, n), bool), -1)
    height = jnp.min(jnp.where(earlier, paths, jnp.inf), axis=1)
    joins = present & jnp.isfinite(height)
    members = joins[:, None] & (paths <= height[:, None])
    # rows of one node that first join at its height stand for the same node
    same = members & joins[None, :] & (height[:, None] == height[None, :])
    is_node = joins & ~jnp.any(same & earlier, axis=1)
    both = is_node[:, None] & is_node[None, :]
    inside = both & members.T & (height[None, :] > height[:, None])
    return _Tree(is_node, height, members, inside)


class _Starts(NamedTuple):
    """Clusters of the condensed tree; one starts at the root and at each part of a split.

    A node where fewer than two parts are large enough belongs to the cluster around it.
    """

    is_root: jax.Array  # bool[n]
    is_start: jax.Array  # bool[n]
    mass: jax.Array  # f32[n], the stability of each
    is_part: jax.Array  # bool[n, n], whether cluster i comes from the split of cluster k
    root_rows: jax.Array  # bool[n], the rows that are left when the root splits or falls apart


def _condense(tree: _Tree, min_cluster_size: int | jax.Array) -> _Starts:
    is_node, height, members, inside = tree
    size = members.sum(axis=1)
    is_root = is_node & ~inside.any(axis=1)
    large = is_node & (size >= min_cluster_size)
    is_child = _nearest(inside, height)
    large_children = is_child & large[:, None]
    count = large_children.sum(axis=0)
    is_start = is_root | jnp.any(large_children & (count >= 2)[None, :], axis=1)

    # nodes of a cluster: from its start down, while one part goes on
    around = (inside | jnp.diag(is_node)) & (large | is_root)[:, None]
    of_cluster = _nearest(around & is_start[None, :], height)
    density = jnp.where(height > 0, 1 / jnp.where(height > 0, height, 1.0), jnp.inf)
    # that of the node around it; 0 for the root
    birth = jnp.max(jnp.where(is_child, density[None, :], 0.0), axis=1)
    # rows leave a cluster where they fall off it, and all that are left where it splits
    stay = jnp.where(count == 1, jnp.sum(jnp.where(large_children, size[:, None], 0), axis=0), 0)
    excess = (density[:, None] - birth[None, :]) * (size - stay)[:, None]
    mass = jnp.sum(jnp.where(of_cluster, excess, 0.0), axis=0)

    is_part = _nearest(inside & is_start[:, None] & is_start[None, :], height)
    of_root = jnp.where(jnp.any(of_cluster & is_root[None, :], axis=1), height, jnp.inf)
    is_last = is_node & (of_root == of_root.min())
    return _Starts(is_root, is_start, mass, is_part, jnp.any(members & is_last[:, None], axis=0))


def _nearest(candidates: jax.Array, height: jax.Array) -> jax.Array:
    """The innermost of the nested nodes k with candidates[i, k], marked for each i: bool[n, n]."""
    heights = jnp.where(candidates, height[None, :], jnp.inf)
    return candidates & (heights == heights.min(axis=1, keepdims=True))


def _excess_of_mass(tree: _Tree, starts: _Starts, allow_single_cluster: jax.Array) -> jax.Array:
    """Which clusters bool[n] have at least the mass of what is chosen inside of them."""
    # a part is lower than what it is a part of, so it comes first
    order = jnp.argsort(jnp.where(starts.is_start, tree.height, jnp.inf))

    def choose(step, carry):
        mass, chosen = carry
        k = order[step]
        parts = jnp.sum(jnp.where(starts.is_part[:, k], mass, 0.0))
        # false where a density overflowed and a mass is NaN: then the outer cluster is taken
        better = (parts > mass[k]) | (starts.is_root[k] & ~allow_single_cluster)
        mass = mass.at[k].set(jnp.where(better, parts, mass[k]))
        return mass, chosen.at[k].set(starts.is_start[k] & ~better)

    nothing = jnp.zeros(tree.is_node.shape, bool)
    _, chosen = jax.lax.fori_loop(0, order.shape[0], choose, (starts.mass, nothing))
    return chosen
