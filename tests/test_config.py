"""Every file of conf/ composes, and what it describes can be built."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException

from perceptual.config import build, data_arguments, register

CONF = Path(__file__).parents[1] / "conf"
REQUIRED = {
    "bapps": ["data.root=somewhere"],
    "dmos": ["data.path=some.csv"],
    "jnd": ["data.root=somewhere"],
    "manifest": ["data.path=some.csv"],
}


@pytest.fixture(autouse=True)
def _schemas():
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@pytest.mark.parametrize("name", options("data"))
def test_data_modules_build(name):
    cfg = compose("train", [f"data={name}", *REQUIRED.get(name, [])])
    assert build(data_arguments(cfg.data)).batch_size == cfg.data.batch_size


@pytest.mark.parametrize("model", options("model"))
@pytest.mark.parametrize("ranking", ["paper", "antisymmetric"])
def test_models_build_from_plain_values(model, ranking):
    overrides = [
        f"model={model}",
        f"model.ranking={ranking}",
        "backbone.name=resnet10t",
        "backbone.weights=null",
    ]
    module = build(compose("train", overrides).model)
    assert dict(module.hparams) == {
        "backbone": {"name": "resnet10t", "weights": None, "out_indices": None, "input_size": None},
        "variant": model,
        "ranking": ranking,
        "form": "per_position",
        "lr": 1e-4,
        "betas": [0.5, 0.999],
        "dropout": 0.5,
    }


@pytest.mark.parametrize("name", options("backbone"))
def test_backbones_are_known(name):
    from perceptual.backbone import check_name

    cfg = compose("train", [f"backbone={name}"])
    check_name(cfg.backbone.name)


@pytest.mark.parametrize("name", options("trainer"))
def test_trainers_build(name):
    trainer = build(compose("train", [f"trainer={name}", "trainer.accelerator=cpu"]).trainer, logger=False)
    assert trainer.max_epochs >= 1


@pytest.mark.parametrize("name", options("experiment"))
def test_experiments_compose_and_name_their_score(name):
    cfg = compose("train", [f"experiment={name}", "data.root=somewhere"])
    assert cfg.data._target_.endswith("BAPPSDataModule")
    header = (CONF / "experiment" / f"{name}.yaml").read_text()
    assert f"experiment={name}" in header
    assert "Published" in header
    assert "Measured" in header


def test_evaluate_composes():
    assert compose("evaluate").methods is None


@pytest.mark.parametrize(
    "override", ["data.batchsize=3", "model.dropuot=0", "trainer.epochs=3", "nonsense=1"]
)
def test_a_misspelt_key_is_refused_by_name(override):
    with pytest.raises(ConfigCompositionException, match=override.split("=")[0].split(".")[-1]):
        compose("train", [override])
