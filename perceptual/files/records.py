"""JSON of ours: valid when written, and read by a schema whose fields say what is allowed; YAML of people."""

import json
import math
from pathlib import Path
from typing import Any, TypeVar

from perceptual.files.messages import first_line

Record = TypeVar("Record")
# of a YAML file, with aliases written out: what people write is far below, and more could take all memory
BYTES, DEPTH, NODES = 2**17, 20, 10_000


def read_record(path: Any, schema: type[Record], remedy: str) -> Record:
    """Read a JSON file and check its types, its ranges and that no field is missing.

    Args:
        path: a `Path`, or an object that behaves as one, see `perceptual.files.places`.
        schema: what pydantic checks it by.
        remedy: ends the message, such as "pack it again".

    Raises:
        ValueError: naming the file, the field and what came.
        FileNotFoundError: there is no such file.
    """
    return check_record(path.read_bytes(), schema, path, remedy)


def check_record(content: bytes | str, schema: type[Record], what: Any, remedy: str) -> Record:
    """Read JSON that is part of another file, which `what` names in errors, as `read_record` reads a file."""
    from pydantic import TypeAdapter, ValidationError  # takes a while, and most commands read no record

    try:
        return TypeAdapter(schema).validate_json(content, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        field = ".".join(map(str, first["loc"]))
        came = repr(first["input"])
        came = "" if first["type"] == "missing" else f", got {came if len(came) < 60 else came[:60] + '…'}"
        raise ValueError(f"{what}: {field + ': ' if field else ''}{first['msg']}{came}; {remedy}") from None


def read_yaml(path: Path) -> Any:
    """Read a YAML file as plain values; interpolations stay as they are.

    Raises:
        ValueError: it is not YAML in UTF-8, or too large, too deep or too often an alias; names the file.
        FileNotFoundError: there is no such file.
    """
    import yaml
    from omegaconf import OmegaConf

    if path.stat().st_size > BYTES:
        raise ValueError(f"{path} must have at most {BYTES:,} bytes, got {path.stat().st_size:,}")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} must be text in UTF-8; save it as such") from None
    try:
        if problem := _too_much(text):
            raise ValueError(problem)
        return OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"{path} cannot be read as YAML{line}: {error.problem}") from None
    except Exception as error:  # of numbers, dates and keys that YAML knows and nobody uses
        first = first_line(error)
        raise ValueError(f"{path} cannot be read as YAML: {first}") from None


def _too_much(text: str) -> str | None:
    """Say why a YAML text could take all memory or stack with its aliases written out; None if it cannot."""
    import yaml

    nodes, begun, sizes = 0, list[tuple[str | None, int]](), dict[str, int]()
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                return f"the alias *{event.anchor} is not defined above it, or contains itself"
            nodes += sizes[event.anchor]
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = begun.pop()
            sizes |= {anchor: nodes - before} if anchor else {}
        elif isinstance(event, yaml.NodeEvent):
            sizes |= {event.anchor: 1} if event.anchor else {}
            if isinstance(event, yaml.CollectionStartEvent):
                begun.append((event.anchor, nodes))
                sizes.pop(event.anchor, None)
            nodes += 1
        if len(begun) > DEPTH:
            return f"it must be nested at most {DEPTH} deep"
        if nodes > NODES:
            return f"it must hold at most {NODES:,} values, those of aliases counted each time"
    return None


def to_json(value: Any) -> str:
    """JSON with a line for each item; a number that JSON does not have (NaN, infinity) becomes null."""
    text = json.dumps(_finite(value), indent=1, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # names of files that are not UTF-8
        text = json.dumps(_finite(value), indent=1, allow_nan=False)
    return text + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
