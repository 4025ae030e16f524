"""``paper``: the settings of arXiv 2306.13800 and its sequel, as far as they are known.

Written for a GPU: 240,000 to 600,000 FL rounds. The paper's: Algorithm 2 with plain SGD at every
level, one gradient per batch (C1 by return-to-go, the same expectation at less variance), K = 10
sampled types, N_D = 100 steps, l = N_A = 10, kappa = 0.001, eta = 0.01, meta step 1; H = 200
(MNIST, Fashion-MNIST) or 500 (CIFAR-10), 100 clients, 10 % sampled, one local step of batch 128,
lr 0.05, q = 0.5, root data of 100 or 200 images, the defender blind on the last layer of the global
model, reward -F, an RL attacker that responds. Of these l, N_A, N_D, kappa, eta and H are known
second-hand (from the sequel's code and documents).

Not the paper's: policy gradients in place of TD3, our own networks (an MLP for the grey images, a
small CNN for CIFAR-10), groups of two rollouts for the baseline (N_b is not printed).

Thirty of its hundred meta-steps were run on MNIST on a GPU, 8.4 s each: no type's return rose in
them (``docs/performance.md``). No result is claimed for it.
"""

from metasg_jax.config import FLConfig, GameConfig, MetaConfig, RunConfig

TYPES = (
    "none",
    "ipm:scale=2@0.2",
    "lmp@0.2",
    "eb@0.2",
    "rl@0.2",
    "bfl@0.05",
    "ipm:scale=2@0.1+bfl@0.05",
)


def get_config(dataset: str) -> RunConfig:
    """Settings for a data set."""
    cnn = dataset == "cifar10"
    game = GameConfig(
        dataset=dataset,
        model="cnn" if cnn else "mlp",
        hidden=(32, 64, 128) if cnn else (128,),
        level=0.5,
        num_root=200 if cnn else 100,
        num_validation=200 if dataset == "digits" else 2000,
        types=TYPES,
        observation="paper",
        reward="clean",
    )
    fl = FLConfig(
        batch_size=16 if dataset == "digits" else 128, local_lr=0.05, horizon=500 if cnn else 200
    )
    meta = MetaConfig(
        algorithm="meta_sl",
        outer="fomaml",
        num_types=10,
        group_size=2,
        rollouts_at_once=-1,
        adapt_steps=10,
        attacker_steps=10,
        estimator="return_to_go",
        optimizer="sgd",
        hidden=(256, 256),
        discount=0.99,
        adapt_lr=0.01,
        defender_lr=0.001,
        attacker_lr=0.001,
        outer_lr=1.0,
    )
    return RunConfig(game, fl, meta, steps=100, chunk=1)
