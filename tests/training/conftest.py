"""Token shards without shards, and batches for them."""

import pytest
import torch
from builders.shards import empty_shards

from maskgen.tokenizers.image import ImageTokenizer
from maskgen.tokenizers.text import TextTokenizer
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.packing import pack
from maskgen.tokens.space import TokenSpace


@pytest.fixture(scope="module")
def bare_shards(tmp_path_factory: pytest.TempPathFactory, tiny_space: TokenSpace) -> str:
    return empty_shards(tmp_path_factory.mktemp("shards"), tiny_space)


@pytest.fixture(scope="module")
def token_batches(tiny_space: TokenSpace) -> list[TokenBatch]:
    """Four batches of two rows; two make an epoch where the whole is not asked for."""
    draw = torch.Generator().manual_seed(0)
    rows = [{"image": torch.randint(0, 16, (2, 4, 4), generator=draw)} for _ in range(8)]
    return [pack(rows[start : start + 2], tiny_space) for start in range(0, 8, 2)]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory, tiny_space: TokenSpace, tiny_text: TextTokenizer, tiny_image: ImageTokenizer) -> str:
    prints = {"text": tiny_text.fingerprint, "image": tiny_image.fingerprint}
    return empty_shards(tmp_path_factory.mktemp("shards"), tiny_space, prints)


@pytest.fixture(scope="module")
def batch(tiny_space: TokenSpace, tiny_text: TextTokenizer) -> TokenBatch:
    """Eight rows of uneven captions with planted random codes."""
    generator = torch.Generator().manual_seed(0)
    texts = tiny_text.encode([f"caption number {number} {'star ' * (number % 3)}" for number in range(8)])
    return pack([{"text": text, "image": torch.randint(0, 16, (2, 4, 4), generator=generator)} for text in texts], tiny_space)
