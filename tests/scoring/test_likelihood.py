"""Scores: exact where the answer is planted or can be enumerated, and each from its own row alone."""

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from builders.networks import randomised
from PIL import Image
from torch import Tensor

from maskgen.cli.main import main
from maskgen.decoding.logits import model_logits
from maskgen.decoding.settings import GenerationSettings
from maskgen.networks.transformer import MaskTransformer, TransformerConfig
from maskgen.pipelines.base import Pipeline
from maskgen.scoring.estimators import ScoreSettings, elbo_masks, fold_masks, pair_variance
from maskgen.scoring.likelihood import Score, Scorer, group_values
from maskgen.scoring.ranking import rank_candidates
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.functions import LogitsFn
from maskgen.tokens.packing import pack
from maskgen.tokens.space import MASK, Modality, Segment, TokenSpace

CODES, LEVELS = 3, 2
SPACE = TokenSpace(
    [
        Modality(name="label", kind="attribute", num_levels=1, codebook_size=4),
        Modality(name="audio", kind="audio", num_levels=LEVELS, codebook_size=CODES),
    ]
)
AUDIO = SPACE.of("audio")
ELBO, ALONE = ScoreSettings(samples=64), ScoreSettings(estimator="pseudo")


def joint(cells: int, seed: int = 0) -> Tensor:
    """Probability of every filling of that many cells, an axis a cell."""
    logits = 2 * torch.randn([CODES] * cells, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return logits.flatten().softmax(dim=0).view_as(logits)


def exact(table: Tensor) -> LogitsFn:
    """A model of one level that answers with the true conditionals of a joint distribution."""

    def logits_fn(batch: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
        answers = []
        for row, cell in cells.nonzero().tolist():
            seen = [slice(None) if int(one) == MASK else int(one) - segment.offset for one in batch.ids[row, :, segment.level]]
            known = [slice(one, one + 1) if isinstance(one, int) else one for one in seen]
            axes = [axis for axis in range(table.ndim) if axis != cell]
            found = table[tuple(known)]
            answers.append((found.sum(dim=axes) if axes else found).log())
        return torch.stack(answers)

    return logits_fn


def audio_row(codes: Tensor, label: int | None = None) -> TokenBatch:
    return pack([{"audio": codes, **({} if label is None else {"label": torch.tensor([[label]])})}], SPACE)


def coarse(*codes: int) -> tuple[TokenBatch, Tensor]:
    """A row whose coarsest level alone is known and asked for."""
    grid = torch.full((LEVELS, len(codes)), -1)
    grid[0] = torch.tensor(codes)
    return audio_row(grid), (grid >= 0).T


@pytest.fixture(scope="module")
def small() -> MaskTransformer:
    """A random model whose guesses depend on what it sees."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = MaskTransformer(TransformerConfig(dim=16, num_layers=1, num_heads=2), SPACE.size, len(SPACE.modalities))
        randomised(model, 0.4)
    return model.eval()


@torch.no_grad()
def bound_by_enumeration(model: MaskTransformer, row: TokenBatch, level: int, finer_masked: bool = True) -> float:
    """The bound as it is written: over all masks of the level, 1 / size of each mask over the masks of that size."""
    cells, logits_fn = row.cells(2)[0].nonzero()[:, 0].tolist(), model_logits(model)
    total = 0.0
    for size in range(1, len(cells) + 1):
        choices = list(itertools.combinations(cells, size))
        for hidden in choices:
            ids = row.ids.clone()
            ids[0, list(hidden), level] = MASK
            if finer_masked:
                ids[0, cells, level + 1 : LEVELS] = MASK
            chosen = torch.zeros_like(row.valid)
            chosen[0, list(hidden)] = True
            wanted = row.ids[0, list(hidden), level] - AUDIO[level].offset
            found = logits_fn(row.with_ids(ids), chosen, AUDIO[level], 0.0).double().log_softmax(dim=-1)
            total += float(found.gather(-1, wanted[:, None]).sum()) / size / len(choices)
    return total


@pytest.mark.parametrize("settings", [ELBO, ScoreSettings(samples=2), ALONE], ids=str)
def test_independent_codes_score_their_log_probability_exactly(settings: ScoreSettings) -> None:
    """Equal marginals: whatever is masked, the average code is as likely as the true one."""
    chances = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    row, asked = coarse(1, 1, 1, 1)
    planted: LogitsFn = lambda batch, cells, segment, progress: chances.log().expand(int(cells.sum()), -1)  # noqa: E731
    found = group_values(planted, row, AUDIO[:1], asked, settings)
    assert float(found.sum()) == pytest.approx(4 * math.log(0.2), rel=1e-12)


@pytest.mark.parametrize("codes", [(0,), (2, 1), (0, 1, 2)], ids=str)
def test_the_bound_of_true_conditionals_converges_to_the_true_likelihood(codes: tuple[int, ...]) -> None:
    """Every order of a chain rule multiplies to the joint probability, and the bound is the mean over orders."""
    table = joint(len(codes))
    row, asked = coarse(*codes)
    found = group_values(exact(table), row, AUDIO[:1], asked, ScoreSettings(samples=4000, batch_size=4000))
    error = math.sqrt(pair_variance(found.sum(dim=1))) if len(codes) > 1 else 0.0
    assert float(found.sum()) == pytest.approx(float(table[codes].log()), abs=4 * error + 1e-12)
    assert error < 0.06


def test_logits_asked_for_in_parts_give_the_same_score() -> None:
    row, asked = pack([{"audio": torch.tensor([[1, 0, 2, 1, 0], [0, 0, 0, 0, 0]])}], SPACE), torch.ones(5, LEVELS, dtype=torch.bool)
    counts: list[int] = []
    answer = exact(joint(5))

    def counted(batch: TokenBatch, cells: Tensor, segment: Segment, progress: float) -> Tensor:
        counts.append(int(cells.sum()))
        return answer(batch, cells, segment, progress)

    whole = group_values(counted, row, AUDIO[:1], asked, ScoreSettings(samples=8, batch_size=8))
    assert max(counts) > 2
    counts.clear()
    parts = group_values(counted, row, AUDIO[:1], asked, ScoreSettings(samples=8, batch_size=8), 2 * CODES)
    assert max(counts) == 2
    assert torch.equal(parts, whole)


def test_one_code_at_a_time_is_the_pseudo_likelihood_and_all_at_once_the_marginals() -> None:
    table, codes = joint(3), (0, 1, 2)
    row, asked = coarse(*codes)
    alone = group_values(exact(table), row, AUDIO[:1], asked, ALONE)
    rest = [table[tuple(slice(None) if one == cell else code for one, code in enumerate(codes))] for cell in range(3)]
    assert float(alone.sum()) == pytest.approx(sum(math.log(line[code] / line.sum()) for line, code in zip(rest, codes, strict=True)))
    once = group_values(exact(table), row, AUDIO[:1], asked, ScoreSettings(estimator="pseudo", folds=1))
    margins = [table.sum(dim=[axis for axis in range(3) if axis != cell])[code] for cell, code in enumerate(codes)]
    assert float(once.sum()) == pytest.approx(float(torch.stack(margins).log().sum()))


def test_a_transformer_s_score_converges_to_the_bound_by_enumeration_level_by_level(small: MaskTransformer) -> None:
    codes = torch.tensor([[0, 2, 1], [1, 1, 0]])
    row = {"label": torch.tensor([[2]]), "audio": codes}
    score = Scorer(small, SPACE, "audio", ScoreSettings(samples=4000, batch_size=1000))(row)
    batch = pack([row], SPACE)
    wanted = [bound_by_enumeration(small, batch, level) for level in range(LEVELS)]
    assert score.codes == (3, 3)
    assert score.total == pytest.approx(sum(wanted), abs=4 * score.standard_error)
    assert score.levels == pytest.approx(wanted, abs=4 * score.standard_error)
    assert score.standard_error < 0.03 * abs(sum(wanted))
    assert score.model_calls <= 2 * (2**3 - 1), "equal masks are run once"
    unmasked = bound_by_enumeration(small, batch, 0, finer_masked=False)
    assert abs(unmasked - wanted[0]) > 10 * score.standard_error, "or finer levels could leak unnoticed"


def test_the_standard_error_is_the_spread_of_the_estimate_and_not_smaller(small: MaskTransformer) -> None:
    row = {"audio": torch.randint(CODES, (LEVELS, 12), generator=torch.Generator().manual_seed(0))}
    scores = [Scorer(small, SPACE, "audio", ScoreSettings(samples=8, seed=seed, levels=(0,)))(row) for seed in range(40)]
    spread = torch.tensor([score.total for score in scores], dtype=torch.float64).std().item()
    error = math.sqrt(sum(score.standard_error**2 for score in scores) / len(scores))
    assert 0.75 * spread < error < 2 * spread


@pytest.mark.parametrize(("codes", "samples"), [(1, 2), (5, 2), (7, 64), (64, 16)])
def test_masks_come_in_pairs_that_cover_everything_and_every_size_is_as_frequent(codes: int, samples: int) -> None:
    sizes = torch.zeros(codes + 1)
    for seed in range(200):
        masks = elbo_masks(codes, samples, torch.Generator().manual_seed(seed))
        first, second = masks.hidden[::2], masks.hidden[1::2]
        assert (first | second).all()
        assert ((first & second).sum(dim=1) == 1).all()
        sizes += torch.bincount(masks.hidden.sum(dim=1), minlength=codes + 1)
    assert sizes[0] == 0
    assert (sizes[1:] / sizes.sum() - 1 / codes).abs().max() < 5 * math.sqrt(1 / codes / 200 / samples)


@pytest.mark.parametrize(("codes", "folds", "number"), [(7, None, 7), (7, 3, 3), (2, 9, 2), (5, 1, 1)])
def test_folds_hide_every_code_once(codes: int, folds: int | None, number: int) -> None:
    masks = fold_masks(codes, folds, torch.Generator().manual_seed(1))
    assert len(masks.hidden) == number
    assert (masks.hidden.sum(dim=0) == 1).all()
    assert masks.hidden.sum(dim=1).max() - masks.hidden.sum(dim=1).min() <= 1


def test_probabilities_of_all_codes_of_a_cell_sum_to_one_within_its_level(small: MaskTransformer) -> None:
    """Modality safety: the logits cover one level's codes and nothing else."""
    scorer = Scorer(small, SPACE, "audio", ScoreSettings(samples=2, levels=(1,)))
    one = [scorer({"label": torch.tensor([[1]]), "audio": torch.tensor([[2], [code]])}) for code in range(CODES)]
    assert sum(math.exp(score.total) for score in one) == pytest.approx(1, abs=1e-6)
    assert [(score.codes, score.standard_error, score.model_calls) for score in one] == [((0, 1), 0.0, 1)] * CODES


def test_unknown_codes_are_never_seen_and_unmarked_ones_always_with_all_their_levels(small: MaskTransformer) -> None:
    seen: list[TokenBatch] = []
    codes = torch.tensor([[0, 2, -1, 1], [1, 1, -1, 2]])
    only = torch.tensor([True, True, False, False])
    watch = small.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].ids.clone()))
    try:
        score = Scorer(small, SPACE, "audio", ScoreSettings(samples=8))({"audio": codes}, only)
    finally:
        watch.remove()
    assert score.codes == (2, 2)
    for ids in seen:
        assert (ids[:, 2] == MASK).all()
        assert (ids[:, 3] == torch.tensor([1 + AUDIO[0].offset, 2 + AUDIO[1].offset])).all()
        coarse_masked = (ids[:, :2, 0] == MASK).any(dim=1)
        assert (ids[coarse_masked][:, :2, 1] == MASK).all(), "finer levels are hidden while a coarser one is scored"


def test_levels_in_a_group_are_masked_together(small: MaskTransformer) -> None:
    row = {"audio": torch.tensor([[0, 2], [1, 1]])}
    score = Scorer(small, SPACE, "audio", ScoreSettings(estimator="pseudo", folds=1), GenerationSettings(groups=((0, 1),)))(row)
    batch = pack([row], SPACE)
    blank = batch.with_ids(torch.full_like(batch.ids, MASK))
    for segment, found in zip(AUDIO, score.levels, strict=True):
        logprobs = model_logits(small)(blank, blank.valid, segment, 0.0).detach().log_softmax(dim=-1)
        assert found == pytest.approx(float(logprobs.gather(-1, row["audio"][segment.level][:, None]).sum()), abs=1e-5)
    assert score.model_calls == 1


def test_a_score_is_the_same_to_the_last_bit_in_any_company(tiny_pipeline: Pipeline) -> None:
    generator = torch.Generator().manual_seed(0)
    texts = ["a", "a yellow star, noto style and a green circle", "a red heart"]
    rows = [{"text": text, "image": torch.randint(16, (2, 4, 4), generator=generator)} for text in texts]
    together = tiny_pipeline.score(rows, "image", against="absent")
    assert together == [tiny_pipeline.score([row], "image", against="absent")[0] for row in rows]
    assert together == tiny_pipeline.score(rows[::-1], "image", against="absent")[::-1]
    assert together != tiny_pipeline.score(rows, "image", against="absent", settings=ScoreSettings(seed=1))


def test_against_subtracts_mask_by_mask(tiny_pipeline: Pipeline) -> None:
    codes = torch.randint(16, (2, 4, 4), generator=torch.Generator().manual_seed(0))
    row, other = {"text": "a red heart", "image": codes}, {"text": "a blue square"}
    ours, theirs, none = (tiny_pipeline.score([one], "image")[0] for one in (row, {**other, "image": codes}, {"image": codes}))
    for against, subtracted in (("absent", none), ([other], theirs)):
        (found,) = tiny_pipeline.score([row], "image", against=against)  # type: ignore[arg-type]
        assert found.levels == pytest.approx([one - two for one, two in zip(ours.levels, subtracted.levels, strict=True)], abs=1e-9)
        assert found.model_calls == ours.model_calls + subtracted.model_calls
    (same,) = tiny_pipeline.score([row], "image", against=[{"text": "a red heart"}])
    assert (same.total, same.standard_error) == (0.0, 0.0)


def test_candidates_are_ranked_by_bayes_rule(tiny_pipeline: Pipeline) -> None:
    codes = torch.randint(16, (2, 4, 4), generator=torch.Generator().manual_seed(0))
    candidates = [{"text": text} for text in ("a", "a red heart", "a blue square", "a")]
    found = tiny_pipeline.classify({"image": codes}, candidates, "image")
    totals = torch.tensor([one.total for one in tiny_pipeline.score([{"image": codes, **one} for one in candidates], "image")])
    assert [one.place for one in found] == sorted(range(4), key=lambda place: (-float(totals[place]), place))
    assert [one.candidate for one in found] == [candidates[one.place] for one in found]
    assert sum(one.probability for one in found) == pytest.approx(1)
    assert found[0].probability / found[2].probability == pytest.approx(math.exp(found[0].score.total - found[2].score.total), rel=1e-6)


def test_equal_scores_keep_their_order() -> None:
    scores = [Score(levels=(total,), codes=(1,), standard_error=0.0, model_calls=1) for total in (-2.0, -1.0, -1.0)]
    assert [one.place for one in rank_candidates([{}] * 3, scores)] == [1, 2, 0]


IMAGE = torch.zeros(2, 4, 4, dtype=torch.long)
ROW = {"text": "a", "image": IMAGE}
BAD: list[tuple[Callable[[Pipeline], Any], str]] = [
    (lambda p: p.score([{"text": "a"}], "image"), "needs the codes of its target 'image', the row has text"),
    (lambda p: p.score([ROW], "sound"), "no modality 'sound'"),
    (lambda p: p.score([{"text": "a", "image": IMAGE - 1}], "image"), "nothing to score"),
    (lambda p: p.score([ROW], "image", only=[torch.ones(3, 3, dtype=torch.bool)]), "only has shape"),
    (lambda p: p.score([{"image": IMAGE - 1}], "image", only=[torch.ones(4, 4, dtype=torch.bool)]), "that are UNKNOWN"),
    (lambda p: p.score([ROW], "image", only=[]), "as many entries of only"),
    (lambda p: p.score([ROW], "image", against=[ROW]), "leave 'image' out"),
    (lambda p: p.score([ROW], "image", settings=ScoreSettings(levels=(2,))), "got level 2"),
    (lambda p: p.classify({"image": IMAGE}, [], "image"), "no candidate"),
    (lambda p: p.classify(ROW, [{"text": "b"}], "image"), "both have text"),
    (lambda p: ScoreSettings(samples=3), "even number"),
    (lambda p: ScoreSettings(folds=2), "folds belong to"),
    (lambda p: ScoreSettings(seed=-1), "seed must lie"),
]


@pytest.mark.parametrize(("call", "sentence"), BAD, ids=[sentence for _, sentence in BAD])
def test_bad_calls_are_refused_with_a_sentence(tiny_pipeline: Pipeline, call: Callable[[Pipeline], Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        call(tiny_pipeline)


def test_the_verb_ranks_captions_of_a_picture_of_any_size(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny_pipeline: Pipeline
) -> None:
    Image.new("RGB", (64, 32), (200, 0, 0)).save(tmp_path / "wide.png")
    Image.new("RGB", (32, 32), (200, 0, 0)).save(tmp_path / "square.png")
    call = ["score", "--model", str(tiny_bundle), "--samples", "4", "a red heart", "a blue square", "--image"]
    main([*call, str(tmp_path / "square.png"), "--json"])
    found = json.loads(capsys.readouterr().out)
    candidates = [{"text": "a red heart"}, {"text": "a blue square"}]
    picture = {"image": Image.open(tmp_path / "square.png")}
    wanted = tiny_pipeline.classify(picture, candidates, "image", settings=ScoreSettings(samples=4))
    assert [(one["caption"], one["log_likelihood"]) for one in found] == [(one.candidate["text"], one.score.total) for one in wanted]
    main([*call, str(tmp_path / "wide.png")])
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 4
    assert said[-1].startswith("nats over 32 codes, ")
    with pytest.raises(SystemExit):
        main([*call, str(tmp_path / "nothing.png")])
    assert "does not exist" in capsys.readouterr().err
