"""PerceptualRanker: trains a distance and its ranking network on human judgments, with Lightning."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from perceptual.distance.head import Head
from perceptual.distance.level import Form
from perceptual.distance.lpips import LPIPS
from perceptual.features.build import build_backbone, describe
from perceptual.metrics import SCORES, PerSubset
from perceptual.ranking import RANKINGS, Ranking, hinge_loss, ranking_loss
from perceptual.training import checkpoints, lora
from perceptual.training.checkpoints import read_checkpoint
from perceptual.training.optimization import make_optimizer, make_schedule
from perceptual.training.resume import Position, RandomState
from perceptual.training.robust import Robust
from perceptual.training.settings import (
    FROZEN,
    Augmentation,
    LinInit,
    Loss,
    Optimizer,
    Schedule,
    Variant,
    check_settings,
)

if TYPE_CHECKING:
    from perceptual.data.batch import Batch
    from perceptual.data.kinds import Kind
    from perceptual.training.cache import DifferenceBatch


# settings that `checkpoints.check_fits` compares
FITTING = ("backbone", "variant", "loss", "ranking", "form", "center")


def scored_kinds(trainer: pl.Trainer) -> dict[str, list[str]]:
    """Subsets by the kinds of judgments that a trainer's data module validates on, the trained kind first."""
    data = getattr(trainer, "datamodule", None)
    kinds = {judged.table.kind.name: judged.table.subsets for judged in getattr(data, "val_sets", [])}
    return kinds or {"2afc": getattr(data, "subsets", ["val"])}


def mean_of(trainer: pl.Trainer) -> str:
    """Name of the logged score of what is trained on: the plain mean over its subsets."""
    return f"val/{next(iter(scored_kinds(trainer)))}/mean"


def _score(batch: Any, distances: Sequence[Tensor]) -> float:
    """Score the distances of one batch."""
    columns = torch.stack([column.detach().cpu() for column in distances]).numpy()
    weights = np.ones((1, columns.shape[1]))
    return float(SCORES[batch.kind.name].weighted(columns, batch.answer.cpu().numpy(), weights)[0])


class Diverged(ValueError):
    """Training has diverged: it ends, and no checkpoint is made of its weights."""


class PerceptualRanker(pl.LightningModule):
    """LPIPS and a ranking network, trained to predict which of two patches people find closer to a third.

    Or, of trios, which of three images they find the odd one.

    The defaults are the protocol of Zhang et al. 2018 as their code runs it: Adam at 1e-4 with betas
    (0.5, 0.999), the rate constant for the first epochs, then falling, dropout of ½ on the squared
    differences, lin projected to ≥ 0 after every step.

    Logs `train/loss`, `train/2afc`, `val/2afc/<subset>` and `val/2afc/mean` (macro), scores in [0, 1]; of
    trios `odd-one-out` in place of `2afc`; with JND pairs in the data module also `val/jnd/<subset>` and
    `val/jnd/mean`.

    Args:
        backbone: a name; a description, see `features.build.build_backbone` (`name`, `weights`,
            `out_indices`, …); or a network, see `features.custom.FeatureNetwork`. A checkpoint does not hold
            the code of a network that was passed: `load_from_checkpoint(path, backbone=network)`.
        variant: what is trained besides the ranking network. `lin`: the channel weights, with the backbone
            frozen; `tune`: also the backbone, from its weights; `scratch`: also the backbone, from random
            weights; `lora`: also small matrices beside the attention of a transformer, see `lora.py`; `head`:
            a network of one hidden layer on a frozen embedding, see `distance.head`. In the form
            `concatenated`, the channel weights stay 1 where anything else is trained.
        loss: `bce`, binary cross-entropy of the ranking network's preference; or `hinge`, which has no
            ranking network, see `perceptual.ranking`.
        margin: of `hinge`, by how much the preferred image is to be nearer. DreamSim's 0.05 of 1 − cos is 0.1
            of the distance here, which is 2 (1 − cos).
        ranking: `paper`, `antisymmetric`, `bounded` or `ratio`, see `perceptual.ranking`.
        form, center: of the distance, see `LPIPS`.
        lin_init: `random` as the reference, U(−1/√C, 1/√C); `ones`, the uncalibrated distance; `v0.1`, the
            published calibration of the backbone; or `file`, what the file of the backbone's weights holds,
            written by the Trainer of the `lpips` package.
        optimizer: `adam`, `adamw` or `sgd`, of PyTorch.
        lr: largest learning rate.
        backbone_lr_factor: factor of `lr` for the backbone, if it is trained.
        betas: coefficients of Adam; the first is SGD's momentum.
        weight_decay: factor of the decay; `adamw` decouples it from the gradient.
        schedule: `paper` by epochs, `constant`, or `cosine` to 0 at the end of the run.
        warmup: fraction of the run in which the rate rises from 0, with `constant` and `cosine`.
        dropout: probability of dropping an element of the squared differences in training.
        lora_rank, lora_alpha, lora_dropout, lora_targets: of `lora`, see `lora.add`.
        augmentation: random changes of training triplets, in this order: `flip` (the three images mirrored,
            half of the time), `swap` (p0 and p1 exchanged, and the judgment with them, half of the time),
            `crop` (a random square of 70 to 100 % of the side), `light` (another contrast, brightness and
            colour). The images of a triplet are changed alike; so are all images of a batch that holds each
            image once.
        robust: of adversarial training, the arguments of `robust.Robust`; None: without it. Logs
            `train/2afc_attacked`, beside `train/2afc` of the same triplets as they are.
        compile: compare features by compiled code, see `LPIPS`. Checkpoints do not record it.
        grad_checkpointing: keep fewer activations of a trained backbone, and compute the others again in the
            backward pass: the same gradients in less memory. Checkpoints do not record it.
        seed: of augmentation and attacks, which depend on it, the epoch and the batch only.

    Raises:
        ValueError: an unknown choice or backbone, or a number out of range.
        FileNotFoundError: weights of the backbone that cannot be found.
    """

    def __init__(
        self,
        backbone: str | Mapping[str, Any] | nn.Module = "alexnet",
        variant: Variant = "lin",
        loss: Loss = "bce",
        margin: float = 0.1,
        ranking: Ranking = "paper",
        form: Form = "per_position",
        center: bool = False,
        lin_init: LinInit = "random",
        optimizer: Optimizer = "adam",
        lr: float = 1e-4,
        backbone_lr_factor: float = 1.0,
        betas: Sequence[float] = (0.5, 0.999),
        weight_decay: float = 0.0,
        schedule: Schedule = "paper",
        warmup: float = 0.0,
        dropout: float = 0.5,
        lora_rank: int = 8,
        lora_alpha: float | None = None,
        lora_dropout: float = 0.0,
        lora_targets: Sequence[str] | None = None,
        augmentation: Sequence[Augmentation] = (),
        compile: bool = False,
        grad_checkpointing: bool = False,
        robust: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        network, backbone = backbone, describe(backbone)
        if variant == "scratch":
            backbone["weights"] = None
        # `save_hyperparameters` reads these names: a checkpoint holds plain values
        betas, lora_targets = list(betas), list(lora_targets) if lora_targets else None
        self.robust = Robust(**(robust or {}))
        robust = asdict(self.robust)
        if not isinstance(augmentation, str):  # one word is refused below
            augmentation = list(augmentation)
        self.save_hyperparameters(ignore=["compile", "grad_checkpointing"])
        check_settings(self.hparams)
        built = build_backbone(
            network if isinstance(network, nn.Module) else backbone,
            trainable=variant in ("tune", "scratch"),
            scratch=variant == "scratch",
            trusted=False,  # the description may be that of a checkpoint
        )
        self._built_on = built.fingerprint()
        self.adapters_only = False  # checkpoints leave a frozen backbone out, wherever it is from
        if variant == "lora":
            lora.add(built.net, built.name, lora_rank, lora_alpha, lora_dropout, lora_targets)
        if grad_checkpointing:
            if variant in FROZEN:
                raise ValueError(
                    f"grad_checkpointing is for a trained backbone, and variant={variant} freezes it"
                )
            built.checkpoint_gradients()
        if lin_init == "file" and backbone.get("weights", "default") in ("default", "given"):
            raise ValueError("lin_init=file takes lin from the file of backbone.weights, and none is named")
        # of a checkpoint that holds all weights, no other file is read
        starts = {"v0.1": "v0.1", "file": backbone.get("weights")}
        lin = starts.get(lin_init)
        head = Head(sum(built.channels)) if variant == "head" else None
        self.distance = LPIPS(
            built, lin, dropout=dropout, form=form, center=center, head=head, compile=compile
        )
        weighs = form != "concatenated" or variant == "lin"
        for vector in self.distance.lin.requires_grad_(weighs) if weighs else ():
            if lin_init == "random":
                # a 1×1 convolution's, as in the reference
                nn.init.uniform_(vector, -(len(vector) ** -0.5), len(vector) ** -0.5)
        self.ranking = RANKINGS[ranking]() if loss == "bce" else None

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> "PerceptualRanker":
        """As Lightning's, and for files of older versions too; keyword arguments replace hyperparameters.

        Raises:
            FileNotFoundError: no such file, or weights of the backbone that cannot be found.
            ValueError: not a checkpoint of a PerceptualRanker, or other weights under the backbone's name.
        """
        hparams = read_checkpoint(checkpoint_path)["hyper_parameters"]
        arguments = {**hparams, "weights_only": True, **kwargs}
        try:
            ranker: PerceptualRanker = super().load_from_checkpoint(checkpoint_path, *args, **arguments)
        except (TypeError, KeyError, AttributeError, RuntimeError) as error:  # of odd settings in the file
            raise ValueError(f"{str(checkpoint_path)!r} describes no model: {error}") from error
        return ranker

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distance (N,) of images x and y, (N, 3, H, W) in [0, 1]."""
        distance: Tensor = self.distance(x, y)
        return distance

    def configure_callbacks(self) -> list[pl.Callback]:
        """The callbacks that exact resumption needs."""
        return [RandomState(), Position()]

    def train(self, mode: bool = True) -> "PerceptualRanker":
        """Set training mode, of the dropout of adapters too, whose network is frozen."""
        super().train(mode)
        lora.train(self.distance.backbone.net, mode)
        return self

    def on_fit_start(self) -> None:
        """Switch to training mode: LPIPS is built in eval mode, and Lightning does not change modes."""
        self.train()

    def training_step(self, batch: "Batch | DifferenceBatch", batch_idx: int) -> Tensor:
        """Loss of a batch of triplets, a scalar.

        Raises:
            Diverged: the loss is not finite.
        """
        batch = self._augment(batch, batch_idx)
        distances, name = batch.distances(self.distance), f"train/{batch.kind.name}"
        loss, scored = self._loss(distances, batch), {name: distances}
        if self.robust.steps:
            attacked = self._attack(batch, batch_idx)
            distances = scored[f"{name}_attacked"] = attacked.distances(self.distance)
            loss = torch.lerp(loss, self._loss(distances, batch), self.robust.weight)
        if not loss.isfinite():
            raise Diverged(
                f"the loss is {loss.item()} in step {self.global_step + 1}, epoch {self.current_epoch + 1}; "
                f"a lower lr than {self.hparams['lr']:g} or trainer.gradient_clip_val=1 may help"
            )
        if self._is_logged():
            self.log("train/loss", loss, prog_bar=True)
            self.log_dict({name: _score(batch, distances) for name, distances in scored.items()})
        return loss

    def _loss(self, distances: Sequence[Tensor], batch: "Batch | DifferenceBatch") -> Tensor:
        if self.ranking is None:
            d0, d1 = distances
            return hinge_loss(d0, d1, batch.answer, self.hparams["margin"], batch.weight)
        return ranking_loss(self.ranking(*distances), batch.answer, batch.weight)

    def _is_logged(self) -> bool:
        """Whether the logger records this step, or an epoch ends; logging doubles the time of a step."""
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        return self.trainer.is_last_batch or bool(every and (self.trainer.global_step + 1) % every == 0)

    def _augment(self, batch: Any, batch_idx: int) -> Any:
        changes = self.hparams["augmentation"]
        generator = self._generator(batch_idx) if changes else None
        for change in changes:
            draws = torch.rand(len(batch.answer), 4, generator=generator)
            batch = getattr(batch, change)(draws.to(batch.answer.device))
        return batch

    def _attack(self, batch: Any, batch_idx: int) -> "Batch":
        """The batch with images moved to where the distance, as it is in evaluation, does worse."""
        part = 1.0
        if warmup := self.robust.warmup:
            part = min(1.0, (self.global_step + 1) / (warmup * self.trainer.estimated_stepping_batches))
        training = self.distance.training
        self.distance.eval()
        try:
            return self.robust.attack(
                lambda moved: self._loss(moved.distances(self.distance), batch),
                batch,
                part,
                self._generator(batch_idx, 1),
            )
        finally:
            self.distance.train(training)

    def _generator(self, *place: int) -> torch.Generator:
        """Random numbers of a place in the run."""
        whole = [self.hparams["seed"], self.current_epoch, place[0], self.global_rank, *place[1:]]
        seed = int(np.random.SeedSequence(whole).generate_state(1)[0])
        return torch.Generator().manual_seed(seed)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Take the step and project lin, before any callback can save it."""
        super().optimizer_step(*args, **kwargs)
        self.distance.project()

    def setup(self, stage: str) -> None:
        """Make the validation metrics, one for each kind of judgment, with the subsets of the data module.

        Raises:
            ValueError: settings are for triplets, and the data are not.
        """
        data = getattr(self.trainer, "datamodule", None)
        for judged in getattr(data, "val_sets", [])[:1]:
            self._check_kind(judged.table.kind)
        self.val_scores = nn.ModuleDict(
            {
                kind: PerSubset(SCORES[kind].metric(), subsets).to(self.device)
                for kind, subsets in scored_kinds(self.trainer).items()
            }
        )

    def _check_kind(self, kind: "Kind") -> None:
        """Refuse settings that are for triplets, where the data have more than two distances."""
        h, count = self.hparams, len(kind.compared)
        unfit = {
            "model.loss=hinge": h["loss"] == "hinge",
            "model.ranking=paper": h["loss"] == "bce" and h["ranking"] == "paper",
            "model.augmentation=[swap]": "swap" in h["augmentation"],
            "robust": self.robust.steps > 0,
        }
        if count > 2 and any(unfit.values()):
            said = ", ".join(name for name, is_so in unfit.items() if is_so)
            raise ValueError(
                f"{said} is for triplets, and {kind.plural} have {count} distances; for them model.loss=bce "
                "and model.ranking=antisymmetric, bounded or ratio"
            )

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Update the score of the batch's kind of judgment."""
        distances = batch.distances(self.distance)
        score: Any = self.val_scores[batch.kind.name]
        score.update(*distances, batch.answer, subset=batch.subset)

    def on_validation_epoch_end(self) -> None:
        """Log the scores of each subset and their plain mean."""
        metric: Any
        for kind, metric in self.val_scores.items():
            scores = metric.compute()
            metric.reset()
            scores.pop("micro")
            self.log_dict({f"val/{kind}/{subset}": score for subset, score in scores.items()})

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The optimiser, in which the backbone has a separate rate, and the schedule of the run."""
        h, backbone = self.hparams, list(self.distance.backbone.parameters())
        every = [p for p in self.parameters() if p.requires_grad]
        of_backbone = {id(p) for p in backbone}
        head = [p for p in every if id(p) not in of_backbone]
        groups = [{"params": head, "lr": h["lr"]}] if head else []
        if trained := [p for p in backbone if p.requires_grad]:
            groups.append({"params": trained, "lr": h["lr"] * h["backbone_lr_factor"]})
        optimizer = make_optimizer(h["optimizer"], groups, h["betas"], h["weight_decay"])
        # Lightning counts the steps by setting up the data, so only where the count is needed
        steps = self.trainer.estimated_stepping_batches if h["schedule"] != "paper" else math.inf
        epochs = self.trainer.max_epochs or 0
        schedule = make_schedule(h["schedule"], optimizer, epochs, steps, h["warmup"])
        return {"optimizer": optimizer, "lr_scheduler": schedule}  # type: ignore[typeddict-item]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out a frozen backbone whose name gives its weights again, and record their fingerprint.

        Raises:
            Diverged: a weight is not finite.
        """
        for name, parameter in self.named_parameters():
            if not parameter.isfinite().all():
                raise Diverged(f"{name} has values that are not finite: no checkpoint is made of them")
        if sides := self._sides():
            checkpoint["data"] = sides
        checkpoints.leave_out_backbone(checkpoint, self.distance.backbone, self._built_on, self.adapters_only)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another model, and put back a backbone that was left out.

        Raises:
            ValueError: naming what differs.
        """
        if self._trainer is not None:
            # else `load_from_checkpoint` has read the file, and put its own arguments into what it said
            checkpoints.check_intact(checkpoint)
            if self._trainer.training:
                theirs = checkpoint["hyper_parameters"]
                checkpoints.check_data(checkpoint, self._sides())
                checkpoints.refuse(checkpoints.differences(theirs, self.hparams, leave_out=FITTING))
        checkpoints.put_back_backbone(checkpoint, self.distance.backbone)
        checkpoints.check_fits(checkpoint, self.hparams, self.state_dict())

    def _sides(self) -> dict[str, dict[str, Any]]:
        """What tells whether the data are those of a checkpoint; nothing of loaders without a data module."""
        data = None if self._trainer is None else getattr(self._trainer, "datamodule", None)
        sides: dict[str, dict[str, Any]] = getattr(data, "sides", {})
        return sides

    def uncalibrated(self) -> LPIPS:
        """The distance of the same backbone before any training: no head, and all channel weights 1."""
        distance = self.distance
        return LPIPS(distance.backbone, lin=None, form=distance.form, center=distance.center)

    def merged(self) -> LPIPS:
        """The distance alone, in eval mode, with adapters of `lora` added to the weights: without `peft`."""
        distance = copy.deepcopy(self.distance).requires_grad_(False).eval()
        lora.merge(distance.backbone.net)
        return distance
