"""Pretrained backbones as the masked transformer: exactly the backbone on text, nothing leaks, bundles need no folder."""

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from maskgen.io.bundle import load_bundle, save_bundle
from maskgen.networks.adapted import AdaptedTransformer, adapt, cell_before, grown_table, open_edges, open_share, places_in_row
from maskgen.networks.pretrained import PIPELINE_KIND, transformer_of
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.packing import pack, pack_rows
from maskgen.tokens.space import MASK, PAD, Modality, TokenSpace

transformers: Any = pytest.importorskip("transformers")
WORDS, MOST = 50, 24
SIZES = {"vocab_size": WORDS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
WIDE = {"initializer_range": 0.3}
"""Weights large enough that every cell matters."""
TABLE = {"max_position_embeddings": MOST}
ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
BACKBONES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("BertConfig", "BertForMaskedLM", {**SIZES, **TABLE, **WIDE}),
    "roberta": ("RobertaConfig", "RobertaForMaskedLM", {**SIZES, **TABLE, **WIDE}),
    # Windows of 2 to either side in the second layer: shorter than the rows.
    "modernbert": (
        "ModernBertConfig",
        "ModernBertForMaskedLM",
        {**SIZES, **WIDE, **ENDS, "num_hidden_layers": 3, "local_attention": 4, "global_attn_every_n_layers": 2},
    ),
    "gpt2": (
        "GPT2Config",
        "GPT2LMHeadModel",
        {"vocab_size": WORDS, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": MOST, "bos_token_id": 0, "eos_token_id": 0, **WIDE},
    ),
    "llama": ("LlamaConfig", "LlamaForCausalLM", {**SIZES, **WIDE, "num_key_value_heads": 1}),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", {**SIZES, **WIDE, "num_key_value_heads": 1}),
}
SPACE = TokenSpace(
    [
        Modality(name="text", kind="text", num_levels=1, codebook_size=WORDS),
        Modality(name="image", kind="image", num_levels=2, codebook_size=8),
    ]
)


def backbone(name: str) -> Any:
    config, model, options = BACKBONES[name]
    torch.manual_seed(0)
    return getattr(transformers, model)(getattr(transformers, config)(**options)).eval()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Folder of a saved backbone; made once."""
    root = tmp_path_factory.mktemp("backbones")

    def folder(name: str) -> str:
        if not (root / name).exists():
            backbone(name).save_pretrained(root / name)
        return str(root / name)

    return folder


@pytest.fixture(params=BACKBONES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def words(*lengths: int) -> list[Tensor]:
    draw = torch.Generator().manual_seed(3)
    return [torch.randint(5, WORDS, (1, length), generator=draw) for length in lengths]


def stirred(model: AdaptedTransformer) -> AdaptedTransformer:
    """As after some training: nothing is zero any more."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for weight in (model.embed_place.weight, model.embed_modality.weight[1:]):
            torch.nn.init.normal_(weight, std=0.3)
    return model.eval()


def natural(model: AdaptedTransformer) -> contextlib.AbstractContextManager[None]:
    """The attention that the backbone was made for."""
    return model.annealed(0.0) if model.trunk.family.causal else contextlib.nullcontext()


@torch.no_grad()
def test_text_gives_what_the_backbone_gives_whatever_stands_behind_it(name: str, folders: Callable[[str], str]) -> None:
    theirs, ours = backbone(name), adapt(folders(name), SPACE, shift=False).eval()
    texts = words(20, 9, 1)
    batch = pack([{"text": text} for text in texts], SPACE)
    with natural(ours):
        states, hidden = ours.states(batch), ours(batch)
    offset = SPACE.segment("text", 0).offset
    for row, text in enumerate(texts):
        length = text.shape[1]
        wanted = theirs(text)
        torch.testing.assert_close(states[row, :length], theirs.base_model(text).last_hidden_state[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(ours.logits(hidden[row, :length], offset, WORDS), wanted.logits[0], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_documents_are_isolated_and_hidden_cells_have_no_effect(name: str, folders: Callable[[str], str]) -> None:
    model = stirred(adapt(folders(name), SPACE))
    images = [torch.randint(0, 8, (2, 2, 3), generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    samples = [{"text": text, "image": image} for text, image in zip(words(5, 4), images, strict=True)]
    alone = [model(pack([sample], SPACE))[0] for sample in samples]
    together = model(pack_rows([samples], SPACE))[0]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-4)
    batch = pack(samples, SPACE)
    batch = batch.hide(batch.modality == 1)
    others = batch.with_ids(torch.where(batch.valid[..., None], batch.ids, SPACE.segment("text", 0).offset + 7))
    first, second = model(batch), model(others)
    assert torch.equal(first[batch.valid], second[batch.valid])


def test_the_causal_mask_opens_edge_by_edge() -> None:
    assert torch.equal(open_edges(0.0, 5, 12), torch.ones(12, 12, dtype=torch.bool).tril())
    assert bool(open_edges(1.0, 5, 12).all())
    part = open_edges(0.3, 5, 200)
    assert torch.equal(part, open_edges(0.3, 5, 200))
    assert not torch.equal(part, open_edges(0.3, 6, 200))
    assert bool(part.tril().eq(torch.ones_like(part).tril()).all())
    assert float(part[torch.ones_like(part).triu(1)].float().mean()) == pytest.approx(0.3, abs=0.02)
    assert [open_share(step, 4) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert open_share(0, 0) == 1.0


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@torch.no_grad()
def test_annealing_goes_from_the_causal_model_to_full_attention(name: str, folders: Callable[[str], str]) -> None:
    model = adapt(folders(name), SPACE, shift=False).eval()
    batch = pack([{"text": words(10)[0]}], SPACE)
    later = batch.with_ids(batch.ids.clone().index_fill_(1, torch.tensor([9]), MASK))
    with model.annealed(0.0):
        assert torch.equal(model(batch)[:, :9], model(later)[:, :9])
    with model.annealed(1.0):
        full = model(batch)
    assert torch.equal(full, model(batch))
    assert not torch.allclose(full[:, :9], model(later)[:, :9], atol=1e-3)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@torch.no_grad()
def test_under_the_causal_mask_a_masked_last_word_has_the_next_token_distribution(name: str, folders: Callable[[str], str]) -> None:
    model, text = adapt(folders(name), SPACE).eval(), words(8)[0]
    assert model.config.shift, "causal backbones are shifted unless told otherwise"
    batch = pack([{"text": torch.cat([text, torch.tensor([[-1]])], dim=1)}], SPACE)
    with model.annealed(0.0):
        hidden = model(batch)
    found = model.logits(hidden[:, -1], SPACE.segment("text", 0).offset, WORDS).softmax(dim=-1)
    torch.testing.assert_close(found, backbone(name)(text).logits[:, -1].softmax(dim=-1), atol=1e-5, rtol=1e-4)


def cells_of(modality: Tensor, valid: Tensor, document: Tensor) -> TokenBatch:
    zeros = torch.zeros(*modality.shape, 3, dtype=torch.long)
    return TokenBatch(zeros[..., :1], modality, zeros, valid, document, zeros)


def test_the_cell_before_is_visible_of_the_same_document_and_for_text_alone() -> None:
    modality = torch.tensor([[1, 1, 1, 2, 2, 1, 1, 0]])
    valid = torch.tensor([[True, False, True, True, True, True, True, False]])
    document = torch.tensor([[0, 0, 0, 0, 0, 1, 1, 0]])
    assert cell_before(cells_of(modality, valid, document)).tolist() == [[0, 0, 0, 3, 4, 5, 5, 7]]


def test_positions_count_cells_of_a_document_or_take_a_grid_as_one() -> None:
    modality, document = torch.tensor([[1, 1, 2, 2, 3, 1, 2, 0]]), torch.tensor([[0, 0, 0, 0, 0, 1, 1, 0]])
    batch = cells_of(modality, modality != 0, document)
    assert places_in_row(batch, "row").tolist() == [[0, 1, 2, 3, 4, 0, 1, 0]]
    assert places_in_row(batch, "shared").tolist() == [[0, 1, 2, 2, 3, 0, 1, 0]]


def test_new_cells_have_mean_and_spread_of_words_and_mask_is_the_backbones_own() -> None:
    draw = torch.Generator().manual_seed(0)
    table = 3.0 + 0.5 * torch.randn(WORDS, 16, generator=draw)
    space = SPACE.extended(Modality(name="audio", kind="audio", num_levels=4, codebook_size=500))
    grown = grown_table(table, space, 4, draw)
    assert torch.equal(grown[space.segment("text", 0).offset :][:WORDS], table)
    assert torch.equal(grown[MASK], table[4])
    assert bool((grown[PAD] == 0).all())
    cells = torch.stack([grown[segment.offset : segment.offset + segment.size] for segment in space.of("audio")]).sum(dim=0)
    torch.testing.assert_close(cells.mean(dim=0), table.mean(dim=0), atol=0.1, rtol=0)
    torch.testing.assert_close(cells.std(dim=0), table.std(dim=0), atol=0.1, rtol=0)
    torch.testing.assert_close(grown_table(table, space, None, draw)[MASK], table.mean(dim=0))


@torch.no_grad()
def test_a_bundle_needs_no_backbone_folder_and_names_no_path(name: str, folders: Callable[[str], str], tmp_path: Path) -> None:
    shutil.copytree(folders(name), tmp_path / "backbone")
    model = stirred(adapt(str(tmp_path / "backbone"), SPACE))
    state = model.state_dict()
    if model.config.tie_head:
        state.pop("head.weight")
    save_bundle(tmp_path / "bundle", PIPELINE_KIND, {"space": SPACE.to_dict(), "transformer": dataclasses.asdict(model.config)}, state)
    shutil.rmtree(tmp_path / "backbone")
    assert sorted(path.name for path in (tmp_path / "bundle").iterdir()) == ["bundle.json", "weights.safetensors"]
    assert str(tmp_path) not in (tmp_path / "bundle" / "bundle.json").read_text()
    loaded, space = transformer_of(load_bundle(tmp_path / "bundle", PIPELINE_KIND))
    batch = pack([{"text": words(6)[0], "image": torch.zeros(2, 2, 2, dtype=torch.long)}], SPACE)
    assert space == SPACE
    assert torch.equal(loaded(batch), model(batch))


def test_an_encoder_without_a_head_is_taken_without_one(tmp_path: Path) -> None:
    whole = backbone("bert")
    whole.base_model.save_pretrained(tmp_path)
    model = adapt(str(tmp_path), SPACE).eval()
    assert not model.config.with_head
    assert model.head is model.embed
    text = words(7)[0]
    with torch.no_grad():
        found = model(pack([{"text": text}], SPACE))
        torch.testing.assert_close(found, whole.base_model(text).last_hidden_state, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_window_restricts_and_a_context_is_refused(folders: Callable[[str], str]) -> None:
    model = adapt(folders("bert"), SPACE).eval()
    batch = pack([{"text": words(9)[0]}], SPACE)
    other = batch.with_ids(batch.ids.clone().index_fill_(1, torch.tensor([8]), MASK))
    window = torch.tensor([1])
    assert torch.equal(model(batch, window=window)[:, 0], model(other, window=window)[:, 0])
    with pytest.raises(ValueError, match="has no blind_condition"):
        model(batch, context=batch.valid)


def test_rows_longer_than_the_table_are_refused_and_a_shared_grid_fits(folders: Callable[[str], str]) -> None:
    batch = pack([{"text": words(5)[0], "image": torch.zeros(2, 4, 6, dtype=torch.long)}], SPACE)
    for name in ("bert", "gpt2"):
        with pytest.raises(ValueError, match=rf"a row has 29 positions, the backbone's table has {MOST}"):
            adapt(folders(name), SPACE)(batch)
        adapt(folders(name), SPACE, grid_places="shared")(batch)
    with pytest.raises(ValueError, match=f"a row has 29 positions, the backbone's table has {MOST - 2}"):
        adapt(folders("roberta"), SPACE)(batch)
    adapt(folders("llama"), SPACE)(batch)


def test_what_cannot_be_adapted_is_refused_in_a_sentence(folders: Callable[[str], str], tmp_path: Path) -> None:
    def refused(source: Path | str, message: str, space: TokenSpace = SPACE) -> None:
        with pytest.raises(ValueError, match=message):
            adapt(str(source), space)

    refused(tmp_path / "none", "the folder .*none does not exist; give a folder")
    refused(tmp_path, "no transformers model can be read from")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}))
    refused(tmp_path, "holds a backbone of type 't5'; adapted are bert, roberta")
    shutil.copy(Path(folders("gpt2")) / "config.json", tmp_path / "config.json")
    refused(tmp_path, "no transformers model can be read from")
    torn = backbone("gpt2")
    state = {key: tensor for key, tensor in torn.state_dict().items() if "h.1.mlp" not in key}
    torn.save_pretrained(tmp_path, state_dict=state)
    refused(tmp_path, "lack 4 tensors, the first is transformer.h.1.mlp")
    many = Modality(name="text", kind="text", num_levels=1, codebook_size=WORDS + 1)
    refused(folders("bert"), f"has {WORDS} words, the text has {WORDS + 1} codes", TokenSpace([many]))
    refused(folders("bert"), r"the first modality of the space is image \(image\)", TokenSpace(SPACE.modalities[::-1]))
