"""The shipped any-to-any model does what its card says, on what it makes itself."""

from difflib import SequenceMatcher

import pytest

from maskgen.anything import AnyToAny


@pytest.fixture(scope="module")
def model() -> AnyToAny:
    return AnyToAny.from_pretrained()


def test_it_hears_what_it_says_and_when(model: AnyToAny) -> None:
    text = "This is a picture of a red heart."
    said = model(["image", "speech"], text=text)
    assert said.image is not None
    assert said.image.size == (64, 64)
    assert said.speech is not None
    heard = model(["text"], sound=said.speech.waves[0])
    assert heard.transcript is not None
    alike = SequenceMatcher(None, heard.transcript.words, ("this", "is", "a", "picture", "of", "a", "red", "heart")).get_matching_blocks()
    assert sum(block.size for block in alike) >= 7, heard.text  # at most one word is misheard
    assert len(heard.transcript.words) in (7, 8, 9)
    assert 0.2 < heard.transcript.starts_s[-1] / said.speech.seconds < 1.0
