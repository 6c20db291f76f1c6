"""Means over a whole validation, for values that come in several loaders, on several ranks and with different counts."""

import torch.distributed
from torch import Tensor


class RunningMeans:
    """Sums and counts by name."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[float, int]] = {}

    def add(self, name: str, values: Tensor) -> None:
        """Count values towards the mean of a name."""
        if values.numel():
            total, count = self._found.get(name, (0.0, 0))
            self._found[name] = total + float(values.detach().sum()), count + values.numel()

    def clear(self) -> None:
        """Start again."""
        self._found.clear()

    def values(self) -> dict[str, float]:
        """The mean of every name, over all ranks: every rank must call this."""
        sums = [self._found]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            sums = [{} for _ in range(torch.distributed.get_world_size())]
            torch.distributed.all_gather_object(sums, self._found)
        names = dict.fromkeys(name for one in sums for name in one)
        parts = {name: [one[name] for one in sums if name in one] for name in names}
        return {name: sum(total for total, _ in found) / sum(count for _, count in found) for name, found in parts.items()}
