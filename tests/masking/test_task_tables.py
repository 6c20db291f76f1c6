"""The table of tasks: roles, rates, levels, budgets; for every direction between the modalities."""

from itertools import combinations

import pytest
import torch

from maskgen.masking.budgets import Budget
from maskgen.masking.schedule import Linear
from maskgen.masking.tasks import TargetObjective, Task, draw_tasks
from maskgen.tokens.batch import UNKNOWN, TokenBatch
from maskgen.tokens.packing import pack
from maskgen.tokens.space import MASK, Modality, TokenSpace

END = 10
SPACE = TokenSpace(
    [
        Modality(name="text", kind="text", num_levels=1, codebook_size=11, end=END),
        Modality(name="image", kind="image", num_levels=3, codebook_size=7),
        Modality(name="audio", kind="audio", num_levels=2, codebook_size=5),
        Modality(name="phones", kind="phones", num_levels=2, codebook_size=128),
        Modality(name="speaker", kind="attribute", num_levels=1, codebook_size=4),
        Modality(name="transcript", kind="transcript", num_levels=1, codebook_size=11, stride=2),
    ]
)
NAMES = [modality.name for modality in SPACE.modalities]


def sample(seed: int = 0, names: list[str] = NAMES) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def codes(size: int, *shape: int) -> torch.Tensor:
        return torch.randint(size, shape, generator=generator)

    whole = {
        "text": torch.cat([codes(10, 1, 5), torch.full((1, 3), END)], dim=1),
        "image": codes(7, 3, 4, 4),
        "audio": codes(5, 2, 12),
        "phones": torch.stack([codes(40, 4), torch.full((4,), 3)]),
        "speaker": codes(4, 1, 1),
        "transcript": codes(11, 1, 6),
    }
    return {name: whole[name] for name in names}


def draw(batch: TokenBatch, task: Task, drop: float = 0.0, seed: int = 0, targets: dict[str, TargetObjective] | None = None):  # type: ignore[no-untyped-def]
    return draw_tasks(batch, SPACE, {"it": task}, targets or {}, drop, torch.Generator().manual_seed(seed))


def directions() -> list[Task]:
    """Every modality asked from every subset of the others, alone and with one more asked."""
    found = []
    for asked in NAMES:
        others = [name for name in NAMES if name != asked]
        found += [Task(asked=[asked], given=given) for count in range(len(others) + 1) for given in combinations(others, count)]
        found += [Task(asked=[asked, also]) for also in others]
    return found


@pytest.mark.parametrize("task", directions(), ids=lambda task: f"{'+'.join(task.given) or 'nothing'}>{'+'.join(task.asked)}")
def test_every_direction_hides_masks_and_keeps_what_it_should(task: Task) -> None:
    clean = pack([sample(seed) for seed in range(6)], SPACE)
    drawn = draw(clean, task)
    seen = drawn.batch
    assert set(drawn.asked) == set(task.asked)
    for name in NAMES:
        here = clean.modality == SPACE.index(name)
        if name in task.given:
            ends = (clean.ids[..., 0] == SPACE.segment("text", 0).offset + END) & (name == "text")
            assert seen.valid[here & ~ends].all()
            assert not seen.valid[here & ends].any()
            assert seen.ids[here].equal(clean.ids[here])
        elif name not in task.asked:
            assert not seen.valid[here].any()
    for name, asked in drawn.asked.items():
        levels, masked = SPACE.of(name), asked.masked
        assert asked.rows.tolist() == list(range(6))
        for row in range(6):
            level = int(masked.level[row])
            own = clean.modality[row] == SPACE.index(name)
            ids = seen.ids[row][own]
            assert (ids[:, level + 1 : len(levels)] == MASK).all()
            assert ids[:, :level].equal(clean.ids[row][own][:, :level])
            guessed = masked.cells[row][own]
            assert int(guessed.sum()) == int(guessed[:, level].sum()) >= 1
            true = clean.ids[row][own][:, level] - levels[level].offset
            assert masked.codes[row][own][:, level].equal(torch.where(guessed[:, level], true, UNKNOWN))
            assert ids[:, level].equal(torch.where(guessed[:, level], MASK, clean.ids[row][own][:, level]))


def test_rows_of_different_media_take_tasks_that_fit_them_by_weight() -> None:
    pictures = [sample(seed, ["text", "image"]) for seed in range(400)]
    speech = [sample(seed, ["audio", "phones", "speaker"]) for seed in range(100)]
    tasks = {
        "draw": Task(asked=["image"], given=["text"], weight=3.0),
        "caption": Task(asked=["text"], given=["image"], weight=1.0),
        "speak": Task(asked=["audio"], given=["phones", "speaker"], weight=9.0),
    }
    drawn = draw_tasks(pack(pictures + speech, SPACE), SPACE, tasks, {}, 0.0, torch.Generator().manual_seed(0))
    assert (drawn.task[400:] == 2).all()
    assert (drawn.task[:400] < 2).all()
    assert 260 < int((drawn.task[:400] == 0).sum()) < 340
    assert sorted([*drawn.asked["image"].rows.tolist(), *drawn.asked["text"].rows.tolist()]) == list(range(400))
    with pytest.raises(ValueError, match="no task of draw, caption, speak fits a row with transcript"):
        draw_tasks(pack([sample(0, ["transcript"])], SPACE), SPACE, tasks, {}, 0.0, torch.Generator())


def test_a_batch_of_mixed_directions_holds_what_each_row_would_be_asked_alone() -> None:
    """The rows of one task in a mixed batch are masked as those rows with the others' cells gone."""
    rows = [sample(seed) for seed in range(8)]
    tasks = {"a": Task(asked=["image"], given=["text"]), "b": Task(asked=["audio"], given=["phones"])}
    drawn = draw_tasks(pack(rows, SPACE), SPACE, tasks, {}, 0.0, torch.Generator().manual_seed(3))
    for number, (name, other) in enumerate((("image", "audio"), ("audio", "image"))):
        members = (drawn.task == number).nonzero()[:, 0]
        assert drawn.asked[name].rows.equal(members)
        assert not drawn.batch.valid[members][drawn.batch.modality[members] == SPACE.index(other)].any()


def test_dropped_conditions_leave_what_is_asked() -> None:
    clean = pack([sample(seed) for seed in range(400)], SPACE)
    drawn = draw(clean, Task(asked=["image"], given=["text"], partly=["audio"]), drop=0.25)
    text = (drawn.batch.valid & (clean.modality == SPACE.index("text"))).any(dim=1)
    audio = (drawn.batch.valid & (clean.modality == SPACE.index("audio"))).any(dim=1)
    assert 60 < int((~text).sum()) < 140
    assert not bool((audio & ~text).any())
    assert (drawn.batch.valid & (clean.modality == SPACE.index("image"))).sum() == 400 * 16


def test_a_part_of_a_modality_is_seen_at_shares_from_nothing_to_all() -> None:
    clean = pack([sample(seed) for seed in range(300)], SPACE)
    drawn = draw(clean, Task(asked=["text"], partly=["image"]))
    share = (drawn.batch.valid & (clean.modality == SPACE.index("image"))).sum(dim=1) / 16
    assert 0.4 < float(share.mean()) < 0.6
    assert float(share.min()) < 0.1
    assert float(share.max()) > 0.9


@pytest.mark.parametrize("alpha", [0.01, 10.0])
def test_budgets_share_cells_out(alpha: float) -> None:
    clean = pack([sample(seed) for seed in range(200)], SPACE)
    budget = Budget(seen=(8, 8), asked=(6, 6), alphas=(alpha,))
    drawn = draw(clean, Task(asked=["text", "image", "audio"], budget=budget))
    guessed = torch.zeros(200, dtype=torch.long)
    for asked in drawn.asked.values():
        guessed[asked.rows] += asked.masked.cells.any(dim=2).sum(dim=1)
    assert (guessed == 6).all()
    assert (drawn.batch.valid.sum(dim=1) == 14).all()
    kinds = torch.stack([(drawn.batch.valid & (clean.modality == SPACE.index(name))).any(dim=1) for name in ("text", "image", "audio")])
    alone = float((kinds.sum(dim=0) <= 2).float().mean())
    assert alone > 0.5 if alpha < 1 else alone < 0.2


def test_a_budget_larger_than_the_row_still_asks_something() -> None:
    drawn = draw(pack([sample(0, ["speaker"])], SPACE), Task(asked=["text", "speaker"], budget=Budget(seen=(50, 60), asked=(1, 5))))
    assert int(drawn.asked["speaker"].masked.cells.sum()) == 1


@pytest.mark.parametrize("share", ["infill_share", "prompt_share"])
def test_phonemes_that_are_asked_for_stay_visible_around_a_gap(share: str) -> None:
    clean = pack([sample(seed) for seed in range(60)], SPACE)
    targets = {"audio": TargetObjective(**{share: 1.0})}  # type: ignore[arg-type]
    drawn = draw(clean, Task(asked=["phones", "audio"]), targets=targets)
    for name in ("phones", "audio"):
        asked = drawn.asked[name]
        assert drawn.batch.valid[asked.rows][asked.masked.cells.any(dim=2)].all(), name
    hidden = draw(clean, Task(asked=["audio"], given=["phones"]), targets=targets).batch
    assert not hidden.valid[hidden.cells(SPACE.index("phones")) | (clean.modality == SPACE.index("phones"))].all()


def test_targets_have_schedules_of_their_own() -> None:
    clean = pack([sample(seed) for seed in range(600)], SPACE)
    targets = {"image": TargetObjective(level_weights=[0.0, 0.0, 1.0]), "text": TargetObjective(schedule=Linear())}
    drawn = draw(clean, Task(asked=["image", "text"]), targets=targets)
    assert (drawn.asked["image"].masked.level == 2).all()
    assert abs(float(drawn.asked["text"].masked.rate.mean()) - 0.5) < 0.02
    assert abs(float(drawn.asked["image"].masked.rate.mean()) - 0.6366) < 0.02


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: Task(asked=[]), "asks for at least one"),
        (lambda: Task(asked=["a"], given=["a"]), "each one role"),
        (lambda: Task(asked=["a"], weight=0.0), "positive weight"),
        (lambda: Task(asked=["a"], given=["b"], budget=Budget()), "budget decides itself"),
        (lambda: Budget(asked=(0, 4)), "asked from 1 on"),
        (lambda: TargetObjective(loss="mean"), "maskgit or elbo"),
        (lambda: TargetObjective(weight=0.0), "weight of a target must be positive"),
    ],
)
def test_bad_tables(made, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        made()
