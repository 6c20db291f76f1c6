"""TiTok's class-conditional generators over a token space of a label and a row of image codes."""

from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from maskgen.interop.grids import in_row_order
from maskgen.interop.titok_networks import ImageBert, TiTokGeneratorConfig, UVitBert
from maskgen.networks.published import PublishedConfig, PublishedNetwork
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.space import MASK, Modality, TokenSpace

LABEL, IMAGE = "label", "image"


class TiTokNetwork(PublishedNetwork):
    """A generator of TiTok's as a network of maskgen.

    A row has one image of the trained length and at most one label. A row without a visible label gets the null condition, the class that
    stood for a dropped label in training. The mask is an input alone: it has no logit.

    Args:
        config: Its size.
        published: The published configuration, kept for export.

    Source: TiTok, arXiv:2406.07550.
    """

    def __init__(self, config: TiTokGeneratorConfig, published: Any = None) -> None:
        super().__init__()
        self.sizes, self.published = config, dict(published or {})
        label = Modality(name=LABEL, kind="attribute", num_levels=1, codebook_size=config.num_classes)
        self.space = TokenSpace([label, Modality(name=IMAGE, kind="image", num_levels=1, codebook_size=config.codebook_size)])
        self.label, self.image = self.space.of(LABEL)[0], self.space.of(IMAGE)[0]
        self.generator = ImageBert(config) if config.kind == "ViT" else UVitBert(config)
        self.config = PublishedConfig(config.dim)

    @property
    def embed(self) -> nn.Embedding:
        """The embedding of codes and classes, which tells device and precision."""
        return self.generator.table

    def forward(
        self, batch: TokenBatch, context: Bool[Tensor, "batch length"] | None = None, window: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch length dim"]:
        """Hidden state of every image cell, the input of `logits`; 0 at all other cells.

        Raises:
            ValueError: If a row has not one image of the trained length, or several labels.
        """
        if context is not None or window is not None:
            raise ValueError("TiTok sees whole images; leave windows and blind conditions off")
        ids = rows_of_codes(batch, self.image.index, self.sizes.num_tokens)
        ids = torch.where(ids == MASK, self.sizes.codebook_size, ids - self.image.offset)
        classes = self._classes(batch) + self.sizes.codebook_size + 1
        return in_row_order(batch, self.image.index, self.generator(torch.cat([classes[:, None], ids], dim=1)))

    def logits(self, hidden: Float[Tensor, "cells dim"], offset: int, size: int) -> Float[Tensor, "cells size"]:
        """Logits of the image's codes: affine in `hidden`, so guidance may mix hidden states.

        Raises:
            ValueError: If other ids are asked for: the model generates images alone.
        """
        if (offset, size) != (self.image.offset, self.image.size):
            raise ValueError("TiTok generates images alone; take image as the target")
        found: Tensor = self.generator.head(hidden)
        return found

    def _classes(self, batch: TokenBatch) -> Int[Tensor, " batch"]:
        """Class of each row; the number of classes where there is none."""
        ids = batch.ids[..., 0]
        cells = batch.cells(self.label.index) & (ids != MASK)
        if bool((cells.sum(dim=1) > 1).any()):
            raise ValueError("a row of TiTok has one label, got several; give each image a row of its own")
        chosen = torch.where(cells, ids - self.label.offset - self.sizes.num_classes, 0).sum(dim=1)
        return chosen + self.sizes.num_classes


def rows_of_codes(batch: TokenBatch, index: int, count: int) -> Int[Tensor, "batch cells"]:
    """Ids of the one image of each row, whose codes lie in one row.

    Args:
        batch: Rows.
        index: Number of the image modality.
        count: Codes that an image has.

    Raises:
        ValueError: If a row has other than one image of that length.
    """
    cells = batch.cells(index)
    counts = cells.sum(dim=1)
    if not len(batch) or bool((counts != count).any()):
        raise ValueError(f"this model needs one image of {count} codes in every row, got {counts.tolist()[:8]}; leave width and height out")
    return rearrange(batch.ids[..., 0][cells], "(b n) -> b n", b=len(batch))
