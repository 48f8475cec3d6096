"""train.py and evaluate.py as a user runs them: the score again, resumption, one line for each mistake."""

import csv
import json
import os
import shutil
import signal
import warnings
from pathlib import Path

import app
import numpy as np
import pytest
import reference
import torch
from hydra import compose, initialize_config_dir
from networks import NETS, write_weights
from PIL import Image
from trees import write_pair_subset, write_subset

import evaluate
from perceptual.config import register
from perceptual.data import JNDDataModule
from perceptual.training.module import PerceptualRanker, read_checkpoint

SMALL = ("backbone.name=test_resnet", "backbone.weights=null", "trainer=smoke", *app.NO_PICTURES)


@pytest.fixture
def manifest(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return app.write_manifest(tmp_path / "set", rows=120)


@pytest.fixture
def train(manifest, monkeypatch):
    def run(*arguments: str) -> Path:
        arguments = (
            "data=manifest",
            f"data.path={manifest}",
            "data.size=32",
            "data.batch_size=10",
            *SMALL,
            *arguments,
        )
        app.run("train.py", *arguments, monkeypatch=monkeypatch)
        return max(Path("runs").glob("*/*"), key=lambda path: path.stat().st_mtime)

    return run


def scores(run: Path) -> dict:
    return json.loads((run / "scores.json").read_text())


def logged(run: Path, key: str) -> list[float]:
    with (run / "logs/metrics.csv").open() as file:
        return [float(row[key]) for row in csv.DictReader(file) if row.get(key)]


@pytest.mark.parametrize("variant", ["lin", "tune", "scratch"])
def test_a_run_leaves_scores_checkpoints_and_a_table(train, capsys, variant):
    run = train(f"model={variant}", "trainer.limit_val_batches=null")
    printed = capsys.readouterr().out
    assert "uncalibrated" in printed
    assert "trained" in printed
    assert "manifest's own split" in printed or "split" in printed
    assert (run / "checkpoints/last.ckpt").is_file()
    assert (run / "checkpoints/best.ckpt").is_file()
    assert scores(run)["trained"]["mean"] == pytest.approx(logged(run, "val/2afc/mean")[-1], abs=1e-12)


@pytest.mark.parametrize("model", ["lin", "tune"])
def test_evaluate_repeats_the_score_that_training_logged(train, monkeypatch, capsys, model):
    whole = ("trainer.limit_train_batches=null", "trainer.limit_val_batches=null", "trainer.max_epochs=3")
    run = train(f"model={model}", "model.lr=0.3", *whole)
    capsys.readouterr()
    means = logged(run, "val/2afc/mean")
    for name, expected in (("last", means[-1]), ("best", max(means))):
        assert evaluated(run / f"checkpoints/{name}.ckpt")["mean"] == expected
    # the last, also where the best came before
    assert read_checkpoint(run / "checkpoints/last.ckpt")["global_step"] == len(means) * 9
    assert evaluated(run / "checkpoints/last.ckpt") == scores(run)["trained"]


def evaluated(ckpt: object) -> dict:
    register()
    with initialize_config_dir(str(app.ROOT / "conf"), version_base="1.3"):
        cfg = compose("evaluate", [f"ckpt={ckpt}"])
    return next(iter(evaluate.evaluate(cfg).values()))


@pytest.mark.parametrize("cache", ["on", "off"])
def test_jnd_pairs_are_scored_in_validation(train, tmp_path, capsys, cache):
    for subset, count in (("cnn", 21), ("traditional", 14)):
        write_pair_subset(tmp_path / f"pairs/jnd/val/{subset}", count, seed=count)
    whole = ("trainer.limit_val_batches=null", f"data.cache={cache}")
    run = train(f"data.jnd={tmp_path}/pairs", "trainer.max_epochs=2", "model.lr=0.3", *whole)
    printed = capsys.readouterr().out
    assert "35 JND pairs" in printed
    assert "JND mAP in %" in printed

    ckpt = run / "checkpoints/last.ckpt"
    data = JNDDataModule(str(tmp_path / "pairs"), size=32)
    data.setup()
    (batch,) = data.val_dataloader()
    with torch.no_grad():
        distance = (
            PerceptualRanker.load_from_checkpoint(ckpt).distance(batch.role("p0"), batch.role("p1")).numpy()
        )
    expected = [
        reference.jnd_average_precision(distance[batch.subset == i], batch.answer[batch.subset == i].numpy())
        for i in range(2)
    ]
    names = [*data.val_set.table.subsets, "mean"]
    for name, value in zip(names, [*expected, np.mean(expected)], strict=True):
        assert logged(run, f"val/jnd/{name}")[-1] == pytest.approx(value, abs=1e-6)
        assert scores(run)["trained"][f"jnd/{name}"] == logged(run, f"val/jnd/{name}")[-1]
    assert evaluated(ckpt) == scores(run)["trained"]


@pytest.fixture
def goes_on(monkeypatch):
    """Runs train.py with words and nothing else; the folder of the run."""

    def run(*words: str) -> Path:
        app.run("train.py", *words, monkeypatch=monkeypatch)
        return max(Path("runs").glob("*/*"), key=lambda path: path.stat().st_mtime)

    return run


def test_ckpt_last_goes_on_with_the_run_as_it_was(train, goes_on, manifest, monkeypatch, capsys):
    first = train("optimizer=adamw", "model.dropout=0.25")
    # newer, and not meant: runs of a sweep, here and at W&B, and checkpoints that are not of train.py
    about = json.loads((first / "data.json").read_text())
    for folder, other in (
        ("swept/0", {"sweep": True}),
        ("wandb-1/0", {"command": [*about["command"], "runs=runs/wandb-1"]}),
    ):
        shutil.copytree(first, f"runs/{folder}", copy_function=shutil.copy)
        Path(f"runs/{folder}/data.json").write_text(json.dumps(about | other))
    Path("runs/other/checkpoints").mkdir(parents=True)
    Path("runs/other/checkpoints/last.ckpt").write_text("of something else")
    capsys.readouterr()
    second = goes_on("ckpt=last", "trainer.max_epochs=2")
    assert f"Resumed   runs/{first.relative_to('runs')}/checkpoints/last.ckpt" in capsys.readouterr().out
    before, after = (read_checkpoint(run / "checkpoints/last.ckpt") for run in (first, second))
    assert (before["global_step"], after["global_step"]) == (2, 4)
    for key in ("hyper_parameters", "datamodule_hyper_parameters"):
        assert after[key] == before[key]
    third = goes_on("ckpt=last", "trainer.max_epochs=3")
    assert read_checkpoint(third / "checkpoints/last.ckpt")["global_step"] == 6


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("data.batch_size=5", "data.batch_size=10 there, 5 here"),
        ("data=bapps", "data._target_=perceptual.data.ManifestDataModule there"),
        ("model.dropout=0.1", "model.dropout=0.0 there, 0.1 here"),
        ("model=tune", "model.variant=lin there, tune here"),
        ("backbone.name=resnet18", "backbone.name=test_resnet there, resnet18 here"),
        ("backbone.out_indices=[0,1]", "backbone.out_indices=None there, [0, 1] here"),
        ("averaging=ema", "averaging=None there, ema here"),
        ("seed=1", "model.seed=0 there, 1 here"),
    ],
)
def test_what_contradicts_the_run_is_refused_before_data_are_read(one_run, word, says, monkeypatch, capsys):
    monkeypatch.chdir(one_run)
    message = app.refusal("train.py", "ckpt=last", word, monkeypatch=monkeypatch, capsys=capsys)
    assert says in message


@pytest.fixture(scope="module")
def one_run(tmp_path_factory):
    """A folder with one run, whose data are gone."""
    folder = tmp_path_factory.mktemp("one_run")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        manifest = app.write_manifest(folder / "set", rows=120)
        words = ("data=manifest", "data.path=set/triplets.csv", "data.size=32", "data.batch_size=10", *SMALL)
        app.run("train.py", *words, monkeypatch=monkeypatch)
        manifest.unlink()
    return folder


def test_a_checkpoint_has_any_name_and_place(train, goes_on, tmp_path, monkeypatch):
    checkpoints = train() / "checkpoints"
    named = checkpoints / "epoch=1-step=26 (best), of Übung.ckpt"
    (checkpoints / "last.ckpt").rename(named)
    monkeypatch.setenv("HOME", str(tmp_path))
    for number, ckpt in enumerate((named, f"~/{named}")):
        run = goes_on(f"ckpt={ckpt}", f"trainer.max_epochs={number + 2}")
        assert read_checkpoint(run / "checkpoints/last.ckpt")["global_step"] == 2 * number + 4
    app.run("evaluate.py", f"ckpt=~/{named}", monkeypatch=monkeypatch)


@pytest.mark.parametrize(
    "word",
    [
        *("imports=[theirs]", "backbone._target_=theirs.Net", "+callbacks.x={_target_: theirs.run}"),
        *("+callbacks.x=${oc.decode:theirs}", "model=../../theirs", "data@x.y=../theirs"),
    ],
)
def test_the_folder_of_a_run_does_not_say_what_code_is_run(one_run, tmp_path, word, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(one_run / "runs", "runs")
    (path,) = Path("runs").glob("*/*/data.json")
    about = json.loads(path.read_text())
    path.write_text(json.dumps(about | {"command": [*about["command"], word]}))
    Path("theirs.py").write_text("raise SystemExit('ran')")
    message = app.refusal("train.py", "ckpt=last", monkeypatch=monkeypatch, capsys=capsys)
    assert f"was started with {word}, and no file may say what code is run" in message


@pytest.mark.parametrize(
    "text",
    [
        "[" * 50_000,
        "1",
        '{"command": [1]}',
        '{"command": ["a b=c"]}',
        "x" * 200_000,
        '{"command": "data=bapps"}',
    ],
)
def test_words_of_a_run_that_are_none_are_one_line(one_run, tmp_path, text, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(one_run / "runs", "runs")
    (path,) = Path("runs").glob("*/*/data.json")
    path.write_text(text)
    message = app.refusal("train.py", "ckpt=last", monkeypatch=monkeypatch, capsys=capsys)
    assert "data.json' does not describe a run: " in message
    assert len(message) < 400


def test_of_sweeps_alone_no_run_is_the_last(manifest, monkeypatch, capsys):
    words = ("data=manifest", f"data.path={manifest}", "data.size=32", *SMALL)
    app.run("train.py", "--multirun", *words, "model.lr=0.1", monkeypatch=monkeypatch)
    message = app.refusal("train.py", "ckpt=last", monkeypatch=monkeypatch, capsys=capsys)
    assert "no checkpoint of a run below 'runs'; of the runs of a sweep name one, such as ckpt=" in message


def test_ctrl_c_leaves_a_checkpoint_to_go_on_from(train, monkeypatch, capsys):
    step = PerceptualRanker.training_step

    def interrupted(self, batch, batch_idx):
        if batch_idx == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, batch, batch_idx)

    longer = ("trainer.limit_train_batches=null", "trainer.limit_val_batches=null", "trainer.max_epochs=2")
    expected = read_checkpoint(train(*longer) / "checkpoints/last.ckpt")
    monkeypatch.setattr(PerceptualRanker, "training_step", interrupted)
    with pytest.raises(SystemExit) as stopped:
        train(*longer)
    assert stopped.value.code == 130
    assert "ckpt=last goes on from" in capsys.readouterr().out
    monkeypatch.setattr(PerceptualRanker, "training_step", step)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        run = train("ckpt=last", *longer)
    assert not [w for w in said if "resum" in str(w.message)]
    resumed = read_checkpoint(run / "checkpoints/last.ckpt")
    assert resumed["global_step"] == expected["global_step"] == 18
    assert all(torch.equal(resumed["state_dict"][k], v) for k, v in expected["state_dict"].items())


def test_choices_of_training_go_together(train, averaging):
    choices = (
        "model.ranking=antisymmetric",
        "model.form=pooled",
        "optimizer=adamw",
        "model.schedule=cosine",
        "model.augmentation=[swap]",
        "averaging=ema",
        "stopping=early",
        "model.lin_init=ones",
        "trainer.gradient_clip_val=1",
        "trainer.limit_val_batches=null",
    )
    run = train(*choices)
    saved = read_checkpoint(run / "checkpoints/last.ckpt")
    assert saved["hyper_parameters"]["form"] == "pooled"
    assert "current_model_state" in saved
    assert any(key.startswith("EarlyStopping") for key in saved["callbacks"])
    assert evaluated(run / "checkpoints/last.ckpt") == scores(run)["trained"]


def test_flips_train_on_images(train, capsys):
    run = train("model.augmentation=[flip,swap]", "data.cache=off")
    assert logged(run, "train/loss")


def test_a_loss_that_is_not_finite_is_one_line_and_the_last_checkpoint_stays(
    train, manifest, monkeypatch, capsys
):
    run = train()
    before = {path.name: path.read_bytes() for path in (run / "checkpoints").iterdir()}

    def broken(self, batch, batch_idx):
        return step(self, batch._replace(weight=batch.weight * float("nan")), batch_idx)

    step = PerceptualRanker.training_step
    monkeypatch.setattr(PerceptualRanker, "training_step", broken)
    small = ("data=manifest", f"data.path={manifest}", "data.size=32", *SMALL, "trainer.max_epochs=2")
    message = app.refusal("train.py", *small, "ckpt=last", monkeypatch=monkeypatch, capsys=capsys)
    assert "the loss is nan in step 3, epoch 2" in message
    assert before == {path.name: path.read_bytes() for path in (run / "checkpoints").iterdir()}
    # the resumed run has the best so far, and nothing of its own
    more = [path for path in Path("runs").glob("*/*/checkpoints/*") if path.parts[2] != run.name]
    assert [path.read_bytes() for path in more] == [before["best.ckpt"]]


SLOW = ("unseen_tune", "lpips_alex_tune", "lpips_alex_scratch")  # each shares its way with another


# the others differ from these in a name, see test_config.py
@pytest.mark.parametrize(
    "name", ["lpips_alex_lin", "unseen_lin", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_an_experiment_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for subset in ("traditional", "cnn", "mix"):
        write_subset(tmp_path / "bapps/2afc/train" / subset, 2)
    for subset in ("traditional", "cnn", "superres", "deblur", "color", "frameinterp"):
        # judged 0 and ½: chance alone cannot score below what the guard lets pass
        write_subset(tmp_path / "bapps/2afc/val" / subset, 2)
    for network in NETS:
        write_weights(tmp_path, network)
    monkeypatch.setenv("PERCEPTUAL_WEIGHTS", str(tmp_path))
    small = ["data=bapps", "data.root=bapps", "data.batch_size=6", "trainer=smoke"]
    if name != "unseen_lin":  # views of images are cached
        small.append("data.cache=off")
    app.run("train.py", f"experiment={name}", *small, monkeypatch=monkeypatch)
    (scored,) = tmp_path.glob("runs/*/*/scores.json")
    assert {"traditional", "frameinterp", "mean"} <= json.loads(scored.read_text())["trained"].keys()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("backbone.name=resnet81",), "did you mean resnet18"),
        (("backbone=resnet81",), "error: unknown backbone 'resnet81'; did you mean resnet18"),
        (("data.batchsize=3",), "batchsize"),
        (("data.views=-1",), "data.views must be at least 0, got -1"),
        (("data.views=8", "data.cache=off"), "data.views=8 needs cached features"),
        (("data.views=8", "model=tune"), "data.views=8 needs cached features"),
        (("data.batch_size=fifty",), "fifty"),
        (("data=photo",), "photo"),
        (("model.variant=line",), "line"),
        (("data=manifest", "data.path=nowhere.csv"), "nowhere.csv"),
        (("data=bapps", "data.root=empty"), "empty"),
        (("data=bapps",), "data.root"),
        (("data=tid2013", "data.root=empty"), "data=tid2013 has opinions: they cannot be trained on"),
        (("data=jnd", "data.root=empty"), "data=jnd has pairs that people called the same or not"),
        (("data.batchsize=3",), "there is no key 'data.batchsize'; did you mean data.batch_size"),
        (("data.path=nowhere.csv",), "data.path=… is of a kind of data that was not said: add data=manifest"),
        (("data.jnd=nowhere.csv",), "nowhere.csv"),
        (("ckpt=last",), "no checkpoint of a run below 'runs'"),
        (("ckpt=nowhere.ckpt",), "nowhere.ckpt"),
        (("backbone.weights=nowhere.pth",), "nowhere.pth"),
        (("trainer.max_epochs=ten",), "ten"),
        (("model.lr=-1",), "lr must be positive"),
        (("model.ranking=bce",), "antisymmetric"),
        (("ranking=antisymmetric",), "there is no key 'ranking'"),
        (("nonsense=flip",), "there is no key 'nonsense'"),
        (("optimizer=lion",), "adamw"),
        (("model.form=mean",), "pooled"),
        (("model.lin_init=zeros",), "'zeros', expected one of [random, ones, v0.1, file]"),
        (("model.schedule=cosine", "model.warmup=1"), "warmup must be at least 0 and less than 1, got 1"),
        (("model.augmentation=[flip]",), "model.augmentation=[flip] needs images"),
        (("model.augmentation=[flop]",), "flop"),
        (("+model.augment=1",), "unexpected keyword argument 'augment'; it takes backbone, variant"),
        (("+backbone.aa_layer=blurpc",), "aa_layer"),
        (("runs=/proc/nowhere",), "/proc/nowhere"),
        (("model=lora",), "test_resnet has none"),
        (("trainer.gradient_clip_val=-1",), "gradient_clip_val must be positive, got -1"),
    ],
)
def test_each_mistake_is_one_line(tmp_path, monkeypatch, capsys, arguments, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    base = ("data.count_train=4", "data.count_val=4") if not arguments[0].startswith("data=") else ()
    message = app.refusal("train.py", *base, *SMALL, *arguments, monkeypatch=monkeypatch, capsys=capsys)
    assert says in message


@pytest.mark.parametrize("argument", ["model.lr=-1", "model.dropout=2", "trainer.max_epochs=-3"])
def test_a_value_out_of_range_is_refused_before_data_are_read(tmp_path, monkeypatch, capsys, argument):
    monkeypatch.chdir(tmp_path)
    unread = ("data=manifest", "data.path=nowhere.csv", *SMALL, argument)
    message = app.refusal("train.py", *unread, monkeypatch=monkeypatch, capsys=capsys)
    assert argument.split("=")[0].rpartition(".")[2] in message
    assert "nowhere" not in message


@pytest.mark.parametrize(
    ("script", "words", "says"),
    [
        ("train.py", ("backbone.name=test_resnet", "trainer=smoke"), "no weights for test_resnet"),
        ("evaluate.py", ("methods=[test_resnet,nonsense]",), "test_resnet: no weights for test_resnet"),
        ("evaluate.py", ("methods=[test_resnet,nonsense]",), "; nonsense: unknown method 'nonsense'"),
    ],
)
def test_weights_that_are_missing_are_missed_before_data_are_read(
    script, words, says, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    unread = ("data=manifest", "data.path=nowhere.csv", *words)
    message = app.refusal(script, *unread, monkeypatch=monkeypatch, capsys=capsys)
    assert says in message
    assert "nowhere" not in message


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda image: image.write_bytes(image.read_bytes()[:200]), "3.png"),
        (lambda image: Image.new("RGB", (1, 1)).save(image), "3.png"),
        (lambda image: image.unlink(), "3.png"),
        (lambda image: image.write_text("no image"), "3.png"),
    ],
    ids=["truncated", "one pixel", "missing", "text"],
)
def test_a_bad_image_is_named_before_training(manifest, monkeypatch, capsys, spoil, says):
    spoil(manifest.parent / "3.png")
    arguments = ("data=manifest", f"data.path={manifest}", *SMALL)
    assert says in app.refusal("train.py", *arguments, monkeypatch=monkeypatch, capsys=capsys)
    assert not list(manifest.parents[1].glob("runs/**/*.ckpt"))


def test_a_checkpoint_of_another_backbone_is_refused(train, manifest, monkeypatch, capsys):
    ckpt = train() / "checkpoints/last.ckpt"
    arguments = ("data=manifest", f"data.path={manifest}", *SMALL, "backbone.name=resnet18", f"ckpt={ckpt}")
    message = app.refusal("train.py", *arguments, monkeypatch=monkeypatch, capsys=capsys)
    assert "test_resnet" in message
    assert "resnet18" in message


@pytest.mark.parametrize(
    ("word", "kind"), [("data.path=x.csv", "data=manifest"), ("data.root=x", "data=bapps")]
)
def test_evaluate_says_which_data_a_key_is_of(word, kind, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    message = app.refusal("evaluate.py", word, monkeypatch=monkeypatch, capsys=capsys)
    assert f"was not said: add {kind}" in message


def test_evaluate_refuses_what_is_no_checkpoint(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("x.ckpt").write_text("text")
    for argument in ("ckpt=x.ckpt", "ckpt=nowhere.ckpt", "methods=[alexnett]"):
        message = app.refusal("evaluate.py", argument, monkeypatch=monkeypatch, capsys=capsys)
        assert argument.split("=")[1].strip("[]") in message


@pytest.mark.parametrize(
    "name",
    [
        "convnext_atto",
        pytest.param("swin_tiny_patch4_window7_224", marks=pytest.mark.slow),
        pytest.param("vit_tiny_patch16_224", marks=pytest.mark.slow),
        pytest.param("vit_small_patch14_dinov2", marks=pytest.mark.slow),
        "resnet18",
        pytest.param("efficientnet_lite0", marks=pytest.mark.slow),
    ],
)
def test_any_backbone_trains_by_its_name(train, name):
    run = train(f"backbone={name}", "data.size=64", "data.batch_size=2")
    assert logged(run, "train/loss")


def test_brackets_in_names_are_said(train, manifest, monkeypatch, capsys):
    """Rich would take them for markup, and leave them out."""
    run = train("backbone='test_resnet[aa_layer=blurpc]'", "hydra.run.dir='runs/of today/[bold]'")
    said = capsys.readouterr().out
    assert "Backbone  test_resnet[aa_layer=blurpc], weights random" in said
    assert f"Run       {run.resolve()}" in said
    assert run.name == "[bold]"
    words = ("data=manifest", f"data.path={manifest}", "data.size=32", "results='[red]'")
    app.run("evaluate.py", *words, "methods=['test_resnet[aa_layer=blurpc]-random']", monkeypatch=monkeypatch)
    said = capsys.readouterr().out
    assert "test_resnet[aa_layer=blurpc]-random" in said
    assert "[red]/" in said
