"""Settings of the federated training of one episode."""

from typing import Literal

from metasg_jax.compressors import make_compressor
from metasg_jax.config.checks import require, require_count
from metasg_jax.config.fields import static
from metasg_jax.limits import is_positive
from metasg_jax.struct import Struct


class FLConfig(Struct):
    """Federated training of one episode.

    Example:
        >>> fl = FLConfig(num_clients=40, num_sampled=8)
        >>> fl.replace(local_steps=5).local_steps, fl.num_sampled
        (5, 8)
    """

    num_clients: int = static(100)
    """N, clients in all."""
    num_sampled: int = static(10)
    """n, clients that answer in a round."""
    batch_size: int = static(64)
    """B, images in a client's batch."""
    local_steps: int = static(1)
    """S, SGD steps of an honest client ("local iterations" in the paper)."""
    horizon: int = static(100)
    """H, rounds of an episode."""
    precision: Literal["float32", "tensorfloat32", "bfloat16"] = static("float32")
    """In which the clients train; what they send is float32. tensorfloat32: products on tensor
    cores of NVIDIA GPUs, no change elsewhere. bfloat16: weights and images too."""
    weighting: Literal["auto", "equal", "size"] = static("auto")
    """What an answer weighs: all the same, as in the paper, or by the images that its client holds,
    as in FedAvg. auto is size where the partition is dirichlet, whose clients hold unlike numbers
    of images, else equal. Rules that take order statistics or select rows do not read it."""
    augment: Literal["none", "crop_flip"] = static("none")
    """What local training does to its images each time: nothing, or random crops (an eighth of a
    side) and mirror images. It pays where clients see their images many times."""
    compression: str = static("none")
    """How clients send updates where bandwidth is limited, ``name[:field=value]``: none, top_k,
    random_k, int8 or sign; what a client has to leave out it sends later (error feedback)."""
    local_lr: float = 0.3
    """Learning rate of the clients."""
    server_lr: float = 1.0
    """Factor on the aggregated update; the paper's is 1."""
    steps_share: float = 1.0
    """Share of local_steps that clients take, in (0, 1], at least one step; traced, so that worlds
    which differ in it share a program."""
    batch_share: float = 1.0
    """Share of batch_size that a batch has different images of, in (0, 1], at least one; the others
    are the same ones again. Traced."""

    def check(self) -> None:
        """Raises ConfigError where a value is out of range, UnknownNameError for a compressor."""
        for name in ("num_clients", "num_sampled", "batch_size", "local_steps", "horizon"):
            require_count(name, getattr(self, name))
        require(
            1 <= self.num_sampled <= self.num_clients,
            "num_sampled",
            self.num_sampled,
            f"between 1 and num_clients = {self.num_clients}",
        )
        for name, allowed in (
            ("precision", ("float32", "tensorfloat32", "bfloat16")),
            ("weighting", ("auto", "equal", "size")),
            ("augment", ("none", "crop_flip")),
        ):
            value = getattr(self, name)
            require(value in allowed, name, value, f"one of {', '.join(allowed)}")
        make_compressor(self.compression)  # raises
        for name in ("local_lr", "server_lr"):
            value = getattr(self, name)
            require(is_positive(value), name, value, "above 0 and finite, in float32 too")
        for name in ("steps_share", "batch_share"):
            value = getattr(self, name)
            require(0 < value <= 1, name, value, "in (0, 1]")
