"""Words and defaults that the schemas of conf/ take from the data modules."""

from dataclasses import fields
from inspect import signature
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

import perceptual.data
from perceptual import config
from perceptual.data import OpinionDataModule
from perceptual.data.schemas import SCHEMAS

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture
def composed():
    """The data node that words of the command line compose, resolved."""
    config.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield lambda *words: compose("evaluate", list(words)).data


@pytest.mark.parametrize(
    ("group", "needs"),
    [
        ("photos", ()),
        ("bapps", ("root",)),
        ("manifest", ("path",)),
        ("jnd", ("root",)),
        ("opinions", ("path",)),
    ],
)
def test_defaults_are_those_of_the_data_module(composed, group, needs):
    node = composed(f"data={group}", *(f"data.{name}=somewhere" for name in needs))
    module = getattr(perceptual.data, node._target_.rpartition(".")[2])
    given = config.plain(OmegaConf.create({"seed": 0, "data": node}))["data"]
    own = {name: p.default for name, p in signature(module).parameters.items() if name not in needs}
    assert {*given} - {"_target_", "cache", "views"} == {*own, *needs}
    for name, value in own.items():
        unnamed = {} if name == "columns" else value  # which keys can be added to
        assert given[name] == (list(value) if isinstance(value, tuple) else unnamed)


def test_the_subsets_are_those_of_the_paper(composed):
    node = composed("data=bapps", "data.root=somewhere")
    assert node.train_subsets == ["train/traditional", "train/cnn", "train/mix"]
    val = ["traditional", "cnn", "superres", "deblur", "color", "frameinterp"]
    assert node.val_subsets == [f"val/{subset}" for subset in val]


def test_split_by_is_one_of_the_words_of_the_library(composed):
    node = composed("data=manifest", "data.path=some.csv", "data.split_by=triplet")
    assert config.build(config.data_arguments(node)).split_by == "triplet"
    with pytest.raises(ConfigCompositionException, match=r"data\.split_by=photo"):
        composed("data=manifest", "data.path=some.csv", "data.split_by=photo")


def test_the_settings_of_opinions_are_those_of_the_data_module():
    names = {one.name for one in fields(SCHEMAS["opinions"])}
    assert names == {"_target_", *signature(OpinionDataModule).parameters}
