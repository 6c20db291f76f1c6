"""Tokenizers without a network: pixels as codes, and codes as they are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from maskgen.tokenizers.auto import load_tokenizer
from maskgen.tokenizers.codes import ImageCodesTokenizer, TextCodesTokenizer
from maskgen.tokenizers.contract import CHECKS, Case
from maskgen.tokenizers.pixels import PixelTokenizer, colours_of


def pictures() -> list[Image.Image]:
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in ((16, 32), (16, 16), (16, 32))]


def maps() -> list[Any]:
    return [torch.arange(rows * 4).view(1, rows, 4) % 9 for rows in (2, 3, 2)]


def texts() -> list[Any]:
    return [torch.arange(length)[None] % 9 for length in (2, 3, 2)]


CASES = {
    "pixels": Case(lambda change: PixelTokenizer(8 if change else 4), PixelTokenizer.from_bundle, pictures),
    "maps": Case(lambda change: ImageCodesTokenizer(10 if change else 9), ImageCodesTokenizer.from_bundle, maps, ".safetensors", b"no"),
    "texts": Case(
        lambda change: TextCodesTokenizer(9, end=2 if change else 3), TextCodesTokenizer.from_bundle, texts, ".safetensors", b"no"
    ),
}


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_contract(case: Case, check: Callable[[Case, Path], None], tmp_path: Path) -> None:
    check(case, tmp_path)


def test_pixels_come_back_exactly_row_by_row() -> None:
    tokenizer, (picture, *_) = PixelTokenizer(4), pictures()
    codes = tokenizer.encode([picture])[0]
    assert codes.shape == (16, 4, 8)
    assert colours_of(codes[:, 1, 2]).flatten().tolist() == np.asarray(picture)[4:8, 8:12].flatten().tolist()
    assert np.array_equal(tokenizer.decode([codes])[0], picture)
    assert tokenizer.decode([codes[:8]])[0].getpixel((0, 2)) == (128, 128, 128)


def test_media_that_are_no_codes_are_refused_with_where_the_codec_is(tmp_path: Path) -> None:
    tokenizer = ImageCodesTokenizer(9, "the codec is elsewhere")
    with pytest.raises(ValueError, match="media here are codes, got a Image; the codec is elsewhere"):
        tokenizer.encode(pictures()[:1])
    tokenizer.save(tmp_path)
    assert load_tokenizer(tmp_path).fingerprint == tokenizer.fingerprint
    assert TextCodesTokenizer(9, end=3).modality("det").end == 3


def test_a_patch_has_a_side() -> None:
    with pytest.raises(ValueError, match="must be 1 to 16 pixels, got 17"):
        PixelTokenizer(17)
