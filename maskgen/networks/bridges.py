"""Bridges between towers: cells of one tower are translated into the residual stream of another, which then attends to them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from maskgen.io.schema import Items, Record, Text, Whole

BRIDGE_KIND = "bridge"
"""Kind of a checkpoint that holds a bridge."""
UNSEEN = -1e4
"""Added to the attention score of a key that a query must not see."""


@dataclass(frozen=True, kw_only=True)
class Bridge:
    """Configuration of a bridge: which cells of another tower a tower sees.

    Args:
        modalities: Modalities whose cells cross; all belong to one other tower.
        hidden_dim: Hidden width of the translation.

    Raises:
        ValueError: If no modality crosses or the width is not positive.
    """

    modalities: Sequence[str]
    hidden_dim: int = 512

    def __post_init__(self) -> None:
        object.__setattr__(self, "modalities", tuple(self.modalities))  # a tuple compares equal, whether it came from YAML or from code
        if not self.modalities or self.hidden_dim < 1:
            raise ValueError(
                f"a bridge carries cells of at least one modality and has a positive hidden_dim, got modalities={list(self.modalities)}, "
                f"hidden_dim={self.hidden_dim}; leave the bridge out if nothing is to cross"
            )


BRIDGE_SCHEMA = Record(
    {
        "kind": Text(),
        "reader": Text(),
        "towers": Text(),
        "bridge": Record({"modalities": Items(Text(), least=1), "hidden_dim": Whole(1, 65_536)}),
    }
)
"""Schema of a bridge in a checkpoint."""


class Translation(nn.Module):
    """A bridge at one block: translates a cell into the stream of the other tower and predicts how visible it is.

    It is the sum of a linear map and a gated hidden layer. Untrained, its cells are invisible: the other tower's output does not change.

    Args:
        source_dim: Width of the stream that it reads.
        hidden_dim: Hidden width.
        dim: Width of the stream that it writes.
    """

    def __init__(self, source_dim: int, hidden_dim: int, dim: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(source_dim)
        self.linear = nn.Linear(source_dim, dim, bias=False)
        self.into = nn.Linear(source_dim, hidden_dim, bias=False)
        self.out = nn.Linear(hidden_dim, dim, bias=False)
        self.presence = nn.Linear(hidden_dim, 1)
        nn.init.normal_(self.linear.weight, std=source_dim**-0.5)
        nn.init.normal_(self.into.weight, std=source_dim**-0.5)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.presence.weight)
        nn.init.constant_(self.presence.bias, UNSEEN)

    def forward(self, x: Float[Tensor, "1 cells source_dim"]) -> tuple[Float[Tensor, "1 cells dim"], Float[Tensor, "1 cells"]]:
        """Cells in the other stream, and the logit of each that it is relevant there."""
        x = self.norm(x)
        hidden = functional.silu(self.into(x))
        return self.linear(x) + self.out(hidden), self.presence(hidden)[..., 0]


@dataclass(frozen=True)
class Crossing:
    """Cells of a batch that cross one bridge.

    Args:
        reader: Tower that sees them.
        source: Tower that computes them.
        which: Their indices among the cells of the source.
        slots: Index of the crossing cell at each place of rows of equal length [batch * most]; the count of crossing cells at padding.
        seen: Which cell of the batch sees which crossing cell.
    """

    reader: str
    source: str
    which: Int[Tensor, " crossing"]
    slots: Int[Tensor, " slots"]
    seen: Bool[Tensor, "batch 1 length most"]

    @classmethod
    def of(
        cls,
        reader: str,
        source: str,
        crosses: Bool[Tensor, "batch length"],
        reads: Bool[Tensor, "batch length"],
        document: Int[Tensor, "batch length"],
        source_cells: Int[Tensor, " cells"],
    ) -> "Crossing | None":
        """Crossing cells of a batch; None where there are none, or no cell reads them.

        Args:
            reader: See the class.
            source: See the class.
            crosses: Visible cells of the modalities that cross.
            reads: Visible cells of the reading tower.
            document: Document of each cell; cells see each other only within a document.
            source_cells: Row-major indices of the visible cells of the source, ascending.
        """
        most = int(crosses.sum(dim=1).max())
        if not most or not bool(reads.any()):
            return None
        cells = crosses.flatten().nonzero()[:, 0]
        rank = (crosses.cumsum(dim=1) - 1).flatten()[cells]
        place = cells // crosses.shape[1] * most + rank
        slots = place.new_full((len(crosses) * most,), len(cells))
        slots[place] = torch.arange(len(cells), device=cells.device)
        theirs = functional.pad(document.flatten()[cells], (0, 1), value=-1)[slots].view(-1, 1, most)
        real = (slots < len(cells)).view(-1, 1, most)
        seen = reads[:, :, None] & real & (document[:, :, None] == theirs)
        return cls(reader, source, torch.searchsorted(source_cells, cells), slots, seen[:, None])

    def laid_out(self, values: Float[Tensor, "1 heads crossing head_dim"]) -> Float[Tensor, "batch heads most head_dim"]:
        """Keys or values of the crossing cells in rows, padded with zeros."""
        return rearrange(functional.pad(values, (0, 0, 0, 1))[0][:, self.slots], "h (b m) d -> b h m d", b=len(self.seen))

    def scores(self, presence: Float[Tensor, "1 crossing"]) -> Float[Tensor, "batch 1 length most"]:
        """Bias on the attention scores of the crossing cells: the log-probability that they are relevant."""
        added = functional.pad(functional.logsigmoid(presence.float())[0], (0, 1))[self.slots].view(len(self.seen), 1, 1, -1)
        return torch.where(self.seen, added, UNSEEN)
