"""Train and score your own backbone: Gabor filters, as in the first stage of vision, and a trained network.

    python examples/custom_backbone.py --count 500

A backbone is any module that gives feature maps (N, C, h, w) of images in [0, 1]. The judgments are a
simulated observer's, so the scores show how to train and score, not what people think.
"""

import argparse
import math

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, nn

from perceptual import LPIPS, PerceptualRanker, create_metric
from perceptual.data import PhotosDataModule
from perceptual.evaluation.scoring import score
from perceptual.evaluation.tables import score_table


class GaborBackbone(nn.Module):
    """Rectified responses of Gabor filters at eight orientations and four scales: no training at all."""

    def __init__(self, orientations: int = 8, scales: int = 4) -> None:
        super().__init__()
        self.name = "gabor"
        self.scales = scales  # each a level of 3 colours × 4 phases × orientations
        self.register_buffer("mean", torch.full((1, 3, 1, 1), 0.5))
        self.register_buffer("std", torch.full((1, 3, 1, 1), 0.25))
        self.register_buffer("filters", gabor_filters(orientations))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps of each scale, fine to coarse, (N, C, h, w) each; `images` (N, 3, H, W) in [0, 1]."""
        images = (images - self.mean) / self.std
        maps = []
        for _ in range(self.scales):
            responses = F.conv2d(images.flatten(0, 1).unsqueeze(1), self.filters, padding="same")
            responses = responses.unflatten(0, (-1, 3)).flatten(1, 2)
            maps.append(torch.cat([responses.relu(), (-responses).relu()], dim=1))
            images = F.avg_pool2d(images, 2)
        return maps


def gabor_filters(orientations: int, side: int = 9, wavelength: float = 5.0, width: float = 2.0) -> Tensor:
    """Even and odd Gabor filters, (2·orientations, 1, side, side), of mean 0 and norm 1."""
    ys, xs = torch.meshgrid(*[torch.arange(side) - side // 2] * 2, indexing="ij")
    angles = torch.arange(orientations) * math.pi / orientations
    along = xs * angles.cos().view(-1, 1, 1) + ys * angles.sin().view(-1, 1, 1)
    envelope = torch.exp(-(xs**2 + ys**2) / (2 * width**2))
    waves = [wave(2 * math.pi * along / wavelength) * envelope for wave in (torch.cos, torch.sin)]
    filters = torch.cat(waves).unsqueeze(1)
    filters = filters - filters.mean((2, 3), keepdim=True)
    return filters / filters.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def main() -> dict[str, dict[str, float]]:
    """Run it; returns 2AFC scores in [0, 1] by backbone and subset."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--count", type=int, default=500, help="triplets to train on, and to judge")
    arguments = parser.parse_args()

    pl.seed_everything(0, verbose=False)
    data = PhotosDataModule(count_train=arguments.count, count_val=arguments.count)
    ranker = PerceptualRanker(GaborBackbone(), variant="lin", lin_init="ones", lr=0.05)
    trainer = pl.Trainer(max_epochs=5, logger=False, enable_checkpointing=False, num_sanity_val_steps=0)
    trainer.fit(ranker, data)
    trainer.save_checkpoint("gabor.ckpt")
    # a checkpoint holds the weights of the network, not its code
    trained = PerceptualRanker.load_from_checkpoint("gabor.ckpt", backbone=GaborBackbone())

    distances = {
        "gabor": LPIPS(GaborBackbone()),
        "gabor, calibrated": trained.distance.eval(),
        "tf_efficientnet_lite0": LPIPS("tf_efficientnet_lite0"),
        "tf_efficientnet_lite0-random": create_metric("tf_efficientnet_lite0-random").distance,
    }
    scores = score(distances, data.val_dataloader())
    Console().print(score_table(scores, title=data.describe()))
    return scores


if __name__ == "__main__":
    main()
