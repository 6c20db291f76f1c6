"""The parameters that every family states for its published models, computed from the published configurations on the meta device."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import nn

from maskgen.autoencoders.llamagen import LlamaGenConfig, LlamaGenVQ
from maskgen.autoencoders.magvit2 import Magvit2, Magvit2Config
from maskgen.autoencoders.titok import TiTok, TiTokConfig, TowerSize
from maskgen.interop.families import families
from maskgen.interop.fourm_blocks import FourMBlockConfig
from maskgen.interop.fourm_model import FourM, FourMConfig, FourMDomain
from maskgen.interop.halton_config import HaltonConfig
from maskgen.interop.halton_network import HaltonTransformer
from maskgen.interop.llada_network import LLaDAConfig, LLaDANetwork
from maskgen.interop.maskgen_network import MaskGenConfig, MaskGenTransformer
from maskgen.interop.meissonic_network import MeissonicConfig, MeissonicTransformer
from maskgen.interop.omnivoice_network import OmniVoiceNetwork
from maskgen.interop.sequences import ModelVocabulary, cell_after_cell
from maskgen.interop.titok_network import TiTokNetwork
from maskgen.interop.titok_networks import TiTokGeneratorConfig
from maskgen.tokens.space import Modality, TokenSpace

Networks = Mapping[str, Callable[[], Sequence[nn.Module]]]
"""Hub id to what makes its networks."""


def clip_text(dim: int, layers: int, heads: int) -> nn.Module:
    """A CLIP text encoder with its projection, of transformers."""
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install maskgen[transformers]")
    sizes = {"hidden_size": dim, "num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": 4 * dim}
    found: nn.Module = transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**sizes, projection_dim=dim))
    return found


def vq_model() -> nn.Module:
    """The image tokenizer that aMUSEd, Meissonic and Lumina-DiMOO share, of diffusers."""
    diffusers = pytest.importorskip("diffusers", reason="needs diffusers: pip install maskgen[diffusers]")
    channels = (128, 256, 256, 512, 768)
    found: nn.Module = diffusers.VQModel(
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * 5,
        up_block_types=("UpDecoderBlock2D",) * 5,
        layers_per_block=2,
        latent_channels=64,
        num_vq_embeddings=8192,
        vq_embed_dim=64,
        norm_num_groups=32,
        mid_block_add_attention=False,
    )
    return found


def amused(sampled: bool) -> list[nn.Module]:
    diffusers = pytest.importorskip("diffusers", reason="needs diffusers: pip install maskgen[diffusers]")
    return [diffusers.UVit2DModel(downsample=sampled, upsample=sampled), clip_text(768, 12, 12), vq_model()]


def meissonic(sampled: bool) -> list[nn.Module]:
    return [MeissonicTransformer(MeissonicConfig(downsample=sampled, upsample=sampled)), clip_text(1024, 24, 16), vq_model()]


def halton() -> list[nn.Module]:
    model = HaltonTransformer(HaltonConfig(side=24, dim=1024, num_layers=24, num_heads=16, feed_dim=2816))
    return [model, LlamaGenVQ(LlamaGenConfig())]


def omnivoice() -> list[nn.Module]:
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install maskgen[codecs]")
    trunk = {"model_type": "qwen3", "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16}
    trunk |= {"num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151_676}
    config = {"audio_vocab_size": 1025, "audio_mask_id": 1024, "num_audio_codebook": 8, "llm_config": trunk}
    prompt = Modality(name="prompt", kind="text", num_levels=1, codebook_size=151_676)
    higgs = transformers.HiggsAudioV2TokenizerModel(transformers.HiggsAudioV2TokenizerConfig())
    return [OmniVoiceNetwork(config, TokenSpace([prompt, Modality(name="audio", kind="audio", num_levels=8, codebook_size=1024)])), higgs]


TOWERS = {
    "small": TowerSize(dim=512, num_layers=8, num_heads=8),
    "base": TowerSize(dim=768, num_layers=12, num_heads=12),
    "large": TowerSize(dim=1024, num_layers=24, num_heads=16),
}


def titok(kind: str, tokens: int, size: str, **sizes: int) -> list[nn.Module]:
    generator = TiTokNetwork(TiTokGeneratorConfig(kind=kind, num_tokens=tokens, **sizes))  # type: ignore[arg-type]
    return [generator.generator, TiTok(TiTokConfig(num_tokens=tokens, encoder=TOWERS[size], decoder=TOWERS[size]))]


def maskgen_vq(**sizes: int) -> list[nn.Module]:
    codec = TiTokConfig(
        num_tokens=128,
        codebook_size=8192,
        token_size=64,
        normalized=False,
        encoder=TOWERS["base"],
        decoder=TOWERS["large"],
        pixels=None,
        text_length=77,
        text_dim=768,
    )
    return [MaskGenTransformer(MaskGenConfig(**sizes)), TiTok(codec), clip_text(768, 12, 12)]


def llada(vocabulary: int, *others: Callable[[], nn.Module]) -> list[nn.Module]:
    config = LLaDAConfig(dim=4096, num_layers=32, num_heads=32, num_kv_heads=32, hidden_dim=12288, vocab_size=vocabulary)
    space = TokenSpace([Modality(name="text", kind="text", num_levels=1, codebook_size=vocabulary)])
    words = ModelVocabulary(space, {"text": 0}, config.mask_id, vocabulary)
    return [LLaDANetwork(config, words, cell_after_cell(words)), *(other() for other in others)]


SEQUENCES = ("caption", "det", "metadata", "human_poses", "color_palette", "sam_instance")
MAPS = ("tok_rgb", "tok_depth", "tok_semseg", "tok_normal", "tok_clip")
SEVEN = ("caption", "det", "rgb@224", *(f"{one}@224" for one in MAPS))
FEATURES = ("tok_dinov2@224", "tok_dinov2_global", "tok_imagebind@224", "tok_imagebind_global")
EDGES = ("tok_sam_edge@224", "tok_canny_edge@224")
ALL = (*SEVEN, "t5_caption", "metadata", "human_poses", *FEATURES, *EDGES, "color_palette", "sam_instance")
LARGER = tuple(f"{one}@448" for one in MAPS)
FOURM = {"B": (768, 12), "L": (1024, 24), "XL": (2048, 24)}


def fourm(size: str, inside: Sequence[str], out: Sequence[str]) -> list[nn.Module]:
    """A 4M by the table of its authors' repository; a text has 512 places, whatever its length."""

    def domain(name: str) -> FourMDomain:
        kind, _, pixels = name.partition("@")
        patch = 14 if kind in ("tok_dinov2", "tok_imagebind") else 16
        places = 16 if kind.endswith("_global") else (int(pixels or 0) // patch) ** 2
        codes = {"tok_rgb": 16384, "tok_semseg": 4096}.get(kind, 8192)
        shape, numbers, places = {"t5_caption": ("features", 4096, 512), "rgb": ("pixels", 3 * 16 * 16, places)}.get(
            kind, ("sequence", 30_000, 512) if kind in SEQUENCES else ("grid", codes, places)
        )
        found: Any = {"name": name, "shape": shape, "size": numbers, "places": places, "reads": name in inside, "writes": name in out}
        return FourMDomain(**found, learned=kind.endswith("_global"))

    dim, depth = FOURM[size]
    block = FourMBlockConfig(dim=dim, num_heads=dim // 64, feed_dim=4 * dim)
    return [FourM(FourMConfig(block=block, encoder_depth=depth, decoder_depth=depth, domains=tuple(map(domain, inside))))]


def made(names: Sequence[str]) -> list[str]:
    """The modalities that a 4M of these inputs makes."""
    return [name for name in names if not name.startswith("rgb") and name != "t5_caption"]


def fourm_networks() -> Networks:
    seven = {
        f"EPFL-VILAB/4M-7{kind}_{size}_{data}": lambda size=size: fourm(size, SEVEN, made(SEVEN))  # type: ignore[misc]
        for size in FOURM
        for kind, data in (("", "CC12M"), ("", "COYO700M"), ("-T2I", "CC12M"))
    }
    every = {f"EPFL-VILAB/4M-21_{size}": lambda size=size: fourm(size, ALL, made(ALL)) for size in FOURM}  # type: ignore[misc]
    return {**seven, **every, "EPFL-VILAB/4M-7-SR_L_CC12M": lambda: fourm("L", (*SEVEN, "rgb@448", *LARGER), LARGER)}


def magvit2() -> nn.Module:
    return Magvit2(Magvit2Config())


NETWORKS: Mapping[str, Networks] = {
    "aMUSEd": {"amused/amused-256": lambda: amused(False), "amused/amused-512": lambda: amused(True)},
    "Halton-MaskGIT": {"llvictorll/Halton-MaskGIT": halton},
    "Meissonic": {"MeissonFlow/Meissonic": lambda: meissonic(True), "Collov-Labs/Monetico": lambda: meissonic(False)},
    "OmniVoice": {"k2-fsa/OmniVoice": omnivoice},
    "TiTok": {
        "yucornetto/generator_titok_l32_imagenet": lambda: titok("ViT", 32, "large"),
        "yucornetto/generator_titok_b64_imagenet": lambda: titok("ViT", 64, "base"),
        "yucornetto/generator_titok_s128_imagenet": lambda: titok("UViT", 128, "small", dim=1024, num_layers=20, feed_dim=4096),
    },
    "MMaDA": {f"Gen-Verse/MMaDA-8B-{kind}": lambda: llada(134_656, magvit2) for kind in ("Base", "MixCoT")},
    "Lumina-DiMOO": {"Alpha-VLLM/Lumina-DiMOO": lambda: llada(134_548, vq_model)},
    "LLaDA": {f"GSAI-ML/{name}": lambda: llada(126_464) for name in ("LLaDA-8B-Instruct", "LLaDA-8B-Base", "LLaDA-1.5")},
    "MaskGen": {
        "turkeyju/generator_maskgen_vq_l": maskgen_vq,
        "turkeyju/generator_maskgen_vq_xl": lambda: maskgen_vq(dim=1280, num_layers=20, num_heads=20),
    },
    "4M": fourm_networks(),
}
ELSEWHERE = ("MDLM", "Dream", "Omni-Diffusion", "MAGNeT", "Show-o", "MaskGCT")
"""Families whose own tests count the parameters."""
MODELS = [(family.name, hub_id) for family in families() for hub_id in family.hub_ids if family.name not in ELSEWHERE]


def parameters(networks: Sequence[nn.Module]) -> float:
    """Millions of parameters, shared ones once."""
    return sum(weight.numel() for network in networks for weight in network.parameters()) / 1e6


@pytest.fixture(autouse=True)
def without_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Initial values are never drawn: on the meta device that is slow, and nobody reads them."""
    for name in ("kaiming_uniform_", "uniform_", "normal_", "trunc_normal_", "xavier_uniform_", "xavier_normal_"):
        monkeypatch.setattr(torch.nn.init, name, lambda tensor, *_, **__: tensor)
    for name in ("uniform_", "normal_"):
        monkeypatch.setattr(torch.Tensor, name, lambda tensor, *_, **__: tensor)


def test_every_published_model_is_here() -> None:
    assert [(name, hub_id) for name in sorted(NETWORKS) for hub_id in sorted(NETWORKS[name])] == sorted(MODELS)


@pytest.mark.parametrize(("family", "hub_id"), MODELS)
def test_a_family_states_the_parameters_of_its_published_configuration(family: str, hub_id: str) -> None:
    with torch.device("meta"):
        count = parameters(NETWORKS[family][hub_id]())
    stated = next(one for one in families() if one.name == family).hub_ids[hub_id]
    assert count == pytest.approx(stated, abs=0.15)


@pytest.mark.parametrize(("size", "millions"), [("B", 198), ("L", 705), ("XL", 2800)])
def test_a_4m_without_its_tables_has_the_size_that_its_authors_state(size: str, millions: int) -> None:
    with torch.device("meta"):
        model = fourm(size, SEVEN, made(SEVEN))[0]
    trunk = sum(weight.numel() for name, weight in model.named_parameters() if "_embeddings." not in name) / 1e6
    assert trunk == pytest.approx(millions, rel=0.01)
