"""Pipelines whose tokenizers are adapters of other libraries' models, or keep the contract of all tokenizers and no more."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders.any_to_any import PHONES, SIZES
from builders.media import recording
from PIL import Image

from maskgen.decoding.settings import GenerationSettings
from maskgen.networks.auto import new_network
from maskgen.networks.durations import DurationConfig, DurationPredictor
from maskgen.pipelines.any_to_any import AnyToAnyPipeline
from maskgen.pipelines.base import Pipeline
from maskgen.pipelines.text_generation import TextGenerationPipeline
from maskgen.pipelines.text_to_image import TextToImagePipeline
from maskgen.processors.animation import decode_frames
from maskgen.processors.text import with_holes
from maskgen.tokenizers.attribute import AttributeTokenizer
from maskgen.tokenizers.auto import load_tokenizer
from maskgen.tokenizers.base import Tokenizer
from maskgen.tokenizers.image_geometry import image_size, pixels_per_cell
from maskgen.tokenizers.phonemes import PhonemeTokenizer
from maskgen.tokenizers.text import TextTokenizer
from maskgen.tokenizers.transcript import TranscriptTokenizer
from maskgen.tokens.batch import UNKNOWN, Codes
from maskgen.tokens.space import TokenSpace
from tokenizers import Tokenizer as Engine
from tokenizers import decoders, models, pre_tokenizers, trainers

pytest.importorskip("diffusers", reason="needs diffusers: pip install maskgen[diffusers]")
pytest.importorskip("transformers", reason="needs transformers: pip install maskgen[codecs]")


class Blocks(Tokenizer):
    """Brightness of blocks of 4 x 4 pixels in 8 steps: what the contract asks for, and neither `pixels_per_cell` nor `size`."""

    kind = "image"
    num_levels, codebook_size, fingerprint = 1, 8, "blocks"

    def read(self, path: Path | str) -> Any:
        raise NotImplementedError

    def write(self, media: Any, path: Path | str) -> None:
        raise NotImplementedError

    def save(self, folder: Path | str) -> str:
        raise NotImplementedError

    def encode(self, media: Sequence[Image.Image]) -> list[Codes]:
        grey = [np.asarray(one.convert("L").resize((one.width // 4, one.height // 4), Image.Resampling.BOX)) for one in media]
        return [torch.from_numpy(rows.astype(np.int64) // 32)[None] for rows in grey]

    def decode(self, codes: Sequence[Codes]) -> list[Any]:
        return [
            Image.fromarray((grid[0] * 32 + 16).numpy().astype(np.uint8)).resize((4 * grid.shape[2], 4 * grid.shape[1]), 0)
            for grid in codes
        ]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A VQModel of diffusers in a pipeline's folder, an EnCodec and a byte-level BPE of transformers; random weights."""
    import transformers
    from diffusers import VQModel

    root = tmp_path_factory.mktemp("others")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {"block_out_channels": (8, 8), "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
        picture = VQModel(**sizes, latent_channels=4, num_vq_embeddings=24, vq_embed_dim=4, norm_num_groups=4)
        torch.nn.init.normal_(picture.quantize.embedding.weight, std=0.5)
        picture.save_pretrained(root / "pipeline/vqvae")
        codec = transformers.EncodecConfig(
            num_filters=4, hidden_size=8, codebook_size=16, codebook_dim=8, num_lstm_layers=1, target_bandwidths=[1.5], sampling_rate=16_000
        )
        transformers.EncodecModel(codec).save_pretrained(root / "encodec")
    index = {"_class_name": "AmusedPipeline", "vqvae": ["diffusers", "VQModel"], "text_encoder": ["transformers", "CLIPTextModel"]}
    (root / "pipeline/model_index.json").write_text(json.dumps(index))
    engine = Engine(models.BPE())
    engine.pre_tokenizer, engine.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=262, initial_alphabet=alphabet, special_tokens=["<end>"], show_progress=False)
    engine.train_from_iterator(["a red heart"] * 4, trainer)
    (root / "text").mkdir()
    engine.save(str(root / "text/tokenizer.json"))
    (root / "text/tokenizer_config.json").write_text(json.dumps({"eos_token": "<end>"}))
    return {"text": root / "text", "image": root / "pipeline", "audio": root / "encodec"}


def assembled(tokenizers: dict[str, Tokenizer], targets: Sequence[str], durations: DurationPredictor | None = None) -> Any:
    """An untrained model over the tokenizers; images have 6 x 6 cells."""
    space = TokenSpace([one.modality(name) for name, one in tokenizers.items()])
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = new_network(SIZES, space)
    settings = {name: GenerationSettings(steps=(2,)) for name in targets}
    kind = Pipeline.kind_for(space, settings, durations is not None, "the model")
    return kind(model, space, tokenizers, settings, {"image": (6, 6), "text": (6,)}, durations=durations)


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_folders_of_diffusers_and_transformers_are_tokenizers_and_a_saved_model_refers_to_them(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    tokenizers = {name: load_tokenizer(place) for name, place in folders.items()}
    assert [type(one).__name__ for one in tokenizers.values()] == [
        "TransformersTextTokenizer",
        "DiffusersVQTokenizer",
        "TransformersCodecTokenizer",
    ]
    assert load_tokenizer(folders["image"] / "vqvae").fingerprint == tokenizers["image"].fingerprint
    assembled(tokenizers, ["image"]).save_pretrained(tmp_path / "model", tokenizers=folders)
    loaded = Pipeline.from_pretrained(tmp_path / "model")
    assert {name: one.fingerprint for name, one in loaded.tokenizers.items()} == {name: one.fingerprint for name, one in tokenizers.items()}
    assert not (tmp_path / "model/tokenizers").exists()


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("config.json", '{"model_type": "bert"}', "holds a bert, wanted a tokenizer"),
        ("config.json", '{"_class_name": "AutoencoderKL"}', "holds a AutoencoderKL, wanted a tokenizer"),
        ("model_index.json", '{"_class_name": "X", "../up": ["diffusers", "VQModel"]}', "wanted a plain file name"),
        ("model_index.json", "[1", "it is no JSON"),
        ("config.json", "[]", "holds no JSON object"),
    ],
)
def test_other_folders_are_refused_by_what_they_hold(file: str, content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text(content)
    with pytest.raises(ValueError, match=said):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("adapter", ["diffusers", "contract"])
def test_images_of_any_tokenizer_are_drawn_edited_and_shown(adapter: str, folders: dict[str, Path], tiny_text: TextTokenizer) -> None:
    image, side = (load_tokenizer(folders["image"]), 2) if adapter == "diffusers" else (Blocks(), 4)
    assert pixels_per_cell(image) == side
    assert image_size(image, (6, 6)) == (6 * side, 6 * side)
    pipe: TextToImagePipeline = assembled({"text": tiny_text, "image": image}, ["image"])
    assert pipe("a red heart", width=8 * side).images[0].size == (8 * side, 6 * side)
    picture, mask = noise(6 * side, 6 * side), Image.new("L", (6 * side, 6 * side), 0)
    mask.paste(255, (0, 0, side, 6 * side))
    output = pipe("a red heart", image=picture, mask_image=mask)
    assert np.array_equal(np.asarray(output.images[0])[:, side:], np.asarray(picture)[:, side:])
    assert torch.equal(output.codes[0][:, :, 1:], image.encode([picture])[0][:, :, 1:])
    assert pipe("a", image=noise(40, 20), strength=0.5).images[0].size == (6 * side, 6 * side)
    assert pipe("a", image=picture, outpaint=[side, 0, 0, 0]).images[0].size == (7 * side, 6 * side)
    output = pipe("a")
    frames = decode_frames(image, output.codes[0], output.trajectories, output.images[0])
    assert [frame.size for frame in frames] == [(6 * side, 6 * side)] * 3
    still_unknown = output.trajectories[0].codes[0, 0][-36:].reshape(6, 6) == UNKNOWN
    grey = (np.asarray(frames[0])[::side, ::side] == 200).all(axis=-1)
    assert bool(still_unknown.any())
    assert (grey == still_unknown.numpy()).all()


def test_texts_are_filled_and_images_captioned_with_tokenizers_of_other_libraries(folders: dict[str, Path]) -> None:
    tokenizers = {name: load_tokenizer(folders[name]) for name in ("text", "image")}
    pipe: TextGenerationPipeline = assembled(tokenizers, ["text"])
    codes = with_holes("a [2] heart", tokenizers["text"])
    assert torch.equal(codes[:, -1:], tokenizers["text"].encode([" heart"])[0][:, -1:])
    assert tokenizers["text"].decode([codes[:, codes[0] != UNKNOWN]]) == ["a heart"]
    assert pipe(image=noise(31, 17)).texts == pipe(image=noise(31, 17)).texts
    assert pipe("a [2] heart", image=noise(31, 17)).texts[0].startswith("a")


def test_any_to_any_works_on_adapters(folders: dict[str, Path], tiny_text: TextTokenizer) -> None:
    tokenizers = {name: load_tokenizer(place) for name, place in folders.items()}
    tokenizers["phones"], tokenizers["speaker"] = PhonemeTokenizer.from_bundle(PHONES), AttributeTokenizer("speaker", ["heart"])
    tokenizers["transcript"] = TranscriptTokenizer(tiny_text, 2, tokenizers["audio"].frames_per_s)  # type: ignore[attr-defined]
    durations = DurationPredictor(DurationConfig(dim=16, num_layers=1)).eval()
    pipe: AnyToAnyPipeline = assembled(tokenizers, ["text", "image", "audio", "transcript"], durations)
    assert pipe("a heart", target=["image"]).images[0].size == (12, 12)
    assert pipe("a heart", target="audio").speech
    assert pipe(image=noise(31, 17), target="text").texts
    assert pipe(audio=recording(0.5), target="image", source="audio").images[0].size == (12, 12)
    assert len(pipe.align(recording(0.5), ["a red", "heart"])) == 2
