"""`--help` of train.py and evaluate.py, and keys that are misspelt, read from conf/ and the schemas' sources.

The schemas take defaults from the signatures of what they configure; importing those takes many seconds of
PyTorch and Lightning, so they are read without being run.
"""

import ast
import difflib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from perceptual.cli.errors import one_line_errors, write_anything

ROOT = Path(__file__).parents[2]
CONFIG = "perceptual.config"  # the module of the schemas
SHOWN = ("data", "backbone", "model", "trainer", "robust")  # groups whose keys are listed
UNREAD = "…"  # a default that is computed
REQUIRED = "???"


def answer(script: str, words: Sequence[str]) -> None:
    """Print the help of a script and exit, if its arguments ask for that; refuse a key that is misspelt.

    Args:
        script: its file, beside `conf/`.
        words: its arguments.
    """
    with one_line_errors():
        if {"--help", "-h"} & set(words):
            write_anything()
            lines = _lines(Path(script), dict(word.partition("=")[::2] for word in words))
            print("\n".join(lines), flush=True)
            sys.exit()
        _check_keys(Path(script), words)


def _check_keys(script: Path, words: Sequence[str]) -> None:
    """Check the keys of the groups that have a schema; Hydra knows the others, and values."""
    groups, typed = _groups(script)
    for word in words:
        name, said, _ = word.partition("=")
        group, within, rest = name.partition(".")
        key = rest.partition(".")[0] if within else group
        if not said or not name[0].isalpha() or "/" in name or "@" in name:
            continue  # of Hydra's own language
        if not within:
            known = {*groups, *keys(_conf(script), f"{script.stem}.yaml")}
        elif group == "data":
            known = {one.name for schema in _data().values() for one in fields(schema)}
        elif group in typed and not any(other.startswith(f"{group}._target_=") for other in words):
            known = {*keys(_conf(script), group)}
        else:
            continue
        if key not in known and not key.startswith("_"):
            near = difflib.get_close_matches(key, known, n=1)
            meant = f"; did you mean {name.removesuffix(rest or name)}{near[0]}" if near else ""
            raise ValueError(f"there is no key {name!r}{meant}; `--help` lists them")


def _conf(script: Path) -> Path:
    return script.parent / "conf"


def _groups(script: Path) -> tuple[dict[str, str | None], set[str]]:
    """Return the choice of each group, and the groups with a schema that all their choices share."""
    groups: dict[str, str | None] = {}
    typed = set()
    for entry in _yaml(_conf(script) / f"{script.stem}.yaml")["defaults"]:
        if isinstance(entry, dict):
            groups |= {name: word for name, word in entry.items() if " " not in name}
        else:
            typed.add(entry.rpartition("@")[2])
    return groups, typed


def _lines(script: Path, chosen: dict[str, str]) -> Iterator[str]:
    groups, typed = _groups(script)
    conf = _conf(script)
    groups = {name: chosen.get(name, word) for name, word in groups.items()}
    yield f"python {script.name} [group=choice] [key=value]"
    yield "\nGroups and their choices; what is in brackets holds now"
    for group, word in groups.items():
        shown = [f"[{name}]" if name == word else name for name in choices(conf, group)]
        yield f"  {group:10} {' '.join(shown)}"
    if script.stem == "train":
        yield "\nSweeps: --multirun with several values (model.lr=1e-3,1e-4), or one of"
        for folder in ("sweep", "hydra/launcher", "hydra/sweeper"):
            yield f"  {'+' * (folder == 'sweep')}{folder}={'|'.join(choices(conf, folder))}"
    yield "\nKeys"
    yield from _keys("", keys(conf, f"{script.stem}.yaml"), {*groups, *typed})
    for group in SHOWN:
        word = groups.get(group)
        if word and word not in choices(conf, group):
            raise ValueError(f"there is no {group}={word}; --help without it lists the choices")
        found = keys(conf, group) if group in typed else {}
        about = f"{group}={word}" if word else group
        if word and group == "data":
            about += f": {_data()[word].__doc__}"
            for one in fields(_data()[word]):
                default = one.default_factory() if callable(one.default_factory) else one.default
                found[one.name] = (getattr(default, "name", default), one.metadata["said"])
        elif word:
            path = f"{group}/{word}.yaml"
            found = found | {key: (value, found[key][1]) for key, (value, _) in keys(conf, path).items()}
            about += f": {(conf / path).read_text('utf-8').splitlines()[0].lstrip('# ')}"
        elif group == "backbone" and found:
            if network := chosen.get("backbone"):
                found["name"] = (network, "")
            about = f"backbone={found['name'][0]}: Any network by its name."
        if found:
            yield f"\nKeys of {about}"
            yield from _keys(f"{group}.", found, set())
    if "data" in groups and not groups["data"]:
        yield "\nWith data=…, --help lists its keys."
    yield "\n--cfg job prints all that a command line composes; --hydra-help, Hydra's own options."


def choices(conf: Path, group: str) -> list[str]:
    """Names of the choices of a group: files of a folder `conf`, and schemas of `data`."""
    return sorted(_data() if group == "data" else (path.stem for path in (conf / group).glob("*.yaml")))


def _keys(prefix: str, found: dict[str, tuple[Any, str]], left_out: set[str]) -> Iterator[str]:
    for key, (value, comment) in found.items():
        if key not in left_out and not key.startswith("_"):
            shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else value
            comment = "required" if value == REQUIRED else comment
            yield (f"  {prefix}{key}={shown}".ljust(40) + (f" # {comment}" if comment else "")).rstrip()


def keys(conf: Path, path: str) -> dict[str, tuple[Any, str]]:
    """Default and comment of each key of a file of a folder `conf`, or of the schema of a group."""
    if not path.endswith(".yaml"):
        return _of_class(f"{path.capitalize()}Config")
    found: dict[str, tuple[Any, str]] = {}
    said = _yaml(conf / path)
    for entry in said.pop("defaults", []):
        if isinstance(entry, str) and entry.startswith("/schema/") and entry.endswith("@_here_"):
            found |= keys(conf, entry.partition("@")[0].rpartition("/")[2])
    said.pop("hydra", None)
    return found | {key: (value, found.get(key, (None, ""))[1]) for key, value in said.items()}


def _yaml(path: Path) -> dict[str, Any]:
    import yaml

    return yaml.safe_load(path.read_text("utf-8")) or {}


@cache
def _source(module: str) -> tuple[ast.Module, list[str]]:
    path = ROOT / (module.replace(".", "/") + ".py")
    text = path.read_text("utf-8")
    return ast.parse(text), text.splitlines()


def _data() -> dict[str, Any]:
    """Return the schemas of the choices of `data`, which import nothing heavy."""
    from perceptual.data.schemas import SCHEMAS

    return SCHEMAS


def _of_class(schema: str) -> dict[str, tuple[Any, str]]:
    """Return the default and comment of each key of a class of `perceptual.config`."""
    node, text = _definition(CONFIG, schema)[1], _source(CONFIG)[1]
    assert isinstance(node, ast.ClassDef)
    found: dict[str, tuple[Any, str]] = {}
    for line in node.body:
        if isinstance(line, ast.AnnAssign):
            comment = text[(line.end_lineno or line.lineno) - 1].partition("  # ")[2]
            found[ast.unparse(line.target)] = (_value(CONFIG, line.value), comment.partition("type: ")[0])
    return found


def _definition(module: str, name: str) -> tuple[str, ast.AST | None]:
    """Find the module that defines a name, through imports, and the definition."""
    for node in _source(module)[0].body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("perceptual"):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _definition(node.module, alias.name)
        elif isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return module, node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if ast.unparse(target) == name:
                return module, node.value
    return module, None


def _value(module: str, node: ast.AST | None) -> Any:
    """Evaluate an expression of a schema; `UNREAD` if it is computed in other ways than these."""
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id="MISSING"):
            return REQUIRED
        case ast.Name(id="list" | "dict" as name):
            return [] if name == "list" else {}
        case ast.Name(id=name):
            return _value(*_definition(module, name))
        case ast.List() | ast.Tuple() | ast.UnaryOp():
            value = ast.literal_eval(node)
            return list(value) if isinstance(value, tuple) else value
        case ast.Call(func=ast.Name(id="field"), keywords=[ast.keyword(value=made)]):
            return _value(module, made)
        case ast.Call(func=ast.Name(id="default_of"), args=[ast.Name(id=function), ast.Constant(value=name)]):
            return _default(*_definition(module, function), str(name))
        case ast.Call(func=ast.Name(id="get_args"), args=[values]):
            return _value(module, values)
        case ast.Subscript(value=ast.Name(id="Literal"), slice=values):
            return list(ast.literal_eval(values))
        case ast.Subscript(slice=ast.Constant(value=int(place)), value=values):
            return _value(module, values)[place]
        case ast.Subscript(slice=word):  # a member of an enumeration, by its name
            return _value(module, word)
    return UNREAD


def _default(module: str, node: ast.AST | None, name: str) -> Any:
    """Return the default of an argument of a class."""
    if isinstance(node, ast.ClassDef):
        (init,) = (n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__")
        pairs = zip(init.args.args[::-1], init.args.defaults[::-1], strict=False)
        return next((_value(module, value) for one, value in pairs if one.arg == name), UNREAD)
    return UNREAD
