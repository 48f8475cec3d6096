"""Lines of messages."""

from collections.abc import Iterable


def first_line(error: BaseException) -> str:
    """What an error says, in one line; its type where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def first_few(offenders: Iterable[str], count: int = 5) -> str:
    """The first few offenders for an error message, joined, and the number of the others."""
    listed = list(offenders)
    more = f" and {len(listed) - count:,} more" if len(listed) > count else ""
    return ", ".join(listed[:count]) + more
