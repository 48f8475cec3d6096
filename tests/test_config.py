"""Every file of conf/ composes, and what it describes can be built."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

from perceptual.cli import script_help
from perceptual.cli.words import as_typed, by_name
from perceptual.config import build, check, data_arguments, register
from perceptual.data.readers.published import CHOICES, OPINIONS
from perceptual.data.schemas import SCHEMAS
from perceptual.training.module import PerceptualRanker
from perceptual.training.run import recorded

CONF = Path(__file__).parents[1] / "conf"
# what a choice of data needs, of those that do not need data.root
BY_PATH = ("manifest", "parquet", "odd", "opinions")
NEEDS = {"photos": [], **{name: ["data.path=some.csv"] for name in BY_PATH}}


@pytest.fixture(autouse=True)
def _schemas():
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@pytest.mark.parametrize("name", SCHEMAS)
def test_data_modules_build(name):
    cfg = compose("train", [f"data={name}", *NEEDS.get(name, ["data.root=somewhere"])])
    assert build(data_arguments(cfg.data)).batch_size == cfg.data.batch_size


def test_every_published_set_is_a_choice():
    assert {*CHOICES, *OPINIONS} <= {*SCHEMAS}


CALLBACKS = ("callbacks", "averaging", "stopping")  # groups of callbacks, one dictionary together
# groups that set values of the model, each with the argument that they choose
OF_MODEL = {"model": "variant", "optimizer": "optimizer"}


@pytest.mark.parametrize(("group", "name"), [(group, name) for group in OF_MODEL for name in options(group)])
def test_models_build_from_plain_values(group, name):
    backbone = "test_vit" if name == "lora" else "test_resnet"
    network = [f"backbone.name={backbone}", "backbone.weights=null"]
    levels, own = None, {}
    if name == "head":  # which chooses three values
        levels, own = ["embedding"], {"form": "concatenated", "loss": "hinge"}
        network.append("backbone.out_indices=[embedding]")
    # the module's own defaults are the paper's
    chosen = "experiment=paper_lin" if name == "lin" else f"{group}={name}"
    module = build(compose("train", [chosen, *network]).model)
    plain = {"name": backbone, "weights": None, "out_indices": levels, "input_size": None}
    assert module.hparams["backbone"] == plain
    assert module.hparams[OF_MODEL[group]] == name
    default = PerceptualRanker(plain, module.hparams["variant"], **own)
    ours, theirs = ({k: v for k, v in m.hparams.items() if k != OF_MODEL[group]} for m in (module, default))
    if group != "optimizer":
        assert ours == theirs  # the schema's defaults are the module's own
    json.dumps(dict(module.hparams))  # plain values


@pytest.mark.parametrize("name", options("robust"))
def test_attacks_build(name):
    network = ["backbone.name=test_resnet", "backbone.weights=null"]
    cfg = compose("train", [f"robust={name}", "robust.radius=1/255", "robust.norm=l2", *network])
    attacks = build(cfg.model).robust
    assert (attacks.steps, attacks.norm) == ({"none": 0, "fast": 1, "pgd": 5}[name], "l2")
    assert attacks.reach == pytest.approx(1 / 255)
    cfg = compose("train", [f"robust={name}", "data.views=2", *network])
    if attacks.steps:  # cached features cannot be attacked
        with pytest.raises(ValueError, match=r"data\.views=2 needs cached features, .* robust=none"):
            check(cfg)
    else:
        check(cfg)


def test_an_average_of_weights_says_what_it_needs(monkeypatch):
    monkeypatch.delattr("pytorch_lightning.callbacks.WeightAveraging", raising=False)
    monkeypatch.delitem(sys.modules, "callbacks.ema", raising=False)
    monkeypatch.delattr("callbacks.ema", raising=False)
    with pytest.raises(ValueError, match=r"averaging=ema needs pytorch-lightning 2\.6 or newer$") as raised:
        build(compose("train", ["averaging=ema"]).callbacks.ema)
    assert "\n" not in str(raised.value)


def test_every_group_is_tested_here():
    elsewhere = {"hydra", "sweep"}  # test_sweeps.py
    groups = {path.name for path in CONF.iterdir() if path.is_dir()} - elsewhere
    assert groups == {*OF_MODEL, "robust", "trainer", "experiment", "logger", *CALLBACKS}


@pytest.mark.parametrize(("group", "name"), [(g, n) for g in (*CALLBACKS, "logger") for n in options(g)])
def test_callbacks_and_loggers_build(group, name, tmp_path, monkeypatch):
    if name == "ema":
        pytest.importorskip("pytorch_lightning", "2.6")  # refused with an older one, see below
    monkeypatch.setenv("WANDB_MODE", "offline")
    cfg = compose("train", [f"{group}={name}", f"run_dir={tmp_path}"])
    with recorded():
        assert build(cfg.logger)
    built = {type(build(node)).__name__ for node in cfg.callbacks.values()}
    assert built >= {"LastCheckpoint", "BestCheckpoint", "InverseGuard", "Progress"}
    assert ("EMA" in built, "EarlyStopping" in built) == (name == "ema", name == "early")


@pytest.mark.parametrize(
    "path", sorted(CONF.glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_every_choice_is_documented_in_its_first_line(path):
    lines = path.read_text().splitlines()
    first = next(line for line in lines if not line.startswith("# @package"))
    assert first.startswith("# ")


@pytest.mark.parametrize(("chosen", "epochs"), [([], 10), (["trainer=smoke"], 1)])
def test_trainers_build(chosen, epochs):
    words = [*chosen, "trainer.accelerator=cpu", "run_dir=."]
    assert build(compose("train", words).trainer, logger=False).max_epochs == epochs


@pytest.mark.parametrize("name", options("experiment"))
def test_experiments_compose_and_name_their_score(name):
    cfg = compose("train", [f"experiment={name}", "data=bapps", "data.root=somewhere"])
    assert cfg.data._target_.endswith("BAPPSDataModule")
    header = (CONF / "experiment" / f"{name}.yaml").read_text()
    assert f"experiment={name}" in header
    assert "Published" in header
    assert "Measured" in header


@pytest.mark.parametrize("name", [name for name in options("experiment") if name.startswith("lpips_")])
def test_a_row_of_the_papers_table_is_its_protocol_on_bapps(name):
    row = compose("train", [f"experiment={name}", "data.root=somewhere"])
    words = ["data=bapps", "data.root=somewhere", f"backbone.name={row.backbone.name}"]
    assert row == compose("train", [f"experiment=paper_{name.rpartition('_')[2]}", *words])


@pytest.mark.parametrize("variant", ["lin", "tune", "scratch"])
def test_the_protocol_of_the_paper_is_for_any_backbone_and_data(variant):
    chosen = [f"experiment=paper_{variant}", "data=manifest", "data.path=some.csv", "backbone.name=vgg16"]
    cfg = OmegaConf.to_container(compose("train", chosen), enum_to_str=True)
    model = {"variant": variant, "ranking": "paper", "lin_init": "random", "optimizer": "adam"}
    model |= {"lr": 1e-4, "betas": [0.5, 0.999], "weight_decay": 0, "schedule": "paper", "dropout": 0.5}
    model |= {"backbone_lr_factor": 1, "form": "per_position", "augmentation": []}
    assert {key: cfg["model"][key] for key in model} == model
    assert (cfg["backbone"]["name"], cfg["data"]["path"]) == ("vgg16", "some.csv")
    assert (cfg["data"]["batch_size"], cfg["data"]["views"], cfg["trainer"]["max_epochs"]) == (50, 0, 10)
    assert not {"ema", "early"} & cfg["callbacks"].keys()


def test_evaluate_composes():
    assert compose("evaluate").methods is None


def test_speed_composes():
    cfg = compose("evaluate", ["precision=bf16-mixed", "compile=true"])
    assert (cfg.precision.name, cfg.compile) == ("bf16-mixed", True)
    network = ["backbone.name=test_resnet", "backbone.weights=null"]
    cfg = compose("train", ["model=tune", "model.compile=true", "trainer.precision=bf16-mixed", *network])
    module = build(cfg.model)
    assert module.distance.compiled
    assert "compile" not in module.hparams  # a checkpoint is for machines without a compiler too
    with pytest.raises(ConfigCompositionException, match="bf16"):
        compose("evaluate", ["precision=bf16"])


@pytest.mark.parametrize(
    "override", ["data.batchsize=3", "model.dropuot=0", "trainer.epochs=3", "nonsense=1"]
)
def test_a_misspelt_key_is_refused_by_name(override):
    with pytest.raises(ConfigCompositionException, match=override.split("=")[0].split(".")[-1]):
        compose("train", [override])


def plain(word):
    """As Hydra reads a word; YAML's other word for true is a choice here."""
    return word if word == "on" else yaml.safe_load(word)


@pytest.mark.parametrize("name", SCHEMAS)
def test_help_lists_the_keys_of_the_data_with_their_defaults(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        script_help.answer(str(CONF.parent / "evaluate.py"), [f"data={name}", "--help"])
    assert not stopped.value.code
    said = capsys.readouterr().out
    groups = said.partition("Groups")[2].partition("Keys\n")[0].splitlines()[1:]
    assert [line.split()[0] for line in groups if line] == ["data"]
    shown = dict(re.findall(r"^  data\.(\w+)=(.*?) *(?:#.*)?$", said, re.MULTILINE))
    composed = OmegaConf.to_container(compose("evaluate", [f"data={name}"]).data, enum_to_str=True)
    assert set(shown) == set(composed) - {"_target_"}
    for key in shown:
        assert plain(shown[key]) == composed[key], key


def test_help_of_training_has_the_defaults_of_the_model_and_the_trainer(capsys):
    with pytest.raises(SystemExit):
        script_help.answer(str(CONF.parent / "train.py"), ["-h", "trainer=smoke", "model=tune"])
    said = capsys.readouterr().out
    composed = OmegaConf.to_container(compose("train", ["trainer=smoke", "model=tune"]), enum_to_str=True)
    for group in ("model", "trainer", "data", "backbone"):
        shown = dict(re.findall(rf"^  {group}\.(\w+)=(.*?) *(?:#.*)?$", said, re.MULTILINE))
        assert set(shown) == set(composed[group]) - {"_target_"}
        for key, value in shown.items():
            assert plain(value) == composed[group][key] or value == str(composed[group][key]), key
    assert "schema" not in said
    assert "[smoke]" in said


@pytest.mark.parametrize(
    ("script", "word", "says"),
    [
        (
            "train.py",
            "data.batchsize=3",
            "'data.batchsize'; did you mean data.batch_size; `--help` lists them",
        ),
        ("train.py", "model.lrr=3", "'model.lrr'; did you mean model.lr; `--help` lists them"),
        ("train.py", "modle=lin", "'modle'; did you mean model; `--help` lists them"),
        ("train.py", "xyz.lr=3", None),
        ("train.py", "++model.lrr=3", None),
        ("train.py", "backbone.width=3", "'backbone.width'; `--help` lists them"),
        ("evaluate.py", "model.lr=3", None),
        ("evaluate.py", "mthods=[l2]", "'mthods'; did you mean methods; `--help` lists them"),
    ],
)
def test_a_misspelt_key_is_said_before_anything_is_imported(script, word, says, capsys):
    if says is None:  # left to Hydra
        script_help.answer(str(CONF.parent / script), [word])
        return
    with pytest.raises(SystemExit) as stopped:
        script_help.answer(str(CONF.parent / script), [word])
    assert stopped.value.code == f"error: there is no key {says}"
    script_help.answer(
        str(CONF.parent / script), [word, "backbone._target_=my_nets.MyNet"] if "width" in word else []
    )


@pytest.mark.parametrize("script", ["train", "evaluate"])
@pytest.mark.parametrize("words", [["data=manifest", "trainer=smoke"], ["data=opinions", "model=lora"]])
def test_every_key_that_hydra_knows_is_accepted(script, words):
    words = words if script == "train" else words[:1]
    composed = OmegaConf.to_container(compose(script, words), enum_to_str=True)
    found = [f"{key}=1" for key in composed]
    found += [f"{key}.{name}=1" for key, node in composed.items() if isinstance(node, dict) for name in node]
    assert len(found) > 20
    script_help.answer(str(CONF.parent / f"{script}.py"), found)


def test_a_folder_of_the_users_own_has_its_own_choices_and_keys(tmp_path, capsys):
    shutil.copytree(CONF, tmp_path / "conf")
    (tmp_path / "conf/trainer/mine.yaml").write_text("# Two weeks.\nmax_epochs: 900\n")
    with (tmp_path / "conf/train.yaml").open("a") as file:
        file.write("\nmy_key: 3\n")
    script_help.answer(str(tmp_path / "train.py"), ["my_key=4"])
    with pytest.raises(SystemExit):
        script_help.answer(str(tmp_path / "train.py"), ["--help", "trainer=mine"])
    said = capsys.readouterr().out
    assert "Keys of trainer=mine: Two weeks." in said
    assert "trainer.max_epochs=900" in said
    assert "my_key=3" in said


@pytest.mark.parametrize(("words", "name"), [([], "tf_efficientnet_lite0"), (["backbone=vgg16"], "vgg16")])
def test_help_shows_the_network_of_any_name(words, name, capsys):
    with pytest.raises(SystemExit):
        script_help.answer(str(CONF.parent / "train.py"), ["--help", *words])
    said = capsys.readouterr().out
    assert f"Keys of backbone={name}: Any network by its name." in said
    assert re.search(rf"^  backbone\.name={name}( |$)", said, re.MULTILINE)


BY_NAME = {
    "backbone=resnet18": "backbone.name=resnet18",
    "backbone=vgg": "backbone.name=vgg",
    "backbone=alexnet,vgg16": "backbone.name=alexnet,vgg16",
    "backbone='resnet18[aa_layer=blurpc]',alexnet": "backbone.name='resnet18[aa_layer=blurpc]',alexnet",
    "backbone=resnet18[aa_layer=blurpc]": "backbone.name='resnet18[aa_layer=blurpc]'",
    "backbone=alexnet+squeezenet1_1": "backbone.name=alexnet+squeezenet1_1",
    "backbone=hf-hub:someone/network": "backbone.name=hf-hub:someone/network",
    **{word: word for word in ("-m", "seed=1")},
}


@pytest.mark.parametrize("word", BY_NAME)
def test_the_word_backbone_takes_any_name(word):
    assert by_name(as_typed([word])) == [BY_NAME[word]]
    compose("train", as_typed([] if "," in word or word == "-m" else [BY_NAME[word]]))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["backbone=resnet81"], "unknown backbone 'resnet81'; did you mean resnet18"),
        (["-m", "backbone=alexnet,vgg61"], "unknown backbone 'vgg61'; did you mean vgg19, vgg16"),
        (["backbone=resnet50.a9"], "there are no weights 'a9' for resnet50; its tags: "),
        (["backbone=null"], "backbone=null: a backbone is chosen by the name of a network"),
    ],
)
def test_an_unknown_name_of_a_backbone_is_refused_before_anything_else(words, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        by_name(as_typed(words))
    assert by_name(["backbone=my_net", "imports=[my_nets]"])[0] == "backbone.name=my_net"


def test_help_imports_neither_torch_nor_lightning():
    code = "import runpy, sys; sys.argv = [script, '--help']; runpy.run_path(script, run_name='__main__')"
    check = (
        "import atexit, sys; atexit.register(lambda: print('heavy', {'torch', 'hydra'} & set(sys.modules)))"
    )
    for script in ("train.py", "evaluate.py"):
        words = [sys.executable, "-c", f"{check}; script = {str(CONF.parent / script)!r}; {code}"]
        done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=CONF.parent)
        assert "data.size" in done.stdout or "data=" in done.stdout
        assert "heavy set()" in done.stdout
