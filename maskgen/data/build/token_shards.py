"""Content of token shards: one npy per modality, encoded once before training, and the json of each sample."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from maskgen.data.build.job import DecodedSample, ShardOutput, Written
from maskgen.data.shards.format import json_bytes, npy_bytes
from maskgen.data.shards.vectors import kept_vectors, num_cells
from maskgen.tokenizers.attribute import AttributeTokenizer
from maskgen.tokenizers.audio_base import SoundTokenizer
from maskgen.tokenizers.auto import load_tokenizer
from maskgen.tokenizers.base import Tokenizer
from maskgen.tokenizers.micro import MicroTokenizer
from maskgen.tokenizers.phonemes import PhonemeTokenizer
from maskgen.tokenizers.transcript import Transcript, TranscriptTokenizer
from maskgen.tokens.batch import Codes
from maskgen.tokens.space import TokenSpace

BATCH_SIZE = 64


@dataclass(frozen=True)
class TokenOutput(ShardOutput):
    """Writes the codes of every modality of a sample; create it with `token_output`.

    Args:
        tokenizers: Modality to the folder of its tokenizer, or to the tokenizer itself.
        fingerprints: Modality to fingerprint.
        space: The token space.
        kinds: Kinds of media that the modalities are made of.
        facts: Everything else that the codes depend on.
        batch_size: Samples per batch.
        device: Device of the networks.
    """

    tokenizers: Mapping[str, Path | Tokenizer]
    fingerprints: Mapping[str, str]
    space: Mapping[str, Any] | None
    kinds: frozenset[str]
    facts: Mapping[str, Any]
    batch_size: int
    device: str
    kind: str = "tokens"

    def written(self, samples: Iterable[DecodedSample]) -> Iterator[Written]:
        """Members of each sample.

        Raises:
            ValueError: If a tokenizer's folder no longer holds the planned tokenizer, or it refuses a sample.
        """
        remaining = iter(samples)
        with one_thread():
            tokenizers = {name: self._opened(name) for name in self.tokenizers}
            while batch := list(islice(remaining, self.batch_size)):
                yield from _encoded(batch, tokenizers)

    def _opened(self, name: str) -> Tokenizer:
        """A tokenizer, loaded once per process."""
        place = self.tokenizers[name]
        tokenizer = place if isinstance(place, Tokenizer) else open_tokenizer(place, self.device)
        if tokenizer.fingerprint != self.fingerprints[name]:
            raise ValueError(
                f"the {name} tokenizer was {self.fingerprints[name]} when the build was planned and is {tokenizer.fingerprint} now; "
                "leave its folder alone while a build runs, and start it again"
            )
        return tokenizer

    def placed(self, worker: int) -> "TokenOutput":
        """The same output for one of several workers, each with its own GPU."""
        return replace(self, device=f"cuda:{worker}") if self.device == "cuda" else self


def token_output(tokenizers: Mapping[str, Path | Tokenizer], batch_size: int = BATCH_SIZE, device: str = "cpu") -> TokenOutput:
    """The output that encodes with these tokenizers.

    Args:
        tokenizers: Modality to the folder of its tokenizer, or the tokenizer itself, in the order of the token space.
        batch_size: Samples per batch.
        device: Device of the networks: cpu, or cuda for one GPU per worker.

    Raises:
        ValueError: If a folder holds no tokenizer, a kind is unknown or the device does not exist.
    """
    if device not in ("cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        raise ValueError(f"--device {device} is not usable here; use cpu" + (" or cuda" if torch.cuda.is_available() else ""))
    opened = {name: open_tokenizer(place, "cpu") if isinstance(place, Path) else place for name, place in tokenizers.items()}
    for name, tokenizer in opened.items():
        if tokenizer.kind not in ENCODERS:
            raise ValueError(f"modality {name!r} has kind {tokenizer.kind!r}; raw shards hold {', '.join(ENCODERS)}")
    return TokenOutput(
        tokenizers=tokenizers,
        fingerprints={name: tokenizer.fingerprint for name, tokenizer in opened.items()},
        space=TokenSpace([tokenizer.modality(name) for name, tokenizer in opened.items()]).to_dict(),
        kinds=frozenset(MEDIUM_OF.get(tokenizer.kind, tokenizer.kind) for tokenizer in opened.values()),
        facts={"modalities": list(opened), "batch_size": batch_size, "device": device},
        batch_size=batch_size,
        device=device,
    )


@lru_cache(maxsize=16)
def open_tokenizer(folder: Path, device: str) -> Tokenizer:
    """The tokenizer in a folder, loaded once per process and device; tokenizers without a network ignore the device.

    Raises:
        ValueError: If the folder holds no tokenizer.
    """
    tokenizer = load_tokenizer(folder)
    if device != "cpu" and hasattr(tokenizer, "to"):
        tokenizer.to(device)
    return tokenizer


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Run on one thread, so that codes depend neither on the number of cores nor on the number of workers."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _encoded(batch: Sequence[DecodedSample], tokenizers: Mapping[str, Tokenizer]) -> Iterator[Written]:
    """Members of a batch of samples; each has only the modalities that it has media for."""
    members: list[dict[str, bytes]] = [{"json": json_bytes(sample.meta)} for sample in batch]
    tokens: list[dict[str, int]] = [{} for _ in batch]
    frames_per_s = next((codec.frames_per_s for codec in tokenizers.values() if isinstance(codec, SoundTokenizer)), None)
    media = [tokenizer_inputs(sample, frames_per_s) for sample in batch]
    for name, tokenizer in tokenizers.items():
        rows = [row for row, inputs in enumerate(media) if tokenizer.kind in inputs]
        with torch.inference_mode():
            arrays = ENCODERS[tokenizer.kind]([media[row][tokenizer.kind] for row in rows], tokenizer)
        for row, array in zip(rows, arrays, strict=True):
            members[row][f"{name}.npy"], tokens[row][name] = npy_bytes(array), num_cells(array, tokenizer.kind)
    for sample, fields, counts in zip(batch, members, tokens, strict=True):
        yield Written(sample.key, fields, counts)


def tokenizer_inputs(sample: DecodedSample, frames_per_s: float | None) -> dict[str, Any]:
    """Inputs of each kind of tokenizer: the sample's media, its json for attributes, timed phonemes and transcripts, captions for features.

    Args:
        sample: A sample.
        frames_per_s: Frame rate of its audio codes; None without audio.
    """
    timed = frames_per_s is not None and {"phonemes", "durations", "durations_per_s"} <= set(sample.meta)
    phones = {"phones": {**sample.meta, "frames_per_s": frames_per_s}} if timed else {}
    said = {"transcript": sample.meta} if timed and sample.meta.get("captions") else {}
    told = {"features": sample.media["text"]} if "text" in sample.media else {}
    return {**sample.media, "attribute": sample.meta, **phones, **said, **told}


def _grids(media: Sequence[Any], tokenizer: Tokenizer) -> list[np.ndarray]:
    """Codes [level *grid] of each image or waveform."""
    return [grid.cpu().numpy().astype(stored_as(tokenizer)) for grid in tokenizer.encode(media)]


def stored_as(tokenizer: Tokenizer) -> type[np.signedinteger[Any]]:
    """Int16 if it can hold all codes, otherwise Int32 (vocabularies of language models)."""
    return np.int16 if tokenizer.codebook_size <= 2**15 else np.int32


def _captions(media: Sequence[Any], tokenizer: Tokenizer) -> list[np.ndarray]:
    """Codes [alternatives longest] of each row's captions, -1 after the end of each."""
    rows = cast(Sequence[list[str]], media)
    codes = iter(tokenizer.encode([text for row in rows for text in row]))
    return [padded([next(codes) for _ in row], stored_as(tokenizer)) for row in rows]


def _features(media: Sequence[Any], tokenizer: Tokenizer) -> list[np.ndarray]:
    """Features of each row's captions, [alternatives longest width]; see `kept_vectors`."""
    rows = cast(Sequence[list[str]], media)
    vectors = iter(tokenizer.encode([text for row in rows for text in row]))
    return [kept_vectors([next(vectors) for _ in row]) for row in rows]


def padded(captions: Sequence[Codes], dtype: type[np.signedinteger[Any]] = np.int16) -> np.ndarray:
    """Captions [1, n] of several lengths as one array, -1 after the end of each."""
    array = np.full((len(captions), max(codes.shape[1] for codes in captions)), -1, dtype=dtype)
    for row, codes in zip(array, captions, strict=True):
        row[: codes.shape[1]] = codes[0].numpy()
    return array


def _attributes(media: Sequence[Any], tokenizer: Tokenizer) -> list[np.ndarray]:
    """Code of each row's attribute, from its json: Int16 [1, 1]; [1, 5] of micro-conditions, where what a row lacks is not known.

    Raises:
        ValueError: If a row lacks the attribute.
    """
    if isinstance(tokenizer, MicroTokenizer):
        return _grids(media, tokenizer)
    assert isinstance(tokenizer, AttributeTokenizer), "attributes have a tokenizer of their own"
    for row in media:
        if tokenizer.field not in row:
            raise ValueError(f"a sample has no attribute {tokenizer.field!r}; it has {', '.join(row)}")
    return _grids([str(row[tokenizer.field]) for row in media], tokenizer)


def _phones(media: Sequence[Any], tokenizer: Tokenizer) -> list[np.ndarray]:
    """Codes of each row's phonemes and their lengths in frames of the row's audio, from its json: Int16 [2, n]."""
    assert isinstance(tokenizer, PhonemeTokenizer), "phonemes have a tokenizer of their own"
    arrays = []
    for row in media:
        frames = rescaled_durations(
            [int(count) for count in row["durations"].split()], float(row["durations_per_s"]), float(row["frames_per_s"])
        )
        arrays.append(tokenizer.codes_of(row["phonemes"], frames).numpy().astype(np.int16))
    return arrays


def _transcripts(media: Sequence[Any], tokenizer: Tokenizer) -> list[np.ndarray]:
    """Codes of each row's first caption, timed by its phonemes, from its json: Int16 [1, slots]."""
    assert isinstance(tokenizer, TranscriptTokenizer), "transcripts have a tokenizer of their own"
    return _grids([timed_words(row) for row in media], tokenizer)


def timed_words(row: Mapping[str, Any]) -> Transcript:
    """Words of a row's first caption with the times of their phonemes.

    A space separates the phonemes of different words. If the phonemes have another number of words than the text (a number is read as
    several words), the time is divided by letters.

    Args:
        row: `captions`, `phonemes`, `durations` with a pause at both ends, `durations_per_s`.
    """
    words, phonemes = row["captions"][0].split(), row["phonemes"]
    ends_s = np.cumsum([int(count) for count in row["durations"].split()]) / float(row["durations_per_s"])
    starts_s = [float(ends_s[place]) for place in range(len(phonemes)) if place == 0 or phonemes[place - 1] == " "]
    if len(starts_s) != len(words):
        letters = np.cumsum([0, *(len(word) + 1 for word in words)])
        first_s, last_s = float(ends_s[0]), float(ends_s[-2])
        starts_s = [float(first_s + (last_s - first_s) * count / letters[-1]) for count in letters[:-1]]
    return Transcript(tuple(words), tuple(starts_s), float(ends_s[-1]))


def rescaled_durations(durations: Sequence[int], old_per_s: float, new_per_s: float) -> list[int]:
    """Convert durations to another frame rate; every boundary moves by at most half a frame.

    Args:
        durations: Frames of each phoneme.
        old_per_s: Frames per second of `durations`.
        new_per_s: Frames per second of the result.
    """
    ends = np.rint(np.cumsum(durations) * new_per_s / old_per_s).astype(int)
    return [int(frames) for frames in np.diff(ends, prepend=0)]


ENCODERS: Mapping[str, Callable[[Sequence[Any], Tokenizer], list[np.ndarray]]] = {
    "text": _captions,
    "image": _grids,
    "audio": _grids,
    "attribute": _attributes,
    "phones": _phones,
    "transcript": _transcripts,
    "features": _features,
}
MEDIUM_OF = {"features": "text"}
"""Kind of a tokenizer to the kind of medium that it reads, where they differ."""
