"""Training on masks and wrong codes: with masks alone it is the masked loss, and wrong codes are learned to be mended."""

import math
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from builders.shards import empty_shards
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from maskgen.decoding.logits import model_logits
from maskgen.io.checkpoint import read_checkpoint
from maskgen.masking.masks import Masked
from maskgen.masking.noise import HybridNoise, UniformNoise, draw_noise
from maskgen.networks.transformer import TransformerConfig
from maskgen.sampling.self_correction import SelfCorrectionSampler
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.packing import pack
from maskgen.tokens.space import MASK, Modality, TokenSpace
from maskgen.training.modules.hybrid_noise import HybridNoiseModule
from maskgen.training.modules.masked import MaskedTokenModule

SIZE, LENGTH = 8, 12
SPACE = TokenSpace(
    [
        Modality(name="text", kind="text", num_levels=1, codebook_size=SIZE),
        Modality(name="sound", kind="audio", num_levels=2, codebook_size=4),
    ]
)
TINY = TransformerConfig(dim=48, num_layers=2, num_heads=2, rope_split=(1, 0, 0))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return empty_shards(tmp_path_factory.mktemp("shards"), SPACE, {"text": "a", "sound": "b"})


def module(shards: str, **options: Any) -> HybridNoiseModule:
    torch.manual_seed(0)
    return HybridNoiseModule(shards, TINY, **{"max_steps": 100, "warmup_steps": 2, **options})


def counting(rows: int, seed: int) -> TokenBatch:
    """The planted task: codes count up from a random start, so two right neighbours tell every other code."""
    starts = torch.randint(SIZE, (rows, 1), generator=torch.Generator().manual_seed(seed))
    return pack([{"text": (start + torch.arange(LENGTH))[None] % SIZE} for start in starts], SPACE)


def test_without_uniform_noise_it_is_the_masked_loss_and_its_gradient(shards: str) -> None:
    ours, batch = module(shards, noise=HybridNoise(p_uniform=0.0)), counting(6, 0)
    torch.manual_seed(0)
    masked_module = MaskedTokenModule(shards, TINY, target="text", weight="elbo")
    masked_module.model.load_state_dict(ours.model.state_dict())
    noised = draw_noise(batch, ours.segment, ours.noise, torch.Generator().manual_seed(4))
    cells = (noised.seen(ours.segment) == MASK)[..., None] & torch.tensor([True, False])
    codes = torch.where(cells, batch.ids - ours.segment.offset, -1)
    zeros = torch.zeros(6, dtype=torch.long)
    masked = Masked(noised.batch, cells, codes, zeros, noised.target.sum(dim=1), noised.time.float(), zeros.bool())
    losses = masked_module.losses(masked, 0.0)
    theirs = (losses["loss"] / masked.rate[losses["row"]]).sum() / masked.total.sum()  # MDLM, LLaDA: 1 / rate, every cell masked alone
    loss, correct = ours.losses(noised, "elbo")
    assert float(loss) == pytest.approx(float(theirs), rel=1e-6)
    assert len(correct["masked"]) == int(cells.sum())
    assert len(correct["wrong"]) == len(correct["right"]) == 0
    loss.backward()
    theirs.backward()
    for mine, other in zip(ours.model.parameters(), masked_module.model.parameters(), strict=True):
        assert (mine.grad is None) == (other.grad is None)
        assert mine.grad is None or torch.allclose(mine.grad, other.grad, rtol=1e-4, atol=1e-6)


def test_wrong_and_right_codes_are_scored_too(shards: str) -> None:
    ours = module(shards, noise=HybridNoise(p_uniform=0.5))
    noised = draw_noise(counting(8, 0), ours.segment, ours.noise, torch.Generator().manual_seed(0))
    _, correct = ours.losses(noised, "dynamic")
    assert sum(map(len, correct.values())) == 8 * LENGTH
    assert all(len(values) for values in correct.values())


@pytest.mark.slow
@pytest.mark.parametrize(("noise", "mask_rows"), [(HybridNoise(p_uniform=0.3), 0.0), (UniformNoise(), 0.25)], ids=["hybrid", "uniform"])
def test_a_planted_task_is_learned_and_wrong_codes_are_mended(shards: str, noise: Any, mask_rows: float) -> None:
    steps = 150
    trained = module(shards, noise=noise, mask_rows=mask_rows, lr=1e-2, weight_decay=0.0, max_steps=steps)
    made = trained.configure_optimizers()
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        loss, _ = trained.losses(draw_noise(counting(48, step), trained.segment, noise, generator, mask_rows=mask_rows), "dynamic")
        made["optimizer"].zero_grad()
        loss.backward()
        made["optimizer"].step()
        made["lr_scheduler"]["scheduler"].step()
    model, segment = trained.model.eval(), trained.segment
    true = counting(16, 9999)
    spoiled = true.ids.clone()
    spoiled[:, 5, 0] = (spoiled[:, 5, 0] - segment.offset + 3) % SIZE + segment.offset
    cells = true.cells(segment.index)
    with torch.no_grad():
        guess = model_logits(model)(true.with_ids(spoiled), cells, segment, 0.0).argmax(dim=-1).view(16, LENGTH)
    assert float((guess == true.ids[..., 0] - segment.offset).double().mean()) > 0.97
    blank = true.ids.clone()
    blank[..., 0] = MASK
    sampler = SelfCorrectionSampler(steps=24, fill_share=0.25, cells_per_step=2)
    generators = [torch.Generator().manual_seed(row) for row in range(16)]
    filled, _ = sampler.sample(model_logits(model), true.with_ids(blank), segment, generators)
    codes = filled.ids[..., 0] - segment.offset
    assert float(((codes[:, 1:] - codes[:, :-1]) % SIZE == 1).double().mean()) > 0.9


def test_lightning_runs_it_and_the_checkpoint_is_that_of_a_masked_transformer(shards: str, tmp_path: Path) -> None:
    trained = module(shards, max_steps=2, warmup_steps=1)
    loader: DataLoader[Any] = DataLoader([counting(4, 0), counting(4, 1)], batch_size=None)  # type: ignore[arg-type]
    keep = ModelCheckpoint(dirpath=tmp_path, save_last=True, every_n_train_steps=1)
    trainer = L.Trainer(
        max_steps=2, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, callbacks=[keep],
        default_root_dir=tmp_path, check_val_every_n_epoch=None, val_check_interval=2, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(trained, loader, loader)
    assert math.isfinite(float(trainer.callback_metrics["val/loss_text"]))
    assert "val/accuracy_text_masked" in trainer.callback_metrics
    made = read_checkpoint(tmp_path / "last.ckpt", "masked_transformer")["maskgen"]
    assert made["target"] == "text"
    assert made["fingerprints"] == {"text": "a", "sound": "b"}


def test_the_same_step_draws_the_same_noise(shards: str) -> None:
    ours = module(shards)
    one, two = (draw_noise(counting(4, 0), ours.segment, ours.noise, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one.batch.ids, two.batch.ids)


def test_a_target_of_several_levels_is_refused(shards: str) -> None:
    with pytest.raises(ValueError, match="sound has 2 levels"):
        module(shards, target="sound")
