"""Scores as tables."""

from collections.abc import Mapping

from rich.table import Table


def table(scores: Mapping[str, Mapping[str, float]], title: str | None = None) -> Table:
    """2AFC in percent: a row a method, a column a subset, then the macro mean and the micro mean.

    Args:
        scores: by method and subset, fractions in [0, 1], all with the same subsets (see `score`).
        title: shown above.
    """
    columns = list(next(iter(scores.values()), {}))
    result = Table("2AFC in %", title=title)
    for column in columns:
        result.add_column(column, justify="right")
    for name, values in scores.items():
        result.add_row(name, *(f"{100 * values[column]:.1f}" for column in columns))
    return result
