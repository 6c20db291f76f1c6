"""Means over a whole validation, for values that come in several loaders and with different counts."""

from torch import Tensor


class RunningMeans:
    """Sums and counts by name."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[float, int]] = {}

    def add(self, name: str, total: Tensor | float, count: int) -> None:
        """Count `total`, the sum of `count` values, towards the mean of a name."""
        before = self._found.get(name, (0.0, 0))
        self._found[name] = before[0] + float(total), before[1] + count

    def clear(self) -> None:
        """Start again."""
        self._found.clear()

    def values(self) -> dict[str, float]:
        """The mean of every name."""
        return {name: total / count for name, (total, count) in self._found.items()}
