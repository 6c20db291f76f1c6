"""Settings become a decode: every switch keeps what a decode promises, and costs what it says."""

import argparse
import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from maskgen.cli.decoding_options import add_decoding, decoded_as
from maskgen.decoding.acceleration.kv_cache import KVCacheModel
from maskgen.decoding.decoder import Helpers, equipped
from maskgen.decoding.guidance import ConstantGuidance
from maskgen.decoding.logits import guided_model, hide_condition
from maskgen.decoding.settings import GenerationSettings
from maskgen.networks.critic import TokenCritic
from maskgen.networks.shortcut import ShortcutBlock, ShortcutConfig
from maskgen.pipelines.text_to_image import TextToImagePipeline
from maskgen.sampling import names
from maskgen.sampling.base import State
from maskgen.sampling.blocks import BlockSampler
from maskgen.sampling.critic import CriticSampler
from maskgen.sampling.frequency import FrequencySampler
from maskgen.tokens.packing import pack

PLAIN = GenerationSettings(steps=(6, 3), guidance_scale=2.0)
SWITCHES: list[dict[str, Any]] = [
    {"null": "masked"},
    {"guidance_rescale": 0.7},
    {"guidance_schedule": "mask_rate"},
    {"noise_regularization": 2.0},
    {"differential": 0.5},
    {"refresh": 3},
    {"merge": 0.25},
    {"shortcut": 2},
    {"window": [1]},
    {"min_p": 0.1, "typical_p": 0.9},
    *({"sampler": name} for name in names() if name not in ("blocks", "first_hitting")),
    {"sampler": "blocks", "sampler_options": {"block_size": 8, "inner": "critic"}},
]


def equipped_pipeline(pipeline: TextToImagePipeline) -> TextToImagePipeline:
    torch.manual_seed(0)
    config = pipeline.model.config
    critic = TokenCritic(replace(config, num_layers=1), pipeline.space, "image")
    shortcut = ShortcutBlock(ShortcutConfig(dim=config.dim, inner_dim=8, num_heads=2))
    return TextToImagePipeline(
        pipeline.model, pipeline.space, pipeline.tokenizers, pipeline.settings, pipeline.grids, Helpers(critic.eval(), shortcut.eval())
    )


@pytest.mark.parametrize("switch", SWITCHES, ids=str)
def test_with_every_switch_a_row_is_the_same_alone_and_its_known_cells_stay(
    tiny_pipeline: TextToImagePipeline, switch: dict[str, Any]
) -> None:
    pipeline, settings = equipped_pipeline(tiny_pipeline), PLAIN.changed(**switch)
    known = [pipeline.text_codes(text) for text in ("a red heart", "a cat", "a green leaf, flat style")]
    grid = pipeline("a cat", seed=9).codes[0]
    grid[:, 0] = -1
    known[1] = {**known[1], "image": grid}
    together = pipeline.generate(known, "image", [3, 4, 5], settings, batch_invariant=True)
    for row in (1, 2):
        alone = pipeline.generate([known[row]], "image", [3 + row], settings)
        assert torch.equal(alone.codes[0], together.codes[row])
        assert alone.model_calls == [together.model_calls[row]]
    assert torch.equal(together.codes[1][:, 1:], grid[:, 1:])
    assert all((codes >= 0).all() for codes in together.codes)


@pytest.mark.parametrize(
    ("switch", "cheaper"), [({"refresh": 3}, True), ({"merge": 0.5}, True), ({"shortcut": 3}, True), ({"null": "masked"}, False)]
)
def test_passes_say_what_a_switch_saves(tiny_pipeline: TextToImagePipeline, switch: dict[str, Any], cheaper: bool) -> None:
    pipeline = equipped_pipeline(tiny_pipeline)
    known = [pipeline.text_codes("a red heart")]
    plain, other = (pipeline.generate(known, "image", [0], PLAIN.changed(**change)).model_calls[0] for change in ({}, switch))
    assert plain == 18
    assert (0 < other < plain) if cheaper else other == plain
    assert pipeline.enable_packed_weights().generate(known, "image", [0], PLAIN.changed(**switch)).model_calls[0] == other


def test_guidance_from_masked_and_from_absent_conditions_are_not_the_same(tiny_pipeline: TextToImagePipeline) -> None:
    known = [tiny_pipeline.text_codes("a red heart")]
    absent, masked = (tiny_pipeline.generate(known, "image", [0], PLAIN.changed(null=null)).codes[0] for null in ("absent", "masked"))
    assert not torch.equal(absent, masked)


@pytest.mark.parametrize("change", [{}, {"sampler": "remdm", "sampler_options": {"eta": 0.5}}, {"sampler": "self_correction"}], ids=str)
def test_log_probabilities_are_those_of_the_guided_logits_when_a_code_was_last_written(
    tiny_pipeline: TextToImagePipeline, change: dict[str, Any]
) -> None:
    settings = PLAIN.changed(steps=[8, 6], temperature=[0.7, 0.5], top_k=5, **change)
    grid = tiny_pipeline("a cat", seed=9).codes[0]
    grid[:, 1:] = -1
    row, states = {**tiny_pipeline.text_codes("a red heart"), "image": grid}, list[State]()
    output = tiny_pipeline.generate([row], "image", [3], settings, callback=states.append)
    guided = guided_model(tiny_pipeline.model, hide_condition((tiny_pipeline.space.index("text"),)), ConstantGuidance(2.0))
    before, wanted, rewritten = pack([row], tiny_pipeline.space), torch.zeros(2, 16), 0
    for state in states:
        written = state.changed & (state.codes >= 0)
        logprobs = guided(before, written, state.segment, 0.0).log_softmax(dim=-1)
        cells = written[0, -16:].nonzero()[:, 0]
        rewritten += int((wanted[state.segment.level, cells] < 0).sum())
        wanted[state.segment.level, cells] = logprobs.gather(-1, state.codes[written][:, None])[:, 0]
        before = state.batch
    assert (rewritten > 0) == bool(change), "an order that takes codes back must be caught rewriting one"
    (found,), (sure,) = output.log_probabilities, output.confidence
    torch.testing.assert_close(found, wanted.view(2, 4, 4), atol=1e-4, rtol=0)
    assert (found[:, 1:] < 0).all()
    assert (sure[:, 0] == 1).all(), "what was known is certain"


@pytest.mark.parametrize("groups", [None, ((0, 1),)])
def test_log_probabilities_have_the_shape_of_the_codes_whatever_the_row(
    tiny_pipeline: TextToImagePipeline, groups: tuple[tuple[int, ...], ...] | None
) -> None:
    whole = {"image": torch.zeros(2, 4, 4, dtype=torch.long)}
    rows = [tiny_pipeline.text_codes("a red heart, flat style"), {"image": torch.full((2, 3, 5), -1)}, whole]
    output = tiny_pipeline.generate(rows, "image", [0, 1, 2], replace(PLAIN, groups=groups), batch_invariant=True)
    assert [one.shape for one in output.log_probabilities] == [one.shape for one in output.codes]
    assert all((one < 0).all() for one in output.log_probabilities[:2])
    assert (output.log_probabilities[2] == 0).all()
    alone = tiny_pipeline.generate(rows[1:2], "image", [1], replace(PLAIN, groups=groups))
    assert torch.equal(alone.log_probabilities[0], output.log_probabilities[1])


def test_what_is_not_there_is_said(tiny_pipeline: TextToImagePipeline) -> None:
    known = [tiny_pipeline.text_codes("a red heart")]
    for change, sentence in (({"shortcut": 2}, "needs a trained one"), ({"sampler": "critic"}, "needs a trained critic")):
        with pytest.raises(ValueError, match=sentence):
            tiny_pipeline.generate(known, "image", [0], PLAIN.changed(**change))
    with pytest.raises(ValueError, match="refresh and merge do not go together"):
        PLAIN.changed(refresh=2, merge=0.2)


@pytest.mark.parametrize("switch", [{"shortcut": 2}, {"sampler": "critic"}], ids=str)
def test_helpers_follow_the_model_to_another_precision(tiny_pipeline: TextToImagePipeline, switch: dict[str, Any]) -> None:
    pipeline = equipped_pipeline(tiny_pipeline)
    pipeline = TextToImagePipeline(
        copy.deepcopy(pipeline.model), pipeline.space, pipeline.tokenizers, pipeline.settings, pipeline.grids, pipeline.helpers
    )
    made = pipeline.to(dtype=torch.bfloat16).generate([pipeline.text_codes("a cat")], "image", [0], PLAIN.changed(**switch))
    assert int(made.codes[0].min()) >= 0


def test_a_refreshed_row_does_not_depend_on_how_long_others_take(tiny_pipeline: TextToImagePipeline) -> None:
    """Rows that go together (here in bfloat16) start each level with a full pass."""
    calls: list[int] = []

    class Counted(KVCacheModel):
        def begin(self, levels: Sequence[int]) -> None:
            calls.append(len(levels))
            super().begin(levels)
            assert self._full is None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("maskgen.decoding.decoder.KVCacheModel", Counted)
        tiny_pipeline.generate([tiny_pipeline.text_codes("a cat")], "image", [0], PLAIN.changed(refresh=3))
    assert calls == [1, 1]


def test_nothing_to_fill_and_no_batch_are_refused(tiny_pipeline: TextToImagePipeline) -> None:
    with pytest.raises(ValueError, match="image has no cells to fill"):
        tiny_pipeline.generate([{"image": torch.zeros(2, 0, 4, dtype=torch.long)}], "image", [0])
    with pytest.raises(ValueError, match="batch_size must be at least 1, got -1"):
        tiny_pipeline.generate([{}], "image", [0], batch_size=-1)
    with pytest.raises(ValueError, match="no modality 'audio'"):
        tiny_pipeline.settings_of("audio")


def test_an_order_inside_another_gets_its_tools_too() -> None:
    def judge(*_: object) -> torch.Tensor:
        raise AssertionError("not called here")

    found = equipped(BlockSampler(inner=CriticSampler()), {"critic": lambda: judge})
    assert isinstance(found, BlockSampler)
    assert isinstance(found.inner, CriticSampler)
    assert found.inner.critic is judge
    taken = equipped(FrequencySampler(), {"critic": lambda: judge})
    assert isinstance(taken, FrequencySampler)
    assert taken.critic is judge
    alone = equipped(FrequencySampler(), {})
    assert isinstance(alone, FrequencySampler)
    assert alone.critic is None


def test_a_critic_judges_its_own_modality_alone(tiny_pipeline: TextToImagePipeline) -> None:
    pipeline, known = equipped_pipeline(tiny_pipeline), [{"text": torch.tensor([[5, -1, -1, 7]])}]
    written = pipeline.generate(known, "text", [0], PLAIN.changed(sampler="frequency", steps=3))
    assert bool((written.codes[0] >= 0).all())
    with pytest.raises(ValueError, match="the critic sampler needs a trained critic"):
        pipeline.generate(known, "text", [0], PLAIN.changed(sampler="critic", steps=3))


def test_another_order_brings_its_own_options_noise_and_law() -> None:
    own = GenerationSettings(choice_temperature=(6.0, 3.0), schedule="cosine")
    assert own.changed(temperature=0.5).choice_temperature == (6.0, 3.0)
    remdm = own.changed(sampler="remdm", sampler_options={"eta": 0.3})
    assert (remdm.choice_temperature, remdm.schedule, remdm.sampler_options) == (None, None, {"eta": 0.3})
    assert remdm.changed(sampler="margin").sampler_options == {}
    with pytest.raises(ValueError, match="the sampler remdm has no options beta; it has alpha_on, eta"):
        own.changed(sampler="remdm", sampler_options={"beta": 1})


def test_any_setting_is_given_on_the_command_line() -> None:
    parser = argparse.ArgumentParser()
    add_decoding(parser)
    args = parser.parse_args(["--num-inference-steps", "4", "--set", "refresh=2", "--set", "sampler-options={annealing: linear}"])
    assert decoded_as(PLAIN, args) == PLAIN.changed(steps=4, refresh=2, sampler_options={"annealing": "linear"})
    for wrong in ("refresh", "refresh=", "=2", "refresh={"):
        with pytest.raises(SystemExit):
            parser.parse_args(["--set", wrong])
    with pytest.raises(ValueError, match="steps is set twice"):
        decoded_as(PLAIN, parser.parse_args(["--num-inference-steps", "4", "--set", "steps=3"]))
