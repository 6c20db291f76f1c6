"""The shipped any-to-any model does what its card says, on what it makes itself."""

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
    wanted = {"this", "is", "a", "picture", "of", "red", "heart"}
    assert len(wanted & set(heard.transcript.words)) >= 6, heard.text  # one word may be misheard
    assert len(heard.transcript.words) in (7, 8, 9)
    assert 0.2 < heard.transcript.starts_s[-1] / said.speech.seconds < 1.0
