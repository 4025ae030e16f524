"""Rounds of federated averaging by others: loops in PyTorch, ByzFL, Flower's aggregation.

The plain loop is as fast as a plain loop reasonably gets: bytes in memory, no DataLoader,
parameters copied in place. All train by SGD from the global model; none evaluates.
"""

import functools
import os
import time

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks import inputs
from benchmarks.peer_rules import NUMPY
from benchmarks.worker import Contestant, Makers

_LR = 0.05
_TRIAL_SECONDS = 0.3


def makers_of(settings: dict) -> Makers:
    """All that play rounds."""
    return {
        "PyTorch loop": functools.partial(_faster_threads, _loop, settings),
        "PyTorch vmap": functools.partial(_faster_threads, _vmap, settings),
        "ByzFL": functools.partial(_faster_threads, _byzfl, settings),
        "Flower": functools.partial(_faster_threads, _flower, settings),
    }


def network(model: str, hidden) -> nn.Sequential:
    """The same layers as ours."""
    if model == "mlp":
        (width,) = hidden
        return nn.Sequential(
            nn.Flatten(), nn.Linear(784, width), nn.ReLU(), nn.Linear(width, inputs.NUM_CLASSES)
        )
    first, second, width = hidden
    return nn.Sequential(
        nn.Conv2d(1, first, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(first, second, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * second, width),
        nn.ReLU(),
        nn.Linear(width, inputs.NUM_CLASSES),
    )


def _faster_threads(make, settings: dict) -> Contestant:
    """Small models run faster on one thread than on all: each gets the better of the two."""
    run, parameters = make(settings)
    seconds = {}
    for threads in {1, os.cpu_count() or 1}:
        torch.set_num_threads(threads)
        run()
        begin, rounds = time.perf_counter(), 0
        while rounds == 0 or time.perf_counter() - begin < _TRIAL_SECONDS:
            run()
            rounds += 1
        seconds[threads] = (time.perf_counter() - begin) / rounds
    best = min(seconds, key=seconds.__getitem__)

    def play():
        torch.set_num_threads(best)
        run()

    note = "one thread, its faster choice" if best == 1 else ""
    return Contestant(play, note=note, facts={"parameters": parameters})


class _Clients:
    """Images as bytes, and who owns which: client i the i-th stretch."""

    def __init__(self, s: dict):
        x, y = inputs.images(s["num_clients"] * s["images_each"])
        self.images = torch.from_numpy(x).permute(0, 3, 1, 2).contiguous()
        self.labels = torch.from_numpy(y).long()
        self.each, self.batch_size = s["images_each"], s["batch_size"]
        self.num_clients, self.num_sampled = s["num_clients"], s["num_sampled"]
        self.rng = np.random.default_rng(2)

    def sample(self) -> np.ndarray:
        return self.rng.choice(self.num_clients, self.num_sampled, replace=False)

    def batch(self, client: int) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = client * self.each + torch.randperm(self.each)[: self.batch_size]
        return self.images[chosen].float().div_(255), self.labels[chosen]


def _train(model, params, clients: _Clients, client: int, steps: int) -> None:
    for _ in range(steps):
        x, y = clients.batch(client)
        gradients = torch.autograd.grad(cross_entropy(model(x), y), params)
        with torch.no_grad():
            torch._foreach_add_(params, gradients, alpha=-_LR)


def _loop(s: dict):
    clients = _Clients(s)
    model = network(s["model"], s["hidden"])
    params = list(model.parameters())
    server = [p.detach().clone() for p in params]
    aggregate = _rule(s["rule"], s["num_sampled"])

    def play():
        sent = [torch.zeros_like(p) for p in server] if aggregate is None else []
        for client in clients.sample():
            with torch.no_grad():
                torch._foreach_copy_(params, server)
            _train(model, params, clients, client, s["local_steps"])
            with torch.no_grad():
                if aggregate is None:
                    torch._foreach_add_(sent, params, alpha=1 / s["num_sampled"])
                else:
                    sent.append(nn.utils.parameters_to_vector(params))
        if aggregate is None:
            torch._foreach_copy_(server, sent)
        else:
            nn.utils.vector_to_parameters(aggregate(torch.stack(sent)), server)

    return play, sum(p.numel() for p in params)


def _rule(name: str, n: int):
    """None for the mean; otherwise the definition in NumPy, which beats torch's own functions."""
    if name == "mean":
        return None
    f = round(inputs.SHARE * n)
    return lambda updates: torch.from_numpy(NUMPY[name](updates.detach().numpy(), f))


def _vmap(s: dict):
    """All clients at once by torch.func; convolutions become grouped ones."""
    clients = _Clients(s)
    model = network(s["model"], s["hidden"])
    names = [name for name, _ in model.named_parameters()]
    server = [p.detach().clone() for p in model.parameters()]
    aggregate = _rule(s["rule"], s["num_sampled"])
    n = s["num_sampled"]

    def loss(params, x, y):
        named = dict(zip(names, params, strict=True))
        return cross_entropy(torch.func.functional_call(model, named, (x,)), y)

    gradients = torch.func.vmap(torch.func.grad(loss))

    def play():
        chosen = clients.sample()
        params = [p.expand(n, *p.shape).clone() for p in server]
        for _ in range(s["local_steps"]):
            batches = [clients.batch(client) for client in chosen]
            x, y = (torch.stack(parts) for parts in zip(*batches, strict=True))
            torch._foreach_add_(params, gradients(params, x, y), alpha=-_LR)
        if aggregate is None:
            torch._foreach_copy_(server, [p.mean(0) for p in params])
        else:
            rows = torch.cat([p.reshape(n, -1) for p in params], dim=1)
            nn.utils.vector_to_parameters(aggregate(rows), server)

    return play, sum(p.numel() for p in server)


def _byzfl(s: dict):
    """ByzFL's own clients and server; the new model goes to the next round's clients only."""
    import byzfl
    from byzfl.fed_framework import models

    models.benchmarked = functools.partial(network, s["model"], s["hidden"])
    x, y = inputs.images(s["num_clients"] * s["images_each"])
    images = torch.from_numpy(x).permute(0, 3, 1, 2).float() / 255
    labels = torch.from_numpy(y).long()
    optimizer = {
        "model_name": "benchmarked",
        "device": "cpu",
        "learning_rate": _LR,
        "weight_decay": 0.0,
        "milestones": [],
        "learning_rate_decay": 1.0,
        "optimizer_name": "SGD",
    }

    def loader(own: slice):
        return torch.utils.data.DataLoader(
            torch.utils.data.TensorDataset(images[own], labels[own]),
            batch_size=s["batch_size"],
            shuffle=True,
        )

    def client(i: int):
        own = slice(i * s["images_each"], (i + 1) * s["images_each"])
        return byzfl.Client(
            optimizer
            | {
                "loss_name": "CrossEntropyLoss",
                "LabelFlipping": False,
                "nb_labels": inputs.NUM_CLASSES,
                "momentum": 0.0,
                "store_per_client_metrics": False,
                "training_dataloader": loader(own),
            }
        )

    clients = [client(i) for i in range(s["num_clients"])]
    f = round(inputs.SHARE * s["num_sampled"])
    rule = {"mean": ("Average", {}), "median": ("Median", {}), "krum": ("Krum", {"f": f})}[
        s["rule"]
    ]
    server = byzfl.Server(
        optimizer
        | {
            "aggregator_info": {"name": rule[0], "parameters": rule[1]},
            "pre_agg_list": [],
            "test_loader": loader(slice(0, s["batch_size"])),
        }
    )
    rng = np.random.default_rng(2)

    def play():
        state, weights = server.get_dict_parameters(), []
        for i in rng.choice(len(clients), s["num_sampled"], replace=False):
            clients[i].set_model_state(state)
            clients[i].compute_model_update(s["local_steps"])
            weights.append(clients[i].get_flat_parameters())
        server.update_model_with_weights(weights)

    return play, sum(p.numel() for p in server.model.parameters())


def _flower(s: dict):
    """The plain loop with Flower's aggregation of lists of arrays; no Flower server around it."""
    from flwr.server.strategy import aggregate

    f = round(inputs.SHARE * s["num_sampled"])
    rule = {
        "mean": aggregate.aggregate,
        "median": aggregate.aggregate_median,
        "krum": lambda results: aggregate.aggregate_krum(results, f, 0),
    }[s["rule"]]
    clients = _Clients(s)
    model = network(s["model"], s["hidden"])
    params = list(model.parameters())
    server = [p.detach().clone() for p in params]

    def play():
        results = []
        for client in clients.sample():
            with torch.no_grad():
                torch._foreach_copy_(params, server)
            _train(model, params, clients, client, s["local_steps"])
            results.append(([p.detach().numpy().copy() for p in params], s["batch_size"]))
        merged = [torch.from_numpy(np.asarray(a, np.float32)) for a in rule(results)]
        torch._foreach_copy_(server, merged)

    return play, sum(p.numel() for p in params)
