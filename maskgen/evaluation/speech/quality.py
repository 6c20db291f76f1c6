"""Audio quality (DNSMOS) and share of speech (Silero VAD), with the weights of two packages."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from maskgen.evaluation.speech.mel import decibels, mel_power
from maskgen.evaluation.speech.packages import onnx_session, package_file
from maskgen.io.audio import Waveform, fit_audio

RATE_HZ = 16_000
P835 = ("speechmos", "dnsmos_models/sig_bak_ovr.onnx", "269fbebdb513aa23cddfbb593542ecc540284a91849ac50516870e1ac78f6edd")
P808 = ("speechmos", "dnsmos_models/model_v8.onnx", "9246480c58567bc6affd4200938e77eef49468c8bc7ed3776d109c07456f6e91")
SILERO = ("silero_vad", "data/silero_vad.onnx", "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3")
MOS_SAMPLES = int(9.01 * RATE_HZ)
SIG_CURVE = (-0.08397278, 1.22083953, 0.0052439)
BAK_CURVE = (-0.13166888, 1.60915514, -0.39604546)
OVRL_CURVE = (-0.06766283, 1.11546468, 0.04602535)
SPEECH_WINDOW = 512
SPEECH_CONTEXT = 64


@dataclass(frozen=True, kw_only=True)
class Opinion:
    """Mean opinion scores predicted by DNSMOS, from 1 (bad) to 5.

    Args:
        ovrl: Overall quality (P.835).
        sig: Quality of the speech itself.
        bak: Absence of background noise.
        p808: Overall quality, predicted by another network (P.808).
    """

    ovrl: float
    sig: float
    bak: float
    p808: float


class Dnsmos:
    """DNSMOS P.835 and P.808: networks trained on ratings of noisy and denoised calls, not of synthetic speech.

    Source: arXiv:2110.01763, arXiv:2010.15258; weights and curves as in package speechmos 0.0.1.1 (MIT). That code drops the
    windows that start at seconds 7 to 23 by a rounding error; here they count, so scores of clips of 17 s and more may differ.
    """

    def __init__(self) -> None:
        """Load the networks.

        Raises:
            ImportError: If the extra `speech-eval` is not installed.
            ValueError: If the package contains another file than the expected one.
        """
        threads = torch.get_num_threads()
        self._p835 = onnx_session(package_file(*P835), threads)
        self._p808 = onnx_session(package_file(*P808), threads)

    def __call__(self, wave: Waveform) -> Opinion:
        """Scores of an audio clip. A clip under 9 s is repeated; for a longer one, windows of 9 s at each full second are averaged.

        Args:
            wave: Any audio clip of at least one sample; converted to 16 kHz mono.
        """
        samples = fit_audio(wave, RATE_HZ)[0].samples[0]
        while len(samples) < MOS_SAMPLES:  # as in DNSMOS: doubled, not tiled to the exact length, and without the last start
            samples = np.append(samples, samples)
        starts = [place * RATE_HZ for place in range(max(1, len(samples) // RATE_HZ - 9))]
        parts = [samples[start : start + MOS_SAMPLES] for start in starts]
        raw = np.array([self._p835.run(None, {"input_1": part[None]})[0][0] for part in parts], np.float64)
        sig, bak, ovrl = (float(np.polyval(curve, raw[:, place]).mean()) for place, curve in enumerate((SIG_CURVE, BAK_CURVE, OVRL_CURVE)))
        return Opinion(ovrl=ovrl, sig=sig, bak=bak, p808=float(np.mean([self._listen(part) for part in parts])))

    def _listen(self, part: Float[np.ndarray, " samples"]) -> float:
        """The P.808 network's score of 9 s."""
        power = mel_power(torch.from_numpy(part[:-160].copy()), RATE_HZ, window=321, hop=160, num_mels=120)
        features = (decibels(power).T + 40) / 40
        return float(self._p808.run(None, {"input_1": features[None].numpy()})[0][0][0])


class SpeechDetector:
    """Silero's voice activity detector.

    Source: silero-vad 6.2.3 (MIT). Its ONNX network is run directly, since the package needs torchaudio.
    """

    def __init__(self) -> None:
        """Load the network.

        Raises:
            ImportError: If the extra `speech-eval` is not installed.
            ValueError: If the package contains another file than the expected one.
        """
        self._session = onnx_session(package_file(*SILERO), threads=1)

    def __call__(self, wave: Waveform) -> float:
        """Share of windows of 32 ms with a speech probability above 0.5.

        Args:
            wave: Any audio clip of at least one sample; converted to 16 kHz mono, its last window filled with zeros.
        """
        samples = fit_audio(wave, RATE_HZ)[0].samples[0]
        padded = np.pad(samples, (SPEECH_CONTEXT, -len(samples) % SPEECH_WINDOW))
        state, rate = np.zeros((2, 1, 128), np.float32), np.array(RATE_HZ, np.int64)
        speech = []
        for start in range(0, len(padded) - SPEECH_CONTEXT, SPEECH_WINDOW):
            window = padded[None, start : start + SPEECH_CONTEXT + SPEECH_WINDOW]
            chance, state = self._session.run(None, {"input": window, "state": state, "sr": rate})
            speech.append(float(chance[0, 0]) > 0.5)
        return float(np.mean(speech))
