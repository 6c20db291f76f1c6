"""Tiles of large images: equal to the whole image where the network allows it, without seams where it does not."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from maskgen.autoencoders.image import ImageAutoencoder, ImageAutoencoderConfig
from maskgen.autoencoders.llamagen import LlamaGenConfig, LlamaGenVQ
from maskgen.autoencoders.quantizers import FiniteScalarQuantizer
from maskgen.tokenizers.grid_images import GridImageTokenizer
from maskgen.tokenizers.image import ImageTokenizer
from maskgen.tokenizers.llamagen_vq import LlamaGenVQTokenizer
from maskgen.tokenizers.tiling import Tiling, tile_spans

CONFIG = ImageAutoencoderConfig(patch=2, encoder_channels=(16, 16), decoder_channels=(16, 16), encoder_blocks=1, decoder_blocks=1)


def tokenizer(norms: bool = True) -> ImageTokenizer:
    """A small network with weights of ordinary size, which looks 16 pixels far at most."""
    torch.manual_seed(0)
    network = ImageAutoencoder(CONFIG, FiniteScalarQuantizer(levels=[5, 5, 5]))
    for name, weight in network.named_parameters():
        if weight.ndim == 4:
            nn.init.normal_(weight, std=(1.5 if "encoder" in name else 1.0) / weight[0].numel() ** 0.5)
    if not norms:
        for parent in list(network.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.GroupNorm):
                    setattr(parent, name, nn.Identity())
    return ImageTokenizer(network, (16, 16))


def picture(width: int, height: int) -> Image.Image:
    """Smooth colours that differ from corner to corner, so that each tile has statistics of its own, and some noise."""
    generator = np.random.default_rng(0)
    coarse = Image.fromarray(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    noise = generator.integers(-20, 21, (height, width, 3)) * np.linspace(0, 2, width)[None, :, None]
    return Image.fromarray((np.asarray(coarse) + noise).clip(0, 255).astype(np.uint8))


def apart(one: Image.Image, other: Image.Image) -> np.ndarray:
    return np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int))


@given(length=st.integers(1, 200), size=st.integers(1, 50), halo=st.integers(0, 20))
def test_spans_cover_an_axis_once_within_their_size(length: int, size: int, halo: int) -> None:
    found = tile_spans(length, size, halo)
    assert [cell for span in found for cell in range(span.start, span.end)] == list(range(length))
    assert all(0 < span.end - span.start <= size and max(0, span.start - halo) == span.left for span in found)
    assert all(min(length, span.end + halo) == span.right and span.own.stop - span.own.start == span.end - span.start for span in found)


@pytest.mark.parametrize(("norms", "how"), [(False, "tile"), (True, "exact")])
def test_tiles_equal_the_whole_image_where_the_halo_covers_what_the_network_sees(norms: bool, how: str) -> None:
    whole, tiled = tokenizer(norms), tokenizer(norms)
    whole.tile, tiled.tile = None, Tiling(size=32, halo=32, above=0, norms=how)  # type: ignore[arg-type]
    image = picture(84, 60)
    codes = whole.encode([image])[0]
    assert len(codes.unique()) > 20  # the codes say something of the image
    assert float((tiled.encode([image])[0] == codes).float().mean()) > 0.995  # a value between two codes may round the other way
    assert apart(tiled.decode([codes])[0], whole.decode([codes])[0]).max() <= 1


def test_pooled_norms_are_closer_to_the_whole_image_than_those_of_each_tile_and_blending_leaves_no_seam() -> None:
    one = tokenizer()
    one.tile, image = None, picture(128, 64)
    codes = one.encode([image])[0]
    whole = one.decode([codes])[0]
    errors, seams = {}, {}
    for name, halo in (("tile", 0), ("tile", 16), ("pooled", 16)):
        one.tile = Tiling(size=32, halo=halo, above=0, norms=name)  # type: ignore[arg-type]
        made = one.decode([codes])[0]
        errors[name, halo] = apart(made, whole).mean()
        steps = np.abs(np.diff(np.asarray(made).astype(int) - np.asarray(whole).astype(int), axis=1)).mean(axis=(0, 2))
        seams[name, halo] = steps[[31, 63, 95]].mean() / steps.mean()
    assert errors["pooled", 16] < 0.7 * errors["tile", 16] < errors["tile", 0]
    assert seams["pooled", 16] < 1.5 < seams["tile", 0]


def test_only_images_above_the_size_are_cut_and_a_batch_may_hold_both() -> None:
    one = tokenizer()
    regions: list[tuple[int, int]] = []
    plain = one._encode_batch
    one._encode_batch = lambda pictures: regions.extend(picture.size for picture in pictures) or plain(pictures)  # type: ignore[method-assign,func-returns-value]
    one.tile = Tiling(size=32, halo=0, above=40, norms="tile")
    small, large = one.encode([picture(40, 40), picture(64, 48)])
    assert regions == [(40, 40), (32, 24), (32, 24), (32, 24), (32, 24)]
    assert small.shape == (1, 10, 10)
    assert large.shape == (1, 12, 16)


def test_attention_over_the_image_and_other_tokenizers_work_in_tiles() -> None:
    torch.manual_seed(0)
    config = LlamaGenConfig(codebook_size=16, codebook_dim=4, latent_channels=16, channels=16, multipliers=(1, 1), num_groups=4)
    one = LlamaGenVQTokenizer(LlamaGenVQ(config))
    one.tile = Tiling(size=16, halo=8, above=0)
    codes = one.encode([picture(32, 24)])[0]
    assert codes.shape == (1, 24 // one.pixels_per_cell, 32 // one.pixels_per_cell)
    assert one.decode([codes])[0].size == (32, 24)


def test_large_images_go_to_the_network_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maskgen.tokenizers.grid_images.MOST_PIXELS", 2 * 32 * 32)
    one, calls = tokenizer(), []
    plain = one._encode_batch
    one._encode_batch = lambda pictures: calls.append(len(pictures)) or plain(pictures)  # type: ignore[method-assign,func-returns-value]
    assert len(one.encode([picture(32, 32)] * 5)) == 5
    assert calls == [2, 2, 1]


@pytest.mark.parametrize("wrong", [{"size": 0}, {"halo": 600}, {"above": -1}])
def test_impossible_tiles_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"got"):
        Tiling(**wrong)  # type: ignore[arg-type]


def test_every_grid_tokenizer_cuts_by_default_above_1024_pixels() -> None:
    tile = GridImageTokenizer.tile
    assert tile is not None
    assert not tile.cuts(1024, 1024)
    assert tile.cuts(1040, 1024)
