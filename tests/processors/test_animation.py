"""The film of a decode shows what was known after each step."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from maskgen.pipelines.outputs import GenerationOutput
from maskgen.pipelines.text_to_image import TextToImagePipeline
from maskgen.processors.animation import decode_frames, partial_codes
from maskgen.sampling.base import Trajectory
from maskgen.tokenizers.image import ImageTokenizer
from maskgen.tokens.batch import UNKNOWN

GREY = (200, 200, 200)


def test_there_is_a_frame_a_step_and_the_last_one_is_the_picture(tiny_pipeline: TextToImagePipeline) -> None:
    output = tiny_pipeline("a red heart", num_inference_steps=[5, 3], num_images_per_prompt=2)
    frames = decode_frames(tiny_pipeline.tokenizers["image"], output.codes[0], output.trajectories, output.images[0])
    assert len(frames) == 5 + 3 + 1
    assert {frame.size for frame in frames} == {(32, 32)}
    assert frames[-1] is output.images[0]
    assert np.array_equal(np.asarray(frames[-2]), np.asarray(frames[-1]))


def test_known_cells_only_grow_and_keep_their_codes(tiny_pipeline: TextToImagePipeline) -> None:
    output = tiny_pipeline("a red heart", num_inference_steps=[5, 3])
    before = torch.full((2, 4, 4), UNKNOWN)
    for codes in partial_codes(output.codes[0], output.trajectories):
        known = before != UNKNOWN
        assert torch.equal(codes[known], before[known])
        assert int((codes != UNKNOWN).sum()) > int(known.sum())
        before = codes
    assert torch.equal(before, output.codes[0])


def test_levels_that_were_decoded_together_are_shown_together(tiny_pipeline: TextToImagePipeline) -> None:
    settings = tiny_pipeline.settings["image"].changed(groups=[[0, 1]], steps=[6])
    output = tiny_pipeline.generate([tiny_pipeline.text_codes("a red heart")], "image", [0], settings)
    shown = list(partial_codes(output.codes[0], output.trajectories))
    assert len(shown) == 6
    assert all(codes.shape == (2, 4, 4) for codes in shown)
    for before, after in pairwise(shown):
        known = before != UNKNOWN
        assert torch.equal(after[known], before[known])
    assert torch.equal(shown[-1], output.codes[0])


def test_a_level_after_a_group_is_shown_in_its_place() -> None:
    final = torch.arange(12).reshape(3, 2, 2)
    group = torch.stack([final[0], final[1]], dim=-1).flatten()[None, None]  # of each cell its two levels behind each other

    def trajectory(codes: torch.Tensor) -> Trajectory:
        return Trajectory(codes, torch.zeros(codes.shape), torch.ones(codes.shape, dtype=torch.bool))

    output = GenerationOutput([None], [final], [0], [trajectory(group), trajectory(final[2].flatten()[None, None])], [2.0], 0.0, [])
    first, second = partial_codes(output.codes[0], output.trajectories)
    assert first[:2].equal(final[:2])
    assert (first[2] == UNKNOWN).all()
    assert second.equal(final)


def test_unknown_cells_are_grey_and_unknown_levels_add_nothing(tiny_image: ImageTokenizer) -> None:
    codes = torch.randint(0, 16, (2, 4, 4), generator=torch.Generator().manual_seed(0))
    coarse = codes.clone()
    coarse[1] = UNKNOWN
    assert np.array_equal(np.asarray(tiny_image.preview(coarse)), np.asarray(tiny_image.decode([codes[:1]])[0]))
    coarse[0, 1, 2] = UNKNOWN
    assert (np.asarray(tiny_image.preview(coarse))[8:16, 16:24] == GREY).all()
    assert (np.asarray(tiny_image.preview(torch.full((2, 4, 4), UNKNOWN))) == GREY).all()
    assert np.array_equal(np.asarray(tiny_image.preview(codes)), np.asarray(tiny_image.decode([codes])[0]))


def test_a_finer_level_that_is_partly_known_adds_nothing_to_the_other_cells(tiny_image: ImageTokenizer) -> None:
    """Judged before the decoder, whose convolutions spread every cell: the vectors it is handed."""
    codes = torch.randint(1, 16, (2, 4, 4), generator=torch.Generator().manual_seed(1))
    codes[1].flatten()[1:] = UNKNOWN
    handed: list[torch.Tensor] = []
    watch = tiny_image.network.decoder.register_forward_pre_hook(lambda module, inputs: handed.append(inputs[0]))
    try:
        tiny_image.preview(codes)
    finally:
        watch.remove()
    vectors = handed[0].flatten(2)[0].T
    lookup = tiny_image.network.quantizer.lookup
    assert torch.equal(vectors[0], lookup(codes[None, :, 0, :1])[0, 0])
    assert torch.equal(vectors[1:], lookup(codes.flatten(1)[None, :1])[0, 1:])


def test_a_film_of_an_edit_starts_from_the_known_cells(tiny_pipeline: TextToImagePipeline) -> None:
    mask = Image.new("L", (32, 32), 0)
    mask.paste(255, (0, 0, 8, 32))
    output = tiny_pipeline("a", image=Image.new("RGB", (32, 32), "red"), mask_image=mask, num_inference_steps=[2, 1])
    assert [int((codes[0] != UNKNOWN).sum()) for codes in partial_codes(output.codes[0], output.trajectories)][:1] >= [12]
    assert len(decode_frames(tiny_pipeline.tokenizers["image"], output.codes[0], output.trajectories, output.images[0])) == 2 + 1 + 1


def test_a_tokenizer_that_cannot_show_blanks_is_refused(tiny_pipeline: TextToImagePipeline) -> None:
    output = tiny_pipeline("a")
    other = TextToImagePipeline(
        tiny_pipeline.model, tiny_pipeline.space, {**tiny_pipeline.tokenizers, "image": tiny_pipeline.tokenizers["text"]}
    )
    with pytest.raises(ValueError, match="TextTokenizer"):
        decode_frames(other.tokenizers["image"], output.codes[0], output.trajectories, output.images[0])
