"""Reading untrusted audio files into validated waveforms, converting sample rate and channels, and writing audio files."""

import io
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int16

from maskgen.io.audio_headers import audio_content
from maskgen.io.files import write_atomic
from maskgen.io.formats import AUDIO_FORMATS
from maskgen.io.limits import BadMedia, MediaLimits, Note, check_bytes, log_note

logger = logging.getLogger(__name__)
BLOCK_FRAMES = 65_536
LOUDEST = 8.0
"""Highest decoded peak that is accepted. Peaks between 1 and this value are clipped (lossy codecs overshoot); louder files are rejected."""

CANCELLED_SHARE = 0.1
"""A mix with less than this share of the energy that independent channels would have counts as cancelled out."""
LONGEST_SOUND_S = 3600.0
FILE_LIMITS = MediaLimits(max_seconds=LONGEST_SOUND_S, max_bytes=2**30)
"""Limits of a single recording, as the command line and Python calls read it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Waveform:
    """Audio samples with their sample rate.

    Args:
        samples: float32 in [-1, 1].
        sample_rate_hz: Samples per second, for each channel.
    """

    samples: Float[np.ndarray, "channels samples"]
    sample_rate_hz: int

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return float(self.samples.shape[1] / self.sample_rate_hz)

    def save(self, path: Path | str) -> None:
        """Write a 16-bit audio file; see `write_sound`."""
        write_sound(self, path)

    def __repr__(self) -> str:
        return f"Waveform({self.seconds:.2f} s at {self.sample_rate_hz} Hz, {len(self.samples)} channel{'s' * (len(self.samples) > 1)})"


def decode_audio(content: bytes, limits: MediaLimits, note: Note = log_note) -> Waveform:
    """Decode an audio file at its original sample rate and channel count. Silent files are accepted.

    Args:
        content: A file of one of `AUDIO_FORMATS`: WAV (also RF64, RIFX and WAV from a pipe), FLAC, Ogg (Vorbis, Opus), MP3, AIFF, AU, ...
        limits: Size limits. The header is checked against them before any sample is decoded.
        note: Takes remarks, for example that bytes after the end of the file are ignored.

    Returns:
        float32 samples; peaks between 1 and 8, which lossy codecs and float files hold, are clipped to 1.

    Raises:
        BadMedia: If the bytes are another format, damaged, cut short, empty, over a limit, louder than 8, or hold NaN or infinity.
        ImportError: If soundfile is not installed.
    """
    try:
        import soundfile
    except ImportError as error:
        raise ImportError("sound files are read with soundfile; install it with: pip install maskgen[audio]") from error
    check_bytes(content, limits)
    whole = audio_content(content, note)
    try:
        with soundfile.SoundFile(io.BytesIO(whole)) as file:
            _check_sound_header(file.frames, file.samplerate, file.channels, limits)
            return Waveform(samples=_read_samples(file), sample_rate_hz=file.samplerate)
    except (soundfile.SoundFileError, EOFError) as error:
        raise BadMedia(f"damaged sound ({getattr(error, 'error_string', error)})") from error


def _check_sound_header(frames: int, rate: int, channels: int, limits: MediaLimits) -> None:
    """Raise if the header exceeds a limit."""
    if not limits.min_sample_rate_hz <= rate <= limits.max_sample_rate_hz:
        raise BadMedia(f"{rate} Hz, wanted {limits.min_sample_rate_hz} to {limits.max_sample_rate_hz} Hz")
    if not 1 <= channels <= limits.max_channels:
        raise BadMedia(f"{channels} channels, at most {limits.max_channels}")
    if frames <= 0:
        raise BadMedia("no samples")
    if frames > limits.max_seconds * rate:
        raise BadMedia(f"{frames / rate:.1f} seconds, at most {limits.max_seconds}")


def _read_samples(file: Any) -> Float[np.ndarray, "channels samples"]:
    """Read every frame that the header declares, block by block, so that only one copy is in memory."""
    samples = np.empty((file.channels, file.frames), np.float32)
    for start in range(0, file.frames, BLOCK_FRAMES):
        wanted = min(BLOCK_FRAMES, file.frames - start)
        block = file.read(wanted, dtype="float32", always_2d=True)
        if len(block) < wanted:
            raise BadMedia(f"cut short: {start + len(block)} of {file.frames} samples")
        if not np.isfinite(block).all():
            raise BadMedia("NaN or infinite samples")
        if np.abs(block).max() > LOUDEST:
            raise BadMedia(f"samples of {np.abs(block).max():.3g}, wanted -1 to 1")
        samples[:, start : start + wanted] = block.T.clip(-1, 1)
    return samples


def mixed_down(samples: Float[np.ndarray, "channels samples"], note: Note = log_note) -> Float[np.ndarray, "1 samples"]:
    """Mix channels down to one: their mean, or the loudest channel where they cancel out.

    Channels of opposite phase (a cable with crossed wires, for example) have a silent mean. Their sum is compared with the loudness
    that independent channels would have together: for two channels of equal loudness, a correlation below -0.9 counts as cancelling out.

    Args:
        samples: Any number of channels.
        note: Called if the loudest channel is taken.
    """
    mix: np.ndarray = samples.mean(axis=0, keepdims=True)
    if len(samples) == 1:
        return mix
    energies = np.square(samples, dtype=np.float64).sum(axis=1)
    if np.square(mix, dtype=np.float64).sum() >= CANCELLED_SHARE * energies.sum() / len(samples) ** 2:
        return mix
    note("channels that cancel out when mixed, of which the loudest is used")
    return samples[[int(energies.argmax())]]


def fit_audio(wave: Waveform, sample_rate_hz: int, channels: int = 1, note: Note = log_note) -> tuple[Waveform, bool]:
    """Convert a waveform to the given sample rate and channel count.

    Channels are converted first: if the count differs, they are mixed down (`mixed_down`) and the mix is repeated. The rate is converted
    next with soxr's high-quality filter, whose overshoot beyond 1 is clipped.

    Args:
        wave: Input waveform.
        sample_rate_hz: Target sample rate.
        channels: Target channel count.
        note: Takes remarks; see `mixed_down`.

    Returns:
        The waveform, with ceil(samples * sample_rate_hz / rate) samples, and whether it was resampled.

    Raises:
        ValueError: If the rate or the channel count is below 1.
        ImportError: If the rate differs and soxr is not installed.
    """
    if sample_rate_hz < 1 or channels < 1:
        raise ValueError(f"sample_rate_hz and channels must be at least 1, got {sample_rate_hz} and {channels}")
    samples = wave.samples
    if len(samples) != channels:
        samples = mixed_down(samples, note).repeat(channels, axis=0)
    changed = wave.sample_rate_hz != sample_rate_hz
    if changed:
        samples = _resampled(samples, wave.sample_rate_hz, sample_rate_hz)
    return Waveform(samples=samples, sample_rate_hz=sample_rate_hz), changed


def _resampled(samples: Float[np.ndarray, "channels samples"], old_hz: int, new_hz: int) -> Float[np.ndarray, "channels resampled"]:
    """Resample to exactly ceil(samples * new / old) samples. The end is padded before filtering because soxr rounds down."""
    try:
        import soxr
    except ImportError as error:
        raise ImportError("sample rates are changed with soxr; install it with: pip install maskgen[audio]") from error
    length = -(-samples.shape[1] * new_hz // old_hz)
    padded = np.pad(samples, ((0, 0), (0, 2 + old_hz // new_hz)))
    resampled = np.stack([soxr.resample(channel, old_hz, new_hz, quality="HQ") for channel in padded])
    return resampled[:, :length].clip(-1, 1)


def read_sound(path: Path | str, limits: MediaLimits | None = None) -> Waveform:
    """Read an audio file at its original sample rate and channel count.

    Args:
        path: A file of one of `AUDIO_FORMATS`; see `decode_audio`.
        limits: Size limits, checked on the header. None allows at most one hour.

    Raises:
        ValueError: If the file is missing, not audio, damaged, cut short, too long, empty, or holds NaN or infinity.
        ImportError: If soundfile is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} does not exist or is no file; give a sound")
    limits = limits or FILE_LIMITS
    if path.stat().st_size > limits.max_bytes:
        raise ValueError(f"{path} has {path.stat().st_size} bytes, at most {limits.max_bytes} are read; give a shorter sound")
    try:
        return decode_audio(path.read_bytes(), limits, lambda remark: logger.warning("%s has %s", path, remark))
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); give a sound") from error
    except BadMedia as error:
        raise ValueError(f"{path} cannot be used as a sound: {error}; give a whole file of {', '.join(AUDIO_FORMATS)}") from error


def write_sound(wave: Waveform, path: Path | str) -> None:
    """Write 16-bit audio in the format given by the file extension (wav, flac, ogg, mp3).

    Raises:
        ValueError: If the extension is not a format that can be written.
        ImportError: If soundfile is not installed.
    """
    try:
        import soundfile
    except ImportError as error:
        raise ImportError("sound files are written with soundfile; install it with: pip install maskgen[audio]") from error
    path = Path(path)
    kind = path.suffix.lower().lstrip(".").upper()
    if kind not in ("WAV", "FLAC", "OGG", "MP3"):
        raise ValueError(f"cannot write {path}: its name must end in .wav, .flac, .ogg or .mp3")
    content = io.BytesIO()
    subtype = "PCM_16" if kind in ("WAV", "FLAC") else None
    samples = sixteen_bits(wave) if subtype else wave.samples
    soundfile.write(content, samples.T, wave.sample_rate_hz, format=kind, subtype=subtype)
    write_atomic(path, content.getvalue())


def sixteen_bits(wave: Waveform) -> Int16[np.ndarray, "channels samples"]:
    """Convert samples to 16-bit integers. A sample of exactly 1.0 becomes 32767, as in any 16-bit file."""
    steps: np.ndarray = np.clip(np.rint(wave.samples * 2**15), -(2**15), 2**15 - 1).astype(np.int16)
    return steps
