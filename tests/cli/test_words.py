"""Words of the command line as Hydra gets them: paths as they are typed, and its own syntax left alone."""

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from perceptual.cli.words import as_typed

TYPED = (
    "checkpoints/epoch=1-step=26.ckpt",
    "my set (1).csv",
    "photos(1)",
    "a,b.csv",
    "a,",
    "[old].csv",
    "{a}",
    "Übung/é.csv",
    "it's.csv",
    'a"b.csv',
    "a#b&c!.csv",
    "1e3",
    "true",
    "back\\slash's\\",
    "x=1/(2), 3.csv",
)
HYDRA = (
    *("model.lr=0.001,0.3", "model.augmentation=[flip,swap]", "model.betas=[0.5, 0.999]", "ckpt=null"),
    *("runs=${oc.env:HOME}/runs", "data.path='a=b.csv'", "~callbacks.lin", "+data.x={a:1}", "--multirun"),
    *("model.lr=interval(1e-4, 1e-2)", "data=manifest", "hydra/launcher=parallel", "results='[red]'"),
    *(r"data.path=a\,b.csv", "trainer.max_epochs=10", "nonsense", "data.path=plain/t.csv"),
)


def value(word: str) -> object:
    read = OverridesParser.create().parse_override(word)
    return [str(one) for one in read.sweep_string_iterator()] if read.is_sweep_override() else read.value()


@pytest.mark.parametrize("path", TYPED)
@pytest.mark.parametrize("key", ["ckpt", "data.path", "backbone.weights", "hydra.run.dir", "++data.root"])
def test_a_path_is_taken_as_it_is_typed(key, path):
    (word,) = as_typed([f"{key}={path}"])
    assert value(word) == path
    assert as_typed([word]) == [word]  # processes that a run starts get the words again


@pytest.mark.parametrize("word", HYDRA)
def test_syntax_of_hydra_is_left_alone(word):
    assert as_typed([word]) == [word]
    assert as_typed(["--multirun", word]) == ["--multirun", word]


def test_a_home_folder_is_meant_everywhere():
    home = str(Path.home())
    assert value(as_typed(["data.path=~/t.csv"])[0]) == f"{home}/t.csv"
    assert value(as_typed(["methods=[l2,~/a=1.ckpt]"])[0]) == ["l2", f"{home}/a=1.ckpt"]
    _, word = as_typed(["-m", "ckpt=~/a=1.ckpt,~/b.ckpt"])
    assert value(word) == [f"'{home}/a=1.ckpt'", f"'{home}/b.ckpt'"]


def test_what_hydra_cannot_read_is_taken_as_it_is_typed():
    assert value(as_typed(["backbone.name=resnet18[aa_layer=blurpc]"])[0]) == "resnet18[aa_layer=blurpc]"
    methods = ["resnet18[aa_layer=blurpc,stem_width=32]-random", "runs/epoch=1 (2).ckpt", "l2"]
    assert value(as_typed([f"methods=[{','.join(methods)}]"])[0]) == methods
    _, word = as_typed(["--multirun", "data.path=a=1.csv,b (2).csv"])
    assert value(word) == ["'a=1.csv'", "'b (2).csv'"]


def test_none_as_python_and_weights_and_biases_write_it_is_null():
    assert as_typed(["backbone.out_indices=None"]) == ["backbone.out_indices=null"]
