"""PyTorch's eager loop, as its users write it: what ours is compared with where it is installed."""

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

INSTALLED = importlib.util.find_spec("torch") is not None

Epoch = Callable[[], None]


def trainer(
    network: Callable[[], Any], images: np.ndarray, labels: np.ndarray, batch: int, *, tuned: bool
) -> Callable[[], Epoch]:
    """Returns what begins a run: a function that trains a new network for one more epoch.

    Args:
      network: makes it; its input is (B, C, H, W).
      images: (N, H, W, C) bytes.
      labels: (N,).
      batch: images of a step.
      tuned: with a fused Adam, and denormals flushed to zero; else as PyTorch is by default.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    x = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(device)
    y = torch.from_numpy(labels).long().to(device)

    def begin() -> Epoch:
        model = network().to(device)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=tuned or None)

        def epoch() -> None:
            torch.set_flush_denormal(tuned)
            for index in torch.randperm(len(x), device=device).split(batch):
                standard = (x[index].float() / 255 - 0.5) / 0.29
                loss = torch.nn.functional.cross_entropy(model(standard), y[index])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
            if device == "cuda":
                torch.cuda.synchronize()

        return epoch

    return begin


def mlp(pixels: int = 784) -> Any:
    """Returns the perceptron `pixels`-256-10."""
    from torch import nn

    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, 256), nn.ReLU(), nn.Linear(256, 10))


def lenet() -> Any:
    """Returns the layers of `xent_jax.models.lenet`."""
    from torch import nn

    return nn.Sequential(
        *(nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(400, 120), nn.ReLU()),
        *(nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    )


def cnn4() -> Any:
    """Returns the layers of `xent_jax.models.cnn4`."""
    from torch import nn

    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
        nn.MaxPool2d(2),
        *(nn.Conv2d(32, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()),
        nn.MaxPool2d(2),
        *(nn.Flatten(), nn.Linear(3136, 128, bias=False), nn.BatchNorm1d(128), nn.ReLU()),
        nn.Linear(128, 10),
    )


NETWORKS = {"mlp_8x8": partial(mlp, 64), "mlp": mlp, "lenet": lenet, "cnn4": cnn4}
"""What `trainer` can be given, by the name of ours; images are 28x28 where it says nothing else."""
