"""JSON of ours: valid when written, and read by a schema whose fields say what is allowed."""

import json
import math
from typing import Any, TypeVar

Record = TypeVar("Record")


def read_record(path: Any, schema: type[Record], remedy: str) -> Record:
    """What a JSON file holds, checked: types, ranges, no missing field and, in dataclasses, no other.

    Args:
        path: a `Path`, or an object that behaves as one, see `perceptual.data.places`.
        schema: what pydantic checks it by.
        remedy: ends the message, such as "pack it again".

    Raises:
        ValueError: naming the file, the field and what came.
        FileNotFoundError: there is no such file.
    """
    from pydantic import TypeAdapter, ValidationError  # takes a while, and most commands read no record

    try:
        return TypeAdapter(schema).validate_json(path.read_bytes(), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        field = ".".join(map(str, first["loc"]))
        came = repr(first["input"])
        came = "" if first["type"] == "missing" else f", got {came if len(came) < 60 else came[:60] + '…'}"
        raise ValueError(f"{path}: {field + ': ' if field else ''}{first['msg']}{came}; {remedy}") from None


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
