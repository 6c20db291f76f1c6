"""Backbones read what their own tokenizer would give them: special tokens stand around each text, by the tokenizer's template."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from maskgen.io.bundle import load_bundle
from maskgen.networks.adapted import AdaptedConfig, AdaptedTransformer, adapt
from maskgen.networks.framing import framed, template_of
from maskgen.networks.pretrained import PIPELINE_KIND, PIPELINE_SCHEMA, transformer_of
from maskgen.pipelines.base import Pipeline
from maskgen.tokenizers.auto import load_tokenizer
from maskgen.tokens.batch import UNKNOWN
from maskgen.tokens.packing import pack, pack_rows
from maskgen.tokens.space import MASK, Modality, TokenSpace
from tokenizers import Tokenizer as Engine
from tokenizers import models, pre_tokenizers, processors

transformers: Any = pytest.importorskip("transformers")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<s>", *"abcdefghij"]
CLS, SEP, HIDDEN, START = 2, 3, 4, 5
TEXTS = ["a b c d", "e", "f g"]


def engine(post: Any) -> Engine:
    made = Engine(models.WordLevel({word: number for number, word in enumerate(WORDS)}, "[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if post is not None:
        made.post_processor = post
    return made


BERT = processors.TemplateProcessing(
    single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT with its tokenizer, as save_pretrained writes both."""
    folder = tmp_path_factory.mktemp("bert")
    roles = {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=engine(BERT), **roles).save_pretrained(folder)
    sizes = {"vocab_size": len(WORDS), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.BertForMaskedLM(transformers.BertConfig(**sizes, max_position_embeddings=24, initializer_range=0.3)).save_pretrained(
            folder
        )
    return folder


def space_of(folder: Path) -> TokenSpace:
    return TokenSpace([load_tokenizer(folder).modality("text"), Modality(name="image", kind="image", num_levels=2, codebook_size=8)])


@pytest.mark.parametrize(
    ("post", "expected"),
    [
        (BERT, ((CLS,), (SEP,))),
        (processors.BertProcessing(("[SEP]", SEP), ("[CLS]", CLS)), ((CLS,), (SEP,))),
        (processors.RobertaProcessing(("[SEP]", SEP), ("<s>", START)), ((START,), (SEP,))),
        (processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", START)]), ((START,), ())),
        (processors.ByteLevel(), ((), ())),
        (None, ((), ())),
    ],
)
def test_the_template_is_that_of_the_post_processor(post: Any, expected: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    made = engine(post)
    made.enable_truncation(2)
    made.enable_padding(length=9)
    assert template_of(made.to_str()) == expected


@torch.no_grad()
def test_a_bert_gives_what_transformers_gives_on_its_own_tokenization(bert: Path) -> None:
    theirs = transformers.BertForMaskedLM.from_pretrained(bert).eval()
    tokenize = transformers.AutoTokenizer.from_pretrained(bert)
    space, text = space_of(bert), load_tokenizer(bert)
    ours, offset = adapt(str(bert), space).eval(), space.segment("text", 0).offset
    batch = pack([{"text": codes} for codes in text.encode(TEXTS)], space)
    hidden, states = ours(batch), ours.states(batch)
    for row, sentence in enumerate(TEXTS):
        ids = tokenize(sentence, return_tensors="pt")["input_ids"]
        assert ids[0, 0] == CLS
        assert ids[0, -1] == SEP
        length = ids.shape[1] - 2
        torch.testing.assert_close(ours.logits(hidden[row, :length], offset, len(WORDS)), theirs(ids).logits[0, 1:-1], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(states[row, :length], theirs.bert(ids).last_hidden_state[0, 1:-1], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_masked_words_and_packed_documents_are_framed_alike(bert: Path) -> None:
    theirs = transformers.BertForMaskedLM.from_pretrained(bert).eval()
    space, text = space_of(bert), load_tokenizer(bert)
    ours, offset = adapt(str(bert), space).eval(), space.segment("text", 0).offset
    codes = [one.clone() for one in text.encode(TEXTS)]
    for one in codes:
        one[0, 0] = UNKNOWN
    images = [torch.zeros(2, 2, 2, dtype=torch.long)] * 3
    row = pack_rows([[{"text": one, "image": image} for one, image in zip(codes, images, strict=True)]], space)
    alone = [pack([{"text": one, "image": image}], space) for one, image in zip(codes, images, strict=True)]
    torch.testing.assert_close(ours(row), torch.cat([ours(one) for one in alone], dim=1), atol=1e-5, rtol=1e-4)
    hidden = ours(pack([{"text": one} for one in codes], space))
    for number, one in enumerate(codes):
        ids = torch.tensor([[CLS, HIDDEN, *one[0, 1:].tolist(), SEP]])
        found = ours.logits(hidden[number, : one.shape[1]], offset, len(WORDS))
        torch.testing.assert_close(found, theirs(ids).logits[0, 1:-1], atol=1e-4, rtol=1e-4)


def test_specials_stand_around_texts_alone_and_hide_with_them() -> None:
    space = TokenSpace(
        [
            Modality(name="text", kind="text", num_levels=1, codebook_size=9),
            Modality(name="image", kind="image", num_levels=2, codebook_size=4),
        ]
    )
    image = torch.zeros(2, 1, 2, dtype=torch.long)
    batch = pack_rows([[{"text": torch.tensor([[5, 6]]), "image": image}, {"image": image}], [{"text": torch.tensor([[7]])}]], space)
    found = framed(batch, 1, (8, 9), (10,))
    first = space.segment("image", 0).offset
    assert found.batch.ids[0, :, 0].tolist() == [8, 9, 7, 8, 10, first, first, first, first, 0, 0, 0]
    assert found.batch.document[0, :9].tolist() == [0] * 7 + [1] * 2
    assert found.batch.ids[1, :, 0].tolist()[:4] == [8, 9, 9, 10]
    assert int(found.batch.valid.sum()) == int(batch.valid.sum()) + 6
    back = found.batch.map(lambda field: field.take_along_dim(found.place.reshape(*found.place.shape, *[1] * (field.ndim - 2)), 1))
    assert all(torch.equal(getattr(back, name), value) for name, value in vars(batch).items() if name != "features")
    without = framed(batch.hide(batch.modality == 1), 1, (8, 9), (10,)).batch
    assert int(without.valid.sum()) == int((batch.modality[batch.valid] != 1).sum())


def test_a_bundle_keeps_the_template_and_impossible_ids_are_refused(bert: Path, tmp_path: Path) -> None:
    space, text = space_of(bert), load_tokenizer(bert)
    model = adapt(str(bert), space).eval()
    offset = space.segment("text", 0).offset
    assert (model.config.before, model.config.after) == ((offset + CLS,), (offset + SEP,))
    Pipeline(model, space, {}, {}, {}).save_pretrained(tmp_path / "bundle")
    loaded, _ = transformer_of(load_bundle(tmp_path / "bundle", PIPELINE_KIND, PIPELINE_SCHEMA))
    batch = pack([{"text": text.encode(["a b"])[0]}], space)
    hidden: Tensor = loaded(batch)
    torch.testing.assert_close(hidden, model(batch), atol=2e-3, rtol=1e-2)
    assert loaded.config.before == model.config.before
    assert offset > MASK
    config = AdaptedConfig(backbone=model.config.backbone, before=(space.size,))
    with pytest.raises(ValueError, match="before and after hold the ids"):
        AdaptedTransformer(config, space.size, 2)
