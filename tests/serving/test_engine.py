"""The engine: company changes no bit of an answer, limits hold, and whatever ends, ends."""

import gc
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders.any_to_any import BRIDGED, write_any
from builders.networks import randomised
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from maskgen.decoding.settings import GenerationSettings
from maskgen.networks.transformer import MaskTransformer
from maskgen.pipelines.any_to_any import AnyToAnyPipeline
from maskgen.pipelines.base import Pipeline
from maskgen.pipelines.text_generation import TextGenerationPipeline
from maskgen.pipelines.text_to_image import TextToImagePipeline
from maskgen.pipelines.text_to_speech import TextToSpeechPipeline
from maskgen.sampling.base import State
from maskgen.serving.engine import Cancelled, Engine, EngineClosed, EngineFull, EngineLimits, Job, TimedOut
from maskgen.tokenizers.image import ImageTokenizer
from maskgen.tokenizers.text import TextTokenizer
from maskgen.tokens.packing import pack
from tests.interop.llada_cases import write_llada

Call = Callable[[Any], Any]
PATIENCE_S = 60.0
"""Long enough for a busy machine; no test waits for it."""


@contextmanager
def engine_of(pipeline: Pipeline, **limits: Any) -> Iterator[Engine]:
    engine = Engine(pipeline, EngineLimits(**limits))
    try:
        yield engine
    finally:
        engine.close(PATIENCE_S)


def bits(output: Any) -> list[Tensor]:
    """Codes and log-probabilities of everything that a call decoded."""
    generations = getattr(output, "generations", None) or [getattr(output, "generation", output)]
    return [tensor for one in generations for tensor in (*one.codes, *one.log_probabilities)]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) > 0 and all(map(torch.equal, first, second))


def submitted(engine: Engine, calls: list[Call]) -> list[Job[list[Tensor]]]:
    return [engine.submit(lambda pipeline, _, call=call: bits(call(pipeline))) for call in calls]


def all_the_same(pipeline: Pipeline, calls: list[Call], **limits: Any) -> Engine:
    """Asserts that each answer among all others equals the one alone, and returns the closed engine."""
    alone = [bits(call(pipeline)) for call in calls]
    with engine_of(pipeline, **limits) as engine:
        found = [job.result(PATIENCE_S) for job in submitted(engine, calls)]
    assert [same(one, other) for one, other in zip(alone, found, strict=True)] == [True] * len(calls)
    return engine


def wait_for(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end_s, "waited in vain"
        time.sleep(0.001)


PICTURE = Image.effect_noise((32, 32), 90).convert("RGB")
HALF = Image.new("L", (32, 32), 0)
HALF.paste(255, (16, 0, 32, 32))
MIXED: list[Call] = [
    lambda pipe: pipe("a red heart", seed=1),
    lambda pipe: pipe("a blue square, 3d style", seed=2, sampler="halton"),
    lambda pipe: pipe("a cat", seed=3, num_inference_steps=[7, 3]),
    lambda pipe: pipe("a green circle with dark skin, flat style", seed=4, guidance_scale=1.0),
    lambda pipe: pipe("a star", seed=5, num_outputs=3),
    lambda pipe: pipe(["a star", "a yellow star, noto style"], seed=6, batch_invariant=True),
    lambda pipe: pipe("a heart", seed=7, negative_prompt="a very long prompt about a blue square"),
    lambda pipe: pipe("a heart", seed=8, image=PICTURE, mask_image=HALF),
    lambda pipe: pipe("a heart", seed=9, image=PICTURE, strength=0.5, temperature=0.5),
    lambda pipe: pipe("a red heart", seed=10, width=64, height=32, sampler="random_order"),
    lambda pipe: pipe("a red heart", seed=11, settings=GenerationSettings(steps=(3, 2), window=(0, 1))),
    lambda pipe: pipe("a red heart", seed=12, settings=GenerationSettings(steps=(5, 2), refresh=2)),
    lambda pipe: pipe("a red heart", seed=13, settings=GenerationSettings(steps=(5, 2), merge=0.25)),
]


@pytest.fixture(scope="module")
def mixed_alone(tiny_pipeline: TextToImagePipeline) -> list[list[Tensor]]:
    return [bits(call(tiny_pipeline)) for call in MIXED]


@settings(max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(len(MIXED))), pauses_ms=st.lists(st.integers(0, 20), min_size=len(MIXED), max_size=len(MIXED)))
def test_mixed_requests_in_any_order_keep_their_bits(
    tiny_pipeline: TextToImagePipeline, mixed_alone: list[list[Tensor]], order: list[int], pauses_ms: list[int]
) -> None:
    with engine_of(tiny_pipeline) as engine:
        jobs = {}
        for number, pause_ms in zip(order, pauses_ms, strict=True):
            jobs[number] = submitted(engine, [MIXED[number]])[0]
            time.sleep(pause_ms / 1000)
        assert [number for number, job in jobs.items() if not same(job.result(PATIENCE_S), mixed_alone[number])] == []


def test_requests_share_passes(tiny_pipeline: TextToImagePipeline) -> None:
    calls: list[Call] = [lambda pipe, seed=seed: pipe("a star" + " star" * seed, seed=seed) for seed in range(6)]
    alone = all_the_same(tiny_pipeline, calls, max_running=1).stats
    shared = all_the_same(tiny_pipeline, calls).stats
    assert (alone.rows, alone.forwards) == (shared.rows, 36)
    assert shared.forwards < 30


def test_a_pass_has_at_most_so_many_rows(tiny_pipeline: TextToImagePipeline) -> None:
    calls: list[Call] = [lambda pipe, seed=seed: pipe("a star", seed=seed) for seed in range(4)]
    assert all_the_same(tiny_pipeline, calls, max_rows=2).stats.forwards == 24


def test_packed_weights_keep_their_bits(tiny_bundle: Path) -> None:
    all_the_same(Pipeline.from_pretrained(tiny_bundle).enable_packed_weights(), MIXED[:4])


def test_a_blind_condition_is_computed_once_a_request(tiny_pipeline: TextToImagePipeline) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        space = tiny_pipeline.space
        model = MaskTransformer(replace(tiny_pipeline.model.config, blind_condition=True), space.size, len(space.modalities))
        randomised(model, 0.3)
    parts = {name: part for name, part in tiny_pipeline.components.items() if name not in ("model", "helpers")}
    all_the_same(TextToImagePipeline(model, **parts), [*MIXED[:4], MIXED[7]])


def test_speech_of_unequal_lengths_keeps_its_bits(voice: TextToSpeechPipeline) -> None:
    texts = ("Yes.", "Good morning.", "This is a longer sentence.", "One. Two. Three.")
    calls: list[Call] = [lambda pipe, text=text, seed=seed: pipe(text, seed=seed) for seed, text in enumerate(texts)]
    all_the_same(voice, [*calls, lambda pipe: pipe("Good morning.", seconds=0.7, seed=5)])


def test_towers_specialists_and_chains_keep_their_bits(
    tmp_path: Path, tiny_text: TextTokenizer, tiny_image: ImageTokenizer, tiny_pipeline: TextToImagePipeline
) -> None:
    both = AnyToAnyPipeline.from_pretrained(write_any(tmp_path / "any", tiny_text, tiny_image, BRIDGED))
    both.specialists["image"] = tiny_pipeline
    recording = both("a red heart", target="audio", seed=3).speech[0].audio[0]
    calls: list[Call] = [
        *(lambda pipe, seed=seed: pipe(image=PICTURE, target="text", seed=seed) for seed in range(4)),
        lambda pipe: pipe("a red heart", target=["image"], seed=4),
        lambda pipe: pipe("a star", target=["image", "audio"], seed=5),
        lambda pipe: pipe(audio=recording, target="image", source="audio", seed=6),
        lambda pipe: pipe(image=PICTURE, target="text", seed=7, candidates=2),
    ]
    all_the_same(both, calls)


def test_published_networks_keep_their_bits(tmp_path: Path) -> None:
    write_llada(tmp_path / "llada")
    writer = TextGenerationPipeline.from_pretrained(tmp_path / "llada")
    calls: list[Call] = [
        lambda pipe, seed=seed: pipe("a red heart", length=4 + 4 * (seed == 3), num_inference_steps=2, seed=seed) for seed in range(4)
    ]
    engine = all_the_same(writer, calls)
    assert engine.stats.rows == 8


def test_a_work_that_raises_hurts_no_other(tiny_pipeline: TextToImagePipeline, mixed_alone: list[list[Tensor]]) -> None:
    def broken(pipeline: Any, step: Any) -> None:
        raise LookupError("mine alone")

    def bad_ids(pipeline: Any, step: Any) -> Any:
        def spoil(pipe: Any, step: int, left: int, given: dict[str, Any]) -> None:
            given["state"].batch.ids[:] = 10**6

        return pipeline("a star", callback_on_step_end=spoil, callback_on_step_end_tensor_inputs=["state"])

    with engine_of(tiny_pipeline) as engine:
        wrong = [engine.submit(broken), engine.submit(bad_ids), engine.submit(lambda pipeline, _: pipeline("a star", sampler="none"))]
        right = submitted(engine, MIXED[:3])
        for job, error in zip(wrong, (LookupError, IndexError, ValueError), strict=True):
            with pytest.raises(error):
                job.result(PATIENCE_S)
        assert all(same(job.result(PATIENCE_S), alone) for job, alone in zip(right, mixed_alone, strict=False))
        assert engine.stats.cancelled == 0


def held(reached: threading.Event, go_on: threading.Event, steps: list[int] | None = None) -> Callable[[Any, Any], Any]:
    """A request that waits inside its first step, and then goes on with the engine's callback."""

    def work(pipeline: Any, step: Any) -> Any:
        def each(pipe: Any, number: int, left: int, given: dict[str, Any]) -> None:
            reached.set()
            assert go_on.wait(PATIENCE_S)
            step(given["state"])
            if steps is not None:
                steps.append(number)

        return pipeline("a star", callback_on_step_end=each, callback_on_step_end_tensor_inputs=["state"])

    return work


def test_cancelling_frees_the_place_at_the_next_step(tiny_pipeline: TextToImagePipeline, mixed_alone: list[list[Tensor]]) -> None:
    reached, go_on, steps = threading.Event(), threading.Event(), list[int]()
    ended: Future[Any] = Future()
    with engine_of(tiny_pipeline, max_running=1) as engine:
        job = engine.submit(held(reached, go_on, steps))
        job.add_done_callback(ended.set_result)
        second, third = submitted(engine, MIXED[:2])
        assert reached.wait(PATIENCE_S)
        assert (engine.stats.running, engine.stats.waiting, job.done) == (1, 2, False)
        second.cancel()
        job.cancel()
        assert ended.result(0.0) is job
        with pytest.raises(Cancelled):
            job.result(0.0)
        with pytest.raises(Cancelled):
            second.result(0.0)
        assert engine.stats.waiting == 1
        go_on.set()
        assert same(third.result(PATIENCE_S), mixed_alone[1])
        third.cancel()
        assert same(third.result(0.0), mixed_alone[1])
        assert steps == []
        assert engine.stats.cancelled == 2


def test_a_request_that_ignores_its_callback_stops_at_its_next_model_call(tiny_pipeline: TextToImagePipeline) -> None:
    reached, go_on, calls = threading.Event(), threading.Event(), list[int]()

    def each(pipe: Any, number: int, left: int, given: dict[str, Any]) -> None:
        calls.append(number)
        reached.set()
        assert go_on.wait(PATIENCE_S)

    with engine_of(tiny_pipeline) as engine:
        job = engine.submit(lambda pipeline, _: pipeline("a star", callback_on_step_end=each))
        assert reached.wait(PATIENCE_S)
        job.cancel()
        go_on.set()
        wait_for(lambda: engine.stats.running == 0)
    assert calls == [0]


def test_time_is_limited_for_those_that_run_and_those_that_wait(tiny_pipeline: TextToImagePipeline) -> None:
    go_on = threading.Event()
    with engine_of(tiny_pipeline, max_running=1, timeout_s=0.2) as engine:
        jobs = [engine.submit(held(threading.Event(), go_on)), engine.submit(held(threading.Event(), go_on))]
        for job in jobs:
            with pytest.raises(TimedOut, match=r"longer than 0\.2 s"):
                job.result(PATIENCE_S)
        assert engine.stats.cancelled == 2
        go_on.set()
        wait_for(lambda: engine.stats.running == 0)
    assert issubclass(TimedOut, TimeoutError)
    assert issubclass(TimedOut, Cancelled)


def test_a_full_engine_says_when_to_come_back(tiny_pipeline: TextToImagePipeline) -> None:
    go_on = threading.Event()
    with engine_of(tiny_pipeline, max_running=2, max_waiting=1) as engine:
        jobs = [engine.submit(held(threading.Event(), go_on)) for _ in range(3)]
        with pytest.raises(EngineFull, match="wait already; try again in") as error:
            engine.submit(held(threading.Event(), go_on))
        assert error.value.retry_after_s >= 1
        assert engine.stats.refused == 1
        with pytest.raises(TimeoutError):
            jobs[0].result(0.01)
        go_on.set()
        assert [len(job.result(PATIENCE_S).codes) for job in jobs] == [1, 1, 1]


def test_closing_finishes_what_runs_and_refuses_the_rest(tiny_pipeline: TextToImagePipeline) -> None:
    before, reached, go_on = threading.active_count(), threading.Event(), threading.Event()
    engine = Engine(tiny_pipeline, EngineLimits(max_running=1))
    running, waiting = engine.submit(held(reached, go_on)), engine.submit(held(reached, go_on))
    assert reached.wait(PATIENCE_S)
    closing = threading.Thread(target=engine.close)
    closing.start()
    with pytest.raises(EngineClosed, match="closed before"):
        waiting.result(PATIENCE_S)
    with pytest.raises(EngineClosed, match="shutting down"):
        engine.submit(held(reached, go_on))
    assert closing.is_alive()
    go_on.set()
    assert len(running.result(PATIENCE_S).codes) == 1
    closing.join(PATIENCE_S)
    engine.close()
    assert threading.active_count() == before


def test_draining_ends_in_time(tiny_pipeline: TextToImagePipeline) -> None:
    reached, go_on = threading.Event(), threading.Event()
    engine = Engine(tiny_pipeline)
    job = engine.submit(held(reached, go_on))
    assert reached.wait(PATIENCE_S)
    job.add_done_callback(lambda _: go_on.set())
    engine.close(drain_s=0.05)
    with pytest.raises(Cancelled):
        job.result(0.0)


def test_the_callback_of_the_engine_sees_every_step(tiny_pipeline: TextToImagePipeline) -> None:
    seen: list[State] = []

    def work(pipeline: Any, step: Any) -> Any:
        known = [pipeline.text_codes("a star")]
        return pipeline.generate(known, "image", [0], callback=lambda state: seen.append(state) or step(state))

    with engine_of(tiny_pipeline) as engine:
        engine.submit(work).result(PATIENCE_S)
    assert [state.step for state in seen] == [1, 2, 3, 4, 1, 2]


def test_threads_of_the_engine_compute_with_as_many_threads_as_the_caller(tiny_pipeline: TextToImagePipeline) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        two = bits(tiny_pipeline("a star", seed=3))
        with engine_of(tiny_pipeline) as engine:
            assert engine.submit(lambda *_: torch.get_num_threads()).result(PATIENCE_S) == 2
            assert all(same(job.result(PATIENCE_S), two) for job in submitted(engine, [lambda pipe: pipe("a star", seed=3)] * 3))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("limits", [{"max_running": 0}, {"max_waiting": -1}, {"timeout_s": 0.0}, {"max_rows": 0}], ids=str)
def test_limits_that_allow_nothing_are_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        EngineLimits(**limits)


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def num_tensors() -> int:
    return sum(type(one) is Tensor for one in gc.get_objects())  # isinstance would make lazy modules load


def one_call(pipeline: Any, step: Any, stars: int) -> Tensor:
    """The least request: one model call."""
    batch = pack([pipeline.text_codes("a star" + " star" * stars)], pipeline.space)
    hidden: Tensor = pipeline.helpers.runner.shared(pipeline.model, batch, None)
    return hidden


def one_drawing(pipeline: Any, step: Any, stars: int) -> Any:
    return pipeline("a star" + " star" * stars, seed=stars, settings=GenerationSettings(steps=(1, 1)))


@pytest.mark.parametrize(
    ("work", "requests"), [pytest.param(one_call, 500, id="500"), pytest.param(one_drawing, 2000, id="2000", marks=pytest.mark.slow)]
)
def test_memory_stays_flat(tiny_pipeline: TextToImagePipeline, work: Callable[..., Any], requests: int) -> None:
    def some(engine: Engine, count: int) -> None:
        for start in range(0, count, 50):
            numbers = range(start, min(start + 50, count))
            jobs = [engine.submit(lambda pipeline, step, stars=number % 5: work(pipeline, step, stars)) for number in numbers]
            for job in jobs:
                job.result(PATIENCE_S)

    with engine_of(tiny_pipeline, max_running=4) as engine:
        some(engine, 100)
        gc.collect()
        tensors, before = num_tensors(), resident_mib()
        some(engine, requests)
        gc.collect()
        assert num_tensors() <= tensors + 20
        assert resident_mib() - before < 24
        assert engine.stats.running == engine.stats.waiting == 0
