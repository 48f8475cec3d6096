"""Lines of messages."""

from collections.abc import Iterable
from pathlib import Path

CLONE = Path(__file__).parents[2]  # if the package is not installed from a wheel


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type if it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def first_few(offenders: Iterable[str], count: int = 5) -> str:
    """Join the first few offenders for an error message, and count the others."""
    listed = list(offenders)
    more = f" and {len(listed) - count:,} more" if len(listed) > count else ""
    return ", ".join(listed[:count]) + more


def install(extra: str) -> str:
    """Return the command that installs an extra."""
    what = f"-e '.[{extra}]'" if (CLONE / "setup.cfg").is_file() else f"'perceptual-lpips[{extra}]'"
    return f"pip install {what}"
