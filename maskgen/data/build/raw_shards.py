"""Content of raw shards: lossless media and the json of each sample."""

import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from maskgen.data.build.job import DecodedSample, ShardOutput, Written
from maskgen.data.shards.format import json_bytes, png_bytes
from maskgen.io.audio import Waveform, sixteen_bits


@dataclass(frozen=True)
class RawOutput(ShardOutput):
    """Writes lossless media: png, 16-bit flac and json."""

    kind: str = "raw"
    kinds: frozenset[str] = frozenset({"text", "image", "audio"})
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    space: Mapping[str, Any] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def written(self, samples: Iterable[DecodedSample]) -> Iterator[Written]:
        """Members of each sample."""
        for sample in samples:
            members = {"json": json_bytes(sample.meta)}
            if "image" in sample.media:
                members["png"] = png_bytes(np.asarray(sample.media["image"]))
            if "audio" in sample.media:
                members["flac"] = flac_bytes(sample.media["audio"])
            yield Written(sample.key, members)

    def placed(self, worker: int) -> "RawOutput":
        """Raw shards need no device."""
        return self


def flac_bytes(wave: Waveform) -> bytes:
    """A waveform as 16-bit FLAC.

    Raises:
        ImportError: If soundfile is missing.
    """
    try:
        import soundfile
    except ImportError as error:
        raise ImportError("audio needs soundfile: pip install maskgen[audio]") from error
    stream = io.BytesIO()
    soundfile.write(stream, sixteen_bits(wave).T, wave.sample_rate_hz, format="FLAC", subtype="PCM_16")
    return stream.getvalue()
