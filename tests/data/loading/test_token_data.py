"""Order, captions and batches: balanced, decided by seed, epoch and key alone, and made by the right tokenizers."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from maskgen.data.build.raw_shards import flac_bytes
from maskgen.data.build.token_shards import padded
from maskgen.data.build.tokenize import tokenize
from maskgen.data.loading.caption_templates import Phrases
from maskgen.data.loading.mixture import Part
from maskgen.data.loading.order import fixed_subset
from maskgen.data.loading.raw_audio import AudioRows
from maskgen.data.loading.raw_media import RawImages
from maskgen.data.loading.samples import ImageRows, TokenRows, open_rows
from maskgen.data.loading.token_data import TokenData
from maskgen.data.loading.token_spaces import token_space
from maskgen.data.shards.format import json_bytes, write_shard
from maskgen.data.shards.manifest import Index, read_index, write_index
from maskgen.data.shards.store import ShardStore
from maskgen.io.audio import Waveform
from maskgen.tokenizers.base import Tokenizer
from maskgen.tokenizers.text import TextTokenizer, train_bpe
from maskgen.tokens.packing import unpack
from maskgen.tokens.space import Kind

ROOT = Path(__file__).parents[3]
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
    assert torch.equal(rows[0, 5], rows.picture(0).flip(-1))
    assert torch.equal(rows[0, -1], rows.picture(0))


@pytest.mark.parametrize("pictures", [0, 3, 100])
def test_images_are_streamed_beyond_a_number_of_bytes_and_the_batches_stay_the_same(pictures: int) -> None:
    size = 64 * 64 * 3
    module, other = (RawImages(str(SAMPLE), batch_size=4, flip_share=0.5) for _ in range(2))
    for one in (module, other):
        one.setup("fit")
    rows = module.rows["train"] = ImageRows(module.rows["train"].rows, 0.5, most_bytes=pictures * size + 1)
    assert all(torch.equal(a, b) for a, b in zip(module.train_dataloader(), other.train_dataloader(), strict=True))
    assert len(rows.kept.media) == min(pictures, len(other.rows["train"].kept.media))
    assert sum(picture.nbytes for picture in rows.kept.media.values()) <= pictures * size


def test_audio_is_streamed_beyond_a_number_of_bytes(tmp_path: Path) -> None:
    waves = [Waveform(samples=np.full((1, 400), number / 10, np.float32), sample_rate_hz=16_000) for number in range(4)]
    about = json_bytes({"sample_rate_hz": 16_000})
    clips = [(f"{number:03d}", {"flac": flac_bytes(wave), "json": about}) for number, wave in enumerate(waves)]
    write_index(tmp_path, Index(kind="raw", shards=(write_shard(tmp_path / "train-000000.tar", "train", clips),)))
    store = ShardStore(str(tmp_path))
    few, all_of_them = (AudioRows(open_rows(store, store.index(), "train"), 300, 16_000, most_bytes=size) for size in (1000, 2**20))
    for _ in range(2):
        assert all(torch.equal(few[row, 1], all_of_them[row, 1]) for row in range(4))
    assert (len(few.kept.media), len(all_of_them.kept.media)) == (1, 4)


# Tokens


def token_rows(folder: Path, split: str, **options: Any) -> TokenRows:
    store = ShardStore(str(folder))
    index, space = token_space(store)
    return TokenRows(open_rows(store, index, split), space, **options)


def test_codes_of_large_vocabularies_are_stored_whole(tmp_path: Path, tokenizers: dict[str, Tokenizer]) -> None:
    class Large(Corners):
        codebook_size = 2**16

        def encode(self, media: Sequence[Any]) -> list[Tensor]:
            return [codes + 65_000 for codes in super().encode(media)]

    tokenize(SAMPLE, tmp_path, {**tokenizers, "image": Large()}, report=lambda _: None)
    rows = token_rows(tmp_path, "train")
    assert rows.rows.field(0, "image.npy").dtype == np.int32
    assert int(rows[0, -1]["image"].min()) >= 65_000


def test_token_shards_hold_what_the_tokenizers_say(tokens: Path, tokenizers: dict[str, Tokenizer]) -> None:
    index = read_index(tokens)
    assert index.counts == read_index(SAMPLE).counts
    assert dict(index.fingerprints) == {n: t.fingerprint for n, t in tokenizers.items()}
    rows = token_rows(tokens, "train")
    assert [modality.name for modality in rows.space.modalities] == ["text", "image"]
    arrays = [rows.rows.field(row, "image.npy") for row in range(len(rows))]
    assert all(array.dtype == np.int16 and array.shape == (2, 2, 2) for array in arrays)
    item = rows[0, -1]
    assert tokenizers["text"].decode([item["text"]]) == [rows.rows.meta(0)["captions"][0]]
    assert rows.length((0, -1)) == item["text"].shape[1] + 4
    assert item["image"].shape == (2, 2, 2)


def test_a_batch_unpacks_to_its_samples(tokens: Path) -> None:
    module = TokenData(str(tokens), batch_size=5, validation_splits=["A", "train"], validation_rows=5)
    module.setup("fit")
    loader, _ = module.val_dataloader()
    rows = module.validation[0].source
    assert isinstance(rows, TokenRows)
    wanted = [rows[draw] for draw in fixed_subset([rows.rows.key(row) for row in range(len(rows))], 5)]
    found = unpack(next(iter(loader)), module.space)
    assert all(torch.equal(a[name], b[name]) for a, b in zip(found, wanted, strict=True) for name in ("text", "image"))


def test_captions_follow_their_share_and_only_the_draw_decides(tokens: Path) -> None:
    rows = token_rows(tokens, "train", canonical_share=0.4, seed=3)
    picks = Counter(rows.alternative(1, draw, 6) for draw in range(4000))
    assert abs(picks[0] / 4000 - 0.4) < 0.04
    assert all(abs(picks[other] / 4000 - 0.12) < 0.03 for other in range(1, 6))
    assert [rows.alternative(1, n, 6) for n in range(20)] == [
        token_rows(tokens, "train", canonical_share=0.4, seed=3).alternative(1, n, 6) for n in range(20)
    ]
    assert {rows.alternative(row, -1, 6) for row in range(9)} == {0}
    assert rows.alternative(1, 7, 1) == 0
    assert {token_rows(tokens, "train", canonical_share=1.0).alternative(0, draw, 6) for draw in range(50)} == {0}


def test_a_long_caption_gives_way_to_the_shortest_in_training_only(tokens: Path) -> None:
    rows = token_rows(tokens, "train", canonical_share=0.0, longest_text=1)
    array = np.array([[1, 2, 3], [4, 5, -1], [6, 7, 8]])
    assert rows.caption(array, 0, 0).tolist() == [[4, 5]]
    assert rows.caption(array, 0, -1).tolist() == [[1, 2, 3]]


def test_phrases_put_their_share_of_training_captions_into_sentences(tokens: Path, tokenizers: dict[str, Tokenizer]) -> None:
    text, bundle = tokenizers["text"], str(ROOT / "tokenizers" / "text-bpe" / "bundle")
    plain = token_rows(tokens, "train", seed=3)

    def said(draws: int, **options: Any) -> list[tuple[str, str]]:
        rows = token_rows(tokens, "train", seed=3, phrases=Phrases(bundle, ["Here is {}.", "Show me {}!"], 0.5), **options)
        both = [(rows[draw]["text"], plain[draw]["text"]) for draw in ((n % len(plain), n) for n in range(draws))]
        return [(text.decode([sentence])[0], text.decode([caption])[0]) for sentence, caption in both]

    found = said(400)
    kinds = Counter(
        "here" if a == f"here is {b}." else "show" if a == f"show me {b}!" else "plain" if a == b else "wrong" for a, b in found
    )
    assert kinds["wrong"] == 0
    assert 70 < kinds["here"] < 130
    assert 70 < kinds["show"] < 130
    assert said(400) == found
    assert all(len(text.encode([sentence])[0][0]) <= 12 for sentence, caption in said(100, longest_text=12) if sentence != caption)
    held_out = token_rows(tokens, "A", phrases=Phrases(bundle, ["Here is {}."], 1.0))
    assert not text.decode([held_out[0, -1]["text"]])[0].startswith("here is")


@pytest.mark.parametrize(
    ("templates", "share", "wrong"),
    [
        ([], 0.2, "must not be empty"),
        (["no place"], 0.2, "exactly once"),
        (["{} and {}"], 0.2, "exactly once"),
        (["{0}"], 0.2, "exactly once"),
        (["{}"], 1.2, "share must lie"),
    ],
)
def test_phrases_without_a_place_for_the_caption_are_refused(templates: list[str], share: float, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        Phrases(str(ROOT / "tokenizers" / "text-bpe" / "bundle"), templates, share)


def test_phrases_of_another_tokenizer_are_refused(tokens: Path, tmp_path: Path) -> None:
    train_bpe(["some other words"], 256).save(tmp_path / "other")
    data = TokenData([Part(folder=str(tokens), phrases=Phrases(str(tmp_path / "other"), ["Here is {}."]))])
    with pytest.raises(ValueError, match=r"is not that of .*give phrases the bundle"):
        data.setup("fit")


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
    other = Corners("other")
    tokenize(SAMPLE, tmp_path, tokenizers, report=lambda _: None)
    with pytest.raises(ValueError, match=r"fingerprints.image was corners, it is other now; .* give --restart"):
        tokenize(SAMPLE, tmp_path, {**tokenizers, "image": other})
    assert other.encoded == 0
    index = tokenize(SAMPLE, tmp_path, {**tokenizers, "image": other}, restart=True)
    assert other.encoded == sum(index.counts.values())
    assert read_index(tmp_path).fingerprints["image"] == "other"


def test_raw_shards_are_no_token_shards() -> None:
    with pytest.raises(ValueError, match="holds raw shards, wanted tokens"):
        TokenData(str(SAMPLE)).setup("fit")
