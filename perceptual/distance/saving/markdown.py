"""Text of others in Markdown: names and descriptions of files show as they are, and are never markup."""

import re
from collections.abc import Iterable


def escaped(text: object) -> str:
    """Write text in one line, so that nothing in it is a column, a link, a picture or a tag."""
    line = re.sub(r"([\\|`])", r"\\\1", " ".join(str(text).split()))
    return line.replace("&", "&amp;").replace("<", "&lt;").replace("](", "]\\(")


def code(text: object) -> str:
    """Write text in one line as code."""
    return "`" + " ".join(str(text).split()).replace("`", "'").replace("|", "¦") + "`"


def table_row(cells: Iterable[object]) -> str:
    """Write a row of a table."""
    return "| " + " | ".join(map(escaped, cells)) + " |"
