"""Sizes of Halton-MaskGIT's transformer, read from the shapes of its weights, and its token space."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from maskgen.networks.published import PublishedConfig
from maskgen.tokens.space import Modality, TokenSpace

LABEL, IMAGE = "label", "image"
HEADS = {384: 6, 512: 6, 768: 12, 1024: 16, 1152: 16}
"""Attention heads by width, of the sizes tiny, small, base, large and xlarge; no shape tells them."""


@dataclass(frozen=True, kw_only=True)
class HaltonConfig(PublishedConfig):
    """Size of the transformer.

    Args:
        side: Rows and columns of an image's code grid: 16 for 256 pixels, 24 for 384.
        dim: Width of the residual stream.
        num_layers: Blocks.
        num_heads: Attention heads; together they are `num_heads * (dim // num_heads)` wide, which may be less than `dim`.
        feed_dim: Width of the feed-forward networks.
        codebook_size: Codes of the image tokenizer.
        num_classes: Classes.
        num_registers: Cells without content that are appended to an image.
    """

    side: int = 16
    dim: int = 768
    num_layers: int = 12
    num_heads: int = 12
    feed_dim: int = 2048
    codebook_size: int = 16384
    num_classes: int = 1000
    num_registers: int = 1

    def __post_init__(self) -> None:
        sizes = (self.side, self.num_layers, self.num_heads, self.feed_dim, self.codebook_size, self.num_classes)
        if min(sizes) < 1 or self.dim < self.num_heads or self.num_registers < 0:
            raise ValueError(f"a Halton-MaskGIT transformer needs sizes of at least 1 and dim of at least num_heads, got {self}")


def halton_config(shapes: Mapping[str, Sequence[int]], num_heads: int | None = None) -> HaltonConfig:
    """Read the size of a transformer from the shapes of its tensors; the published files hold no configuration.

    Args:
        shapes: Shape of each tensor by its published name.
        num_heads: Attention heads; None takes those that the authors' sizes have at this width.

    Raises:
        ValueError: If a tensor is missing that tells a size, or the size is none of the authors'.
    """
    if projections := [name for name in ("in_proj.weight", "out_proj.weight") if name in shapes]:
        raise ValueError(
            f"the file has {' and '.join(projections)}, a transformer over patches of 2 x 2 codes; none was published and the authors' "
            "own code for it does not run, so it is not supported"
        )
    try:
        cells, dim = shapes["pos_emb.weight"]
        side = math.isqrt(cells)
        heads = num_heads or HEADS.get(dim)
        if side * side != cells or heads is None:
            raise ValueError(
                f"the file has {cells} positions of width {dim}, wanted a square number of positions and a width of "
                f"{', '.join(map(str, HEADS))}; give num_heads for another width"
            )
        return HaltonConfig(
            side=side,
            dim=dim,
            num_layers=sum(name.startswith("transformer.layers.") and name.endswith(".ln1.weight") for name in shapes),
            num_heads=heads,
            feed_dim=shapes["transformer.layers.0.ff.w1.weight"][0],
            codebook_size=shapes["tok_emb.weight"][0] - 1,
            num_classes=shapes["cls_emb.weight"][0] - 1,
            num_registers=shapes["reg_tokens.weight"][0] if "reg_tokens.weight" in shapes else 0,
        )
    except KeyError as error:
        raise ValueError(f"a Halton-MaskGIT transformer has a tensor {error.args[0]}, the file has none; give ImageNet_*.pth") from error


def halton_space(config: HaltonConfig) -> TokenSpace:
    """The token space of a transformer: one cell with the class, then the cells of the image."""
    label = Modality(name=LABEL, kind="attribute", num_levels=1, codebook_size=config.num_classes)
    return TokenSpace([label, Modality(name=IMAGE, kind="image", num_levels=1, codebook_size=config.codebook_size)])
