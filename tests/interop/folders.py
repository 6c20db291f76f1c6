"""A tiny model of every published family with random weights, in a folder laid out as its authors'. `FOLDERS` is the contract's list."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from builders.hub_folders import CLIP_LENGTH, amused, clip_encoder, clip_tokenizer, omnivoice, scrambled, vq_model
from builders.magnet import magnet
from builders.meissonic import golden as meissonic_golden
from safetensors.torch import save_file

from maskgen.autoencoders.llamagen import LlamaGenConfig, LlamaGenVQ
from maskgen.autoencoders.titok import TiTok, TiTokConfig, TowerSize
from maskgen.autoencoders.titok_sizes import published_config
from maskgen.interop.halton import UNUSED_BUFFER
from maskgen.interop.halton_config import HaltonConfig
from maskgen.interop.halton_network import HaltonTransformer
from maskgen.interop.maskgen_network import MaskGenConfig, MaskGenTransformer
from maskgen.interop.titok_network import TiTokNetwork
from maskgen.interop.titok_networks import TiTokGeneratorConfig
from tests.interop.dream_cases import write_dream
from tests.interop.llada_cases import write_llada, write_lumina, write_mmada
from tests.interop.test_mdlm import write_mdlm
from tests.interop.test_omni_diffusion import write_omni
from tests.interop.test_showo import write_showo

MEISSONIC_CODES = 20
HALTON = HaltonConfig(side=2, dim=384, num_layers=1, num_heads=6, feed_dim=256, codebook_size=30, num_classes=5)
LLAMAGEN = LlamaGenConfig(codebook_size=30, codebook_dim=8, latent_channels=6, channels=32, multipliers=(1, 1, 1, 1, 1))
TITOK_TOKENS, TITOK_CODES, TITOK_CLASSES = 8, 30, 6
TOWER = TowerSize(dim=64, num_layers=1, num_heads=1, patch=16, grid=2)


def write_meissonic(place: Path) -> None:
    """Meissonic with the golden weights; its classes have the authors' own names."""
    config, weights, _ = meissonic_golden()
    words = clip_tokenizer(place / "tokenizer")
    clip_encoder(place / "text_encoder", config["joint_attention_dim"], config["pooled_projection_dim"], words)
    vq_model(place / "vqvae", MEISSONIC_CODES)
    (place / "transformer").mkdir()
    (place / "transformer" / "config.json").write_text(json.dumps(config))
    save_file(weights, place / "transformer" / "diffusion_pytorch_model.safetensors")
    (place / "transformer" / "transformer.py").write_text("raise RuntimeError('code of a model folder is never run')")
    (place / "scheduler").mkdir()
    scheduler = {"_class_name": "Scheduler", "mask_token_id": 23, "masking_schedule": "cosine"}
    (place / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    (place / "model_index.json").write_text(json.dumps({"_class_name": "Pipeline", "transformer": ["transformer", "Transformer2DModel"]}))


def halton_model() -> HaltonTransformer:
    """The transformer of `write_halton`."""
    return scrambled(HaltonTransformer(HALTON))  # type: ignore[no-any-return]


def halton_checkpoint(model: HaltonTransformer, before: str = "") -> dict[str, Any]:
    """What the authors' training writes, with moments of the optimizer beside the weights."""
    state = {f"{before}{name}": tensor for name, tensor in model.state_dict().items()}
    moments = {number: {"exp_avg": torch.zeros_like(tensor)} for number, tensor in enumerate(state.values())}
    return {"iter": 7, "global_epoch": 1, "model_state_dict": state, "optimizer_state_dict": {"state": moments, "param_groups": []}}


def write_halton(place: Path) -> None:
    """Halton-MaskGIT: two pickles."""
    place.mkdir(parents=True, exist_ok=True)
    torch.save(halton_checkpoint(halton_model(), "module._orig_mod."), place / "ImageNet_32_tiny.pth")
    codec = scrambled(LlamaGenVQ(LLAMAGEN)).state_dict()
    torch.save({"model": {**codec, UNUSED_BUFFER: torch.zeros(9)}, "steps": 3}, place / "vq_ds16_c2i.pt")


def write_titok(folder: Path, kind: str = "ViT", tokenizer: bool = True) -> None:
    """A generator of TiTok, with its tokenizer inside."""
    sizes = {"num_tokens": TITOK_TOKENS, "codebook_size": TITOK_CODES}
    network = {"num_classes": TITOK_CLASSES, "dim": 32, "num_layers": 2, "num_heads": 16, "feed_dim": 24}
    made = scrambled(TiTokNetwork(TiTokGeneratorConfig(kind=kind, **sizes, **network)))  # type: ignore[arg-type]
    folder.mkdir(parents=True, exist_ok=True)
    save_file(made.generator.state_dict(), folder / "model.safetensors")
    told = {"model_type": kind, "num_steps": 3, "randomize_temperature": 2.8, "guidance_scale": 6.9, "guidance_decay": "power-cosine"}
    told |= {"image_seq_len": "${model.vq_model.num_latent_tokens}"}
    codec = scrambled(TiTok(TiTokConfig(token_size=6, normalized=False, encoder=TOWER, decoder=TOWER, pixels=None, **sizes)))
    config = published_config(codec.config)
    (folder / "config.json").write_text(json.dumps({**config, "model": {**config["model"], "generator": told}}))
    if tokenizer:
        _write_titok_codec(folder / "tokenizer", codec)


def write_maskgen(place: Path) -> None:
    """A generator of MaskGen-VQ, with TA-TiTok and CLIP inside."""
    text = {"text_length": CLIP_LENGTH, "text_dim": 12}
    sizes = {"num_tokens": TITOK_TOKENS, "codebook_size": TITOK_CODES}
    codec = scrambled(TiTok(TiTokConfig(token_size=6, normalized=False, encoder=TOWER, decoder=TOWER, pixels=None, **sizes, **text)))
    network = MaskGenConfig(num_ids=TITOK_CODES + 7, dim=32, num_layers=2, num_heads=4, text_dim=12, score_dim=8, **sizes)
    _write_titok_codec(place / "tokenizer", codec)
    save_file({name: one.clone() for name, one in scrambled(MaskGenTransformer(network)).state_dict().items()}, place / "model.safetensors")
    config = published_config(codec.config)
    told = {"decoder_num_heads": 4, "micro_condition": True, "cfg": 3.0, "num_iter": 4, "temperature": 2.0, "sample_aesthetic_score": 6.5}
    (place / "config.json").write_text(json.dumps({**config, "model": {**config["model"], "maskgen": told}}))
    clip_encoder(place / "text_encoder", 12, 12, clip_tokenizer(place / "text_encoder"))


def _write_titok_codec(folder: Path, codec: TiTok) -> None:
    folder.mkdir(parents=True)
    save_file(codec.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(published_config(codec.config)))


def inside(write: Callable[[Path], object]) -> Callable[[Path], None]:
    """What writes a model with the companions that `write` puts beside it in folders inside."""

    def written(folder: Path) -> None:
        write(folder / "model")
        for path in (folder / "model").iterdir():
            path.rename(folder / path.name)
        (folder / "model").rmdir()

    return written


FOLDERS: Mapping[str, Callable[[Path], object]] = {
    "aMUSEd": amused,
    "Halton-MaskGIT": write_halton,
    "Meissonic": write_meissonic,
    "OmniVoice": omnivoice,
    "TiTok": write_titok,
    "MMaDA": write_mmada,
    "Lumina-DiMOO": write_lumina,
    "LLaDA": write_llada,
    "MDLM": inside(write_mdlm),
    "Dream": write_dream,
    "Omni-Diffusion": inside(write_omni),
    "Show-o": inside(write_showo),
    "MAGNeT": magnet,
    "MaskGen": write_maskgen,
}
"""Name of a family to what writes a tiny model of it into a folder. A new family needs an entry here, and none elsewhere."""
ROWS: Mapping[str, Callable[[Any, str], Mapping[str, torch.Tensor]]] = {}
"""Families whose rows need other conditions than a text or a label: from a pipeline and a target to the known cells of a row."""
CALLS: Mapping[str, Callable[[Any, int], Any]] = {"MDLM": lambda pipe, seed: pipe("a dog [3]", seed=seed, num_inference_steps=2)}
"""Families whose pipelines are called otherwise than by their class: from a pipeline and a seed to the output."""
