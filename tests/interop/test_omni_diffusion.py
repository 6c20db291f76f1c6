"""Omni-Diffusion from a folder laid out as the hub's: the order of its tokens, images, descriptions and answers."""

import json
import logging
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import maskgen
from maskgen.interop.dream_network import DreamConfig, DreamNetwork
from maskgen.interop.omni_diffusion import FAMILY, OmniMarks, omni_order, text_and_codes
from maskgen.interop.qwen_vocabulary import qwen_vocabulary
from maskgen.interop.sequences import ModelVocabulary, arranged
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.packing import pack
from maskgen.tokens.space import Modality, TokenSpace
from tests.interop.dream_cases import ADDED, WORDS, tiny_network, write_dream
from tests.interop.llada_cases import golden

TAGS = ("<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_audio|>", "<|end_of_audio|>")
SOUNDS, IMAGES = tuple(f"<|audio_{code}|>" for code in range(6)), tuple(f"<|image_{code}|>" for code in range(128))
TOKENS = (*ADDED, *TAGS, *SOUNDS, *IMAGES)
FIRST = WORDS + len(ADDED) + len(TAGS)
"""Id of the first code of a sound; those of images begin six behind it."""
SPACE = TokenSpace(
    [
        Modality(name="text", kind="text", num_levels=1, codebook_size=300),
        Modality(name="image", kind="image", num_levels=1, codebook_size=16),
    ]
)
VOCABULARY = ModelVocabulary(SPACE, {"text": 0, "image": 400}, 290, 416)
MARKS = OmniMarks(draw=(301, 302), turn=(8, 303, 304), new_line=(305,), begin_image=306, end_image=307)
IMAGE, BLANK = torch.arange(6).view(1, 2, 3), torch.full((1, 2, 3), -1)
PIXELS = [400, 401, 402, 403, 404, 405]
CALL = {"width": 32, "height": 32, "num_inference_steps": 2, "seed": 0}


def read(batch: TokenBatch, row: int) -> list[int]:
    """The tokens that the model sees of a row."""
    found = arranged(VOCABULARY, omni_order(MARKS))(batch)
    return found.ids[row][found.valid[row]].tolist()


def test_a_caption_comes_before_its_image_and_an_image_ends_the_turn_of_a_question() -> None:
    asked = torch.tensor([[5, 6, 8, 3, 4, -1, 9]])
    order = OmniMarks(draw=(301,), turn=(8, 3, 4), new_line=(305,), begin_image=306, end_image=307)
    batch = pack([{"text": torch.tensor([[7, 9]]), "image": BLANK}, {"image": BLANK}, {"text": asked[:, :2]}], SPACE)
    masks = [290] * 6
    assert read(batch, 0) == [301, 302, 7, 9, 8, 303, 304, 306, *masks, 307, 8]
    assert read(batch, 1) == [301, 302, 8, 303, 304, 306, *masks, 307, 8]
    assert read(batch, 2) == [5, 6]
    found = arranged(VOCABULARY, omni_order(order))(pack([{"text": asked, "image": IMAGE}], SPACE))
    assert found.ids[0].tolist() == [5, 6, 305, 306, *PIXELS, 307, 8, 3, 4, 290, 9]
    again = arranged(VOCABULARY, omni_order(order))(pack([{"text": torch.tensor([[5, 8, 3, 4, -1, 8, 3, 4]]), "image": IMAGE}], SPACE))
    assert again.ids[0, 1] == 305, "an answer that spells a turn out does not move the image"


def write_omni(folder: Path) -> None:
    """A folder laid out as the hub's, with a tensor of the speech encoder, and MAGVIT-v2 beside it."""
    write_dream(folder, added=TOKENS, vocab_size=WORDS + len(TOKENS))
    shard = next(iter(sorted(folder.glob("*.safetensors"))))
    save_file({**load_file(shard), "model.audio_model.encoders0.weight": torch.ones(3)}, shard)
    (folder.parent / "magvitv2").mkdir()
    save_file(golden("magvitv2")[0], folder.parent / "magvitv2" / "pytorch_model.safetensors")
    (folder.parent / "magvitv2" / "config.json").write_text(json.dumps({"_class_name": "MAGVITv2", "num_groups": 2}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("hub") / "Omni-Diffusion"
    write_omni(place)
    return place


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> maskgen.TextToImagePipeline:
    found = maskgen.Pipeline.from_pretrained(folder)
    assert isinstance(found, maskgen.TextToImagePipeline)
    assert found.family == FAMILY.name
    return found


@pytest.fixture(scope="module")
def writer(folder: Path) -> maskgen.TextGenerationPipeline:
    return maskgen.TextGenerationPipeline.from_pretrained(folder)


def test_codes_of_images_and_sounds_are_no_text(pipeline: maskgen.TextToImagePipeline) -> None:
    text, network = pipeline.tokenizers["text"], pipeline.model
    assert isinstance(network, DreamNetwork)
    assert text.codebook_size == FIRST
    assert network.vocabulary.first == {"text": 0, "image": FIRST + len(SOUNDS)}
    assert text.token("<|image_0|>") is None
    assert text.token("<|end_of_image|>") == WORDS + len(ADDED) + 1
    assert pipeline.tokenizers["image"].codebook_size == len(IMAGES)


def test_a_prompt_becomes_an_image(pipeline: maskgen.TextToImagePipeline) -> None:
    made = pipeline("a red heart", num_outputs=2, **{**CALL, "width": 48})
    assert [image.size for image in made.images] == [(48, 32)] * 2
    assert made.model_calls == [2, 2]
    assert pipeline("a red heart", guidance_scale=3.0, **CALL).model_calls == [4]


def test_the_settings_are_the_published_ones(pipeline: maskgen.TextToImagePipeline) -> None:
    image, text = pipeline.settings_of("image"), pipeline.settings_of("text")
    for settings, steps in ((image, 256), (text, 64)):
        assert (settings.sampler, settings.sampler_options) == ("entropy", {"annealing": "constant", "distribution": "drawn"})
        assert (settings.steps, settings.temperature, settings.top_p, settings.schedule) == ((steps,), (0.0,), 0.9, "linear")
    assert pipeline.grids == {"text": (64,), "image": (16, 16)}


def test_an_edit_keeps_what_is_outside_its_mask(pipeline: maskgen.TextToImagePipeline) -> None:
    image, mask = Image.effect_noise((256, 256), 80).convert("RGB"), Image.new("L", (256, 256), 0)
    mask.paste(255, (128, 0, 256, 256))
    made = pipeline("a red heart", image=image, mask_image=mask, num_inference_steps=2)
    assert made.images[0].crop((0, 0, 64, 256)).tobytes() == image.crop((0, 0, 64, 256)).tobytes()


def test_a_batch_gives_what_its_rows_give_alone(pipeline: maskgen.TextToImagePipeline) -> None:
    """The authors' sampler reads the mask of the first row alone, so it decodes one row at a time."""
    together = pipeline(["a red heart", "a tall tree near the table"], **{**CALL, "seed": [1, 2]})
    alone = pipeline("a tall tree near the table", **{**CALL, "seed": 2})
    assert torch.equal(together.codes[1], alone.codes[0])


def test_an_image_is_described_and_a_message_answered(writer: maskgen.TextGenerationPipeline) -> None:
    image = Image.effect_noise((256, 256), 80).convert("RGB")
    call = {"length": 8, "num_inference_steps": 4}
    question = writer.tokenizers["text"].chat.question
    assert question is not None
    seen, asked = writer(image=image, **call), writer(question, **call)
    prompt = writer.tokenizers["text"].encode_chat(question)
    for made in (seen, asked):
        codes = made.generation.codes[0]
        assert torch.equal(codes[:, :-8], prompt)
        assert codes.max() < FIRST
        assert not (codes[:, -8:] == writer.tokenizers["text"].token("<|mask|>")).any()
    assert not torch.equal(seen.generation.codes[0], asked.generation.codes[0])


def test_what_is_saved_is_loaded_alike_and_says_what_is_missing(
    pipeline: maskgen.TextToImagePipeline, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        pipeline.save_pretrained(tmp_path)
    assert "saved without its speech encoder" in caplog.text
    again = maskgen.Pipeline.from_pretrained(tmp_path)
    assert again.family == pipeline.family
    assert again("a red heart", **CALL).images[0].tobytes() == pipeline("a red heart", **CALL).images[0].tobytes()


def test_a_vocabulary_in_another_order_is_refused(folder: Path) -> None:
    found = qwen_vocabulary(folder)
    words, first = text_and_codes(found, folder)
    assert first == {"audio": FIRST, "image": FIRST + len(SOUNDS)}
    assert "<|image_3|>" not in words
    swapped = type(found)(found.text.replace("<|image_3|>", "<|image_999|>"), found.specials)
    with pytest.raises(ValueError, match="does not have text, then audio codes and image codes in order"):
        text_and_codes(swapped, folder)


def test_parameters_at_published_size() -> None:
    """Computed from the configuration in the authors' repository, for the network without its speech encoder."""
    with torch.device("meta"):
        tensors = tiny_network(DreamConfig(vocab_size=176264)).state_dict()
    values = sum(one.numel() for one in tensors.values()) / 1e6
    assert round(values + 95.49, 2) == FAMILY.hub_ids["lijiang/Omni-Diffusion"]
