"""What runs on GPUs of Apple, which have no float64: a stand-in for their tensors, for there is none here."""

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from perceptual import LPIPS, Backbone, PerceptualRanker, metrics
from perceptual.data import PhotosDataModule
from perceptual.evaluation import methods, provenance
from perceptual.evaluation.robustness import trust


class Mps(Tensor):
    """Refuses float64, and to compute with tensors that stayed on the CPU, as tensors on `mps` do."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name in ("add", "sub", "mul", "where", "lt", "eq", "cat", "stack", "copy_"):
            listed = args[0] if isinstance(args[0], list | tuple) else args
            apart = [one for one in listed if type(one) is Tensor and one.ndim]
            assert not apart, f"{name} of tensors on mps and on the CPU"
        result = super().__torch_function__(func, types, args, kwargs or {})
        if name in ("cpu", "numpy"):
            return result.as_subclass(Tensor)
        if getattr(result, "dtype", None) == torch.float64:
            raise TypeError("the MPS framework does not support float64")
        return result


def on_mps(value):
    assert getattr(value, "dtype", None) != torch.float64
    return value.as_subclass(Mps) if isinstance(value, Tensor) else value


@pytest.fixture
def distance():
    return LPIPS(Backbone("test_resnet", weights=None))._apply(on_mps)


@pytest.fixture(autouse=True)
def _parameters_of_a_subclass():
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    yield
    torch.__future__.set_overwrite_module_params_on_conversion(before)


D0, D1 = torch.rand(2, 8, generator=torch.Generator().manual_seed(0))
JUDGMENT, VOTES = torch.tensor([0.25, 0.75, 0.5, 1.0, 0.0, 0.5, 0.75, 1.0]), torch.full((8,), 4)


@pytest.mark.parametrize(
    ("score", "columns"),
    [
        *(
            (score, (D0, D1, JUDGMENT))
            for score in (metrics.two_afc_agreement, metrics.two_afc_score, metrics.majority_accuracy)
        ),
        *((score, (JUDGMENT,)) for score in (metrics.human_score, metrics.ceiling_score)),
        *(
            (score, (JUDGMENT, VOTES))
            for score in (metrics.two_people_agreement, metrics.ceiling, metrics.jnd_ceiling)
        ),
        *((score, (D0, JUDGMENT)) for score in (metrics.jnd_average_precision, metrics.opinion_correlations)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_scores_are_those_of_the_cpu(score, columns):
    there, here = (torch.as_tensor(score(*given)) for given in (map(on_mps, columns), columns))
    torch.testing.assert_close(there, here)


def test_a_distance_is_described_measured_and_examined(distance):
    pytest.importorskip("torch", "2.6")  # before, results of a subclass could not be made into it
    x, y = (on_mps(images) for images in torch.rand(2, 3, 3, 32, 32))
    assert sum(provenance.inspect(distance, x, y)["level_shares"]) == pytest.approx(1)
    assert type(trust.apart(distance, x, y)) is Tensor
    assert all(type(one) is Tensor for one in trust.decide(distance, trust.Triplets(x, y, y)))


def test_training_logs_and_validates(tmp_path, monkeypatch):
    data = PhotosDataModule(count_train=20, count_val=10, size=32, batch_size=10, num_workers=0)
    ranker = PerceptualRanker({"name": "test_resnet", "weights": None})._apply(on_mps)
    moved = lambda _, batch, *rest: type(batch)(*map(on_mps, batch))  # noqa: E731
    monkeypatch.setattr(PhotosDataModule, "transfer_batch_to_device", moved)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        log_every_n_steps=1,
        logger=pl.loggers.CSVLogger(tmp_path),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(ranker, datamodule=data)
    assert {"train/2afc", "val/2afc/mean"} <= trainer.callback_metrics.keys()


def test_the_gpu_is_found(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for there, named in ((True, "mps"), (False, "cpu")):
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda there=there: there)
        assert methods.device() == named
