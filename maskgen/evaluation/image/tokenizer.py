"""`maskgen evaluate tokenizer`: what an image tokenizer loses, how it uses its codes, and whether its codes survive a round trip."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor

from maskgen.data.sources.media import fit_image
from maskgen.evaluation.image.pixels import to_rgb_bytes
from maskgen.evaluation.own import own_set
from maskgen.io.files import write_text
from maskgen.io.images import write_picture
from maskgen.tokenizers.base import Tokenizer
from maskgen.tokenizers.diffusers_vq import DiffusersVQTokenizer
from maskgen.tokenizers.image import ImageTokenizer
from maskgen.tokens.batch import Codes

logger = logging.getLogger(__name__)

SHEET_COLUMNS = 8
GAP = 4


@dataclass(frozen=True)
class RoundTrip:
    """Images through a tokenizer: their codes, what these decode to, and the codes of that."""

    codes: list[Codes]
    decoded: list[Image.Image]
    again: list[Codes]


def evaluate_tokenizer(
    tokenizer: Tokenizer,
    raw: Path,
    out: Path,
    *,
    splits: Sequence[str] | None = None,
    limit: int | None = None,
    batch_size: int = 32,
    sheet: int = 48,
) -> dict[str, Any]:
    """Judge an image tokenizer on held-out images; write `tokenizer.json` and `tokenizer.png`.

    Args:
        tokenizer: Any image tokenizer.
        raw: Raw shards with any fields, or a folder of images.
        out: Folder of the report; made when missing.
        splits: Splits whose images are used, together; None takes "A", or the held-out one that there is.
        limit: This many images a split, chosen by the hash of their keys; None uses all.
        batch_size: Images encoded at once.
        sheet: Pairs of original and reconstruction on the sheet.

    Returns:
        What `tokenizer.json` holds: see `tokenizer_scores`.

    Raises:
        ValueError: If the tokenizer is not one of images, or the shards or a split are missing.
    """
    chosen: Sequence[str | None] = splits or (None,)
    parts = [own_set(raw, "image", split=split, limit=limit, preferred="A") for split in chosen]
    images = [_fitted(row.media, tokenizer) for part in parts for row in part.judged if isinstance(row.media, Image.Image)]
    trip = round_trip(tokenizer, images, batch_size)
    report = {
        "format": 1,
        "fingerprint": tokenizer.fingerprint,
        "splits": [part.split for part in parts],
        **tokenizer_scores(tokenizer, images, trip),
    }
    out.mkdir(parents=True, exist_ok=True)
    write_text(json.dumps(report, indent=2), out / "tokenizer.json")
    write_picture(comparison(images[:sheet], trip.decoded[:sheet]), out / "tokenizer.png")
    logger.info("wrote %s: PSNR %.2f dB over %d images", out / "tokenizer.json", report["psnr_db"], len(images))
    return report


def _fitted(picture: Image.Image, tokenizer: Tokenizer) -> Image.Image:
    """A picture of the size that the tokenizer was trained at, or of whole cells where any size will do."""
    size = tokenizer.size if isinstance(tokenizer, ImageTokenizer) else None
    if size is None or size[0] != size[1]:
        cell = tokenizer.pixels_per_cell if isinstance(tokenizer, ImageTokenizer | DiffusersVQTokenizer) else 1
        return picture.convert("RGB").resize((max(1, picture.width // cell) * cell, max(1, picture.height // cell) * cell))
    return picture.convert("RGB") if picture.size == size else fit_image(picture, size[0], "letterbox")[0]


def round_trip(tokenizer: Tokenizer, images: Sequence[Image.Image], batch_size: int = 32) -> RoundTrip:
    """Encode, decode, and encode what came out.

    Raises:
        ValueError: If the tokenizer is not one of images.
    """
    if tokenizer.kind != "image":
        raise ValueError(f"found a tokenizer of {tokenizer.kind}, wanted one of images; give the image tokenizer's bundle")
    trip = RoundTrip([], [], [])
    for start in range(0, len(images), batch_size):
        codes = tokenizer.encode(images[start : start + batch_size])
        decoded = tokenizer.decode(codes)
        trip.codes.extend(codes)
        trip.decoded.extend(decoded)
        trip.again.extend(tokenizer.encode(decoded))
    return trip


def tokenizer_scores(tokenizer: Tokenizer, images: Sequence[Image.Image], trip: RoundTrip) -> dict[str, Any]:
    """Reconstruction error, and per level the codes' use and their survival.

    Args:
        tokenizer: Its sizes are read.
        images: The originals.
        trip: `round_trip` of them.

    Returns:
        `pictures`, `size`, `psnr_db` (mean over images; an exact one counts as 100), `l1` (of pixels in [0, 1]), `ssim`, `grid`, and
        `levels`: for each `used` (share of the codebook), `perplexity`, `survival` (share of codes equal after decode and re-encode).
    """
    size = trip.decoded[0].size[0]
    scores = {"pictures": len(images), "size": size, **_errors(to_rgb_bytes(images, size), to_rgb_bytes(trip.decoded, size))}
    levels = [
        {
            **code_usage(torch.stack([codes[level].flatten() for codes in trip.codes]), tokenizer.codebook_size),
            "survival": _survival(trip, level),
        }
        for level in range(tokenizer.num_levels)
    ]
    return {**scores, "grid": list(trip.codes[0].shape[1:]), "codebook_size": tokenizer.codebook_size, "levels": levels}


def code_usage(codes: Int[Tensor, "batch cells"], codebook_size: int) -> dict[str, float]:
    """Share of the codebook that occurs, and the perplexity of the codes: how many would be as varied if all came equally often."""
    counts = torch.bincount(codes.flatten().long(), minlength=codebook_size).double()
    share = counts / counts.sum()
    entropy = -(share * share.clamp(min=1e-300).log()).sum()
    return {"used": float((counts > 0).double().mean()), "perplexity": float(entropy.exp())}


def comparison(originals: Sequence[Image.Image], decoded: Sequence[Image.Image]) -> Image.Image:
    """A sheet: each original with its reconstruction to the right, eight pairs a row."""
    wide, high = decoded[0].size
    columns = min(SHEET_COLUMNS, len(originals))
    rows = -(-len(originals) // SHEET_COLUMNS)
    page = Image.new("RGB", (columns * (2 * wide + GAP) + GAP, rows * (high + GAP) + GAP), "grey")
    for place, (left, right) in enumerate(zip(originals, decoded, strict=True)):
        corner = (GAP + place % SHEET_COLUMNS * (2 * wide + GAP), GAP + place // SHEET_COLUMNS * (high + GAP))
        page.paste(left.resize((wide, high), Image.Resampling.BICUBIC), corner)
        page.paste(right, (corner[0] + wide, corner[1]))
    return page


def _survival(trip: RoundTrip, level: int) -> float:
    """Share of a level's codes that come back from their own image."""
    kept = [(before[level] == after[level]).double().mean() for before, after in zip(trip.codes, trip.again, strict=True)]
    return float(torch.stack(kept).mean())


def _errors(
    originals: UInt8[Tensor, "batch channels rows columns"], decoded: UInt8[Tensor, "batch channels rows columns"]
) -> dict[str, float]:
    """PSNR, L1 and SSIM of pixels in [0, 1]."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    left, right = originals.float() / 255, decoded.float() / 255
    squared: Float[Tensor, " batch"] = (left - right).square().mean(dim=(1, 2, 3))
    ssim = [
        structural_similarity_index_measure(*pair, data_range=1.0)
        for pair in zip(torch.split(right, 64), torch.split(left, 64), strict=True)
    ]
    weights = torch.tensor([len(part) for part in torch.split(left, 64)])
    mean_ssim = float((torch.stack([torch.as_tensor(one) for one in ssim]) * weights).sum() / weights.sum())
    return {
        "psnr_db": float((-10 * squared.clamp(min=1e-10).log10()).mean()),
        "l1": float((left - right).abs().mean()),
        "ssim": mean_ssim,
    }
