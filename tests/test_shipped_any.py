"""The shipped any-to-any model does what its card says, on what it makes itself."""

import pytest

from maskgen.anything import AnyToAny
from maskgen.evaluation.transcripts import text_errors


@pytest.fixture(scope="module")
def model() -> AnyToAny:
    return AnyToAny.from_pretrained()


def test_it_hears_what_it_says_and_when(model: AnyToAny) -> None:
    text = "This is a picture of a red heart."
    said = model(["speech"], text=text)
    assert said.speech is not None
    heard = model(["text"], sound=said.speech.waves[0])
    assert heard.transcript is not None
    assert text_errors(text, heard.transcript.text).word_edits <= 1
    assert 0.2 < heard.transcript.starts_s[-1] / said.speech.seconds < 1.0
