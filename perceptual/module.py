"""PerceptualRanker: trains a distance and its ranking network on human judgments, with Lightning."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import LambdaLR

from perceptual.backbone import Backbone
from perceptual.distance import FORMS, LPIPS
from perceptual.metrics import JNDAveragePrecision, PerSubset, TwoAFCScore, two_afc_score
from perceptual.ranking import RANKINGS, ranking_loss

if TYPE_CHECKING:
    from perceptual.data import TripletBatch
    from perceptual.differences import DifferenceBatch

VARIANTS = ("lin", "tune", "scratch")
FROZEN = "distance.backbone."


class PerceptualRanker(pl.LightningModule):
    """LPIPS and a ranking network, trained to predict which of two patches people find nearer to a third.

    The defaults are the protocol of Zhang et al. 2018 as their code runs it: Adam at 1e-4 with betas
    (0.5, 0.999), the rate constant for the first epochs, then falling (`lr_factor`), dropout of ½ on the
    squared differences, lin projected to ≥ 0 after every step.

    Logs `train/loss`, `train/2afc`, `val/2afc/<subset>` and `val/2afc/mean` (macro), scores in [0, 1]; with
    JND pairs in the data module also `val/jnd/<subset>` and `val/jnd/mean`.

    Args:
        backbone: name, or arguments of `Backbone` as a dictionary (`name`, `weights`, `out_indices`,
            `input_size`).
        variant: what is trained besides the ranking network. `lin`: the channel weights, the backbone frozen;
            `tune`: the backbone too, from its weights; `scratch`: the backbone too, from random weights.
        ranking: `paper` or `antisymmetric`.
        form: of the distance, `per_position` or `pooled`, see `LPIPS`.
        lr: initial learning rate of Adam.
        betas: coefficients of Adam.
        dropout: probability of dropping an element of the squared differences in training.

    Raises:
        ValueError: unknown variant, ranking or backbone, or a number out of range.
        FileNotFoundError: weights of the backbone that cannot be found.
    """

    def __init__(
        self,
        backbone: str | Mapping[str, Any] = "alexnet",
        variant: str = "lin",
        ranking: str = "paper",
        form: str = "per_position",
        lr: float = 1e-4,
        betas: Sequence[float] = (0.5, 0.999),
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        _one_of("variant", variant, VARIANTS)
        _one_of("ranking", ranking, RANKINGS)
        _one_of("form", form, FORMS)
        if not lr > 0:
            raise ValueError(f"lr must be positive, got {lr}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be at least 0 and less than 1, got {dropout}")
        spec: dict[str, Any] = {"name": backbone} if isinstance(backbone, str) else dict(backbone)
        if variant == "scratch":
            spec["weights"] = None
        self.save_hyperparameters(
            {
                "backbone": spec,
                "variant": variant,
                "ranking": ranking,
                "form": form,
                "lr": lr,
                "betas": list(betas),
                "dropout": dropout,
            }
        )
        built = Backbone(**spec, trainable=variant != "lin")
        self.distance = LPIPS(built, lin=None, dropout=dropout, form=form)
        for vector in self.distance.lin:
            # the initialisation of the reference, a 1×1 convolution's: U(−1/√C, 1/√C)
            bound = len(vector) ** -0.5
            nn.init.uniform_(vector, -bound, bound).requires_grad_(True)
        self.ranking = RANKINGS[ranking]()
        self._built_on = self.distance.backbone.fingerprint()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distance (N,) of images x and y, (N, 3, H, W) in [0, 1]."""
        distance: Tensor = self.distance(x, y)
        return distance

    def on_fit_start(self) -> None:
        """Switch to training mode, which LPIPS is built without and which Lightning leaves as it finds it."""
        self.train()

    def training_step(self, batch: "TripletBatch | DifferenceBatch", batch_idx: int) -> Tensor:
        """Loss of a batch of triplets, a scalar."""
        d0, d1 = batch.distances(self.distance)
        loss = ranking_loss(self.ranking(d0, d1), batch.judgment, batch.weight)
        if self._is_logged():
            self.log("train/loss", loss, prog_bar=True)
            self.log("train/2afc", two_afc_score(d0, d1, batch.judgment))
        return loss

    def _is_logged(self) -> bool:
        """Whether the logger takes this step, or an epoch ends; logging doubles the time of a step."""
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        return self.trainer.is_last_batch or bool(every and (self.trainer.global_step + 1) % every == 0)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Take the step and project lin, before any callback can save it."""
        super().optimizer_step(*args, **kwargs)
        self.distance.project()

    def setup(self, stage: str) -> None:
        """Make the validation scores, with the subsets of the data module."""
        data = getattr(self.trainer, "datamodule", None)
        self.val_score = PerSubset(TwoAFCScore(), getattr(data, "subsets", ["val"])).to(self.device)
        pairs = getattr(data, "jnd_subsets", [])
        self.val_jnd = PerSubset(JNDAveragePrecision(), pairs).to(self.device) if pairs else None

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add a batch of triplets, or of JND pairs from a second loader, to its score."""
        distances = batch.distances(self.distance)
        if self.val_jnd is not None and hasattr(batch, "same"):
            self.val_jnd.update(*distances, batch.same, subset=batch.subset)
        else:
            self.val_score.update(*distances, batch.judgment, subset=batch.subset)

    def on_validation_epoch_end(self) -> None:
        """Log the scores of each subset and their plain mean."""
        for name, metric in (("2afc", self.val_score), ("jnd", self.val_jnd)):
            if metric is not None:
                scores = metric.compute()
                metric.reset()
                scores.pop("micro")
                self.log_dict({f"val/{name}/{subset}": score for subset, score in scores.items()})

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Adam over what is trained, and the paper's schedule over the trainer's epochs."""
        parameters = [p for p in self.parameters() if p.requires_grad]
        optimizer = Adam(parameters, self.hparams["lr"], betas=tuple(self.hparams["betas"]), foreach=True)
        epochs = self.trainer.max_epochs or 0
        scheduler = LambdaLR(optimizer, lambda epoch: lr_factor(epoch, epochs))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out a frozen backbone that can be had again, and record which it was."""
        backbone = self.distance.backbone
        sha256 = backbone.fingerprint()
        moved = sha256 != self._built_on
        again = not backbone.trainable and backbone.source != "random" and not moved
        checkpoint["backbone"] = {"name": backbone.name, "source": backbone.source, "saved": not again}
        if again:
            checkpoint["backbone"]["sha256"] = sha256
            state = checkpoint["state_dict"]
            checkpoint["state_dict"] = {k: v for k, v in state.items() if not k.startswith(FROZEN)}
        else:
            # its weights are in the checkpoint: loading must not ask the hub for others first
            spec = {**checkpoint["hyper_parameters"]["backbone"], "weights": None}
            checkpoint["hyper_parameters"] = {**checkpoint["hyper_parameters"], "backbone": spec}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another model, and put back the backbone that was left out.

        Raises:
            ValueError: naming what differs.
        """
        backbone, saved = self.distance.backbone, checkpoint.get("backbone")
        if saved is None:
            raise ValueError("this is no checkpoint of a PerceptualRanker: it names no backbone")
        if saved["name"] != backbone.name:
            raise ValueError(f"the checkpoint is of backbone {saved['name']}, the model has {backbone.name}")
        own = self.state_dict()
        if saved["saved"]:
            backbone.source = saved["source"]
        elif saved["sha256"] != backbone.fingerprint():
            raise ValueError(
                f"the checkpoint was calibrated on weights of {saved['name']} from {saved['source']} "
                f"(sha256 {saved['sha256'][:12]}…), but {backbone.source} holds others "
                f"({backbone.fingerprint()[:12]}…)"
            )
        else:
            frozen = {k: v for k, v in own.items() if k.startswith(FROZEN)}
            checkpoint["state_dict"] = {**checkpoint["state_dict"], **frozen}
        given = {k: v.shape for k, v in checkpoint["state_dict"].items()}
        theirs, ours = (_settings(each) for each in (checkpoint["hyper_parameters"], self.hparams))
        if theirs != ours or given != {k: v.shape for k, v in own.items()}:
            raise ValueError(f"the checkpoint does not fit the model: it has {theirs}, the model {ours}")


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A checkpoint of training, read without running code from it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is not a checkpoint of a PerceptualRanker.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"checkpoint {str(path)!r} does not exist")
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the reader raises whatever a foreign file makes it stumble on
        raise ValueError(f"{str(path)!r} cannot be read as a checkpoint of training") from error
    if not isinstance(checkpoint, dict) or "backbone" not in checkpoint:
        raise ValueError(f"{str(path)!r} is no checkpoint of a PerceptualRanker: it names no backbone")
    return checkpoint


def lr_factor(epoch: int, epochs: int) -> float:
    """Factor of the learning rate in an epoch, counted from 0: 1, then falling in the second half.

    Of ten epochs, six at 1 and then .8, .6, .4, .2, as the reference code runs (the paper says 5 + 5). A run
    that is resumed for longer goes on at the last rate.
    """
    decay = epochs // 2
    start = epochs - decay
    return 1.0 if epoch <= start or decay < 1 else 1 - (min(epoch, epochs - 1) - start) / decay


def _settings(hparams: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint and the model that takes it must have in common."""
    shared = {key: hparams.get(key) for key in ("variant", "ranking")}
    levels = {key: hparams["backbone"].get(key) for key in ("out_indices", "input_size")}
    return {**shared, "form": hparams.get("form", "per_position"), **levels}


def _one_of(argument: str, value: str, allowed: Any) -> None:
    if value not in allowed:
        raise ValueError(f"{argument} must be one of {', '.join(allowed)}, got {value!r}")
