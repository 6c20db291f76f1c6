"""Order, captions and batches: balanced, decided by seed, epoch and key alone, and made by the right tokenizers."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from maskgen.batch import unpack
from maskgen.data.build import padded, require_same_fingerprints, tokenize
from maskgen.data.manifest import read_index
from maskgen.data.module import RawImages, TokenData, TokenRows
from maskgen.data.order import BalancedOrder, family_weights, fixed_subset
from maskgen.space import Kind
from maskgen.tokenizers.base import Tokenizer
from maskgen.tokenizers.text import TextTokenizer

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "data" / "emoji" / "sample"


class Corners(Tokenizer):
    """An image tokenizer whose codes are sums of the four quarters."""

    kind: ClassVar[Kind] = "image"
    num_levels, codebook_size = 2, 512

    def __init__(self, name: str = "corners") -> None:
        self.name, self.encoded = name, 0

    @property
    def fingerprint(self) -> str:
        return self.name

    def read(self, path: Any) -> Any: ...
    def write(self, media: Any, path: Any) -> None: ...
    def save(self, folder: Any) -> str: ...
    def decode(self, codes: Any) -> Any: ...

    def encode(self, media: Sequence[Any]) -> list[Tensor]:
        self.encoded += len(media)
        quarters = [np.asarray(one, dtype=np.int64).reshape(2, 32, 2, 32, 3).sum((1, 3, 4)) for one in media]
        return [torch.from_numpy(np.stack([quarter % 512, quarter // 512 % 512])) for quarter in quarters]


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Tokenizer]:
    return {"text": TextTokenizer.from_bundle(ROOT / "tokenizers" / "text-bpe" / "bundle"), "image": Corners()}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory, tokenizers: dict[str, Tokenizer]) -> Path:
    out = tmp_path_factory.mktemp("tokens")
    tokenize(SAMPLE, out, tokenizers, report=lambda _: None)
    return out


# Order


@settings(deadline=None)
@given(sizes=st.lists(st.integers(1, 20), min_size=5, max_size=5), seed=st.integers(0, 9))
def test_families_come_equally_often_and_styles_inside_them(sizes: list[int], seed: int) -> None:
    styles = [("noto", "noto"), ("fluent", "flat"), ("fluent", "color"), ("fluent", "3d"), ("twemoji", "twemoji")]
    rows = [{"family": family, "style": style} for (family, style), size in zip(styles, sizes, strict=True) for _ in range(size)]
    order = BalancedOrder(family_weights(rows), seed)
    drawn = Counter(rows[row]["style"] for row, _ in order)
    for (family, style), _ in zip(styles, sizes, strict=True):
        assert abs(drawn[style] - len(rows) / (9 if family == "fluent" else 3)) <= 1 + 1e-6


def test_order_depends_on_seed_and_epoch_alone_and_draws_never_repeat() -> None:
    def epoch(seed: int, number: int) -> list[tuple[int, int]]:
        order = BalancedOrder(torch.ones(50), seed)
        order.set_epoch(number)
        return list(order)

    assert epoch(1, 3) == epoch(1, 3)
    assert epoch(1, 3) != epoch(1, 4) != epoch(2, 4)
    assert sorted(row for row, _ in epoch(1, 3)) == list(range(50))
    assert [draw for _, draw in epoch(1, 0) + epoch(1, 1)] == list(range(100))


def test_a_fixed_subset_does_not_move_when_rows_are_added() -> None:
    keys = [f"key-{number}" for number in range(100)]
    small = {keys[row] for row, _ in fixed_subset(keys, 10)}
    more = {([*keys, "new"])[row] for row, _ in fixed_subset([*keys, "new"], 11)}
    assert len(small) == 10
    assert small <= more | {"new"}
    assert all(draw == -1 for _, draw in fixed_subset(keys, 10))


# Pictures


def test_raw_images_are_floats_in_unit_range_in_the_same_order_again() -> None:
    first, second = (RawImages(str(SAMPLE), batch_size=4, validation_splits=("A", "train"), validation_rows=3) for _ in range(2))
    for module in (first, second):
        module.setup("fit")
    batches = list(first.train_dataloader())
    assert all(
        batch.shape == (4, 3, 64, 64) and batch.dtype == torch.float32 and batch.min() >= 0 and batch.max() <= 1 for batch in batches
    )
    assert all(torch.equal(a, b) for a, b in zip(batches, second.train_dataloader(), strict=True))
    assert [sum(map(len, loader)) for loader in first.val_dataloader()] == [3, 3]


def test_flips_mirror_training_draws_only() -> None:
    module = RawImages(str(SAMPLE), flip_share=1.0)
    module.setup("fit")
    rows = module.rows["train"]
    assert torch.equal(rows[0, 5], rows.pixels[0].flip(-1))
    assert torch.equal(rows[0, -1], rows.pixels[0])


# Tokens


def test_token_shards_hold_what_the_tokenizers_say(tokens: Path, tokenizers: dict[str, Tokenizer]) -> None:
    index = read_index(tokens)
    assert index.counts == read_index(SAMPLE).counts
    assert dict(index.fingerprints) == {n: t.fingerprint for n, t in tokenizers.items()}
    rows = TokenRows(tokens, "train")
    assert [modality.name for modality in rows.space.modalities] == ["text", "image"]
    assert all(sample["image.npy"].dtype == np.int16 and sample["image.npy"].shape == (2, 2, 2) for _, sample in rows.rows)
    item = rows[0, -1]
    assert tokenizers["text"].decode([item["text"]]) == [rows.meta[0]["captions"][0]]
    assert item["image"].shape == (2, 2, 2)


def test_a_batch_unpacks_to_its_samples(tokens: Path) -> None:
    module = TokenData(str(tokens), batch_size=5, validation_rows=5)
    module.setup("fit")
    loader, _ = module.val_dataloader()
    rows = module.rows["A"]
    wanted = [rows[draw] for draw in fixed_subset(rows.keys, 5)]
    found = unpack(next(iter(loader)), module.space)
    assert all(torch.equal(a[name], b[name]) for a, b in zip(found, wanted, strict=True) for name in ("text", "image"))


def test_captions_follow_their_share_and_only_the_draw_decides(tokens: Path) -> None:
    rows = TokenRows(tokens, "train", canonical_share=0.4, seed=3)
    picks = Counter(rows.alternative(1, draw, 6) for draw in range(4000))
    assert abs(picks[0] / 4000 - 0.4) < 0.04
    assert all(abs(picks[other] / 4000 - 0.12) < 0.03 for other in range(1, 6))
    assert [rows.alternative(1, n, 6) for n in range(20)] == [
        TokenRows(tokens, "train", canonical_share=0.4, seed=3).alternative(1, n, 6) for n in range(20)
    ]
    assert {rows.alternative(row, -1, 6) for row in range(9)} == {0}
    assert rows.alternative(1, 7, 1) == 0
    assert {TokenRows(tokens, "train", 1.0).alternative(0, draw, 6) for draw in range(50)} == {0}


def test_a_long_caption_gives_way_to_the_shortest_in_training_only(tokens: Path) -> None:
    rows = TokenRows(tokens, "train", canonical_share=0.0, longest_text=1)
    array = np.array([[1, 2, 3], [4, 5, -1], [6, 7, 8]])
    assert rows.caption(array, 0, 0).tolist() == [[4, 5]]
    assert rows.caption(array, 0, -1).tolist() == [[1, 2, 3]]


def test_padding_marks_the_end_of_each_caption() -> None:
    assert padded([torch.tensor([[5, 6, 7]]), torch.zeros(1, 0, dtype=torch.long)]).tolist() == [[5, 6, 7], [-1, -1, -1]]


def test_a_killed_build_goes_on_and_ends_with_the_same_bytes(tokens: Path, tmp_path: Path, tokenizers: dict[str, Tokenizer]) -> None:
    def killed(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tokenize(SAMPLE, tmp_path, {**tokenizers, "image": Corners()}, report=killed)
    with pytest.raises(ValueError, match="no finished shards"):
        read_index(tmp_path)
    rest = Corners()
    index = tokenize(SAMPLE, tmp_path, {**tokenizers, "image": rest}, report=lambda _: None)
    assert rest.encoded == sum(index.counts.values()) - index.shards[0].count
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {p.name: p.read_bytes() for p in tokens.iterdir()}


def test_another_tokenizer_is_refused_by_both_names_and_builds_again(
    tokens: Path, tmp_path: Path, tokenizers: dict[str, Tokenizer]
) -> None:
    require_same_fingerprints(read_index(tokens), tokenizers)
    other = Corners("other")
    with pytest.raises(ValueError, match=r"made with tokenizer corners, this run has other.*maskgen data tokenize --config"):
        require_same_fingerprints(read_index(tokens), {"image": other})
    tokenize(SAMPLE, tmp_path, tokenizers, report=lambda _: None)
    index = tokenize(SAMPLE, tmp_path, {**tokenizers, "image": other}, report=lambda _: None)
    assert other.encoded == sum(index.counts.values())
    assert read_index(tmp_path).fingerprints["image"] == "other"


def test_raw_shards_are_no_token_shards() -> None:
    with pytest.raises(ValueError, match="holds raw shards, wanted tokens"):
        TokenRows(SAMPLE, "train")
