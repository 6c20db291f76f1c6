"""How a decode went, in pictures: against what the decode itself says."""

import re

import numpy as np
import pytest
import torch

from maskgen.pipelines.base import Pipeline
from maskgen.pipelines.outputs import GenerationOutput
from maskgen.sampling.base import Trajectory
from maskgen.serving.page.reveal import Reveal, heat_map, map_pictures, order_share, reveal_of, step_rows

PROMPT = "a red heart, flat style"


@pytest.mark.parametrize("sampler", ["confidence", "halton", "remdm"])
def test_order_and_confidence_are_those_of_the_decode(models: dict[str, Pipeline], sampler: str) -> None:
    output = models["pictures"](PROMPT, seed=1, sampler=sampler, num_inference_steps=[5, 3])  # type: ignore[operator]
    reveal = reveal_of(output)
    assert torch.equal(reveal.confidence, output.confidence[0])
    assert sum(one.fixed - one.taken_back for one in reveal.steps) == output.codes[0].numel() or sampler == "remdm"
    first = 0
    for level, trajectory in enumerate(output.trajectories):
        steps = len(trajectory.codes)
        cells = trajectory.codes[-1, 0] >= 0
        final = trajectory.codes[-1, 0][cells]
        for place, order in enumerate(reveal.order[level].flatten().tolist()):
            own = order - first - 1
            assert all(trajectory.codes[step, 0][cells][place] == final[place] for step in range(own, steps))
            assert own == 0 or trajectory.codes[own - 1, 0][cells][place] != final[place]
        first += steps
    assert len(reveal.steps) == first


def test_steps_say_what_was_fixed_and_taken_back() -> None:
    codes = torch.tensor([[[-1, 5, -1, -1]], [[-1, -1, 7, 8]], [[-1, 6, 7, 8]]])
    changed = torch.tensor([[[False, True, False, False]], [[False, True, True, True]], [[False, True, False, False]]])
    logprobs = torch.tensor([[[0.0, 0.5, 0.0, 0.0]], [[0.0, 0.0, 0.25, 0.75]], [[0.0, 1.0, 0.25, 0.75]]]).log().nan_to_num(neginf=0.0)
    output = GenerationOutput(None, [torch.tensor([[6, 7, 8]])], [0], [Trajectory(codes, logprobs, changed)], [3.0], 0.0, [])
    reveal = reveal_of(output)
    assert step_rows(reveal.steps) == [["1", 1, 1, 0, 0.5, 0.5], ["1", 2, 2, 1, 0.5, 0.25], ["1", 3, 1, 0, 1.0, 1.0]]
    assert reveal.order.tolist() == [[3, 2, 2]]
    assert order_share(reveal).tolist() == [[1.0, 0.5, 0.5]]


def test_levels_decoded_together_are_told_apart() -> None:
    codes = torch.tensor([[[-1, 1, -1, 3, 4]], [[-1, 1, 2, 3, 4]]])  # two cells of two levels behind one another
    changed = torch.tensor([[[False, True, False, True, True]], [[False, False, True, False, False]]])
    output = GenerationOutput(
        None, [torch.tensor([[1, 3], [2, 4]])], [0], [Trajectory(codes, torch.zeros(2, 1, 5), changed)], [2.0], 0.0, []
    )
    reveal = reveal_of(output)
    assert reveal.order.tolist() == [[1, 1], [2, 1]]
    assert [one.levels for one in reveal.steps] == ["1 to 2", "1 to 2"]


def test_maps_are_a_pixel_a_cell_and_their_colours_ascend() -> None:
    shades = np.asarray(heat_map(np.linspace(0, 1, 9, dtype=np.float32)[None])).astype(int)[0] @ [299, 587, 114]
    assert (np.diff(shades) > 0).all()
    assert [one.size for one in map_pictures(torch.rand(3, 4, 6))] == [(6, 4)] * 3
    assert [one.size for one in map_pictures(torch.rand(3, 20))] == [(20, 3)]


def test_pictures_have_words(models: dict[str, Pipeline]) -> None:
    pytest.importorskip("gradio", reason="the page needs gradio: pip install maskgen[demo]")
    from maskgen.serving.page.reveal_html import MOST_FRAMES, bars_html, maps_html, strip_html

    output = models["pictures"](PROMPT, seed=1)  # type: ignore[operator]
    reveal: Reveal = reveal_of(output)
    html = maps_html(reveal) + strip_html(list(output.images) * 100, reveal.steps * 100) + bars_html(reveal.steps)
    assert html.count("<img") == 4 + MOST_FRAMES
    assert all(words for words in re.findall(r'<img [^>]*alt="([^"]*)"', html))
    assert strip_html([], reveal.steps) == ""
