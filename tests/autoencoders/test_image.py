"""Networks of the image tokenizer: shapes for every config, and configs that make no network."""

import pytest
import torch

from maskgen.autoencoders.image import ImageAutoencoder, ImageAutoencoderConfig, PatchDiscriminator
from maskgen.autoencoders.quantizers import FiniteScalarQuantizer, ResidualQuantizer, VectorQuantizer

CONFIGS = [
    (ImageAutoencoderConfig(patch=4, encoder_channels=(16, 32), decoder_channels=(32, 16, 16)), 8, 2),
    (ImageAutoencoderConfig(patch=2, encoder_channels=(16, 16, 16), decoder_channels=(16,), encoder_blocks=1, decoder_blocks=0), 8, 8),
    (ImageAutoencoderConfig(patch=8, encoder_channels=(48,), decoder_channels=(16, 16, 16, 16), encoder_blocks=0, decoder_blocks=1), 8, 1),
    (ImageAutoencoderConfig(patch=3, encoder_channels=[16, 16], decoder_channels=[16, 16], encoder_blocks=1, decoder_blocks=1), 6, 3),
    (ImageAutoencoderConfig(patch=1, encoder_channels=(16,), decoder_channels=(16,), encoder_blocks=1, decoder_blocks=1), 1, 1),
]


@pytest.mark.parametrize(("config", "side", "shuffle"), CONFIGS)
@pytest.mark.parametrize("quantizer", [VectorQuantizer(6, 10), FiniteScalarQuantizer((4, 3)), ResidualQuantizer(3, 6, 10)])
def test_a_picture_becomes_a_grid_and_a_picture_again(
    config: ImageAutoencoderConfig, side: int, shuffle: int, quantizer: VectorQuantizer
) -> None:
    network = ImageAutoencoder(config, quantizer).eval()
    pixels = torch.rand(2, 3, 3 * side, 5 * side)
    values = network.encode(pixels)
    assert (config.pixels_per_cell, config.shuffle) == (side, shuffle)
    assert network.grid(pixels) == (3, 5)
    assert values.shape == (2, 15, quantizer.dim)
    assert network.codes(pixels).shape == (2, quantizer.num_levels, 15)
    assert network.decode(quantizer(values).values, (3, 5)).shape == pixels.shape


def test_cells_are_in_reading_order() -> None:
    """With patches of their own and no mixing convolution, a cell sees its own pixels alone."""
    config = ImageAutoencoderConfig(patch=4, encoder_channels=(16,), decoder_channels=(16,), encoder_blocks=0, decoder_blocks=0)
    network = ImageAutoencoder(config, VectorQuantizer(6, 10)).eval()
    patch_embedding = network.encoder[0]
    pixels = torch.zeros(1, 3, 8, 12)
    pixels[:, :, 0:4, 8:12] = 1.0
    embedded = patch_embedding(pixels * 2 - 1)[0].flatten(1)
    moved = (embedded - embedded[:, :1]).abs().sum(0) > 1e-6
    assert moved.tolist() == [False, False, True, False, False, False]
    assert torch.allclose(network.encode(pixels)[0].T.view(6, 2, 3), network.encoder(pixels * 2 - 1)[0])


def test_every_weight_gets_a_gradient() -> None:
    network = ImageAutoencoder(CONFIGS[0][0], FiniteScalarQuantizer((8, 5, 5)))
    for block in network.modules():
        if hasattr(block, "conv2"):
            torch.nn.init.normal_(block.conv2.weight, std=0.01)
    pixels = torch.rand(2, 3, 16, 16)
    quantized = network.quantizer(network.encode(pixels))
    (network.decode(quantized.values, (2, 2)) - pixels).square().mean().backward()
    assert all(tensor.grad is not None and bool(tensor.grad.abs().sum() > 0) for tensor in network.parameters())


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"patch": 2, "encoder_channels": (16,), "decoder_channels": (16, 16, 16)},
            "3 decoder stages enlarge by 4, which does not divide pixels_per_cell=2; use fewer decoder stages",
        ),
        ({"encoder_channels": (16, 40)}, r"encoder_channels must be one or more multiples of 16, got \[16, 40\]"),
        ({"decoder_channels": (8,)}, r"decoder_channels must be one or more multiples of 16, got \[8\]"),
        ({"encoder_channels": ()}, r"encoder_channels must be one or more multiples of 16, got \[\]"),
        ({"patch": 0}, "patch must be at least 1 pixel, got 0"),
    ],
)
def test_a_config_that_makes_no_network_is_refused(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        ImageAutoencoderConfig(**settings)


@pytest.mark.parametrize(("channels", "stages", "verdict"), [(16, 3, (4, 6)), (8, 1, (16, 24)), (8, 5, (1, 1))])
def test_the_discriminator_judges_patches(channels: int, stages: int, verdict: tuple[int, int]) -> None:
    assert PatchDiscriminator(channels, stages)(torch.rand(2, 3, 32, 48)).shape == (2, 1, *verdict)


def test_the_discriminator_judges_where_it_looks() -> None:
    discriminator, pixels = PatchDiscriminator(8, 1), torch.rand(1, 3, 32, 32)
    changed = pixels.clone()
    changed[:, :, :2, :2] = 0
    difference = (discriminator(changed) - discriminator(pixels))[0, 0].abs() > 0
    assert bool(difference[:2, :2].any())
    assert not bool(difference[4:, 4:].any())


@pytest.mark.parametrize(("channels", "stages"), [(4, 3), (12, 3), (16, 0)])
def test_a_discriminator_that_cannot_be_built_is_refused(channels: int, stages: int) -> None:
    with pytest.raises(ValueError, match=f"a multiple of 8 channels and 1 stage or more, got {channels} and {stages}"):
        PatchDiscriminator(channels, stages)
