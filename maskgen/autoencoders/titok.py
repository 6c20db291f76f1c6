"""TiTok and TA-TiTok: transformers that write an image into a short row of codes, and read it back."""

from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from einops.layers.torch import Rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from maskgen.autoencoders.maskgit_vqgan import PixelDecoder, PixelDecoderConfig


@dataclass(frozen=True, kw_only=True)
class TowerSize:
    """Size of the encoder or of the decoder.

    Args:
        dim: Width.
        num_layers: Blocks.
        num_heads: Attention heads; must divide dim.
        patch: Side length in pixels of one patch.
        grid: Patches on each side of the image.
    """

    dim: int = 1024
    num_layers: int = 24
    num_heads: int = 16
    patch: int = 16
    grid: int = 16

    def __post_init__(self) -> None:
        if min(self.dim, self.num_layers, self.num_heads, self.patch, self.grid) < 1 or self.dim % self.num_heads:
            raise ValueError(f"sizes of a TiTok transformer must be at least 1 and num_heads must divide dim, got {self}")


@dataclass(frozen=True, kw_only=True)
class TiTokConfig:
    """Sizes of a tokenizer; the defaults are those of `tokenizer_titok_l32_imagenet`.

    Args:
        num_tokens: Codes of an image.
        codebook_size: Codes to choose from.
        token_size: Width of a code's vector.
        normalized: Whether vectors are compared and read at length 1.
        encoder: Size of the encoder.
        decoder: Size of the decoder.
        pixels: Sizes of the pixel decoder of a two-stage tokenizer. None for a one-stage one, whose decoder gives pixels itself.
        text_length: Text states that the decoder reads (TA-TiTok); 0 for none.
        text_dim: Width of these states.
    """

    num_tokens: int = 32
    codebook_size: int = 4096
    token_size: int = 12
    normalized: bool = True
    encoder: TowerSize = TowerSize()
    decoder: TowerSize = TowerSize()
    pixels: PixelDecoderConfig | None = PixelDecoderConfig()  # noqa: RUF009 (frozen)
    text_length: int = 0
    text_dim: int = 0

    def __post_init__(self) -> None:
        if min(self.num_tokens, self.codebook_size, self.token_size) < 1 or min(self.text_length, self.text_dim) < 0:
            raise ValueError(f"num_tokens, codebook_size and token_size must be at least 1, got {self}")
        if self.shown != self.side:
            raise ValueError(f"the encoder reads {self.side} pixels a side and the decoder gives {self.shown}; both must be equal")

    @property
    def side(self) -> int:
        """Side length of an image in pixels."""
        return self.encoder.grid * self.encoder.patch

    @property
    def shown(self) -> int:
        """Side length of a decoded image in pixels."""
        return self.decoder.grid * (self.decoder.patch if self.pixels is None else self.pixels.pixels_per_cell)


class _PackedAttention(nn.Module):
    """Attention among all cells with one matrix for queries, keys and values, under the names of `nn.MultiheadAttention`."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.in_proj_weight, self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim, dim)), nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch length dim"]:
        packed = functional.linear(x, self.in_proj_weight, self.in_proj_bias)
        query, key, value = rearrange(packed, "b l (k h d) -> k b h l d", k=3, h=self.num_heads).unbind()
        mixed = functional.scaled_dot_product_attention(query, key, value)
        found: Tensor = self.out_proj(rearrange(mixed, "b h l d -> b l (h d)"))
        return found


class _TokenBlock(nn.Module):
    """A transformer block with its norms first."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2, self.attn = nn.LayerNorm(dim), nn.LayerNorm(dim), _PackedAttention(dim, num_heads)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(dim, 4 * dim), "c_proj": nn.Linear(4 * dim, dim)})

    def forward(self, x: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch length dim"]:
        x = x + self.attn(self.ln_1(x))
        found: Tensor = x + self.mlp["c_proj"](functional.gelu(self.mlp["c_fc"](self.ln_2(x))))
        return found


class _TokenTower(nn.Module):
    """What encoder and decoder share: a class cell, the patches of the image and the latent cells behind them, in one transformer."""

    def __init__(self, size: TowerSize, num_tokens: int) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.zeros(1, size.dim))
        self.positional_embedding = nn.Parameter(torch.zeros(size.grid**2 + 1, size.dim))
        self.latent_token_positional_embedding = nn.Parameter(torch.zeros(num_tokens, size.dim))
        self.ln_pre, self.ln_post = nn.LayerNorm(size.dim), nn.LayerNorm(size.dim)
        self.transformer = nn.ModuleList([_TokenBlock(size.dim, size.num_heads) for _ in range(size.num_layers)])

    def mixed(self, *parts: Float[Tensor, "batch _ dim"]) -> Float[Tensor, "batch length dim"]:
        """The parts after the transformer, patches first."""
        first = repeat(self.class_embedding, "k d -> b k d", b=len(parts[0]))
        patches = torch.cat([first, parts[0]], dim=1) + self.positional_embedding
        latents = parts[1] + self.latent_token_positional_embedding
        x = self.ln_pre(torch.cat([patches, latents, *parts[2:]], dim=1))
        for block in self.transformer:
            x = block(x)
        found: Tensor = x
        return found


class _TokenEncoder(_TokenTower):
    """Pixels to the vectors of the latent cells."""

    def __init__(self, config: TiTokConfig) -> None:
        size = config.encoder
        super().__init__(size, config.num_tokens)
        self.num_tokens, self.scrambled = config.num_tokens, config.pixels is not None
        self.patch_embed = nn.Conv2d(3, size.dim, size.patch, stride=size.patch)
        self.conv_out = nn.Conv2d(size.dim, config.token_size, 1)

    def forward(
        self, pixels: Float[Tensor, "batch 3 height width"], latents: Float[Tensor, "tokens dim"]
    ) -> Float[Tensor, "batch size 1 tokens"]:
        patches = rearrange(self.patch_embed(pixels), "b d h w -> b (h w) d")
        read = self.mixed(patches, repeat(latents, "n d -> b n d", b=len(pixels)))[:, -self.num_tokens :]
        read = self.ln_post(read)
        if self.scrambled:  # two-stage weights were trained with the numbers of all vectors read in the wrong order
            channels = rearrange(rearrange(read, "b n d -> b (n d)"), "b (d n) -> b d 1 n", n=self.num_tokens)
        else:
            channels = rearrange(read, "b n d -> b d 1 n")
        found: Tensor = self.conv_out(channels)
        return found


class _TokenDecoder(_TokenTower):
    """Vectors of the latent cells to pixels, or to logits of the pixel decoder's codes."""

    def __init__(self, config: TiTokConfig) -> None:
        size = config.decoder
        super().__init__(size, config.num_tokens)
        self.grid = size.grid
        self.mask_token = nn.Parameter(torch.zeros(1, 1, size.dim))
        self.decoder_embed = nn.Linear(config.token_size, size.dim)
        if config.pixels is not None:
            self.ffn = nn.Sequential(nn.Conv2d(size.dim, 2 * size.dim, 1), nn.Tanh(), nn.Conv2d(2 * size.dim, config.pixels.codes, 1))
        else:
            spread = Rearrange("b (p q c) h w -> b c (h p) (w q)", p=size.patch, q=size.patch)
            self.ffn = nn.Sequential(nn.Conv2d(size.dim, 3 * size.patch**2, 1), spread)
            self.conv_out = nn.Conv2d(3, 3, 3, padding=1)
        if config.text_length:
            self.text_guidance_proj = nn.Linear(config.text_dim, size.dim)
            self.text_guidance_positional_embedding = nn.Parameter(torch.zeros(config.text_length, size.dim))

    def forward(
        self, vectors: Float[Tensor, "batch tokens size"], text: Float[Tensor, "batch words states"] | None = None
    ) -> Float[Tensor, "batch channels rows columns"]:
        blank = repeat(self.mask_token, "1 1 d -> b n d", b=len(vectors), n=self.grid**2)
        parts = [blank, self.decoder_embed(vectors)]
        if text is not None:
            parts.append(self.text_guidance_proj(text) + self.text_guidance_positional_embedding)
        patches = self.ln_post(self.mixed(*parts)[:, 1 : 1 + self.grid**2])
        found: Tensor = self.ffn(rearrange(patches, "b (h w) d -> b d h w", h=self.grid))
        if hasattr(self, "conv_out"):
            found = self.conv_out(found)
        return found


class _Codebook(nn.Module):
    """Vectors of the codes."""

    def __init__(self, size: int, dim: int, normalized: bool = False) -> None:
        super().__init__()
        self.embedding, self.normalized = nn.Embedding(size, dim, _weight=torch.zeros(size, dim)), normalized

    def codes(self, vectors: Float[Tensor, "batch size 1 tokens"]) -> Int[Tensor, "batch tokens"]:
        """The nearest code of every vector."""
        flat, table = rearrange(vectors, "b c 1 n -> b n c").float(), self.embedding.weight.float()
        if self.normalized:
            flat, table = functional.normalize(flat, dim=-1), functional.normalize(table, dim=-1)
        far = flat.square().sum(dim=-1, keepdim=True) + table.square().sum(dim=1) - 2 * flat @ table.T
        return far.argmin(dim=-1)

    def lookup(self, codes: Int[Tensor, "batch tokens"]) -> Float[Tensor, "batch tokens size"]:
        """The vectors of codes."""
        found: Tensor = self.embedding(codes)
        return functional.normalize(found, dim=-1) if self.normalized else found


class TiTok(nn.Module):
    """Encoder, codebook and decoder under the names of the published files.

    Weights start at 0 or as torch sets them: the networks are for published weights, not for training from scratch.

    Args:
        config: Sizes.

    Source: TiTok, arXiv:2406.07550; TA-TiTok, arXiv:2501.07730.
    """

    def __init__(self, config: TiTokConfig) -> None:
        super().__init__()
        self.config = config
        self.latent_tokens = nn.Parameter(torch.zeros(config.num_tokens, config.encoder.dim))
        self.encoder, self.decoder = _TokenEncoder(config), _TokenDecoder(config)
        self.quantize = _Codebook(config.codebook_size, config.token_size, config.normalized)
        if config.pixels is not None:
            self.pixel_quantize = _Codebook(config.pixels.codes, config.pixels.latent_dim)
            self.pixel_decoder = PixelDecoder(config.pixels)

    def encode(self, pixels: Float[Tensor, "batch 3 height width"]) -> Int[Tensor, "batch tokens"]:
        """Codes of pixels in [0, 1]."""
        return self.quantize.codes(self.encoder(pixels, self.latent_tokens))

    def decode(
        self, codes: Int[Tensor, "batch tokens"], text: Float[Tensor, "batch words states"] | None = None
    ) -> Float[Tensor, "batch 3 height width"]:
        """Pixels around [0, 1].

        Args:
            codes: Of images.
            text: States of a text for each image, which TA-TiTok needs and no other takes.

        Raises:
            ValueError: If a text is missing, or given to a tokenizer that reads none.
        """
        if (text is not None) != (self.config.text_length > 0):
            raise ValueError(
                f"this tokenizer's decoder reads {self.config.text_length} text states, got {'none' if text is None else 'some'}"
            )
        read: Tensor = self.decoder(self.quantize.lookup(codes), text)
        if self.config.pixels is None:
            return read
        mixed = torch.einsum("b n h w, n d -> b d h w", read.softmax(dim=1), self.pixel_quantize.embedding.weight)
        found: Tensor = self.pixel_decoder(mixed)
        return found
