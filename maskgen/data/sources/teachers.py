"""Speech synthesizers from packages, used as teachers: they turn phonemes into audio and give the length of every phoneme."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from maskgen.io.audio import Waveform

HIBARI_VERSION = "0.2.1"
HIBARI_SHA256 = "5f70741d4e900f4e85d0037498736cc1b3e1b9a63a13546a5da1e63abf4fccd8"
HIBARI_DURATIONS = "/Clip_output_0"
"""Name of the internal tensor with the frames of each phoneme, which is not an output of the network."""
HIBARI_FRAMES_PER_S = 40


@dataclass(frozen=True, eq=False)
class TeacherSpeech:
    """Speech of a teacher.

    Args:
        wave: The audio.
        phonemes: Its phonemes, in misaki's alphabet.
        durations: Frames of each phoneme, with the silence before the first and after the last.
        frames_per_s: Frames per second.
    """

    wave: Waveform
    phonemes: str
    durations: Sequence[int]
    frames_per_s: int


class Hibari:
    """The voice "heart" of hibari-tts 0.2.1 (Apache-2.0), distilled from Kokoro's af_heart.

    Raises:
        ImportError: If the packages are missing.
        ValueError: If the package contains another version of the network.
    """

    def __init__(self) -> None:
        try:
            import hibari
            import onnx
            import onnxruntime
        except ImportError as error:
            raise ImportError("the teacher needs three packages: pip install maskgen[teachers]") from error
        content = Path(hibari.__file__).with_name("assets").joinpath("hibari.onnx").read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        if digest != HIBARI_SHA256:
            raise ValueError(f"hibari's network has sha256 {digest}, wanted {HIBARI_SHA256}; install hibari-tts=={HIBARI_VERSION}")
        network = onnx.load_from_string(content)
        network.graph.output.append(onnx.helper.make_tensor_value_info(HIBARI_DURATIONS, onnx.TensorProto.FLOAT, None))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(network.SerializeToString(), options, providers=["CPUExecutionProvider"])
        self._voice = hibari.Hibari()

    def phonemes(self, text: str) -> str:
        """Phonemes of a text; sentences are separated by a space."""
        return " ".join(self._voice.phonemize(text))

    def speak(self, phonemes: str, speed: float, seed: int) -> TeacherSpeech:
        """Speak phonemes; the same seed gives the same samples on one machine.

        Args:
            phonemes: Phonemes in misaki's alphabet; those that the teacher does not know are left out.
            speed: 1 is the teacher's own speed, 2 is twice as fast.
            seed: Seed of the noise.
        """
        from hibari import dsp

        known = "".join(letter for letter in phonemes if letter in self._voice.vocab)
        ids = np.asarray([self._voice.ids(known)], np.int64)
        *parts, durations = self._session.run(None, {"ids": ids, "speed": np.asarray([speed], np.float32)})
        samples: Float[np.ndarray, " samples"] = dsp.synth(*(part[0] for part in parts), np.random.default_rng(seed))
        wave = Waveform(samples=samples[None].clip(-1, 1), sample_rate_hz=dsp.SR)
        return TeacherSpeech(wave, known, [int(frames) for frames in durations.reshape(-1)], HIBARI_FRAMES_PER_S)


TEACHERS: dict[str, Any] = {"hibari": Hibari}


@cache
def load_teacher(name: str) -> Any:
    """The teacher of that name, loaded once per process.

    Raises:
        ValueError: If the name is unknown.
    """
    if name not in TEACHERS:
        raise ValueError(f"there is no teacher {name!r}; there are {', '.join(TEACHERS)}")
    return TEACHERS[name]()
