"""MMaDA and Lumina-DiMOO from folders laid out as the hub's: the order of their tokens, images, captions and answers."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

import maskgen
from maskgen.interop.lumina_dimoo import DRAW, LuminaMarks, lumina_order
from maskgen.interop.mmada import MMaDAMarks, mmada_order
from maskgen.interop.sequences import ModelVocabulary, arranged
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.packing import pack
from maskgen.tokens.space import Modality, TokenSpace
from tests.interop.llada_cases import SPECIALS

SPACE = TokenSpace(
    [
        Modality(name="text", kind="text", num_levels=1, codebook_size=300),
        Modality(name="image", kind="image", num_levels=1, codebook_size=16),
    ]
)
VOCABULARY = ModelVocabulary(SPACE, {"text": 0, "image": 400}, 290, 416)
MMADA = MMaDAMarks(draw=301, answer=302, begin_text=303, end_text=304, begin_image=305, end_image=306)
LUMINA = LuminaMarks.before(400, (310, 311), (312,))
TEXT = torch.tensor([[7, 8]])
IMAGE = torch.arange(6).view(1, 2, 3)
BLANK = torch.full((1, 2, 3), -1)
PIXELS = [400, 401, 402, 403, 404, 405]


def read(order: object, batch: TokenBatch, row: int = 0) -> list[int]:
    """The tokens that a model sees of a row."""
    found = arranged(VOCABULARY, order)(batch)
    return found.ids[row][found.valid[row]].tolist()


def test_mmada_reads_a_caption_before_its_image_and_an_answer_behind_it() -> None:
    order = mmada_order(MMADA)
    batch = pack(
        [{"text": TEXT, "image": BLANK}, {"image": BLANK}, {"text": torch.tensor([[5, -1]]), "image": IMAGE}, {"text": TEXT}], SPACE
    )
    masks = [290] * 6
    assert read(order, batch) == [301, 303, 7, 8, 304, 305, *masks, 306]
    assert read(order, batch, 1) == [301, 303, 304, 305, *masks, 306]
    assert read(order, batch, 2) == [302, 305, *PIXELS, 306, 5, 290]
    assert read(order, batch, 3) == [7, 8]
    assert read(order, batch.hide(batch.modality == 1)) == read(order, batch, 1)


def test_lumina_ends_every_row_of_an_image_and_puts_images_into_the_turn() -> None:
    """The published ids: 126349 and 126350 around an image, 126351 for no caption, 126354 and 126355 around an answer, 126084 a row."""
    marks = LuminaMarks.before(126356, (1,), (2,))
    found = [marks.begin_image, marks.end_image, marks.nothing, marks.begin_answer, marks.end_answer, marks.end_row]
    assert found == [126349, 126350, 126351, 126354, 126355, 126084]
    order = lumina_order(LUMINA)
    question = torch.tensor([[9, 5, 6, -1, -1]])
    asked = ModelVocabulary(SPACE, {"text": 0, "image": 400}, 290, 416)
    batch = pack([{"text": TEXT, "image": BLANK}, {"image": BLANK}, {"text": question, "image": IMAGE}, {"text": question}], SPACE)
    drawn = [398, 393, 290, 290, 290, 128, 290, 290, 290, 128, 394, 399]
    assert read(order, batch) == [310, 311, 7, 8, 312, *drawn]
    assert read(order, batch, 1) == [310, 311, 395, 312, *drawn]
    picture = [393, *PIXELS[:3], 128, *PIXELS[3:], 128, 394]
    assert read(lumina_order(LuminaMarks.before(400, (310,), (6,))), batch, 2) == [9, 5, *picture, 6, 398, 290, 290, 399]
    assert read(lumina_order(LuminaMarks.before(400, (310,), (6,))), batch, 3) == [9, 5, 6, 398, 290, 290, 399]
    assert asked.ids(batch)[2, :3].tolist() == [9, 5, 6]


def test_every_cell_finds_its_place_again() -> None:
    batch = pack([{"text": TEXT, "image": IMAGE}, {"text": torch.tensor([[1]]), "image": BLANK}], SPACE)
    for order in (mmada_order(MMADA), lumina_order(LUMINA)):
        found = arranged(VOCABULARY, order)(batch)
        ids = torch.take_along_dim(found.ids, found.places.clamp(min=0), 1)
        assert torch.equal(ids[batch.valid], VOCABULARY.ids(batch)[batch.valid])
        assert bool((found.places[~batch.valid] == -1).all())


@pytest.fixture(scope="module", params=["MMaDA", "Lumina-DiMOO"])
def folder(request: pytest.FixtureRequest, tiny_family: Callable[[str], Path]) -> Path:
    return tiny_family(request.param)


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> maskgen.TextToImagePipeline:
    found = maskgen.Pipeline.from_pretrained(folder)
    assert isinstance(found, maskgen.TextToImagePipeline)
    return found


@pytest.fixture(scope="module")
def writer(folder: Path) -> maskgen.TextGenerationPipeline:
    return maskgen.TextGenerationPipeline.from_pretrained(folder)


def test_a_prompt_becomes_an_image(pipeline: maskgen.TextToImagePipeline) -> None:
    made = pipeline("a red heart", width=48, height=32, num_inference_steps=3, num_outputs=2)
    assert [image.size for image in made.images] == [(48, 32)] * 2
    assert made.codes[0].shape == (1, 32 // side(pipeline), 48 // side(pipeline))
    assert made.model_calls == [6, 6]
    assert not torch.equal(made.codes[0], made.codes[1])


def side(pipeline: maskgen.Pipeline) -> int:
    return int(pipeline.tokenizers["image"].pixels_per_cell)


def test_guidance_is_off_at_one_and_reads_the_empty_caption_otherwise(pipeline: maskgen.TextToImagePipeline) -> None:
    options = {"width": 32, "height": 32, "num_inference_steps": 2}
    plain = pipeline("a red heart", guidance_scale=1.0, **options)
    assert plain.model_calls == [2]
    nothing = pipeline(unconditional=True, guidance_scale=1.0, **options)
    away = pipeline("a red heart", guidance_scale=0.0, **options)
    assert torch.equal(nothing.codes[0], away.codes[0])
    assert not torch.equal(plain.codes[0], away.codes[0])


def test_an_edit_keeps_what_is_outside_its_mask(pipeline: maskgen.TextToImagePipeline) -> None:
    """The authors' MMaDA script edits the caller's ids in place, and counts the steps of an edit from the whole image."""
    image, mask = Image.effect_noise((32, 32), 80).convert("RGB"), Image.new("L", (32, 32), 0)
    mask.paste(255, (16, 0, 32, 32))
    pipeline.grids["image"] = (32 // side(pipeline),) * 2
    made = pipeline("a red heart", image=image, mask_image=mask, num_inference_steps=2)
    assert made.images[0].crop((0, 0, 8, 32)).tobytes() == image.crop((0, 0, 8, 32)).tobytes()


def test_a_batch_gives_what_its_rows_give_alone(pipeline: maskgen.TextToImagePipeline) -> None:
    """The authors' Lumina-DiMOO script takes one row at a time."""
    options = {"width": 32, "height": 32, "num_inference_steps": 2}
    together = pipeline(["a red heart", "a tall tree near the table"], **options)
    alone = pipeline("a tall tree near the table", **options)
    assert torch.equal(together.codes[1], alone.codes[0])


def test_an_image_is_described_and_a_message_answered(writer: maskgen.TextGenerationPipeline) -> None:
    image = Image.effect_noise((32, 32), 80).convert("RGB")
    writer.grids["image"] = (32 // side(writer),) * 2
    seen = writer(image=image, length=8, num_inference_steps=4)
    asked = writer("a red heart", length=8, num_inference_steps=4)
    for made in (seen, asked):
        assert made.generation.codes[0].max() < writer.tokenizers["text"].codebook_size
        assert not (made.generation.codes[0] == SPECIALS["<|mdm_mask|>"]).any()
        assert made.generation.codes[0].shape[1] > 8
    question = writer.tokenizers["text"].chat.question
    assert question is not None
    assert torch.equal(seen.generation.codes[0][:, :-8], writer.tokenizers["text"].encode_chat(question))
    assert writer(image=image, length=8, num_inference_steps=4, prompt=question).text == seen.text


def test_published_defaults(pipeline: maskgen.TextToImagePipeline) -> None:
    settings = pipeline.settings_of("image")
    if type(pipeline.tokenizers["image"]).__name__ == "Magvit2Tokenizer":
        assert (settings.steps, settings.guidance_scale, settings.sampler_options) == ((15,), 4.5, {})
    else:
        assert (settings.steps, settings.guidance_scale, settings.sampler_options) == ((64,), 5.0, {"annealing": "constant"})
        assert pipeline.tokenizers["image"].value_range == (0.0, 1.0)
        assert pipeline.tokenizers["text"].encode_special(DRAW)[0] == SPECIALS["<system>"]
    assert (settings.sampler, settings.schedule, settings.choice_temperature) == ("confidence", "cosine", (1.0,))
