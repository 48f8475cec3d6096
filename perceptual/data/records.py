"""JSON files of ours, read by a schema: a dataclass or typed dictionary whose fields say what is allowed."""

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
