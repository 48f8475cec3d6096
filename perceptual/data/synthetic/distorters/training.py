"""Train one distorter, briefly, to restore patches of photographs from corrupted ones."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import Generator, Tensor
from torch.nn import functional as F

from perceptual.data.synthetic.distorters.network import Distorter, Recipe, corrupt, discriminator

BATCH, SIDE = 4, 32  # patches per step, and their side


def train(recipe: Recipe, patches: Tensor, device: str = "cpu") -> Distorter:
    """A network trained by its recipe.

    Args:
        recipe: what to build, and how to train it.
        patches: (M, 3, S, S) float in [0, 1], S at least 32.
        device: where to train; the network comes back to the CPU.

    Raises:
        FloatingPointError: its weights are not finite in the end.
    """
    with torch.random.fork_rng(devices=[] if device == "cpu" else None):  # weights and dropout draw from it
        torch.manual_seed(recipe.seed)
        network, judge = Distorter(recipe).to(device).train(), discriminator().to(device)
        optimizer = torch.optim.Adam(network.parameters(), recipe.lr)
        judging = torch.optim.Adam(judge.parameters(), 1e-3, betas=(0.5, 0.999))
        rng, generator = np.random.default_rng(recipe.seed), Generator().manual_seed(recipe.seed)
        for _ in range(recipe.steps):
            real = _batch(patches, rng)
            fake = network.raw(corrupt(real, recipe.corruption, generator).to(device))
            real = real.to(device)
            loss = F.l1_loss(fake, real)
            if recipe.adversarial:
                loss = loss - recipe.adversarial * judge(fake).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            if recipe.adversarial:
                apart = F.relu(1 - judge(real)).mean() + F.relu(1 + judge(fake.detach())).mean()
                judging.zero_grad()
                apart.backward()
                judging.step()
    network = network.cpu().eval()
    if not all(bool(value.isfinite().all()) for value in network.state_dict().values()):
        raise FloatingPointError(f"a distorter diverged in training: {recipe}")
    return network.requires_grad_(False)


def train_file(recipe: Recipe, patches: str, path: str) -> None:
    """Train a network on the patches of a `.npy` file, and write it: weights, and the recipe as metadata."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # processes share the cores; and the sums' order is always the same
    try:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        network = train(recipe, torch.from_numpy(np.load(patches)).float() / 255, device)
    finally:
        torch.set_num_threads(threads)
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    partial = Path(f"{path}.partial")
    partial.write_bytes(save(state, {"recipe": json.dumps(asdict(recipe))}))
    partial.replace(path)


def _batch(patches: Tensor, rng: np.random.Generator) -> Tensor:
    """Random squares of random patches, (4, 3, 32, 32)."""
    rows = rng.integers(len(patches), size=BATCH)
    top, left = rng.integers(patches.shape[-1] - SIDE + 1, size=2)
    return patches[rows, :, top : top + SIDE, left : left + SIDE]
