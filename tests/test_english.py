"""Plain English wherever a person reads: pages, docstrings, comments, messages, help and settings."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# what a private dialect said, and what the field says
IDIOMS = {
    r"by choice": "optionally",
    r"tells? of": "covers, describes",
    r"of one's own": "custom, your own",
    r"at hand": "available",
    r"could not be had": "we had no access",
    r"asks? for no gradient": "does not require a gradient",
    r"learnt by heart": "memorised",
    r"what befalls": "augmentations",
    r"dear": "expensive",
    r"the machine's affair": "machine-specific",
    r"(can|could) be told from (it|the best)": "no significant difference",
    r"cannot be told from": "does not differ significantly from",
    r"for whom": "who it is for",
    r"\d+ (bytes|numbers|triplets|images|seconds|minutes|pixels|MB|kB|ms) an? \w+": "per",
    r"(once|pass|thread|file|worker|bytes) an? (image|core|triplet|batch|level|subset|run|task)": "per",
    r"(triplets|images|pairs|frames) a second": "per second",
}
FILES = sorted(
    path
    for pattern in (
        "*.md",
        "docs/**/*.md",
        "**/*.py",
        "conf/**/*.yaml",
        "Makefile",
        "setup.cfg",
        "*.toml",
        ".github/**/*",
    )
    for path in ROOT.glob(pattern)
    if path.is_file()
    and not {".venv", "build", ".git", "runs", "multirun", "results"}
    & set(path.relative_to(ROOT).parts[:-1]) - {"docs"}
    and path != Path(__file__)
)


def prose(path):
    """Text of a file with its line breaks and marks of comments as spaces."""
    text = path.read_text("utf-8")
    text = re.sub(r"^\s*#+ ?", "", text, flags=re.MULTILINE)
    return re.sub(r"\s+", " ", text)


def test_the_files_are_found():
    names = {path.name for path in FILES}
    assert {"README.md", "lpips.py", "train.py", "sweeps.md", "lora.yaml", "Makefile"} <= names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_idiom_of_ours(path):
    text = prose(path)
    for idiom, plain in IDIOMS.items():
        found = re.search(rf"\b{idiom}\b", text, re.IGNORECASE)
        assert not found, f"{text[max(0, found.start() - 40) : found.end() + 40]!r}: say {plain}"
