"""`PerceptualDistance` in your LightningModule: a denoiser with LPIPS as loss and as metric.

    python examples/lightning_module.py --epochs 3

The metric keeps two sums, however many images it sees; its network is no part of the model's parameters, so
no optimiser trains it and no checkpoint holds it.
"""

import argparse
import tempfile

import pytorch_lightning as pl
import skimage.data
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.transforms.functional import to_tensor

from perceptual import LPIPS
from perceptual.metrics import PerceptualDistance


class Denoiser(pl.LightningModule):
    """A small network that predicts the noise to take away."""

    def __init__(self, metric: LPIPS, weight: float = 0.2) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 32, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(32, 3, 3, padding=1),
        )
        self.weight = weight
        self.train_lpips = PerceptualDistance(metric)
        self.val_lpips = PerceptualDistance(metric)

    def forward(self, noisy: Tensor) -> Tensor:
        """Images (N, 3, H, W) without their noise; they may leave [0, 1] a little."""
        denoised: Tensor = noisy - self.net(noisy)
        return denoised

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """L1 + LPIPS; called like this, the metric gives the mean of the batch, with its gradient."""
        noisy, clean = batch
        denoised = self(noisy)
        loss = (denoised - clean).abs().mean() + self.weight * self.train_lpips(denoised, clean)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Lightning computes and resets the metric at the end of the epoch, over all processes."""
        noisy, clean = batch
        self.val_lpips.update(self(noisy).clamp(0, 1), clean)
        self.log("val/lpips", self.val_lpips, prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam; the network of the metric is not among the parameters."""
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def batches(photo: str, shuffle: bool) -> DataLoader:
    """Noisy and clean patches of a photograph, (8, 3, 64, 64) each."""
    image = to_tensor(getattr(skimage.data, photo)())
    clean = image.unfold(1, 64, 64).unfold(2, 64, 64).permute(1, 2, 0, 3, 4).flatten(0, 1).contiguous()
    noisy = (clean + 0.15 * torch.randn_like(clean)).clamp(0, 1)
    return DataLoader(TensorDataset(noisy, clean), batch_size=8, shuffle=shuffle)


def main() -> tuple[float, float]:
    """Run it; returns the distance on the held-out photograph before and after training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    arguments = parser.parse_args()

    pl.seed_everything(0, verbose=False)
    # in [0, 1], as a metric; as a loss its range is not checked, or one value of 1.02 would end the training
    model = Denoiser(LPIPS("tf_efficientnet_lite0", lin=None))
    train, val = batches("astronaut", shuffle=True), batches("chelsea", shuffle=False)
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            max_epochs=arguments.epochs,
            default_root_dir=folder,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        (before,) = trainer.validate(model, val, verbose=False)
        trainer.fit(model, train, val)
        (after,) = trainer.validate(model, val, verbose=False)
    print(f"LPIPS of the held-out photograph: {before['val/lpips']:.4f} → {after['val/lpips']:.4f}")
    return before["val/lpips"], after["val/lpips"]


if __name__ == "__main__":
    main()
