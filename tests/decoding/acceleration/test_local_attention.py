"""Restricted context: who is seen, what that does to hidden states, and that training and decoding do the same."""

from pathlib import Path

import pytest
import torch
from builders.shards import empty_shards
from torch import Tensor

from maskgen.decoding.acceleration.kv_cache import PrefixCacheModel
from maskgen.decoding.acceleration.local_attention import LocalAttentionModel
from maskgen.decoding.decoder import Decoder
from maskgen.decoding.guidance import ConstantGuidance
from maskgen.decoding.logits import TokenModel, guided_model, hide_condition, model_logits
from maskgen.decoding.settings import GenerationSettings
from maskgen.masking.masks import draw_masks, level_windows
from maskgen.networks.transformer import MaskTransformer, TransformerConfig
from maskgen.networks.visibility import nearby, visible
from maskgen.scoring.estimators import ScoreSettings
from maskgen.scoring.likelihood import Scorer
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.packing import pack, pack_rows
from maskgen.tokens.space import Modality, TokenSpace
from maskgen.training.modules.masked import MaskedTokenModule

SPACE = TokenSpace(
    [
        Modality(name="text", kind="text", num_levels=1, codebook_size=11),
        Modality(name="image", kind="image", num_levels=1, codebook_size=5),
        Modality(name="audio", kind="audio", num_levels=2, codebook_size=7),
    ]
)
AUDIO = SPACE.segment("audio", 0)


def sample(words: int, frames: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(words * 100 + frames)
    return {
        "text": torch.randint(11, (1, words), generator=generator),
        "image": torch.randint(5, (1, 2, 2), generator=generator),
        "audio": torch.randint(7, (2, frames), generator=generator),
    }


def transformer(layers: int = 2) -> MaskTransformer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MaskTransformer(TransformerConfig(dim=32, num_layers=layers, num_heads=2), SPACE.size, 3).eval()
        for block in model.blocks:
            torch.nn.init.normal_(block.attention.out.weight, std=0.3)
    return model.requires_grad_(False)


def hidden(model: MaskTransformer, batch: TokenBatch, window: Tensor | None = None) -> Tensor:
    return model(batch, window=window)


@pytest.mark.parametrize("windows", [[1, 0, 3], [0, 2, 1], [12, 5, 0]])
def test_who_is_seen_equals_the_definition_cell_by_cell(windows: list[int]) -> None:
    batch = pack_rows([[sample(3, 9)], [sample(2, 4), sample(1, 6)], [sample(1, 1)]], SPACE)
    seen = visible(batch.valid, batch.document, None, nearby(batch.modality, batch.coords[..., 0], torch.tensor(windows)))
    assert seen is not None
    for row, window in enumerate(windows):
        fields = (batch.valid[row], batch.document[row], batch.modality[row], batch.coords[row, :, 0])
        cells = [*enumerate(zip(*(field.tolist() for field in fields), strict=True))]
        expected = torch.zeros_like(seen[row, 0])
        for ours, (_, document, modality, time) in cells:
            for other, (valid, its_document, its_modality, its_time) in cells:
                far = window > 0 and abs(time - its_time) > window and modality == its_modality
                expected[ours, other] = ours == other or (valid and document == its_document and not far)
        assert torch.equal(seen[row, 0], expected)


def test_no_window_and_a_window_of_zero_are_the_same_bits() -> None:
    model = transformer()
    for batch in (pack([sample(3, 9)], SPACE), pack([sample(3, 9), sample(2, 4)], SPACE)):
        assert torch.equal(hidden(model, batch), hidden(model, batch, torch.zeros(len(batch), dtype=torch.long)))
        with torch.enable_grad():
            assert torch.equal(hidden(model, batch), hidden(model, batch, torch.zeros(len(batch), dtype=torch.long)))


def test_a_cell_feels_near_cells_of_its_modality_and_all_cells_of_the_others() -> None:
    model, batch, window = transformer(layers=1), pack([sample(3, 12), sample(3, 12)], SPACE), torch.tensor([2, 0])
    before, first = hidden(model, batch, window), int(batch.cells(AUDIO.index)[0].nonzero()[0])
    ids = batch.ids.clone()
    ids[:, first + 5, 0] = AUDIO.offset + (ids[:, first + 5, 0] - AUDIO.offset + 1) % AUDIO.size
    moved = (hidden(model, batch.with_ids(ids), window) - before).abs().amax(dim=2) > 1e-6
    frames = moved[:, first : first + 12]
    assert frames[0].nonzero()[:, 0].tolist() == [3, 4, 5, 6, 7]
    assert bool(frames[1].all())
    assert bool(moved[:, :first].all()), "text and picture see all of the sound"


def test_rows_keep_their_own_window_in_a_batch() -> None:
    model, rows = transformer(), [sample(3, 9), sample(1, 12), sample(4, 5)]
    together = hidden(model, pack(rows, SPACE), torch.tensor([2, 0, 1]))
    for row, (one, window) in enumerate(zip(rows, [2, 0, 1], strict=True)):
        alone = pack([one], SPACE)
        torch.testing.assert_close(together[row, : alone.valid.shape[1]], hidden(model, alone, torch.tensor([window]))[0])


def test_a_windowed_model_serves_logits_and_guidance() -> None:
    model, batch = transformer(), pack([sample(3, 12), sample(2, 7)], SPACE)
    windowed, cells, window = LocalAttentionModel(model, 2), batch.cells(AUDIO.index), torch.tensor([2, 2])
    assert isinstance(windowed, TokenModel)
    plain = model_logits(windowed)(batch, cells, AUDIO, 0.0)
    torch.testing.assert_close(plain, model.logits(hidden(model, batch, window)[cells], AUDIO.offset, AUDIO.size))
    assert not torch.allclose(plain, model_logits(model)(batch, cells, AUDIO, 0.0), atol=1e-3)
    hide = hide_condition((1, 2))
    null = model.logits(hidden(model, hide(batch), window)[cells], AUDIO.offset, AUDIO.size)
    guided = guided_model(windowed, hide, ConstantGuidance(3.0))(batch, cells, AUDIO, 0.0)
    torch.testing.assert_close(guided, null + 3.0 * (plain - null), rtol=1e-4, atol=1e-4)
    assert torch.equal(model_logits(LocalAttentionModel(model, 0))(batch, cells, AUDIO, 0.0), model_logits(model)(batch, cells, AUDIO, 0.0))


def test_training_gives_each_row_the_window_of_its_level(tmp_path: Path) -> None:
    empty_shards(tmp_path, SPACE)
    config = TransformerConfig(dim=32, num_layers=2, num_heads=2)
    options = {"target": "audio", "windows": [0, 2], "span": 3}
    module = MaskedTokenModule(str(tmp_path), config, **options).eval()  # type: ignore[arg-type]
    module.model = transformer()
    module._forward = (module.model,)
    batch = pack([sample(2, 15)] * 6, SPACE)
    masked = draw_masks(batch, module.segments, module.schedule, (1.0, 1.0), 0.0, torch.Generator().manual_seed(1), span=3)
    assert set(masked.level.tolist()) == {0, 1}
    states = hidden(module.model, masked.batch, torch.tensor([[0, 2][level] for level in masked.level.tolist()]))
    losses = []
    for segment in module.segments:
        here = masked.cells[..., segment.level]
        logits = module.model.logits(states[here], segment.offset, segment.size)
        losses.append(torch.nn.functional.cross_entropy(logits, masked.codes[..., segment.level][here], reduction="none"))
    found = module.losses(masked, 0.0)["loss"]
    torch.testing.assert_close(found, torch.cat(losses))
    module.windows = None
    assert not torch.allclose(module.losses(masked, 0.0)["loss"], found, atol=1e-3)


def test_a_blind_condition_keeps_the_window_in_decoding_and_scoring(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = MaskTransformer(TransformerConfig(dim=32, num_layers=2, num_heads=2, blind_condition=True), SPACE.size, 3).eval()
    seen: list[int | None] = []
    plain = PrefixCacheModel.__call__

    def watched(self: PrefixCacheModel, batch: TokenBatch, window: Tensor | None = None) -> Tensor:
        seen.append(None if window is None else int(window[0]))
        return plain(self, batch, window=window)

    monkeypatch.setattr(PrefixCacheModel, "__call__", watched)
    settings = GenerationSettings(steps=(1, 1), window=(0, 2))
    row = pack([{**sample(2, 8), "audio": torch.full((2, 8), -1)}], SPACE)
    Decoder(model, SPACE, "audio", settings)(row, [torch.Generator().manual_seed(0)])
    assert seen == [None, 2]
    seen.clear()
    Scorer(model, SPACE, "audio", ScoreSettings(samples=2), settings)(sample(2, 8))
    assert {*seen} == {None, 2}


def test_windows_fit_levels_and_groups() -> None:
    assert level_windows([0, 5], [[0], [1, 2, 3]]) == [0, 5, 5, 5]
    assert level_windows(None, [[0], [1]]) is None
    for wrong in ([5], [0, -1], []):
        with pytest.raises(ValueError, match="has 2 levels or groups of them, got windows"):
            level_windows(wrong, [[0], [1]])
    with pytest.raises(ValueError, match="window must be at least 0"):
        LocalAttentionModel(transformer(), -1)
