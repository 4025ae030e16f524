"""The same CNN in PyTorch, and what the server needs of it to look at updates: its twin in JAX."""

import numpy as np
import torch
from torch import nn


class Net(nn.Module):
    """Two 3x3 convolutions, each halved by its averages, and a dense head."""

    def __init__(self, shape, classes=10):
        super().__init__()
        h, w, c = shape
        self.conv1 = nn.Conv2d(c, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1)
        self.head = nn.Linear((h // 4) * (w // 4) * 16, classes)

    def forward(self, x):
        """Logits of images [B, c, h, w] in [0, 1]."""
        x = nn.functional.avg_pool2d(torch.relu(self.conv1(x)), 2)
        x = nn.functional.avg_pool2d(torch.relu(self.conv2(x)), 2)
        return self.head(x.flatten(1))


def fresh(seed, shape, classes=10):
    """The first model: arrays by name."""
    torch.manual_seed(seed)
    return {name: t.numpy().copy() for name, t in Net(shape, classes).state_dict().items()}


def apply(params, x):
    """Logits of the same model, traceable by JAX: images [B, h, w, c], as the server has them."""
    import jax

    x = x.transpose(0, 3, 1, 2)
    for name in ("conv1", "conv2"):
        x = jax.lax.conv_general_dilated(
            x,
            params[f"{name}.weight"],
            (1, 1),
            "SAME",
            dimension_numbers=("NCHW", "OIHW", "NCHW"),
        )
        x = jax.nn.relu(x + params[f"{name}.bias"][None, :, None, None])
        n, c, h, w = x.shape
        x = x.reshape(n, c, h // 2, 2, w // 2, 2).mean(axis=(3, 5))
    return x.reshape(x.shape[0], -1) @ params["head.weight"].T + params["head.bias"][None]


def train(params, x, y, lr, batch_size, seed):
    """One epoch of SGD on x [m, h, w, c] in [0, 1], y [m]; the new arrays by name."""
    torch.set_num_threads(1)
    net = Net(x.shape[1:], params["head.bias"].shape[0])
    net.load_state_dict({name: torch.from_numpy(np.array(a)) for name, a in params.items()})
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    images = torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, 3, 1)))
    labels = torch.from_numpy(y.astype(np.int64))
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(y)))
    for i in range(0, max(1, len(y) - batch_size + 1), batch_size):
        rows = order[i : i + batch_size]
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images[rows]), labels[rows]).backward()
        optimizer.step()
    return {name: tensor.numpy() for name, tensor in net.state_dict().items()}
