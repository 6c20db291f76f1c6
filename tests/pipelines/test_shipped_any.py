"""The shipped any-to-any model does what its card says, on what it makes itself."""

from difflib import SequenceMatcher

import numpy as np
import pytest

from maskgen.pipelines.any_to_any import AnyToAnyPipeline


@pytest.fixture(scope="module")
def model() -> AnyToAnyPipeline:
    return AnyToAnyPipeline.from_pretrained()


def test_it_hears_what_it_says_and_when(model: AnyToAnyPipeline) -> None:
    text = "This is a picture of a red heart."
    said = model(text, target=["image", "audio"])
    assert said.images[0].size == (64, 64)
    heard = model(target="text", audio=said.audio[0])
    assert heard.transcript is not None
    alike = SequenceMatcher(None, heard.transcript.words, ("this", "is", "a", "picture", "of", "a", "red", "heart")).get_matching_blocks()
    assert sum(block.size for block in alike) >= 7, heard.text  # at most one word is misheard
    assert len(heard.transcript.words) in (7, 8, 9)
    assert 0.2 < heard.transcript.starts_s[-1] / said.audio[0].seconds < 1.0
    texts = ["This is a picture of a bread cart.", text, "This is a picture of a red car.", "This is a picture of a blue heart."]
    first = model.align(said.audio[0], texts)[0]
    assert first.place == 1
    assert first.candidate["transcript"].words == tuple(text.lower().split())
    assert 0.2 < first.candidate["transcript"].starts_s[-1] / said.audio[0].seconds < 0.9


@pytest.mark.slow
def test_its_bridge_carries_what_is_heard_into_the_picture(model: AnyToAnyPipeline) -> None:
    """Light and dark skin, as spoken by the model: the pictures that it draws from the slots of its transcript differ as the words do."""
    brightness = {}
    for tone in ("light", "dark"):
        said = model(target="audio", prompt=f"This is a picture of a woman with {tone} skin.")
        sound = said.audio[0]
        heard = model(target="text", audio=sound)
        known = {"audio": model.speech.codes_of(sound), "transcript": heard.generations[-1].codes[0]}
        settings = model.settings_of("image").changed(steps=(8, 3, 2))
        drawn = model.generate([known] * 4, "image", [0, 1, 2, 3], settings).media
        middles = [np.asarray(picture.convert("L"), dtype=float)[16:48, 16:48].mean() for picture in drawn]
        brightness[tone] = sorted(middles)
    assert model.crosses
    assert brightness["dark"][-1] < brightness["light"][0]
