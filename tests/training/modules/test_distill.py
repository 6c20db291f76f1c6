"""Distillation: its targets and gradients are the definition, the teacher stays, and the student is a model like any other."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from builders.shards import empty_shards
from torch import Tensor
from torch.utils.data import DataLoader

from maskgen.decoding.guidance import ConstantGuidance
from maskgen.decoding.logits import guided, hide_condition, model_logits, seen_through
from maskgen.decoding.settings import GenerationSettings
from maskgen.masking.masks import Masked, draw_masks
from maskgen.masking.schedule import Arccos, Cosine
from maskgen.networks.transformer import MaskTransformer
from maskgen.pipelines.base import Pipeline
from maskgen.sampling.confidence import ConfidenceSampler
from maskgen.tokenizers.text import TextTokenizer
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.packing import pack
from maskgen.tokens.space import MASK, TokenSpace
from maskgen.training.modules.distill import AtSteps, DistillModule, divergence, require_seeing, row_seeds, said_while_decoding

ONE_STEP = GenerationSettings(steps=(1,), guidance_scale=3.0)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory, tiny_space: TokenSpace, tiny_pipeline: Pipeline) -> str:
    prints = {name: one.fingerprint for name, one in tiny_pipeline.tokenizers.items()}
    return empty_shards(tmp_path_factory.mktemp("shards"), tiny_space, prints)


@pytest.fixture(scope="module")
def batch(tiny_space: TokenSpace, tiny_text: TextTokenizer) -> TokenBatch:
    draw = torch.Generator().manual_seed(0)
    texts = tiny_text.encode(["a red heart", "a blue square, 3d style", "a star", "a green circle"])
    return pack([{"text": text, "image": torch.randint(16, (2, 4, 4), generator=draw)} for text in texts], tiny_space)


def module(shards: str, teacher: Path, **options: Any) -> DistillModule:
    return DistillModule(shards, str(teacher), **{"decode": ONE_STEP, "max_steps": 100, "warmup_steps": 2, **options})


def trainer(steps: int, folder: Path, **options: Any) -> L.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "enable_checkpointing": False}
    return L.Trainer(max_steps=steps, accelerator="cpu", default_root_dir=folder, **{**quiet, **options})


def masks(trained: DistillModule, batch: TokenBatch, seed: int = 3) -> Masked:
    return draw_masks(batch, trained.segments, trained.schedule, trained.level_weights, 0.0, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("reverse_share", [0.0, 0.3, 1.0])
def test_the_gradient_is_the_formula(reverse_share: float) -> None:
    draw = torch.Generator().manual_seed(0)
    logits, wanted = torch.randn(5, 7, generator=draw).double().requires_grad_(), 3 * torch.randn(5, 7, generator=draw).double()
    divergence(logits, wanted, reverse_share).sum().backward()
    student, teacher = logits.detach().softmax(dim=-1), wanted.softmax(dim=-1)
    forward = student - teacher
    ratio = student.log() - teacher.log()
    reverse = student * (ratio - (student * ratio).sum(dim=-1, keepdim=True))
    torch.testing.assert_close(logits.grad, (1 - reverse_share) * forward + reverse_share * reverse)


@pytest.mark.parametrize("law", [Cosine(), Arccos()], ids=["cosine", "arccos"])
def test_rates_are_those_before_each_step_equally_often(law: Any) -> None:
    rates = AtSteps(law, 4)((torch.arange(400) + 0.5) / 400)
    found, counts = rates.unique(return_counts=True)
    torch.testing.assert_close(found, law(torch.tensor([0.75, 0.5, 0.25, 0.0])))
    assert counts.tolist() == [100] * 4


def naive_guided(model: MaskTransformer, batch: TokenBatch, cells: Tensor, segment: Any, scale: float) -> Tensor:
    plain = model_logits(model)
    return guided(plain, seen_through(hide_condition((1,)), plain), ConstantGuidance(scale))(batch, cells, segment, 0.0)


def test_each_cell_is_taught_what_the_teacher_said_when_it_took_it(tiny_pipeline: Pipeline, batch: TokenBatch) -> None:
    segment, model = tiny_pipeline.space.segment("image", 0), tiny_pipeline.model
    ids = batch.ids.clone()
    ids[batch.cells(segment.index)] = MASK
    ids[0, -5:, 0] = batch.ids[0, -5:, 0]  # uneven rows: fewer unknown cells in the first
    start, sampler = batch.with_ids(ids), ConfidenceSampler(steps=3)
    unknown = start.cells(segment.index) & (ids[..., 0] == MASK)

    def seeds() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(row) for row in range(len(batch))]

    def teacher(now: TokenBatch, cells: Tensor, part: Any, progress: float) -> Tensor:
        return naive_guided(model, now, cells, part, 2.0)

    said = said_while_decoding(teacher, sampler, start, segment, seeds())
    _, trajectory = sampler.sample(teacher, start, segment, seeds())
    expected, now = torch.zeros(*unknown.shape, segment.size), start
    for codes, changed in zip(trajectory.codes, trajectory.changed, strict=True):
        expected[changed] = naive_guided(model, now, changed, segment, 2.0)
        filled = now.ids.clone()
        filled[..., 0][changed] = codes[changed] + segment.offset
        now = now.with_ids(filled)
    torch.testing.assert_close(said, expected[unknown], rtol=1e-4, atol=1e-4)


def test_the_student_takes_over_the_guided_distribution_and_the_teacher_stays(
    shards: str, tiny_bundle: Path, tiny_pipeline: Pipeline, batch: TokenBatch
) -> None:
    trained = module(shards, tiny_bundle, lr=1e-2, max_steps=25)
    before = {name: tensor.clone() for name, tensor in trained._teacher[0].state_dict().items()}
    masked, made, draw = masks(trained, batch), trained.configure_optimizers(), torch.Generator().manual_seed(0)
    assert len(set(masked.level.tolist())) == 2
    found = []
    for _ in range(25):
        made["optimizer"].zero_grad()
        loss = torch.cat([*trained.divergences(masked, row_seeds(len(masked.batch), draw)).values()]).mean()
        loss.backward()
        made["optimizer"].step()
        made["lr_scheduler"]["scheduler"].step()
        found.append(float(loss.detach()))
    assert found[-1] < 0.1 * found[0], found[:: len(found) - 1]
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained._teacher[0].state_dict().items())
    segment, rows = trained.segments[1], (masked.level == 1).nonzero()[:, 0]
    seen, cells = masked.batch.rows(rows), masked.cells[rows][..., 1]
    wanted = naive_guided(tiny_pipeline.model, seen, cells, segment, 3.0).softmax(dim=-1)
    unguided = naive_guided(tiny_pipeline.model, seen, cells, segment, 1.0).softmax(dim=-1)
    ours = model_logits(trained.model)(seen, cells, segment, 0.0).softmax(dim=-1)
    assert float((ours - wanted).abs().sum(dim=-1).mean()) < 0.25 * float((unguided - wanted).abs().sum(dim=-1).mean())


def test_a_checkpoint_holds_the_student_alone_and_decodes_as_any_model(
    shards: str, tiny_bundle: Path, tiny_pipeline: Pipeline, batch: TokenBatch, tmp_path: Path
) -> None:
    trained = module(shards, tiny_bundle, lr=1e-2)
    run = trainer(2, tmp_path)
    loader: DataLoader[Any] = DataLoader([batch, batch], batch_size=None)  # type: ignore[arg-type]
    run.fit(trained, loader, loader)
    run.save_checkpoint(tmp_path / "two.ckpt")
    assert all(name.startswith("model.") for name in torch.load(tmp_path / "two.ckpt", weights_only=True)["state_dict"])
    assert {"train/divergence", "val/divergence_image_level0", "val/divergence_image_level1"} <= set(run.callback_metrics)
    student = Pipeline.from_checkpoint(tmp_path / "two.ckpt", tiny_pipeline.tokenizers)
    weights = student.model.state_dict()
    assert not torch.equal(weights["head.weight"], tiny_pipeline.model.state_dict()["head.weight"])
    assert torch.equal(weights["head.weight"], trained.model.state_dict()["head.weight"])
    for steps in (1, 4):
        assert student("a red heart", num_inference_steps=[steps, 1]).images[0].size == (32, 32)


def test_what_cannot_be_distilled_is_refused(shards: str, tiny_bundle: Path, tmp_path: Path, tiny_space: TokenSpace) -> None:
    with pytest.raises(ValueError, match=r"decode has groups=\(\(0, 1\),\), which a training does not follow; it follows choice_temp"):
        module(shards, tiny_bundle, decode=GenerationSettings(groups=((0, 1),)))
    with pytest.raises(ValueError, match=r"reverse_share must lie in \[0, 1\], got 1.5"):
        module(shards, tiny_bundle, reverse_share=1.5)
    with pytest.raises(ValueError, match="was trained with blind_condition, which this training does not serve"):
        require_seeing(True, "blind-64")
    empty_shards(tmp_path, tiny_space, {"image": "0" * 64})
    with pytest.raises(ValueError, match="the image tokenizer has fingerprint 000000000000"):
        module(str(tmp_path), tiny_bundle)
