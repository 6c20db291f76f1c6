"""Sizes of a published TiTok tokenizer, from its configuration and the shapes of its weights."""

from collections.abc import Mapping, Sequence
from typing import Any

from maskgen.autoencoders.maskgit_vqgan import PixelDecoderConfig
from maskgen.autoencoders.titok import TiTokConfig, TowerSize

HEAD_DIM = 64
"""Width of an attention head in every published size."""
NAMES = {512: "small", 768: "base", 1024: "large"}
"""Names of the widths."""
Shapes = Mapping[str, Sequence[int]]


def titok_sizes(
    shapes: Shapes, config: Mapping[str, Any], source: str, heads: tuple[int, int] | None = None, groups: int = 32
) -> TiTokConfig:
    """Read the sizes of a tokenizer.

    The published configuration names sizes ("small", "base", "large") whose widths are in the authors' code, so they are read from the
    weights.

    Args:
        shapes: Shape of each tensor by its published name.
        config: The published configuration, {"model": {"vq_model": {...}}}.
        source: Where it comes from, for errors.
        heads: Attention heads of encoder and decoder; None takes one for 64 of width.
        groups: Groups of the pixel decoder's norms, which no shape tells.

    Raises:
        ValueError: If a tensor is missing that tells a size, or the tokenizer is of a kind that is not supported.
    """
    told = vq_config(config, source)
    if told.get("quantize_mode", "vq") != "vq":
        raise ValueError(
            f"{source} is a TiTok tokenizer with continuous latents ({told['quantize_mode']}), which has no codes; give a vq one"
        )
    if told.get("finetune_decoder", True) != ("pixel_quantize.embedding.weight" in shapes):
        raise ValueError(f"{source} has another decoder than its configuration says (finetune_decoder); copy both again")
    try:
        two_stage = "decoder.ffn.2.weight" in shapes
        if two_stage and "pixel_quantize.embedding.weight" not in shapes:
            raise ValueError(f"{source} is a TiTok tokenizer after its first stage, which gives no pixels; give the finished one")
        codebook_size, token_size = shapes["quantize.embedding.weight"]
        text = "decoder.text_guidance_proj.weight"
        patch = shapes["encoder.patch_embed.weight"][-1]
        decoder_patch = patch if two_stage else _root(shapes["decoder.ffn.0.weight"][0] // 3)
        encoder_heads, decoder_heads = heads or (None, None)
        return TiTokConfig(
            num_tokens=shapes["latent_tokens"][0],
            codebook_size=codebook_size,
            token_size=token_size,
            normalized=bool(told.get("use_l2_norm", False)),
            encoder=_tower(shapes, "encoder", patch, encoder_heads),
            decoder=_tower(shapes, "decoder", decoder_patch, decoder_heads),
            pixels=_pixels(shapes, groups) if two_stage else None,
            text_length=shapes["decoder.text_guidance_positional_embedding"][0] if text in shapes else 0,
            text_dim=shapes[text][1] if text in shapes else 0,
        )
    except KeyError as error:
        raise ValueError(f"{source} lacks {error.args[0]}, so it is no TiTok tokenizer; copy the whole folder of the tokenizer") from error


def published_config(config: TiTokConfig) -> dict[str, Any]:
    """Sizes as the authors' classes read them, the inverse of `titok_sizes`; a width without a published name is written as it is."""
    told: dict[str, Any] = {
        "codebook_size": config.codebook_size,
        "token_size": config.token_size,
        "use_l2_norm": config.normalized,
        "commitment_cost": 0.25,
        "vit_enc_model_size": NAMES.get(config.encoder.dim, config.encoder.dim),
        "vit_dec_model_size": NAMES.get(config.decoder.dim, config.decoder.dim),
        "vit_enc_patch_size": config.encoder.patch,
        "vit_dec_patch_size": config.side // config.decoder.grid,
        "num_latent_tokens": config.num_tokens,
        "finetune_decoder": config.pixels is not None,
        "is_legacy": config.pixels is not None,
        "quantize_mode": "vq",
    }
    if config.text_length:
        told |= {"clustering_vq": False, "text_context_length": config.text_length, "text_embed_dim": config.text_dim}
    return {"model": {"vq_model": told}, "dataset": {"preprocessing": {"crop_size": config.side}}}


def vq_config(config: Mapping[str, Any], source: str) -> Mapping[str, Any]:
    """The part `model.vq_model` of a published configuration.

    Raises:
        ValueError: If there is none.
    """
    model = config.get("model")
    found = model.get("vq_model") if isinstance(model, Mapping) else None
    if not isinstance(found, Mapping):
        raise ValueError(f"{source} has no model.vq_model in its config.json; copy the whole folder of the model")
    return found


def _tower(shapes: Shapes, part: str, patch: int, heads: int | None) -> TowerSize:
    """Size of the encoder or decoder."""
    cells, dim = shapes[f"{part}.positional_embedding"]
    layers = sum(name.startswith(f"{part}.transformer.") and name.endswith(".ln_1.weight") for name in shapes)
    return TowerSize(dim=dim, num_layers=layers, num_heads=heads or max(1, dim // HEAD_DIM), patch=patch, grid=_root(cells - 1))


def _pixels(shapes: Shapes, groups: int) -> PixelDecoderConfig:
    """Sizes of the pixel decoder."""
    codes, dim = shapes["pixel_quantize.embedding.weight"]
    channels = shapes["pixel_decoder.conv_out.weight"][1]
    firsts = [f"pixel_decoder.up.{number}.block.0.conv1.weight" for number in range(len(shapes))]
    widths = [shapes[name][0] for name in firsts if name in shapes]
    blocks = sum(name.startswith("pixel_decoder.mid.") and name.endswith(".conv1.weight") for name in shapes)
    multipliers = tuple(width // channels for width in widths)
    return PixelDecoderConfig(codes=codes, latent_dim=dim, channels=channels, multipliers=multipliers, blocks=blocks, groups=groups)


def _root(number: int) -> int:
    """Square root of a number of cells, rounded down; a wrong one is found when the weights are compared."""
    return int(max(number, 0) ** 0.5 + 1e-9)
