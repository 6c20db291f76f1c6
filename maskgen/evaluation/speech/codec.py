"""`maskgen evaluate codec`: reconstruction error, speed and code usage of an audio tokenizer, and stability of codes in a round trip."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskgen.autoencoders.losses import mel_distance, spectral_distance
from maskgen.data.loading.order import fixed_subset
from maskgen.data.loading.raw_audio import AudioRows
from maskgen.data.loading.samples import open_rows
from maskgen.data.shards.store import ShardStore
from maskgen.evaluation.image.tokenizer import code_usage
from maskgen.evaluation.own import own_set
from maskgen.io.audio import Waveform, fit_audio
from maskgen.io.files import write_text
from maskgen.tokenizers.audio_base import SoundTokenizer

WINDOWS = (256, 512, 1024, 2048)


def held_out_sounds(raw: Path, split: str, rate_hz: int, count: int) -> list[tuple[dict[str, Any], Waveform]]:
    """Metadata and audio of a fixed choice of rows of a split of raw shards.

    Raises:
        ValueError: If the shards or the split are missing, or have another sample rate.
    """
    store = ShardStore(str(raw))
    rows = open_rows(store, store.index(), split)
    sounds = AudioRows(rows, 1, rate_hz)
    chosen = [row for row, _ in fixed_subset([rows.key(row) for row in range(len(rows))], count)]
    return [
        (
            {"key": rows.key(row), **rows.meta(row)},
            Waveform(samples=sounds.sound(row)[None].astype("float32") / 2**15, sample_rate_hz=rate_hz),
        )
        for row in chosen
    ]


def codec_report(tokenizer: SoundTokenizer, waves: Sequence[Waveform]) -> dict[str, Any]:
    """Reconstruction error, speed and code usage over audio clips.

    Args:
        tokenizer: Any codec.
        waves: Originals.

    Returns:
        `mel` (mean absolute difference of log-mel, nats), `spectral`, `bits_per_s`, `frames_per_s`, `encode_times_real_time`,
        `decode_times_real_time`, and for each level `used`, `perplexity` and `survival`.
    """
    seconds = sum(wave.samples.shape[1] / wave.sample_rate_hz for wave in waves)
    codes, encode_s = _timed(lambda: [tokenizer.encode([wave])[0] for wave in waves])
    lengths = [samples.shape[1] for samples in tokenizer.fitted(waves)]
    made, decode_s = _timed(lambda: [tokenizer.decode([grid], [length])[0] for grid, length in zip(codes, lengths, strict=True)])
    again = [tokenizer.encode([wave])[0] for wave in made]
    pairs = [(torch.from_numpy(wave.samples), samples) for wave, samples in zip(made, tokenizer.fitted(waves), strict=True)]
    levels = []
    for level in range(tokenizer.num_levels):
        kept = torch.tensor([float((one[level] == other[level]).float().mean()) for one, other in zip(codes, again, strict=True)])
        usage = code_usage(torch.cat([grid[level] for grid in codes])[None], tokenizer.codebook_size)
        levels.append({**usage, "survival": float(kept.mean())})
    return {
        "sounds": len(waves),
        "seconds": seconds,
        "mel": _mean([mel_distance(ours, theirs, tokenizer.sample_rate_hz) for ours, theirs in pairs]),
        "spectral": _mean([spectral_distance(ours, theirs, WINDOWS) for ours, theirs in pairs]),
        "frames_per_s": tokenizer.frames_per_s,
        "bits_per_s": tokenizer.bits_per_s,
        "encode_times_real_time": seconds / encode_s,
        "decode_times_real_time": seconds / decode_s,
        "levels": levels,
    }


def evaluate_codec(tokenizer: SoundTokenizer, raw: Path, out: Path, split: str | None = None, limit: int = 100) -> dict[str, Any]:
    """Score a codec on held-out audio clips; write `codec.json`.

    Args:
        tokenizer: Any codec.
        raw: Raw shards with any fields, or a folder of recordings.
        out: Folder of the report; created if missing.
        split: Split; None takes "test", or the held-out one that there is.
        limit: Number of audio clips.

    Raises:
        ValueError: If the shards or the split are missing.
    """
    own = own_set(raw, "audio", split=split, limit=limit, preferred="test")
    rate_hz, channels = tokenizer.sample_rate_hz, tokenizer.channels
    waves = [fit_audio(row.media, rate_hz, channels)[0] for row in own.judged if isinstance(row.media, Waveform)]
    report = {"format": 1, "fingerprint": tokenizer.fingerprint, "split": own.split, **codec_report(tokenizer, waves)}
    out.mkdir(parents=True, exist_ok=True)
    write_text(json.dumps(report, indent=2), out / "codec.json")
    return report


def _timed(work: Callable[[], list[Any]]) -> tuple[list[Any], float]:
    """The result of a function, and its run time in seconds."""
    started_s = time.perf_counter()
    result = work()
    return result, time.perf_counter() - started_s


def _mean(values: Sequence[Tensor]) -> float:
    return float(torch.stack(list(values)).mean())
