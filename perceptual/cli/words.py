"""Words of the command line of train.py and evaluate.py, before Hydra reads them.

What Hydra's grammar can read is left to it: lists, sweeps `a,b,c` of a multirun, `${…}`, quoted values. The
value of a path, and any value that the grammar cannot read, is taken as it is typed. `~` is the home folder.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, Quote, QuotedString
from hydra.errors import HydraException

from perceptual.features.networks import check_name
from perceptual.files.messages import first_line
from perceptual.files.records import check_record

# the last part of keys that name a place
PLACES = ("ckpt", "suite", "results", "runs", "run_dir", "path", "root", "jnd", "weights", "dir", "dirpath")
# the last part of keys that no file says: where a run writes
NOT_OF_A_FILE = ("ckpt", "runs", "run_dir", "dirpath", "default_root_dir")
ABOUT = "data.json"  # in the folder of a run; the words of a command that was refused are not in it
NO_RUN = "{!r} does not describe a run"
SEPARATE = r",(?![^\[(]*[\])])"  # commas outside of brackets


def as_typed(words: Sequence[str]) -> list[str]:
    """Words that Hydra reads as the person who typed them means them."""
    sweep = any(word in ("-m", "--multirun") for word in words)
    return [_word(word, sweep) for word in words]


def _word(word: str, sweep: bool) -> str:
    match = re.fullmatch(r"(\+{0,2}[\w./@$]+)=(.*)", word, re.DOTALL)
    if not match:
        return word
    key, value = match.groups()
    if value == "None":  # as Weights & Biases hands a setting back
        return f"{key}=null"
    if (read := _read(value)) and (sweep or read[0] in (str, type(None)) or not _is_place(key)):
        return word
    if value.startswith("[") and value.endswith("]") and not _is_place(key):
        return f"{key}=[{_each(value[1:-1])}]"
    return f"{key}={_each(value) if sweep else _quoted(value)}"


def by_name(words: Sequence[str]) -> list[str]:
    """Write `backbone.name=NAME` for `backbone=NAME`.

    Raises:
        ValueError: no network has that name, with the nearest ones.
    """
    own = any(word.startswith("imports=") for word in words)  # may register networks with timm
    return [_by_name(word, own) if word.startswith("backbone=") else word for word in words]


def _by_name(word: str, own: bool) -> str:
    override = _parsed(word)
    value = override.value() if override else None
    listed = value.list if isinstance(value, ChoiceSweep) else [value]
    texts = [one.text if isinstance(one, QuotedString) else one for one in listed]
    names = [one for one in texts if isinstance(one, str)]
    if not names or len(names) < len(texts):
        raise ValueError(f"{word}: a backbone is chosen by the name of a network")
    for name in names:
        if not own:
            check_name(name)
    return f"backbone.name={word.partition('=')[2]}"


def _each(values: str) -> str:
    return ",".join(one if _read(one) else _quoted(one.strip()) for one in re.split(SEPARATE, values))


def _read(value: str) -> tuple[type] | None:
    """Return the type that Hydra reads a value as; None if it cannot."""
    try:
        return (type(OverridesParser.create().parse_override(f"key={value}").value()),)
    except HydraException:
        return None


def _quoted(value: str) -> str:
    return QuotedString(os.path.expanduser(value), Quote.single).with_quotes()


def _is_place(key: str) -> bool:
    return re.split(r"[./]", key)[-1].lstrip("+") in PLACES


def resumed(words: Sequence[str]) -> list[str]:
    """Words of train.py, with those that the run of `ckpt=…` was started with and that were not said again.

    `ckpt=last` becomes the path of a checkpoint, see `newest`. A checkpoint that lies in no folder of a run
    brings no words. Where a run writes, and what code it runs, no file says.

    Raises:
        FileNotFoundError: `ckpt=last` where there is no run to go on with.
        ValueError: the folder does not list words, or code that was not named again.
    """
    ours = {word: one for word in words if (one := _parsed(word))}
    said = {_key(one): one for one in ours.values()}
    ckpt = said["ckpt"].value() if "ckpt" in said else None
    if not isinstance(ckpt, str):
        return list(words)
    if ckpt == "last":
        ckpt = newest(str(said["runs"].value()) if "runs" in said else "runs")
        words = [f"ckpt={_quoted(ckpt)}" if word.startswith("ckpt=") else word for word in words]
    theirs = words_of(Path(ckpt))
    # the data of another kind have other settings, and so has another logger
    other = [key for key, one in said.items() if key not in theirs or theirs[key].value() != one.value()]
    elsewhere = ("hydra", *(f"{key}." for key in other if key != "trainer"))
    kept = [
        one
        for key, one in theirs.items()
        if key not in said and not key.startswith(elsewhere) and key.rpartition(".")[2] not in NOT_OF_A_FILE
    ]
    if code := [str(one.input_line) for one in kept if _runs_code(one)]:
        raise ValueError(
            f"the run of {ckpt} was started with {' '.join(code)}, and no file may say what code is run: "
            "say it again"
        )
    flags = [word for word in words if word not in ours and not word.startswith("ckpt=")]
    return [*flags, *(str(one.input_line) for one in kept), *(word for word in words if word not in flags)]


def newest(runs: str) -> str:
    """Find the newest checkpoint of a run of train.py below a folder; runs of a sweep are passed over.

    So are runs that were given a folder of their own below it (`runs=runs/other`): those of a sweep of
    Weights & Biases.

    Raises:
        FileNotFoundError: there is none.
    """
    found = sorted(Path(runs).glob("**/checkpoints/last.ckpt"), key=lambda path: -path.stat().st_mtime)
    passed = []
    for path in found:
        run = path.parents[1]
        if not (run / ABOUT).is_file():
            continue
        theirs = words_of(path)
        own = "runs" in theirs and _is_below(str(theirs["runs"].value()), runs)
        if not own and not _about(run / ABOUT).sweep:
            return str(path)
        passed.append(path)
    hint = f"; of the runs of a sweep name one, such as ckpt={passed[0]}" if passed else ""
    raise FileNotFoundError(f"ckpt=last, but there is no checkpoint of a run below {runs!r}{hint}")


def words_of(ckpt: Path) -> dict[str, Override]:
    """Return the words that started the run of a checkpoint, by their keys; none outside a run's folder.

    Raises:
        ValueError: naming the file that should list them.
    """
    folder = ckpt.expanduser().absolute().parent
    path = (folder if (folder / ABOUT).is_file() else folder.parent) / ABOUT
    if not path.is_file():
        return {}
    try:
        return {_key(one): one for one in OverridesParser.create().parse_overrides(_about(path).command)}
    except HydraException as error:
        raise ValueError(f"{NO_RUN.format(str(path))}: {first_line(error)}") from None


@dataclass
class About:
    """Description of a run in its folder."""

    command: list[str] = field(default_factory=list)
    sweep: bool = False


def _about(path: Path) -> About:
    return check_record(path.read_bytes(), About, NO_RUN.format(str(path)), "name a checkpoint elsewhere")


def _parsed(word: str) -> Override | None:
    """Read a word as Hydra does; None for a flag."""
    try:
        return None if word.startswith("-") else OverridesParser.create().parse_override(word)
    except HydraException:
        return None


def _runs_code(override: Override) -> bool:
    """Return whether a word imports code, or could: by a resolver, or by a file outside `conf/`."""
    word, key = str(override.input_line), override.key_or_group
    value = word.partition("=")[2]
    resolves = re.search(r"\$\{[^}]*:", value) is not None
    return key == "imports" or "_target_" in word or resolves or ("." not in key and "/" in value)


def _key(override: Override) -> str:
    at = f"@{override.package}" if override.package else ""
    return f"{override.key_or_group}{at}"


def _is_below(path: str, folder: str) -> bool:
    one, other = (Path(os.path.normpath(os.path.expanduser(place))) for place in (path, folder))
    return one != other and one.is_relative_to(other)
