"""Lines of messages."""

from collections.abc import Iterable


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type if it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def first_few(offenders: Iterable[str], count: int = 5) -> str:
    """Join the first few offenders for an error message, and count the others."""
    listed = list(offenders)
    more = f" and {len(listed) - count:,} more" if len(listed) > count else ""
    return ", ".join(listed[:count]) + more
