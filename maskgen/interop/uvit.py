"""UVit2DModel of diffusers with prompts bound to it: what a prompt alone decides is computed once and not at every step.

The modules and their weights are the model's own; only the order of the work differs. Keys and values of the text, and scale and shift
of every adaptive norm, depend on the prompt alone. Up to the place where the prompt first enters, all views of a grid are the same.
"""

from collections.abc import Callable
from typing import Any

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from maskgen.interop.sinusoids import sinusoids
from maskgen.networks.packed_linear import linear, product

Branch = Callable[[Tensor], Tensor]
"""A part of the network with its prompt bound."""


class BoundUVit:
    """The network for given prompts, up to its head.

    Args:
        model: A UVit2DModel; dropout and adapters in attention processors are not run, adapters around linear layers are.
        states: Hidden states of the text encoder.
        pooled: Its pooled embedding.
        scalars: Micro-conditioning: width, height, two crop coordinates and the aesthetic score.

    Source: aMUSEd, arXiv:2401.01808.
    """

    def __init__(
        self, model: Any, states: Float[Tensor, "rows words width"], pooled: Float[Tensor, "rows dim"], scalars: Float[Tensor, "rows 5"]
    ) -> None:
        waves = rearrange(sinusoids(scalars, model.config.micro_cond_encode_dim), "r s d -> r (s d)")
        condition = model.cond_embed(torch.cat([pooled, waves.to(pooled.dtype)], dim=1).to(model.dtype))
        text = _scaled(model.encoder_proj_layer_norm, linear(model.encoder_proj, states.to(model.dtype)))
        self.model, self.rows = model, len(states)
        self.down, self.up = (_stage(block, condition, text) for block in (model.down_block, model.up_block))
        self.layers = [_layer(block, condition, text) for block in model.transformer_layers]

    def __call__(self, ids: Int[Tensor, "batch rows columns"]) -> Float[Tensor, "views_batch rows columns dim"]:
        """What enters the head.

        Args:
            ids: Ids of one view of the grids; there may be several times as many prompts, view after view.
        """
        model = self.model
        x = self.down(_pointwise(model.embed.conv, _scaled(model.embed.layer_norm, model.embed.embeddings(ids))))
        rows = x.shape[1]
        x = linear(model.project_to_hidden, _scaled(model.project_to_hidden_norm, x.flatten(1, 2)))
        for layer in self.layers:
            x = layer(x)
        x = linear(model.project_from_hidden, _scaled(model.project_from_hidden_norm, x))
        return self.up(rearrange(x, "r (h w) d -> r h w d", h=rows))


def before_last_layer(model: Any, hidden: Float[Tensor, "*cells dim"]) -> Float[Tensor, "*cells into"]:
    """The head but for its last layer, at chosen cells; a cell needs no neighbour there."""
    return _scaled(model.mlm_layer.layer_norm, _pointwise(model.mlm_layer.conv1, hidden))


def last_layer(model: Any, hidden: Float[Tensor, "*cells into"]) -> Float[Tensor, "*cells codes"]:
    """The affine end of the head."""
    return _pointwise(model.mlm_layer.conv2, hidden)


def _scaled(norm: Any, x: Float[Tensor, "*cells dim"]) -> Float[Tensor, "*cells dim"]:
    """An RMSNorm of diffusers in one pass."""
    found: Tensor = functional.rms_norm(x, x.shape[-1:], norm.weight, norm.eps)
    return found


def _pointwise(convolution: Any, x: Float[Tensor, "*cells into"]) -> Float[Tensor, "*cells out"]:
    """A convolution of kernel 1 as the matrix product that it is."""
    if type(convolution) is nn.Conv2d:
        return product(x, convolution.weight[:, :, 0, 0], convolution.bias)
    found: Tensor = convolution(x.reshape(-1, x.shape[-1], 1, 1))  # an adapter around one
    return found.reshape(*x.shape[:-1], -1)


def _adaptive(norm: Any, condition: Float[Tensor, "rows dim"]) -> Branch:
    """A norm whose scale and shift come from the condition."""
    scale, shift = (part[:, None] for part in linear(norm.linear, functional.silu(condition)).chunk(2, dim=1))
    inner, gain = norm.norm, 1 + scale
    shift = shift if inner.bias is None else shift + gain * inner.bias
    gain = gain if inner.weight is None else gain * inner.weight
    plain = functional.layer_norm if isinstance(inner, nn.LayerNorm) else functional.rms_norm

    return lambda x: torch.addcmul(shift, plain(x, x.shape[-1:], eps=inner.eps), gain)


def _heads(x: Float[Tensor, "rows cells dim"], count: int) -> Float[Tensor, "rows heads cells head_dim"]:
    return rearrange(x, "r c (h d) -> r h c d", h=count)


def _mixed(attention: Any, x: Tensor, key: Tensor, value: Tensor) -> Float[Tensor, "rows cells dim"]:
    """What the cells of x collect from these keys and values."""
    found = functional.scaled_dot_product_attention(_heads(linear(attention.to_q, x), attention.heads), key, value)
    return linear(attention.to_out[0], rearrange(found, "r h c d -> r c (h d)"))


def _keys(attention: Any, source: Float[Tensor, "rows cells dim"]) -> tuple[Tensor, Tensor]:
    key, value = (_heads(linear(layer, source), attention.heads) for layer in (attention.to_k, attention.to_v))
    return key, value


def _to_text(attention: Any, text: Float[Tensor, "rows words dim"]) -> Branch:
    """Attention to the prompt, whose keys and values are kept."""
    key, value = _keys(attention, text)
    return lambda x: _mixed(attention, x, key, value)


def _layer(block: Any, condition: Tensor, text: Tensor) -> Branch:
    """One block of the transformer: attention among the cells, to the text, then feed-forward."""
    first, second, third = (_adaptive(norm, condition) for norm in (block.norm1, block.norm2, block.norm3))
    to_text = _to_text(block.attn2, text)
    into, out = block.ff.net[0].proj, block.ff.net[2]

    def run(x: Tensor) -> Tensor:
        inner = first(x)
        x = _mixed(block.attn1, inner, *_keys(block.attn1, inner)).add_(x)
        x = to_text(second(x)).add_(x)
        value, gate = linear(into, third(x)).chunk(2, dim=-1)
        return linear(out, functional.gelu(gate).mul_(value)).add_(x)

    return run


def _stage(block: Any, condition: Tensor, text: Tensor) -> Branch:
    """Convolutions and attention to the text in turn, on grids [rows height width dim]."""
    pairs = [
        (_convolution(first, condition), _reading(second, text))
        for first, second in zip(block.res_blocks, block.attention_blocks, strict=True)
    ]

    def run(x: Tensor) -> Tensor:
        x = _on_planes(block.downsample, x)
        for convolve, read in pairs:
            x = convolve(x)
            x = rearrange(read(x.flatten(1, 2)), "r (h w) d -> r h w d", h=x.shape[1])
        return _on_planes(block.upsample, x)

    return run


def _on_planes(module: nn.Module | None, x: Float[Tensor, "rows height width dim"]) -> Float[Tensor, "rows taller wider out"]:
    """A module that wants [rows dim height width]; x itself if there is none."""
    return x if module is None else rearrange(module(rearrange(x, "r h w d -> r d h w")), "r d h w -> r h w d")


def _convolution(block: Any, condition: Float[Tensor, "rows dim"]) -> Branch:
    """A ConvNeXt block; the condition enters at its end, so until there one view stands for all."""
    scale, shift = (part[:, None, None] for part in linear(block.cond_embeds_mapper, functional.silu(condition)).chunk(2, dim=1))
    gain = 1 + scale

    def run(x: Tensor) -> Tensor:
        inner = _scaled(block.norm, _on_planes(block.depthwise, x))
        inner = _responding(block.channelwise_norm, functional.gelu(linear(block.channelwise_linear_1, inner)))
        x = linear(block.channelwise_linear_2, inner).add_(x)
        return torch.addcmul(shift, repeat(x, "b h w d -> (v b) h w d", v=len(gain) // len(x)), gain)

    return run


def _responding(norm: Any, x: Float[Tensor, "rows height width dim"]) -> Float[Tensor, "rows height width dim"]:
    """Global response normalisation: channels compete by their size over the whole grid. Source: arXiv:2301.00808."""
    size = x.square().sum(dim=(1, 2), keepdim=True, dtype=torch.float32).sqrt().to(x.dtype)
    return torch.addcmul(norm.beta, x, 1 + norm.gamma * size / (size.mean(dim=-1, keepdim=True) + 1e-6))


def _reading(block: Any, text: Float[Tensor, "rows words dim"]) -> Branch:
    """Two attentions to the text, one after the other."""
    text = text if block.kv_mapper is None else linear(block.kv_mapper, functional.silu(text))
    first, second = (_to_text(attention, text) for attention in (block.attn1, block.attn2))

    def run(x: Tensor) -> Tensor:
        x = first(_scaled(block.norm1, x)).add_(x)
        return second(_scaled(block.norm2, x)).add_(x)

    return run
