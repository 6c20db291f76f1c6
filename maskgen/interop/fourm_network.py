"""4M over a token space: any modalities known, any of those that its decoder makes unknown."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from maskgen.interop.fourm_model import FourM, FourMConfig
from maskgen.interop.fourm_rows import FourMMarks, FourMReader
from maskgen.networks.published import PublishedConfig, PublishedNetwork
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.space import TokenSpace

NEVER = -1e9
"""Logit of a code that is never drawn."""


class FourMNetwork(PublishedNetwork):
    """4M over a token space.

    Known cells are the encoder's; the decoder is asked for the cells of all modalities that it makes. In the decode of an image it is asked
    for the cells of the step alone, as the authors do. A text is read and written from left to right, so its unknown cells should be filled
    in that order: the sampler `blocks` with block_size 1. In another order a code that is not there yet is the mask token, which the model
    has not learned in texts. Sentinels are never drawn: our holes have a length.

    Args:
        config: Size.
        space: Token space.
        names: Modality of the space to its published name.
        marks: Codes with a meaning in texts.
        published: The published configuration, which an export writes.

    Source: 4M, arXiv:2312.06647; 4M-21, arXiv:2406.09406. Differs: every row has its own counts, and a row without any visible cell attends
    to none; the reference takes the first row's count for a batch, and averages over padding.
    """

    adapted = r"model\.(encoder|decoder)\.\d+\..*\.(qkv|q|kv|proj)"

    def __init__(
        self,
        config: FourMConfig,
        space: TokenSpace,
        names: Mapping[str, str],
        marks: FourMMarks | None = None,
        published: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.model, self.space, self.names, self.marks = FourM(config), space, dict(names), marks or FourMMarks()
        self.config, self.published = PublishedConfig(config.block.dim), dict(published or {})
        self.read = FourMReader(self.model, space, self.names, self.marks)
        grids = [one.name for one in config.domains if one.shape == "grid"]
        self.asked_alone = frozenset(space.index(name) for name, published in self.names.items() if published in grids)
        self.files: Mapping[str, str] = {}

    @property
    def embed(self) -> nn.Embedding:
        """A table of codes, which tells device and precision."""
        one = next(one for one in self.model.config.domains if one.coded)
        return (self.model.reader(one.name) if one.reads else self.model.writer(one.name)).token_emb

    def forward(
        self, batch: TokenBatch, context: Bool[Tensor, "batch length"] | None = None, window: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch length dim"]:
        """Hidden state of every cell that the decoder is asked for; 0 at the others.

        Raises:
            ValueError: If the rows are of another form, or windows or a blind condition are asked for.
        """
        if context is not None or window is not None:
            raise ValueError("4M sees whole rows; leave windows and blind conditions off")
        rows = self.read(batch)
        hidden = self.model(rows.seen, rows.asked, rows.visible)
        index = rows.slots.clamp(min=0)[..., None].expand(-1, -1, hidden.shape[-1])
        found: Tensor = hidden.gather(1, index).masked_fill((rows.slots < 0)[..., None], 0)
        return found

    def logits(self, hidden: Float[Tensor, "cells dim"], offset: int, size: int) -> Float[Tensor, "cells size"]:
        """Logits of the codes of one modality: linear in `hidden`; those of sentinels in a text are `NEVER`.

        Raises:
            ValueError: If the decoder does not make that modality.
        """
        domains = {one.name: one for one in self.model.config.domains}
        names = [one.name for one in self.space.modalities if self.space.of(one.name)[0].offset == offset]
        domain = domains[self.names[names[0]]] if names else None
        if domain is None or not domain.writes or size != domain.size:
            made = [one for one, published in self.names.items() if domains[published].writes]
            raise ValueError(f"4M does not generate {names[0] if names else f'ids from {offset}'}; take one of {', '.join(made)}")
        found: Tensor = self.model.writer(domain.name).to_logits(hidden)
        if domain.shape == "sequence":
            stop = self.marks.first_sentinel + self.marks.num_sentinels
            found[:, self.marks.first_sentinel : stop] = NEVER
        return found
