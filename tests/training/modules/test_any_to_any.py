"""Training on a table of tasks: every direction is learned, losses are balanced by modality, and the checkpoint becomes a pipeline."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from builders.mixed_shards import END, PICTURES, picture, write, write_both
from lightning.pytorch.callbacks import ModelCheckpoint

from maskgen.data.loading.mixture import Part
from maskgen.data.loading.token_data import TokenData
from maskgen.decoding.settings import GenerationSettings
from maskgen.io.bundle import load_bundle
from maskgen.io.checkpoint import read_checkpoint
from maskgen.masking.schedule import Linear
from maskgen.masking.tasks import TargetObjective, Task, draw_tasks
from maskgen.networks.pretrained import transformer_of
from maskgen.networks.tower_config import Tower, TowersConfig
from maskgen.networks.towers import TowerTransformer
from maskgen.networks.transformer import TransformerConfig
from maskgen.pipelines.base import Pipeline
from maskgen.tokens.batch import UNKNOWN
from maskgen.training.modules.any_to_any import AnyToAnyModule

TINY = TransformerConfig(dim=32, num_layers=2, num_heads=2)
TASKS = {
    "draw": Task(asked=["image"], given=["text"]),
    "caption": Task(asked=["text"], given=["image"]),
    "hear": Task(asked=["transcript"], given=["audio"]),
    "speak": Task(asked=["audio"], given=["transcript", "speaker"]),
    "draw_sound": Task(asked=["image"], given=["audio"]),
    "both": Task(asked=["image", "audio"]),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return write_both(tmp_path_factory.mktemp("any"))


def module(folders: tuple[str, str], **options: Any) -> AnyToAnyModule:
    torch.manual_seed(0)
    targets = {"text": TargetObjective(schedule=Linear(), loss="elbo")}
    given = {"max_steps": 300, "warmup_steps": 2, "lr": 1e-2, "fold_length": 32, "tasks": TASKS, "targets": targets, **options}
    return AnyToAnyModule(list(folders), TINY, **given)


def data(folders: tuple[str, str]) -> TokenData:
    parts = [Part(folder=folders[0], canonical_share=1.0), Part(folder=folders[1]), Part(folder=folders[0], join=folders[1], drop=["text"])]
    return TokenData(parts, batch_size=12, text_cells=8, validation_rows=4)


def trainer(folder: Path, steps: int, *callbacks: L.Callback, **options: Any) -> L.Trainer:
    return L.Trainer(
        max_steps=steps,
        accelerator="cpu",
        default_root_dir=folder,
        callbacks=[*callbacks],
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        enable_checkpointing=bool(callbacks),
        max_epochs=-1,
        **options,
    )


@pytest.mark.slow
def test_every_direction_of_the_table_is_learned(folders: tuple[str, str], tmp_path: Path) -> None:
    trained = module(folders)
    fit = trainer(tmp_path, 180, val_check_interval=180, check_val_every_n_epoch=None, num_sanity_val_steps=0)
    fit.fit(trained, data(folders))
    found = {name: float(value) for name, value in fit.callback_metrics.items() if name.startswith("val/") and "accuracy" in name}
    for task, asked, least in (
        ("draw", "image", 0.85),
        ("caption", "text", 0.5),  # where a text ends takes longer than what it says
        ("hear", "transcript", 0.85),
        ("speak", "audio", 0.85),
        ("draw_sound", "image", 0.85),
    ):
        assert found[f"val/{task}/accuracy_{asked}_level0"] > least, (task, found)


def test_a_modality_counts_by_its_weight_and_not_by_its_cells(folders: tuple[str, str]) -> None:
    trained = module(folders)
    made = data(folders)
    made.setup("fit")
    drawn = draw_tasks(next(iter(made.train_dataloader())), trained.space, TASKS, trained.targets, 0.0, torch.Generator().manual_seed(0))
    found = trained.losses(drawn, 0.0)
    assert set(found) == {"image", "text", "transcript", "audio"}
    assert {len(losses["loss"]) for losses in found.values()} != {len(found["image"]["loss"])}
    trained.model.zero_grad()
    trained.reduced("transcript", drawn.asked["transcript"], found["transcript"]).backward()
    gradient = trained.model.head.weight.grad
    assert gradient is not None
    own = trained.space.segment("transcript", 0)
    assert bool(gradient[own.offset : own.offset + own.size].any())
    other = trained.space.segment("audio", 1)
    assert not bool(gradient[other.offset : other.offset + other.size].any()) or trained.model.config.tie_head


def test_folding_changes_no_loss(folders: tuple[str, str]) -> None:
    made = data(folders)
    made.setup("fit")
    batch = next(iter(made.train_dataloader()))
    found = []
    for length, rows in ((16, 1), (64, 4)):
        trained = module(folders, fold_length=length, fold_rows=rows).eval()
        drawn = draw_tasks(batch, trained.space, TASKS, trained.targets, 0.0, torch.Generator().manual_seed(0))
        found.append(trained.losses(drawn, 0.0))
    for name in found[0]:
        assert torch.allclose(found[0][name]["loss"], found[1][name]["loss"], atol=1e-4)


def test_validation_says_how_far_a_modality_is_from_its_baseline(folders: tuple[str, str], tmp_path: Path) -> None:
    trained = module(folders, baselines={"image": 1.0})
    fit = trainer(tmp_path, 1, val_check_interval=1, check_val_every_n_epoch=None, num_sanity_val_steps=0)
    fit.fit(trained, data(folders))
    found = fit.callback_metrics
    assert float(found["val/draw/loss_image_over_baseline"]) == pytest.approx(float(found["val/draw/loss_image_level0"]) - 1, abs=1e-5)


def test_a_checkpoint_is_a_pipeline_that_ends_its_texts(folders: tuple[str, str], tmp_path: Path) -> None:
    trained = module(folders, grids={"text": [8], "image": [2, 2]})
    saved = ModelCheckpoint(dirpath=tmp_path, save_last=True)
    trainer(tmp_path, 2, saved).fit(trained, data(folders))
    checkpoint = read_checkpoint(tmp_path / "last.ckpt", "masked_transformer")
    assert checkpoint["maskgen"]["grids"] == {"text": [8], "image": [2, 2]}
    pipeline = Pipeline.from_checkpoint(tmp_path / "last.ckpt", {}, {"text": GenerationSettings(steps=(2,))})
    assert pipeline.grids == {"text": (8,), "image": (2, 2)}
    assert pipeline.space.modality("text").end == END
    assert UNKNOWN == -1


TOWERS = TowersConfig(
    towers={
        "pictures": Tower(modalities=["text", "image"], transformer=replace(TINY, tie_head=True)),
        "speech": Tower(
            modalities=["audio", "speaker", "transcript"],
            transformer=TransformerConfig(dim=24, num_layers=2, num_heads=2, head_width=16, tie_head=True),
        ),
    }
)


@pytest.mark.slow
def test_towers_start_from_models_that_were_trained_apart_and_learn_together(folders: tuple[str, str], tmp_path: Path) -> None:
    apart = {}
    for (name, tower), folder, tasks in zip(TOWERS.towers.items(), folders, (["draw", "caption"], ["hear"]), strict=True):
        one = AnyToAnyModule([folder], tower.transformer, {task: TASKS[task] for task in tasks})
        apart[name] = one.model.state_dict()
        Pipeline(one.model, one.space, {}).save_pretrained(tmp_path / name, half=False)
    start = {name: str(tmp_path / name) for name in apart}
    trained = AnyToAnyModule(list(folders), TOWERS, TASKS, start=start, max_steps=300, warmup_steps=2, lr=1e-2)
    assert isinstance(trained.model, TowerTransformer)
    for name, state in apart.items():
        assert all(torch.equal(tensor, state[key]) for key, tensor in trained.model.tower(name).state_dict().items())
    saved = ModelCheckpoint(dirpath=tmp_path, save_last=True)
    fit = trainer(tmp_path, 80, saved, val_check_interval=80, check_val_every_n_epoch=None, num_sanity_val_steps=0)
    fit.fit(trained, data(folders))
    assert float(fit.callback_metrics["val/draw_sound/accuracy_image_level0"]) > 0.8
    made = Pipeline.from_checkpoint(tmp_path / "last.ckpt", {})
    made.save_pretrained(tmp_path / "bundle", half=False)
    again, space = transformer_of(load_bundle(tmp_path / "bundle", "pipeline"))
    assert space == trained.space
    assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in trained.model.state_dict().items())


def test_a_start_for_towers_names_the_towers(folders: tuple[str, str]) -> None:
    for start in ("emoji-64", {"voices": "heart-16k"}):
        with pytest.raises(ValueError, match="has the towers pictures, speech, start is"):
            AnyToAnyModule(list(folders), TOWERS, TASKS, start=start)  # type: ignore[arg-type]


def test_data_in_another_order_than_the_models_shards_are_refused(folders: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the data's tokens are text.*, the model's \(shards\) audio.*in the same order"):
        trainer(tmp_path, 1).fit(module(folders[::-1]), data(folders))
    other = write(tmp_path / "other", PICTURES, {"train": [picture(0)], "A": [picture(1)]}, {"text": "another"})
    parts = TokenData([Part(folder=other)], batch_size=2, text_cells=8)
    with pytest.raises(ValueError, match="the data's text codes come from other tokenizers"):
        trainer(tmp_path, 1).fit(module(folders), parts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drop_condition": 10.0}, r"drop_condition .* lies in \[0, 1\], got 10.0"),
        ({"targets": {"image": TargetObjective(level_weights=[1.0])}}, "image has 2 levels, level_weights are"),
        ({"baselines": {"video": 1.0}}, "no modality 'video'"),
    ],
)
def test_numbers_that_would_spoil_a_training_without_a_word_are_refused(
    folders: tuple[str, str], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        module(folders, **options)


def test_names_that_the_shards_lack_are_refused(folders: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="no modality 'video'"):
        module(folders, tasks={"film": Task(asked=["video"])})
