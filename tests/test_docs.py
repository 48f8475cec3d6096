"""What README and docs/ say: Python blocks run, and commands have the options and keys that they name."""

import configparser
import csv
import re
import shlex
from itertools import chain
from pathlib import Path

import pytest
import torch
import typer
from hydra import compose, initialize_config_dir
from networks import NETS, write_weights

from benchmarks import figures
from perceptual.cli import app
from perceptual.cli.errors import with_arguments
from perceptual.cli.words import by_name
from perceptual.config import register

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]

VARIED = ("seed=", "results=", "methods=", "backbone=", "backbone.", "--backbone", "trainer.max_epochs=")
SLOW = {"export"}  # the exporters of PyTorch take their time


def blocks(page, language):
    """Code of a language on a page, with the number of its first line."""
    text = page.read_text("utf-8")
    for match in re.finditer(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        yield text[: match.start(1)].count("\n"), match[1]


def name(page):
    return str(page.relative_to(ROOT))


def with_blocks(language):
    pages = [page for page in PAGES if any(blocks(page, language))]
    return [
        pytest.param(page, id=name(page), marks=[pytest.mark.slow] * (page.stem in SLOW)) for page in pages
    ]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder for PERCEPTUAL_WEIGHTS with random weights of the three networks of LPIPS."""
    folder = tmp_path_factory.mktemp("weights")
    for backbone in NETS:
        write_weights(folder, backbone)
    return folder


@pytest.mark.parametrize("page", with_blocks("python"))
def test_python_runs_from_the_top_of_a_page(page, weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PERCEPTUAL_WEIGHTS", str(weights))
    torch.manual_seed(0)
    names = {"__name__": "__main__"}
    for line, code in blocks(page, "python"):
        # as many lines in front as on the page, so that a traceback names the right one
        exec(compile("\n" * line + code, str(page), "exec"), names)


def commands(page):
    """Commands of a page's shell blocks, as lists of words; `…` stands for something left out."""
    for _, code in blocks(page, "bash"):
        for line in code.replace("\\\n", " ").splitlines():
            for part in line.split(" && "):
                words = shlex.split(part, comments=True)
                while words and re.fullmatch(r"\w+=\S*", words[0]):
                    words.pop(0)
                if words:
                    yield words


CALLS = [
    pytest.param(words, id=f"{name(page)}: {' '.join(words)[:60]}")
    for page in PAGES
    for words in commands(page)
]


def check_perceptual(words):
    command, words = typer.main.get_command(app), list(words)
    if words[0] == "--import":
        words = words[2:]
    while hasattr(command, "commands"):
        assert words[0] in command.commands, f"no command {words[0]}"
        command = command.commands[words.pop(0)]
    known = set(chain.from_iterable([*p.opts, *p.secondary_opts] for p in command.params)) | {"-h", "--help"}
    assert {word.partition("=")[0] for word in words if word.startswith("-")} <= known


def check_hydra(script, overrides):
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        words = [word.replace("…", "x") for word in overrides]  # what was left out may be anything
        # of the values of a sweep the first; composing has no part of Hydra's own configuration
        words = [re.sub(r"(=\[[^\]]*\]|=[^\[{,]*),.*", r"\1", word) for word in words]
        words = with_arguments(by_name([word for word in words if not word.startswith("-")]))
        compose(script, [word for word in words if not word.startswith(("-", "hydra/", "hydra."))])


def check_make(targets):
    known = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(targets) <= set(known)


def check_python(words):
    if words[0] == "-m" and words[1] != "pytest":
        assert (ROOT / (words[1].replace(".", "/") + ".py")).is_file()
    elif words[0] == "-m":
        assert all((ROOT / word).exists() for word in words if word.startswith("tests/"))
    elif words[0] in ("train.py", "evaluate.py"):
        check_hydra(words[0].removesuffix(".py"), words[1:])
    else:
        source = (ROOT / words[0]).read_text()
        assert all(f'"{word}"' in source for word in words[1:] if word.startswith("-"))


@pytest.mark.parametrize("words", CALLS)
def test_commands_exist_with_their_options(words):
    program, *rest = words
    if program == "srun":  # runs what follows, once per task
        program, *rest = rest
    program = program.removeprefix(".venv/bin/")
    checks = {"perceptual": check_perceptual, "python": check_python, "make": check_make}
    if program in checks:
        checks[program](rest)
    else:
        assert program in {"pip", "export", "git", "cd", "hf", "tensorboard", "wandb", "pre-commit"}, (
            f"what is {program}?"
        )


PUBLISHED = (
    False  # whether the package index has it; set by the first release, which may then install by name
)


def installs():
    """What pages, sources and configurations say to install, with the file that says it."""
    files = [
        *PAGES,
        *ROOT.glob("perceptual/**/*.py"),
        *ROOT.glob("callbacks/*.py"),
        *ROOT.glob("conf/**/*.yaml"),
    ]
    for path in files:
        text = path.read_text("utf-8")
        for line in re.findall(r"pip install ([^#\n;]*)", text):
            for word in re.findall(r"[\w.-]+(?:\[[\w,]+\])?", line.split(" && ")[0].split("`")[0]):
                yield word, path
        yield from ((word, path) for word in re.findall(r"'(\.\[[\w,]+\])'", text))


def test_what_is_installed_exists():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    ours, extras = setup["metadata"]["name"], setup["options.extras_require"]
    named = {}
    for word, path in installs():
        package, _, extra = word.rstrip("]").partition("[")
        there = package != "perceptual" and (PUBLISHED or package != ours)
        assert there, f"{path} installs {word}, which is not there"
        if package in (".", ours):
            named |= dict.fromkeys(filter(None, extra.split(",")), path)
    assert {"video", "onnx", "lora", "sweeps", "collect", "postgresql"} <= named.keys()
    assert named.keys() <= set(extras), {key: str(named[key]) for key in named.keys() - set(extras)}


def test_every_file_that_a_page_names_exists():
    for page in PAGES:
        text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
        for path in re.findall(
            r"`((?:perceptual|conf|examples|benchmarks|tests|docs|callbacks)/[\w./*-]+)`", text
        ):
            assert list(ROOT.glob(path.rstrip("/"))), f"{name(page)} names {path}"


def test_the_front_page_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 140


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{name(page)} links to {target}"


def test_every_page_is_in_the_navigation():
    nav = (ROOT / "mkdocs.yml").read_text()
    for page in PAGES[2:]:
        assert str(page.relative_to(ROOT / "docs")) in nav


def test_the_reference_has_what_it_names():
    """As mkdocstrings finds it: statically, what is inherited only where that is said."""
    griffe = pytest.importorskip("griffe", reason="pip install -e '.[docs]'")
    loaded = griffe.load("perceptual", search_paths=[ROOT], resolve_aliases=True)
    text = (ROOT / "docs/reference.md").read_text()
    for name, options in re.findall(r"^::: perceptual\.([\w.]+)\n((?: +.*\n)*)", text, re.MULTILINE):
        here = loaded[name]
        own = set(here.members)
        for key, listed in re.findall(r"(inherited_members|members): \[([^]]*)\]", options):
            members = set(re.split(r",\s*", listed))
            if key == "inherited_members":
                assert members <= set(here.inherited_members), f"{name} inherits no {members}"
                own |= members
            else:
                assert members <= own, f"{name} has no {members - own}"
                assert not [m for m in members if m in here.members and here.members[m].is_module]


def test_examples_are_where_the_reference_shows_them_as_code():
    """Elsewhere in a docstring, Markdown reads `>>>` as three quotes."""
    for path in ROOT.glob("perceptual/**/*.py"):
        text = path.read_text("utf-8")
        sections = re.findall(r"^( *)Examples:\n((?:\1 +\S.*\n)+)", text, re.MULTILINE)
        assert text.count(">>> ") == sum(body.count(">>> ") for _, body in sections), path


PLACES = {place: step for step in figures.STEPS.values() for place in step.pictures}


@pytest.mark.parametrize("path", sorted((ROOT / "docs").rglob("*.png")), ids=lambda path: path.name)
def test_every_picture_has_a_command_on_its_page(path):
    assert str(path.relative_to(ROOT / "docs")) in PLACES
    assert any(path.name in page.read_text("utf-8") for page in PAGES)


@pytest.mark.parametrize("name", figures.STEPS)
def test_what_makes_figures_stands_on_the_page(name):
    """All words but those that say where to write, which seed, and which of many methods."""
    page = list(commands(ROOT / "docs" / figures.STEPS[name].page))
    for command in figures.STEPS[name].commands:
        words = {word for word in shlex.split(command) if "HERE" not in word and not word.startswith(VARIED)}
        words -= {"--output", "--out", "-o", "--plots", "--runs", *figures.NETS}
        assert any(words <= set(line) for line in page), command


def test_figures_continue_and_say_which_data_are_absent(tmp_path, monkeypatch, capsys):
    steps = {  # stand-ins, of which nothing is shown on a page
        "fails": figures.Step("x.md", ["python -c 1/0"]),
        "absent": figures.Step("x.md", ["python evaluate.py data.path=path/to/nothing/triplets.csv"]),
        "counts": figures.Step(
            "x.md", [f"""python -c "open(r'{tmp_path}/count', 'a').write('1'); print(22)" """, "python -V"]
        ),
    }
    monkeypatch.setattr(figures, "STEPS", steps)
    monkeypatch.setattr("sys.argv", ["figures", "--build", str(tmp_path / "build")])
    for assets in (None, str(tmp_path)):
        monkeypatch.setenv("PERCEPTUAL_ASSETS", assets) if assets else monkeypatch.delenv(
            "PERCEPTUAL_ASSETS", raising=False
        )
        with pytest.raises(SystemExit, match="1"):
            figures.main()
        said = capsys.readouterr().out
        assert "fails        failed, see " in said
        assert "counts       done" in said
        missing = f"no {tmp_path}/nothing/triplets.csv" if assets else "PERCEPTUAL_ASSETS is not set"
        assert f"absent       data are absent: {missing}" in said
    assert (tmp_path / "count").read_text() == "1"
    assert "\n22\n" in (tmp_path / "build/counts/00.txt").read_text()


def test_every_third_scene_is_held_out(tmp_path):
    rows = [f"{name}.png,a.png,b.png,1" for name in "ddcbfea"]
    (tmp_path / "m.csv").write_text("\n".join(["ref,p0,p1,judge", *rows]) + "\n")
    figures.split(tmp_path / "m.csv", tmp_path / "split.csv")
    with (tmp_path / "split.csv").open() as file:
        found = {(Path(row["ref"]).stem, row["split"]) for row in csv.DictReader(file)}
    assert found == {(name, "val" if name in "ad" else "train") for name in "abcdef"}
