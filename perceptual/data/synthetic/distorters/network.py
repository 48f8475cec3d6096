"""A denoising autoencoder built from a recipe drawn at random.

The choices are those of Zhang et al. 2018, section 2.1 and the table of its appendix
(https://arxiv.org/abs/1801.03924); sizes are smaller, so that a population is trained on a CPU.
"""

import json
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, get_args

import numpy as np
import torch
from annotated_types import Ge, Interval
from safetensors.torch import save
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from perceptual.data.synthetic.distortions import distort

Corruption = Literal["none", "pink_noise", "white_noise", "colour_removal", "downsampling"]
Upsampling = Literal["bilinear", "nearest", "transposed"]
Norm = Literal["none", "batch", "instance"]
CORRUPTIONS: tuple[Corruption, ...] = get_args(Corruption)
UPSAMPLINGS: tuple[Upsampling, ...] = get_args(Upsampling)
NORMS: tuple[Norm, ...] = get_args(Norm)
_NOISE = 0.6  # severity of the noise of corrupted input
_SHRUNK = 4  # factor of downsampling


@dataclass(frozen=True)
class Recipe:
    """Architecture and training of one network."""

    corruption: Corruption  # of its input, in training and afterwards
    depth: Annotated[int, Interval(ge=1, le=6)]  # levels below the full size
    width: Annotated[int, Interval(ge=1, le=256)]  # channels of the first level
    convolutions: Annotated[int, Interval(ge=1, le=8)]  # per level
    stride: Literal[1, 2]  # factor between levels
    skips: bool
    dropout: Annotated[float, Interval(ge=0, lt=1)]  # in training
    upsampling: Upsampling
    norm: Norm
    adversarial: Annotated[
        float, Interval(ge=0, le=10)
    ]  # weight of the discriminator's loss beside that of L1
    lr: Annotated[float, Interval(gt=0, le=1)]
    steps: Annotated[int, Ge(0)]
    seed: Annotated[int, Interval(ge=0, lt=2**32)]


def draw_recipe(seed: int, number: int, steps: int) -> Recipe:
    """Draw the recipe of one network of a population."""
    rng = np.random.default_rng([seed, number])
    depth = int(rng.integers(1, 4))
    return Recipe(
        corruption=CORRUPTIONS[rng.integers(len(CORRUPTIONS))],
        depth=depth,
        width=int(rng.choice([6, 8, 12])),
        convolutions=1 if rng.random() < 0.7 else 2,
        stride=1 if rng.random() < 0.3 and depth == 1 else 2,
        skips=bool(rng.random() < 0.3),
        dropout=float(rng.choice([0.0, 0.1, 0.25])),
        upsampling=UPSAMPLINGS[rng.integers(len(UPSAMPLINGS))],
        norm=NORMS[rng.integers(len(NORMS))],
        adversarial=float(rng.choice([0.0, 0.02, 0.1])),
        lr=float(np.round(10 ** rng.uniform(-3, -2.2), 5)),
        steps=steps,
        seed=int(rng.integers(2**32)),
    )


class Distorter(nn.Module):
    """`forward(images, generator)`: what the network makes of the images, (N, 3, H, W) in [0, 1].

    The generator draws the noise of corrupted input.
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        widths = [recipe.width * min(2**level, 2) for level in range(recipe.depth + 1)]
        self.first = _block(3, widths[0], recipe)
        self.down = nn.ModuleList(
            _block(wide, wider, recipe, recipe.stride) for wide, wider in pairwise(widths)
        )
        self.up = nn.ModuleList(_upsampling(wider, wide, recipe) for wide, wider in pairwise(widths))
        taken = 2 if recipe.skips else 1
        self.merge = nn.ModuleList(_block(taken * wide, wide, recipe) for wide in widths[:-1])
        self.last = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, images: Tensor, generator: Generator) -> Tensor:
        """Corrupt and restore images; the output is clamped to [0, 1]."""
        return self.raw(corrupt(images, self.recipe.corruption, generator)).clamp(0, 1)

    def raw(self, corrupted: Tensor) -> Tensor:
        """Restore images that are corrupted already, without clamping."""
        maps = [self.first(corrupted - 0.5)]
        for layer in self.down:
            maps.append(layer(maps[-1]))
        image = maps.pop()
        for up, merge in zip(reversed(self.up), reversed(self.merge), strict=True):
            beside = maps.pop()
            image = up(image)[..., : beside.shape[2], : beside.shape[3]]
            image = merge(torch.cat([image, beside], dim=1) if self.recipe.skips else image)
        # beside a coarse copy of the input only details are left to learn, which a brief training can
        return self.last(image) + _coarse(corrupted)


def corrupt(images: Tensor, how: str, generator: Generator) -> Tensor:
    """Images (N, 3, H, W) in [0, 1], corrupted."""
    if how == "colour_removal":
        return images.mean(1, keepdim=True).expand_as(images)
    if how == "downsampling":
        small = F.interpolate(images, scale_factor=1 / _SHRUNK, mode="area")
        return F.interpolate(small, images.shape[2:], mode="bilinear", align_corners=False)
    if how == "none":
        return images
    return distort(images.cpu(), [(how, _NOISE)], generator).to(images.device)


def _coarse(images: Tensor) -> Tensor:
    """Without details."""
    small = F.avg_pool2d(images, _SHRUNK, ceil_mode=True)
    return F.interpolate(small, images.shape[2:], mode="bilinear", align_corners=False)


def discriminator() -> nn.Module:
    """A small network that scores how much patches look like photographs."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(16, 32, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(32, 1, 3, padding=1),
    )


def _block(inputs: int, outputs: int, recipe: Recipe, stride: int = 1) -> nn.Sequential:
    layers: list[nn.Module] = []
    for number in range(recipe.convolutions):
        layers.append(nn.Conv2d(inputs, outputs, 3, stride if number == 0 else 1, padding=1))
        if recipe.norm != "none":
            norm = nn.BatchNorm2d if recipe.norm == "batch" else nn.InstanceNorm2d
            layers.append(norm(outputs, affine=True))
        layers.append(nn.LeakyReLU(0.2))
        inputs = outputs
    if recipe.dropout:
        layers.append(nn.Dropout2d(recipe.dropout))
    return nn.Sequential(*layers)


def _upsampling(inputs: int, outputs: int, recipe: Recipe) -> nn.Module:
    if recipe.stride == 1:
        return nn.Conv2d(inputs, outputs, 3, padding=1)
    if recipe.upsampling == "transposed":  # a kernel that the stride does not divide leaves checkerboards
        return nn.ConvTranspose2d(inputs, outputs, 3, 2, padding=1, output_padding=1)
    how = {"bilinear": nn.Upsample(scale_factor=2, mode="bilinear"), "nearest": nn.Upsample(scale_factor=2)}
    return nn.Sequential(how[recipe.upsampling], nn.Conv2d(inputs, outputs, 3, padding=1))


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
