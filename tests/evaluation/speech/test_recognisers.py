"""What is taken from recognisers of other kinds."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from maskgen.evaluation.speech import asr as transcripts
from maskgen.io.audio import Waveform

WAVE = Waveform(samples=np.full((1, 800), 2.0, np.float32), sample_rate_hz=8_000)


class Decoder:
    """Hears the same whatever is said; writes down what it was given."""

    heard: str | None = "a red heart"
    others = ("<s> a red heart </s>", "<s> a(2) red <sil> [NOISE] heart </s>", "<s> </s>", "a red hat", "a bread cart")
    given = b""

    def __init__(self, **options: Any) -> None:
        assert options["samprate"] == 16_000

    def start_utt(self) -> None:
        pass

    def process_raw(self, samples: bytes, full_utt: bool) -> None:
        Decoder.given = samples

    def end_utt(self) -> None:
        pass

    def hyp(self) -> Any:
        return None if self.heard is None else SimpleNamespace(hypstr=self.heard)

    def nbest(self) -> Iterator[Any]:
        yield from (SimpleNamespace(hypstr=text) for text in self.others)


@pytest.fixture
def decoder(monkeypatch: pytest.MonkeyPatch) -> type[Decoder]:
    monkeypatch.setattr(transcripts, "package_module", lambda name: SimpleNamespace(Decoder=Decoder))
    return Decoder


def test_candidates_of_pocketsphinx_come_once_in_words_alone(decoder: type[Decoder]) -> None:
    assert transcripts.pocketsphinx()(WAVE) == ["a red heart"]
    assert transcripts.pocketsphinx(3)(WAVE) == ["a red heart", "a red hat", "a bread cart"]
    assert transcripts.pocketsphinx(2)(WAVE) == ["a red heart", "a red hat"]
    samples = np.frombuffer(decoder.given, np.int16)
    assert len(samples) == 1600
    assert samples.max() == 32767


def test_silence_has_no_candidates(decoder: type[Decoder], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder, "heard", None)
    assert transcripts.pocketsphinx(5)(WAVE) == []
