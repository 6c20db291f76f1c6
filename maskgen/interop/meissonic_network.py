"""The Transformer2DModel of Meissonic and Monetico, under the names of its published weights."""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from maskgen.interop.meissonic_blocks import (
    EPSILON,
    CodeEmbedding,
    CodeHead,
    Embedder,
    JointBlock,
    Resampling,
    SingleBlock,
    Stage,
    TimeTextEmbedder,
    rotations,
)
from maskgen.interop.sinusoids import sinusoids

WAVES = 256
"""Width of the sinusoids of the time and of each micro-condition."""
CONDITIONS = 5
"""Micro-conditions: width, height, two crop coordinates, aesthetic score."""
TIME_SCALE = 1000.0
"""Factor of the time step inside the network."""


@dataclass(frozen=True, kw_only=True)
class MeissonicConfig:
    """Size of the transformer, with the keys of its published configuration.

    Args:
        num_layers: Joint blocks.
        num_single_layers: Single blocks behind them.
        attention_head_dim: Channels of a head.
        num_attention_heads: Heads; their channels together are the width of the network.
        joint_attention_dim: Width of the text encoder's states.
        pooled_projection_dim: Width of its pooled embedding, which must be that of the network.
        axes_dims_rope: Channels of a head that turn with time, row and column.
        codebook_size: Codes of the image tokenizer.
        vocab_size: Rows of the embedding table: the codes, and further ids of which one is the mask.
        downsample: Whether a block of the transformer sees 2 x 2 codes as one cell.
        upsample: The same on the way back; both or neither.

    Raises:
        ValueError: If two sizes contradict each other.
    """

    num_layers: int = 14
    num_single_layers: int = 28
    attention_head_dim: int = 128
    num_attention_heads: int = 8
    joint_attention_dim: int = 1024
    pooled_projection_dim: int = 1024
    axes_dims_rope: tuple[int, ...] = (16, 56, 56)
    codebook_size: int = 8192
    vocab_size: int = 8256
    downsample: bool = False
    upsample: bool = False

    def __post_init__(self) -> None:
        if self.pooled_projection_dim != self.dim:
            raise ValueError(
                f"pooled_projection_dim is {self.pooled_projection_dim}, wanted the width of the network, "
                f"{self.num_attention_heads} heads x {self.attention_head_dim} = {self.dim}"
            )
        axes = self.axes_dims_rope
        if len(axes) != 3 or sum(axes) != self.attention_head_dim or any(size < 2 or size % 2 for size in axes):
            raise ValueError(f"axes_dims_rope is {list(axes)}, wanted three even numbers that add up to {self.attention_head_dim}")
        if self.downsample != self.upsample:
            raise ValueError(f"downsample is {self.downsample} and upsample {self.upsample}; a network has both or neither")
        if self.vocab_size <= self.codebook_size:
            raise ValueError(f"vocab_size is {self.vocab_size}, wanted more than the {self.codebook_size} codes, for the mask id")

    @property
    def dim(self) -> int:
        """Width of the network."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def side(self) -> int:
        """Rows and columns of codes that one cell of the transformer sees."""
        return 2 if self.downsample else 1


class MeissonicTransformer(nn.Module):
    """Joint blocks over text and image cells, then single blocks; modulated by time, pooled text and micro-conditions.

    Args:
        config: Size of the network.

    Source: Meissonic, arXiv:2410.08261. Differs: rotary positions follow the grid at hand. The reference chooses them by
    `height == 1024`, so with down-sampling it fails at every other height. Time and micro-conditions are float32 until their sinusoids
    are made; in bfloat16 the reference rounds step 47 and a side of 1023 pixels before.
    """

    def __init__(self, config: MeissonicConfig) -> None:
        super().__init__()
        self.config, dim, head_dim = config, config.dim, config.attention_head_dim
        self.time_text_embed = TimeTextEmbedder(dim, WAVES)
        self.context_embedder = nn.Linear(config.joint_attention_dim, dim)
        self.encoder_proj_layer_norm = nn.RMSNorm(dim, eps=EPSILON)
        self.cond_embed = Embedder(config.pooled_projection_dim + CONDITIONS * WAVES, dim, bias=False)
        self.embed = CodeEmbedding(config.vocab_size, dim)
        down = Resampling(nn.Conv2d(dim, dim, kernel_size=2, stride=2, bias=False)) if config.downsample else None
        up = Resampling(nn.ConvTranspose2d(dim, dim, kernel_size=2, stride=2, bias=False)) if config.upsample else None
        self.down_block, self.up_block = Stage("downsample", down), Stage("upsample", up)
        self.project_to_hidden_norm, self.project_from_hidden_norm = (nn.RMSNorm(dim, eps=EPSILON) for _ in range(2))
        self.project_to_hidden, self.project_from_hidden = (nn.Linear(dim, dim, bias=False) for _ in range(2))
        self.transformer_blocks = nn.ModuleList(JointBlock(dim, head_dim) for _ in range(config.num_layers))
        self.single_transformer_blocks = nn.ModuleList(SingleBlock(dim, head_dim) for _ in range(config.num_single_layers))
        self.mlm_layer = CodeHead(dim, config.codebook_size)

    def forward(
        self,
        ids: Int[Tensor, "batch rows columns"],
        states: Float[Tensor, "batch words width"],
        pooled: Float[Tensor, "batch dim"],
        micro: Float[Tensor, "batch 5"],
        time: Float[Tensor, " batch"],
    ) -> Float[Tensor, "batch rows columns dim"]:
        """What enters the last layer of the head, `mlm_layer.logits`, at every cell.

        Args:
            ids: The model's own ids: codes from 0, and its mask id.
            states: Hidden states of the text encoder before its last layer.
            pooled: Its projected text embedding.
            micro: Width and height in pixels, crop, aesthetic score.
            time: Steps that are left after this one.

        Raises:
            ValueError: If the sides of the grid cannot be halved and the network does so.
        """
        side, (rows, columns) = self.config.side, ids.shape[1:]
        if rows % side or columns % side:
            raise ValueError(f"the grid has {rows} x {columns} codes, wanted multiples of {side}; choose another width and height")
        x = rearrange(self.down_block(self.embed(ids)), "b d h w -> b (h w) d")
        x = self.project_to_hidden(self.project_to_hidden_norm(x))
        text = self.encoder_proj_layer_norm(self.context_embedder(states.to(x.dtype)))
        condition = self._condition(pooled, micro, time)
        rotation = rotations(text.shape[1], rows // side, columns // side, self.config.axes_dims_rope, x.device)
        for joint in self.transformer_blocks:
            text, x = joint(text, x, condition, rotation)
        x = torch.cat([text, x], dim=1)
        for single in self.single_transformer_blocks:
            x = single(x, condition, rotation)
        x = self.project_from_hidden(self.project_from_hidden_norm(x[:, text.shape[1] :]))
        hidden: Tensor = self.mlm_layer(self.up_block(rearrange(x, "b (h w) d -> b d h w", h=rows // side)))
        return hidden

    def _condition(
        self, pooled: Float[Tensor, "batch dim"], micro: Float[Tensor, "batch 5"], time: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch dim"]:
        """The vector that modulates all blocks."""
        dtype = self.embed.embeddings.weight.dtype
        waves = rearrange(sinusoids(micro, WAVES), "b c d -> b (c d)")
        told = self.cond_embed(torch.cat([pooled.to(dtype), waves.to(dtype)], dim=1))
        found: Tensor = self.time_text_embed(TIME_SCALE * time.float(), told)
        return found
