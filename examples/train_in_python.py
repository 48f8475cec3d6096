"""Train LPIPS on judgments from Python: a data module, `PerceptualRanker` and Lightning's Trainer.

    python examples/train_in_python.py --epochs 5

On judgments of people: `ManifestDataModule("triplets.csv")` or `BAPPSDataModule("dataset")` as `data`.
"""

import argparse

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from perceptual import LPIPS, PerceptualRanker
from perceptual.data import PhotosDataModule


def main() -> tuple[float, float]:
    """Run it; returns the 2AFC score on other photographs, in [0, 1], uncalibrated and after training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--count", type=int, default=2000, help="training triplets")
    arguments = parser.parse_args()

    pl.seed_everything(0, verbose=False)
    data = PhotosDataModule(arguments.count, count_val=arguments.count // 4)
    # from the uncalibrated distance, all channel weights 1, so that the first score is that
    ranker = PerceptualRanker(
        "tf_efficientnet_lite0", variant="lin", lin_init="ones", lr=0.01, augmentation=["flip", "swap"]
    )
    best = ModelCheckpoint("checkpoints", monitor="val/2afc/mean", mode="max")
    trainer = pl.Trainer(max_epochs=arguments.epochs, callbacks=[best], logger=False, num_sanity_val_steps=0)
    (before,) = trainer.validate(ranker, data)
    trainer.fit(ranker, data)

    trained = PerceptualRanker.load_from_checkpoint(best.best_model_path)
    (after,) = trainer.validate(trained, data)
    trained.merged().save_pretrained("my_lpips")
    metric = LPIPS.from_pretrained("my_lpips")
    x, y = torch.rand(2, 4, 3, 64, 64)  # RGB in [0, 1]
    print(f"distances of noise: {metric(x, y)}")
    uncalibrated, calibrated = before["val/2afc/mean"], after["val/2afc/mean"]
    print(f"2AFC on other photographs: uncalibrated {uncalibrated:.3f}, trained {calibrated:.3f}")
    return uncalibrated, calibrated


if __name__ == "__main__":
    main()
