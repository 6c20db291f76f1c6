"""Folders of TiTok's project: which network one holds, and where the tokenizer of a generator lies."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError, safe_open

from maskgen.interop.base import peek_json, read_json
from maskgen.io.hub import local_folder
from maskgen.tokenizers.titok import LATENTS, MODEL_FILE, is_titok

Contents = Literal["tokenizer", "ViT", "UViT", "MaskGen", "MaskGen-KL", ""]
MARKS: Mapping[str, Contents] = {
    LATENTS: "tokenizer",
    "model.embeddings.word_embeddings.weight": "ViT",
    "mid_block.norm1.weight": "UViT",
    "text_embed_proj.weight": "MaskGen",
    "z_proj.weight": "MaskGen-KL",
}
"""A tensor that only one kind of network has. The configurations are one tree for all of them and do not tell."""
TATITOK = "turkeyju/tokenizer_tatitok_bl128_vq"
CLIP = "openai/clip-vit-large-patch14-336"
CACHE = "models--"


def contents(folder: Path) -> Contents:
    """Which network of the project a folder holds; "" if none."""
    model = peek_json(folder / "config.json").get("model")
    if not isinstance(model, Mapping) or "vq_model" not in model:
        return ""
    names = tensor_shapes(folder)
    return next((kind for name, kind in MARKS.items() if name in names), "")


def tensor_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors in a folder's weights, without reading them; empty if they can't be read."""
    try:
        with safe_open(folder / MODEL_FILE, framework="pt") as opened:
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError):
        return {}


def tokenizer_of(folder: Path, local_files_only: bool = False) -> Path:
    """The folder of a generator's tokenizer, which was published as a repository of its own.

    It is looked for in `tokenizer` inside the folder, then beside it, under its published name. For a generator that lies in the hub's
    cache it is downloaded.

    Args:
        folder: Folder of the generator.
        local_files_only: Whether it must be in the cache already.

    Raises:
        ValueError: If it is nowhere.
    """
    hub_id = published_tokenizer(folder)
    owner, name = hub_id.split("/")
    if folder.parent.name == "snapshots" and folder.parents[1].name.startswith(CACHE) and not is_titok(folder / "tokenizer"):
        return local_folder(hub_id, local_files_only=local_files_only, about=f"the tokenizer of {folder.parents[1].name}")
    experiment = read_json(folder / "config.json").get("experiment")
    file = str(experiment.get("tokenizer_checkpoint", "")) if isinstance(experiment, Mapping) else ""
    beside = [folder.parent / one for one in (name, Path(file).stem, "tokenizer") if one]
    for place in (folder / "tokenizer", *beside):
        if place != folder and is_titok(place):
            return place
    raise ValueError(
        f"{folder} is a generator without its tokenizer, which is a repository of its own; copy the tokenizer that it was trained with "
        f"({owner}/{name}) to {folder / 'tokenizer'}"
    )


def text_encoder_of(folder: Path, local_files_only: bool = False) -> Path:
    """The folder of the CLIP whose text encoder MaskGen reads; its own repository has none.

    It is looked for in `text_encoder` inside the folder, then beside it. For a generator that lies in the hub's cache it is downloaded.

    Args:
        folder: Folder of the generator.
        local_files_only: Whether it must be in the cache already.

    Raises:
        ValueError: If it is nowhere.
    """
    for place in (folder / "text_encoder", folder.parent / CLIP.split("/")[1]):
        if (place / "config.json").is_file():
            return place
    if folder.parent.name == "snapshots" and folder.parents[1].name.startswith(CACHE):
        return local_folder(CLIP, local_files_only=local_files_only, about="the text encoder of MaskGen")
    raise ValueError(
        f"{folder} is a generator without its text encoder, which its authors load from open_clip (ViT-L-14-336, openai); copy the same "
        f"model of transformers ({CLIP}, weights as safetensors) to {folder / 'text_encoder'}"
    )


def published_tokenizer(folder: Path) -> str:
    """Hub id of the tokenizer that a generator was published for, from the name of its folder, or else from its number of codes."""
    named = folder.parents[1].name if folder.parent.name == "snapshots" else folder.name
    shapes = tensor_shapes(folder)
    if "text_embed_proj.weight" in shapes:
        return TATITOK
    places = [shapes[name][-2] - 1 for name in ("model.embeddings.position_embeddings.weight", "pos_embed") if name in shapes]
    size = next((one for one in ("l32", "b64", "s128") if one in named), {64: "b64", 128: "s128"}.get(places[0] if places else 0, "l32"))
    return f"yucornetto/tokenizer_titok_{size}_imagenet"
