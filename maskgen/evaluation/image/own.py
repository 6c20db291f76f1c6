"""`maskgen evaluate image FOLDER`: a text-to-image model on a user's own pictures, by features that need no training."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional

from maskgen.data.sources.media import fit_image
from maskgen.evaluation.image.evaluate import Generate, Reconstruct
from maskgen.evaluation.image.features import image_features
from maskgen.evaluation.image.frechet import COMPONENTS, frechet_distance, principal
from maskgen.evaluation.image.nearest import nearest_pixels, thumbnails
from maskgen.evaluation.image.pixels import to_rgb_bytes
from maskgen.evaluation.image.tokenizer import comparison
from maskgen.evaluation.own import OwnSet
from maskgen.io.files import write_text
from maskgen.io.images import write_picture

FEWEST_PAIRS = 20
FEWEST_FOR_DISTANCE = 2 * COMPONENTS
BATCH_SIZE, SHEET = 32, 48
MEANINGS = {
    "recall_at_1": "share of pictures whose nearest real picture, by EfficientNet-Lite0 features, is the one of their own caption",
    "recall_at_5": "the same among the five nearest",
    "similarity": "mean cosine of a picture's features with those of its own real picture",
    "nearer_training": "share of pictures that are nearer to a training picture than their real one is: over 0.5 hints at copies",
    "fd_efflite0": f"Frechet distance to the real pictures; from {FEWEST_FOR_DISTANCE} pictures on, and between sets of one size alone",
}
"""What each score means, for the report."""


@dataclass(frozen=True)
class PictureSet:
    """Pictures of one size with what they are judged by."""

    pixels: UInt8[Tensor, "batch channels rows columns"]
    features: Float[Tensor, "batch dim"]


def evaluate_own_pictures(
    pictures: OwnSet,
    out: Path,
    *,
    generate: Generate,
    reconstruct: Reconstruct | None = None,
    size: int,
    fit: str = "letterbox",
    cache: Path | None = None,
) -> dict[str, Any]:
    """Judge pictures of a model for the captions of a set against the set's own pictures; write `report.json` and `pictures.png`.

    Args:
        pictures: The set; samples without a caption are left out.
        out: Folder of the report; created if missing.
        generate: Maps captions and one seed each to images.
        reconstruct: Encodes and decodes images with the image tokenizer: an upper bound; None leaves it out.
        size: Rows and columns of the model's images.
        fit: How real pictures are fitted: "letterbox" or "crop".
        cache: Folder of features; None disables caching.

    Returns:
        The content of `report.json`: for each row set the scores of `MEANINGS`; None where there are too few pictures for one.

    Raises:
        ValueError: If fewer than two pictures have a caption.
        ImportError: If the extra `eval` is not installed.
    """
    rows = [row for row in pictures.judged if row.texts]
    if len(rows) < 2:
        raise ValueError(f"{len(rows)} of {len(pictures.judged)} pictures of split {pictures.split} have a caption, wanted at least 2")
    real = _fitted([row.media for row in rows], size, fit)
    made: list[Image.Image] = []
    for start in range(0, len(rows), BATCH_SIZE):
        asked = rows[start : start + BATCH_SIZE]
        made += generate([row.texts[0] for row in asked], [int(row.hash[:8], 16) for row in asked])
    images = {"real": real, "generated": made}
    if reconstruct is not None:
        parts = [real[start : start + BATCH_SIZE] for start in range(0, len(real), BATCH_SIZE)]
        images["reconstruction"] = [one for part in parts for one in reconstruct(part)]
    images["shuffled"] = [*real[1:], real[0]]
    sets = {name: _picture_set(part, size, cache) for name, part in images.items()}
    training = _fitted([row.media for row in pictures.training], size, fit)
    known = thumbnails(to_rgb_bytes(training, size)) if training else None
    report: dict[str, Any] = {
        "format": 1,
        "pictures": len(rows),
        "split": pictures.split,
        "training_pictures": len(training),
        "meanings": MEANINGS,
        "chance_of_recall_at_1": 1 / len(rows),
        "too_few": len(rows) < FEWEST_PAIRS,
        "row_sets": {name: _scores(one, sets["real"], known) for name, one in sets.items() if name != "real"},
    }
    out.mkdir(parents=True, exist_ok=True)
    write_text(json.dumps(report, indent=2), out / "report.json")
    write_picture(comparison(real[:SHEET], made[:SHEET]), out / "pictures.png")
    return report


def _fitted(images: Sequence[Any], size: int, fit: str) -> list[Image.Image]:
    """Real pictures as the model's training would see them."""
    return [fit_image(image, size, "crop" if fit == "crop" else "letterbox")[0] for image in images]


def _picture_set(images: Sequence[Image.Image], size: int, cache: Path | None) -> PictureSet:
    pixels = to_rgb_bytes(images, size)
    return PictureSet(pixels, image_features(pixels, cache))


def _scores(judged: PictureSet, real: PictureSet, known: Float[Tensor, "other dim"] | None) -> dict[str, float | None]:
    """Scores of a row set; see `MEANINGS`."""
    left, right = functional.normalize(judged.features, dim=-1), functional.normalize(real.features, dim=-1)
    cosine = left @ right.T
    own = cosine.diagonal()
    rank = (cosine > own[:, None]).sum(dim=1)
    nearer = None
    if known is not None:
        ours, theirs = (nearest_pixels(thumbnails(one.pixels), known).distance for one in (judged, real))
        nearer = float((ours < theirs).float().mean())
    enough = len(rank) >= FEWEST_FOR_DISTANCE
    basis = principal(real.features) if enough else None
    return {
        "recall_at_1": float((rank < 1).float().mean()),
        "recall_at_5": float((rank < 5).float().mean()) if len(rank) >= FEWEST_PAIRS else None,
        "similarity": float(own.mean()),
        "nearer_training": nearer,
        "fd_efflite0": None if basis is None else frechet_distance(basis(judged.features), basis(real.features)),
    }
