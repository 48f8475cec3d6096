"""Score perceptual distances on judgments: `python evaluate.py ckpt=runs/…/last.ckpt`, or `methods=[…]`."""

import hydra
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console

from perceptual import methods
from perceptual.cli.errors import one_line_errors
from perceptual.config import build, register
from perceptual.data import PhotosDataModule, TwoAFCDataModule
from perceptual.leaderboard import score, table

RELEASED = ("alexnet-v0.1", "squeezenet1_1-v0.1", "vgg16-v0.1")
Scores = dict[str, dict[str, float]]


def evaluate(cfg: DictConfig) -> Scores:
    """Score as `cfg` (conf/evaluate.yaml) says.

    Returns:
        2AFC scores in [0, 1] by method, then by subset, `mean` (macro) and `micro`.

    Raises:
        ValueError, OSError: what the user asked for cannot be done.
    """
    chosen = [cfg.ckpt] if cfg.ckpt else list(cfg.methods or RELEASED)
    distances = {method: methods.build(method) for method in methods.expand(chosen)}
    data = data_of(cfg)
    data.setup("validate")
    scores = score(distances, data.val_dataloader(), data.subsets)
    console = Console()
    console.print(table(scores, title=f"Validation, {data.describe()}"))
    return scores


def data_of(cfg: DictConfig) -> TwoAFCDataModule:
    """The data that `data=` chose, else those that the checkpoint was scored on in training."""
    if cfg.data is not None:
        return build(cfg.data)
    if cfg.ckpt is None:
        return PhotosDataModule(seed=cfg.seed)
    checkpoint = torch.load(cfg.ckpt, map_location="cpu", weights_only=True)
    described = checkpoint.get("datamodule_hyper_parameters")
    if described is None:
        raise ValueError(f"{cfg.ckpt!r} does not say which data it was trained on; choose data=…")
    return instantiate(dict(described), _convert_="all")


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def main(cfg: DictConfig) -> None:
    """Entry point: errors of the user are one line."""
    with one_line_errors():
        evaluate(cfg)


if __name__ == "__main__":
    register()
    main()
