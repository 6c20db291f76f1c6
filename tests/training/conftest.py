"""Token shards without shards, and batches for them."""

import pytest
import torch

from maskgen.data.shards.manifest import Index, write_index
from maskgen.tokens.batch import TokenBatch, pack
from maskgen.tokens.space import TokenSpace


@pytest.fixture(scope="module")
def bare_shards(tmp_path_factory: pytest.TempPathFactory, tiny_space: TokenSpace) -> str:
    folder = tmp_path_factory.mktemp("shards")
    write_index(folder, Index(kind="tokens", shards=(), space=tiny_space.to_dict(), fingerprints={}))
    return str(folder)


@pytest.fixture(scope="module")
def token_batches(tiny_space: TokenSpace) -> list[TokenBatch]:
    """Four batches of two rows; two make an epoch where the whole is not asked for."""
    draw = torch.Generator().manual_seed(0)
    rows = [{"image": torch.randint(0, 16, (2, 4, 4), generator=draw)} for _ in range(8)]
    return [pack(rows[start : start + 2], tiny_space) for start in range(0, 8, 2)]
