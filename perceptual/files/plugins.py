"""What other packages add to this one by entry points: found by name, imported when it is asked for.

Only a package that is installed has entry points: no file that is read can bring one.
"""

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, Literal

from perceptual.files.messages import first_line

Group = Literal["perceptual.methods", "perceptual.readers"]


def names(group: Group) -> list[str]:
    """List the names that installed packages add, sorted."""
    return sorted({point.name for point in entry_points(group=group)})


def load(group: Group, name: str) -> Callable[..., Any]:
    """Import what an installed package calls by a name.

    Raises:
        ValueError: no package has the name, or two have it, or its import fails.
    """
    points = {(point.value, _of(point)): point for point in entry_points(group=group) if point.name == name}
    if not points:
        there = ", ".join(names(group)) or "none"
        raise ValueError(f"no installed package adds {name!r} to {group}; there are {there}")
    if len(points) > 1:
        both = " and ".join(sorted(package for _, package in points))
        raise ValueError(f"{name!r} of {group} is of {both}: uninstall one of them")
    ((_, package), point) = points.popitem()
    try:
        found: Callable[..., Any] = point.load()
    except Exception as error:  # of another package
        raise ValueError(
            f"{name!r} of {package} cannot be imported ({point.value}): "
            f"{type(error).__name__}: {first_line(error)}"
        ) from error
    return found


def _of(point: Any) -> str:
    return str(point.dist.name) if point.dist else point.value
