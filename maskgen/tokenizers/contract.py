"""Checks of the tokenizer contract, for a test suite. maskgen's own tests run them, and you can run them on your own tokenizer.

```python
CASE = Case(make=lambda change: MyTokenizer(size=8 + round(change)), reload=MyTokenizer.from_bundle, media=my_pictures)

@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_contract(check, tmp_path):
    check(CASE, tmp_path)
```
Each check takes a case and an empty folder, and raises AssertionError if it fails.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskgen.io.audio import Waveform
from maskgen.io.bundle import CONFIG_FILE, save_bundle
from maskgen.tokenizers.base import Tokenizer
from maskgen.tokens.batch import UNKNOWN
from maskgen.tokens.packing import pack, unpack
from maskgen.tokens.space import TokenSpace


@dataclass(frozen=True)
class Case:
    """Description of a tokenizer under test.

    Args:
        make: Builds the tokenizer deterministically. A number other than 0 changes one weight or setting that affects codes or media.
        reload: Loads the tokenizer from its bundle.
        media: Media of mixed sizes; some have the same size.
        ending: File extension of a lossless format.
        damaged: Bytes of a file that the tokenizer must reject.
    """

    make: Callable[[float], Tokenizer]
    reload: Callable[[Path], Tokenizer]
    media: Callable[[], list[Any]]
    ending: str = ".png"
    damaged: bytes = b"\x89PNG\r\n\x1a\n no picture"


def same_media(first: Sequence[Any], second: Sequence[Any]) -> bool:
    """Return whether two lists hold equal media."""
    return len(first) == len(second) and all(map(_same_medium, first, second))


def _same_medium(first: Any, second: Any) -> bool:
    if isinstance(first, Waveform):
        return bool(first.sample_rate_hz == second.sample_rate_hz and np.array_equal(first.samples, second.samples))
    return bool(np.array_equal(np.asarray(first), np.asarray(second)))


def same_codes(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    """Return whether two lists hold equal code grids."""
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def _refuses(message: str, call: Callable[[], object]) -> None:
    """Raise AssertionError unless the call raises a ValueError that contains the message."""
    try:
        call()
    except ValueError as error:
        said = str(error)
    else:
        said = ""
    assert message in said, f"wanted a ValueError with {message!r}, got {said or 'none'!r}"


def gives_codes_in_range(case: Case, folder: Path) -> None:
    """Check that codes are integers on the CPU, with one grid per medium and the tokenizer's number of levels and codes."""
    tokenizer = case.make(0.0)
    codes = tokenizer.encode(case.media())
    assert len(codes) == len(case.media())
    for grid in codes:
        assert grid.dtype == torch.long
        assert grid.device.type == "cpu"
        assert grid.shape[0] == tokenizer.num_levels
        assert bool(((grid >= 0) & (grid < tokenizer.codebook_size)).all())


def is_the_same_alone_and_in_a_batch(case: Case, folder: Path) -> None:
    """Check that encoding a batch of mixed sizes gives the same codes as encoding one by one, in the same order."""
    tokenizer, media = case.make(0.0), case.media()
    codes = tokenizer.encode(media)
    assert same_codes(codes, [tokenizer.encode([one])[0] for one in media])
    assert same_codes(codes[::-1], tokenizer.encode(media[::-1]))
    assert same_media(tokenizer.decode(codes), [tokenizer.decode([grid])[0] for grid in codes])


def gives_nothing_for_nothing(case: Case, folder: Path) -> None:
    """Check that empty lists give empty lists."""
    tokenizer = case.make(0.0)
    assert tokenizer.encode([]) == []
    assert tokenizer.decode([]) == []


def leaves_its_input_alone(case: Case, folder: Path) -> None:
    """Check that encoding and decoding modify neither media nor codes."""
    tokenizer, media = case.make(0.0), case.media()
    codes = tokenizer.encode(media)
    copies = [grid.clone() for grid in codes]
    tokenizer.decode(codes)
    assert same_media(media, case.media())
    assert same_codes(codes, copies)


def fits_its_place_in_a_token_space(case: Case, folder: Path) -> None:
    """Check that codes survive packing into a row of cells and unpacking."""
    tokenizer = case.make(0.0)
    modality = tokenizer.modality("mine")
    assert (modality.name, modality.kind) == ("mine", tokenizer.kind)
    space = TokenSpace([modality])
    codes = [grid for grid in tokenizer.encode(case.media()) if grid.numel()]
    back = unpack(pack([{"mine": grid} for grid in codes], space), space)
    assert same_codes(codes, [sample["mine"] for sample in back])


def refuses_unknown_codes(case: Case, folder: Path) -> None:
    """Check that decoding UNKNOWN raises an error."""
    _refuses_code(case, UNKNOWN)


def refuses_foreign_codes(case: Case, folder: Path) -> None:
    """Check that decoding a code of `codebook_size` or more raises an error."""
    _refuses_code(case, case.make(0.0).codebook_size)


def _refuses_code(case: Case, code: int) -> None:
    tokenizer = case.make(0.0)
    grid = tokenizer.encode(case.media()[:1])[0]
    grid.view(-1)[0] = code
    _refuses(f"codes must lie in [0, {tokenizer.codebook_size})", lambda: tokenizer.decode([grid]))


def refuses_grids_of_another_shape(case: Case, folder: Path) -> None:
    """Check that grids with too few or too many axes or levels raise an error."""
    tokenizer = case.make(0.0)
    grid = tokenizer.encode(case.media()[:1])[0]
    for other in (grid[0], grid[None], grid.repeat(tokenizer.num_levels + 1, *[1] * (grid.ndim - 1))):
        _refuses("codes have shape", lambda wrong=other: tokenizer.decode([wrong]))  # type: ignore[misc]


def has_a_fingerprint_that_tells_every_change(case: Case, folder: Path) -> None:
    """Check that the fingerprint is stable and that any change of the tokenizer changes it."""
    tokenizer = case.make(0.0)
    assert tokenizer.fingerprint == tokenizer.fingerprint == case.make(0.0).fingerprint
    assert tokenizer.fingerprint != case.make(1e-3).fingerprint


def comes_back_from_its_bundle(case: Case, folder: Path) -> None:
    """Check that a reloaded tokenizer gives the same codes and media, and saves the same bundle."""
    tokenizer = case.make(0.0)
    codes = tokenizer.encode(case.media())
    saved = tokenizer.save(folder / "bundle")
    loaded = case.reload(folder / "bundle")
    assert loaded.fingerprint == saved == tokenizer.fingerprint
    assert (loaded.num_levels, loaded.codebook_size) == (tokenizer.num_levels, tokenizer.codebook_size)
    assert same_codes(loaded.encode(case.media()), codes)
    assert same_media(loaded.decode(codes), tokenizer.decode(codes))
    assert loaded.save(folder / "again") == saved
    assert case.make(1e-3).save(folder / "other") != saved


def refuses_other_bundles(case: Case, folder: Path) -> None:
    """Check that loading a missing, damaged or foreign bundle raises an error."""
    _refuses("no bundle in", lambda: case.reload(folder))
    case.make(0.0).save(folder)
    files = [path for path in folder.iterdir() if path.name != CONFIG_FILE]
    largest = max(files, key=lambda path: path.stat().st_size, default=folder / CONFIG_FILE)
    content = bytearray(largest.read_bytes())
    content[-9] ^= 1
    largest.write_bytes(content)
    _refuses("is damaged", lambda: case.reload(folder))
    save_bundle(folder, "house", {}, {})
    _refuses("holds a bundle of kind", lambda: case.reload(folder))


def keeps_media_in_a_file(case: Case, folder: Path) -> None:
    """Check that a medium that is written and read again is equal and has the same codes."""
    tokenizer = case.make(0.0)
    for number, one in enumerate(case.media()):
        path = folder / f"{number}{case.ending}"
        tokenizer.write(one, path)
        assert same_media([tokenizer.read(path)], [one])
        assert same_codes(tokenizer.encode([tokenizer.read(path)]), tokenizer.encode([one]))


def refuses_missing_and_damaged_files(case: Case, folder: Path) -> None:
    """Check that reading a missing or invalid file raises an error that names the file."""
    tokenizer, path = case.make(0.0), folder / f"one{case.ending}"
    _refuses("does not exist", lambda: tokenizer.read(path))
    path.write_bytes(case.damaged)
    _refuses(str(path), lambda: tokenizer.read(path))


CHECKS: dict[str, Callable[[Case, Path], None]] = {
    check.__name__.replace("_", " "): check
    for check in (
        gives_codes_in_range,
        is_the_same_alone_and_in_a_batch,
        gives_nothing_for_nothing,
        leaves_its_input_alone,
        fits_its_place_in_a_token_space,
        refuses_unknown_codes,
        refuses_foreign_codes,
        refuses_grids_of_another_shape,
        has_a_fingerprint_that_tells_every_change,
        comes_back_from_its_bundle,
        refuses_other_bundles,
        keeps_media_in_a_file,
        refuses_missing_and_damaged_files,
    )
}
"""All checks by name."""
