"""Grids of one, two and three axes through a whole generation: pack, decode, unpack, media."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from maskgen.decoding.settings import GenerationSettings
from maskgen.networks.transformer import MaskTransformer, TransformerConfig
from maskgen.pipelines.text_to_image import TextToImagePipeline
from maskgen.tokenizers.base import Tokenizer
from maskgen.tokenizers.text import TextTokenizer
from maskgen.tokens.batch import UNKNOWN, Codes
from maskgen.tokens.space import TokenSpace


class Shapes(Tokenizer):
    """Codes of one shape for every image; the image of a grid shows its shape."""

    kind = "image"
    num_levels, codebook_size, fingerprint = 2, 8, "shapes"

    def __init__(self, grid: tuple[int, ...]) -> None:
        self.grid = grid

    def read(self, path: Path | str) -> Any:
        raise NotImplementedError

    def write(self, media: Any, path: Path | str) -> None:
        raise NotImplementedError

    def save(self, folder: Path | str) -> str:
        raise NotImplementedError

    def encode(self, media: Sequence[Image.Image]) -> list[Codes]:
        return [torch.full((2, *self.grid), number + 1) for number, _ in enumerate(media)]

    def decode(self, codes: Sequence[Codes]) -> list[Any]:
        assert all(grid.shape == (2, *self.grid) for grid in codes)
        return [Image.new("RGB", (20, 10)) for _ in codes]


@pytest.mark.parametrize("grid", [(5,), (1, 5), (3, 4), (2, 3, 4), (1, 1, 4), (4, 1, 1)])
@pytest.mark.parametrize("sampler", ["confidence", "halton"])
def test_images_of_any_number_of_axes_are_generated_and_varied(grid: tuple[int, ...], sampler: str, tiny_text: TextTokenizer) -> None:
    image = Shapes(grid)
    space = TokenSpace([tiny_text.modality("text"), image.modality("image")])
    model = MaskTransformer(TransformerConfig(dim=16, num_layers=1, num_heads=1), space.size, 2)
    settings = {"image": GenerationSettings(steps=(3, 2), sampler=sampler)}
    pipe = TextToImagePipeline(model, space, {"text": tiny_text, "image": image}, settings, {"image": grid})
    output = pipe("a heart")
    assert output.codes[0].shape == output.log_probabilities[0].shape == (2, *grid)
    known = torch.full((2, *grid), UNKNOWN)
    known.view(2, -1)[:, ::2] = 3
    made = pipe.generate([{"image": known}], "image", [0]).codes[0]
    assert torch.equal(made.view(2, -1)[:, ::2], known.view(2, -1)[:, ::2])
    assert pipe("a", image=Image.new("RGB", (20, 10)), strength=0.5).images[0].size == (20, 10)


def test_a_mask_needs_rows_and_columns(tiny_text: TextTokenizer) -> None:
    image = Shapes((5,))
    space = TokenSpace([tiny_text.modality("text"), image.modality("image")])
    model = MaskTransformer(TransformerConfig(dim=16, num_layers=1, num_heads=1), space.size, 2)
    pipe = TextToImagePipeline(
        model, space, {"text": tiny_text, "image": image}, {"image": GenerationSettings(steps=(1,))}, {"image": (5,)}
    )
    image.decode = lambda codes: [Image.new("RGB", (20, 10)) for _ in codes]  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="square cells in rows and columns"):
        pipe("a", image=Image.new("RGB", (20, 10)), mask_image=Image.new("L", (20, 10), 255))
