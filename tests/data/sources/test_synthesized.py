"""Sentences spoken by a teacher: what is built holds the sound, its phonemes and their lengths, and becomes timed tokens."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from maskgen.autoencoders.audio import AudioAutoencoder, AudioAutoencoderConfig
from maskgen.autoencoders.quantizers import ResidualQuantizer
from maskgen.data.build.engine import run_build
from maskgen.data.build.plan import plan_recipe
from maskgen.data.build.raw_shards import RawOutput
from maskgen.data.build.recipe import recipe_from
from maskgen.data.build.token_shards import rescaled_durations
from maskgen.data.build.tokenize import tokenize
from maskgen.data.build.workers import in_process
from maskgen.data.corpora.speech_texts import wordnet_sentences
from maskgen.data.loading.raw_media import RawAudio
from maskgen.data.loading.timed_phonemes import TimedPhonemes
from maskgen.data.loading.token_data import TokenData
from maskgen.data.sources import teachers
from maskgen.data.sources.synthesized import read_sentences, write_sentences
from maskgen.data.sources.teachers import TeacherSpeech
from maskgen.io.audio import Waveform
from maskgen.tokenizers.attribute import AttributeTokenizer
from maskgen.tokenizers.audio import AudioTokenizer
from maskgen.tokenizers.phonemes import PhonemeTokenizer

PHONES = Path(__file__).parents[3] / "tokenizers/phones-en/bundle"
SENTENCES = ["Hello.", "Good morning to you.", "One two three."]


class Beeper:
    """A teacher whose letters are phonemes and last two frames of 1/40 s, faster at a higher speed; silence of 3 and 2 around."""

    def phonemes(self, text: str) -> str:
        return "".join(letter for letter in text.lower() if letter in "abdefhiklmnopstuvwz ")

    def speak(self, phonemes: str, speed: float, seed: int) -> TeacherSpeech:
        durations = [3, *[2 if speed <= 1 else 1 for _ in phonemes], 2]
        samples = np.random.default_rng(seed).standard_normal((1, sum(durations) * 600)).astype(np.float32) * 0.05
        return TeacherSpeech(Waveform(samples=samples.clip(-1, 1), sample_rate_hz=24_000), phonemes, durations, 40)


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(teachers.TEACHERS, "beeper", Beeper)
    rows = [{"key": f"s{n}", "text": text, "split": "test" if n == 2 else "train", "mood": "calm"} for n, text in enumerate(SENTENCES)]
    write_sentences(rows, tmp_path / "sentences.jsonl.gz")
    source = {"kind": "spoken", "path": "sentences.jsonl.gz", "teacher": "beeper", "speaker": "robot"}
    recipe = recipe_from({"name": "speech", "sources": [source], "audio": {"sample_rate_hz": 16_000}}, tmp_path)
    run_build(plan_recipe(recipe, RawOutput()), tmp_path / "raw", in_process, False, lambda samples: None)
    return tmp_path / "raw"


def codec() -> AudioTokenizer:
    torch.manual_seed(0)
    config = AudioAutoencoderConfig(encoder_dim=16, encoder_layers=2, decoder_dim=16, decoder_layers=2, mel_bands=20)
    return AudioTokenizer(AudioAutoencoder(config, ResidualQuantizer(2, 8, 20)))


def test_a_token_row_has_as_many_frames_as_its_phonemes_last(raw: Path, tmp_path: Path) -> None:
    tokenizers = {"phones": PhonemeTokenizer.from_bundle(PHONES), "speaker": AttributeTokenizer("speaker", ["robot"]), "audio": codec()}
    tokenize(raw, tmp_path / "tokens", tokenizers)
    data = TokenData(str(tmp_path / "tokens"), batch_size=2, validation_splits=("test",), validation_rows=1)
    data.setup("fit")
    for row in range(2):
        sample = data.train[0][(row, -1)]
        assert int(sample["phones"][1].sum()) == sample["audio"].shape[1]
        assert sample["speaker"].tolist() == [[0]]
    batch = next(iter(data.val_dataloader()[0]))
    audio, phones = batch.coords[batch.modality == 3, 0], batch.coords[batch.modality == 1, 0]
    assert int(phones.max()) < len(audio)


def test_raw_rows_keep_facts_of_source_and_teacher(raw: Path) -> None:
    data = RawAudio(str(raw), batch_size=2, seconds=0.3, validation_rows=1)
    data.setup("fit")
    assert data.train is not None
    meta = data.train.rows.meta(0)
    assert (meta["speaker"], meta["mood"], meta["captions"]) == ("robot", "calm", ["Hello."])
    assert len(meta["durations"].split()) == len(meta["phonemes"]) + 2
    first, again = next(iter(data.train_dataloader())), next(iter(data.train_dataloader()))
    assert first.shape == (2, 4800)
    assert torch.equal(first, again)


def test_another_rate_is_refused_with_what_to_do(raw: Path) -> None:
    data = RawAudio(str(raw), batch_size=2, sample_rate_hz=24_000)
    data.setup("fit")
    with pytest.raises(ValueError, match="has 16000 Hz, the training wants 24000"):
        next(iter(data.train_dataloader()))


def test_durations_are_learned_at_the_speakers_own_pace(raw: Path, tmp_path: Path) -> None:
    AttributeTokenizer("speaker", ["human", "robot"]).save(tmp_path / "speakers")
    data = TimedPhonemes(str(raw), str(PHONES), str(tmp_path / "speakers"), batch_size=2, validation_splits=("test",), validation_rows=1)
    data.setup("fit")
    batch = next(iter(data.val_dataloader()[0]))
    assert batch.speaker.tolist() == [1]
    assert batch.frames[0, 1].item() == 2.0
    assert bool(batch.valid.all())


@given(frames=st.lists(st.integers(0, 40), min_size=1, max_size=30), new=st.floats(10, 100))
def test_rescaled_durations_never_drift(frames: list[int], new: float) -> None:
    found = rescaled_durations(frames, 40.0, new)
    for end in range(1, len(frames) + 1):
        assert abs(sum(found[:end]) - sum(frames[:end]) * new / 40.0) <= 0.5 + 1e-6
    assert min(found) >= 0


def test_sentences_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        read_sentences(tmp_path / "none.jsonl")
    (tmp_path / "bad.jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(ValueError, match="is damaged or no JSONL"):
        read_sentences(tmp_path / "bad.jsonl.gz")


def test_only_plain_examples_of_wordnet_are_taken(tmp_path: Path) -> None:
    line = '1 a | a gloss; "the cat sat on the mat"; "too short"; "it cost $5 in 1999"; "He said so!"\n'
    for name in ("data.adj", "data.adv", "data.noun", "data.verb"):
        (tmp_path / name).write_text(line)
    assert sorted(wordnet_sentences(tmp_path, 3, 14)) == ["He said so!", "The cat sat on the mat."]
