"""Bundles whose fingerprint is right and whose configuration is absurd: each is refused in one sentence, at once and in little memory."""

import json
import logging
import random
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders.any_to_any import NARROW

from maskgen.autoencoders.llamagen import LlamaGenConfig, LlamaGenVQ
from maskgen.autoencoders.perceptual import LearnedFeatures
from maskgen.decoding.parts import Parts
from maskgen.io.bundle import CONFIG_FILE, fingerprint_of
from maskgen.io.shipped import shipped
from maskgen.networks.bridges import Bridge
from maskgen.networks.critic import TokenCritic, load_critic, save_critic
from maskgen.networks.durations import DurationPredictor
from maskgen.networks.lora import ROW_VALUES, ROWS, Adapter, LoraSettings, load_adapter, save_adapter
from maskgen.networks.shortcut import ShortcutBlock
from maskgen.networks.tower_config import Tower, TowersConfig
from maskgen.networks.towers import TowerTransformer
from maskgen.pipelines.base import Pipeline
from maskgen.pipelines.loading import load_parts
from maskgen.tokenizers.attribute import AttributeTokenizer
from maskgen.tokenizers.auto import load_tokenizer
from maskgen.tokenizers.diffusers_vq import DiffusersVQTokenizer
from maskgen.tokenizers.encodec import EncodecConfig, EncodecNetwork, EncodecTokenizer
from maskgen.tokenizers.llamagen_vq import LlamaGenVQTokenizer
from maskgen.tokenizers.transformers_codec import TransformersCodecTokenizer
from maskgen.tokens.space import TokenSpace

LONGEST_S = 1.0
MOST_BYTES = 500 * 2**20
NESTED: Any = json.loads("[" * 300 + "]" * 300)
ABSURD: list[Any] = [
    *(0, -1, 1, 2, 3, 7, 10**4, 10**6, 10**12, 2**31, 2**63, 10**40, 0.5, -0.5, 1e12, 1e300, float("nan"), float("inf"), -float("inf")),
    *("", "x", "\0", "../../../etc/passwd", "é" * 5000, None, True, False, [], {}, [[]], [None], [10**12], [0] * 10_000, ["x"], NESTED),
    *({"x": 1}, {"": {}}, {"dim": 10**12}, [[1, 2], [3]], [float("nan")], {"a": {"b": {"c": [1e12]}}}),
]
SPEAKERS = AttributeTokenizer("speaker", ["heart", "michael"])
SPACE = TokenSpace([SPEAKERS.modality("speaker"), replace(SPEAKERS.modality("style"), codebook_size=8)])


def tiny_towers(folder: Path) -> None:
    towers = {name: Tower(modalities=[name], transformer=NARROW) for name in ("speaker", "style")}
    model = TowerTransformer(TowersConfig(towers=towers, bridges={"style": Bridge(modalities=["speaker"], hidden_dim=8)}), SPACE)
    tokenizers = {"speaker": SPEAKERS, "style": AttributeTokenizer("style", ["a"], 8)}
    Pipeline(model, SPACE, tokenizers, {}, {"style": (1,)}).save_pretrained(folder)


def tiny_adapted(folder: Path) -> None:
    pytest.importorskip("transformers")
    from maskgen.networks.adapted import AdaptedConfig, AdaptedTransformer

    sizes = {"model_type": "bert", "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    backbone = {**sizes, "intermediate_size": 16, "max_position_embeddings": 32}
    space = TokenSpace([SPEAKERS.modality("speaker")])
    model = AdaptedTransformer(AdaptedConfig(backbone=backbone), space.size, 1)
    Pipeline(model, space, {"speaker": SPEAKERS}, {}, {"speaker": (1,)}).save_pretrained(folder)


def tiny_critic(folder: Path) -> None:
    save_critic(TokenCritic(NARROW, SPACE, "style"), folder, "0" * 64)


def tiny_adapter(folder: Path) -> None:
    tensors = {"blocks.0.attention.qkv.lora_A.weight": torch.ones(2, 8), "blocks.0.attention.qkv.lora_B.weight": torch.ones(24, 2)}
    rows = {ROWS: torch.tensor([3]), ROW_VALUES: torch.ones(1, 8)}
    save_adapter(folder, Adapter(LoraSettings(rank=2), "emoji-64", "0" * 64, {"style": ["a"]}, {**tensors, **rows}))


def tiny_vq(folder: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    sizes = {"block_out_channels": (16, 16), "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    model = diffusers.VQModel(**sizes, latent_channels=4, num_vq_embeddings=20, norm_num_groups=8)
    DiffusersVQTokenizer(model, value_range=(0, 1)).save(folder)


def tiny_llamagen(folder: Path) -> None:
    config = LlamaGenConfig(codebook_size=20, codebook_dim=4, latent_channels=4, channels=8, multipliers=(1, 2), num_groups=4)
    LlamaGenVQTokenizer(LlamaGenVQ(config)).save(folder)


def tiny_encodec(folder: Path) -> None:
    pytest.importorskip("encodec")
    sizes = {"sample_rate_hz": 8_000, "bandwidths_kbps": (5.0, 15.0), "codebook_size": 32, "dim": 8, "num_filters": 4, "ratios": (4, 2)}
    config = EncodecConfig(**sizes)
    EncodecTokenizer(EncodecNetwork(config), config).save(folder)


def tiny_codec(kind: str, **sizes: Any) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        transformers = pytest.importorskip("transformers")
        config = transformers.AutoConfig.for_model(kind, sampling_rate=8_000, codebook_size=32, **sizes)
        TransformersCodecTokenizer(transformers.AutoModel.from_config(config)).save(folder)

    return make


def copy_of(source: Path) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        folder.mkdir()
        for file in source.iterdir():
            (folder / file.name).symlink_to(file)

    return make


def load_shortcut(folder: Path) -> ShortcutBlock:
    return ShortcutBlock.from_bundle(
        folder, json.loads((shipped("models") / "emoji-64/shortcut" / CONFIG_FILE).read_text())["config"]["generator"]
    )


def load_whole(folder: Path) -> Parts:
    """A shipped model, which takes its time where a mutation left it whole."""
    return load_parts(folder)


MODELS, TOKENIZERS = shipped("models"), shipped("tokenizers")
BUNDLES: dict[str, tuple[Callable[[Path], None], Callable[[Path], Any]]] = {
    "emoji-64": (copy_of(MODELS / "emoji-64"), load_whole),
    "heart-16k": (copy_of(MODELS / "heart-16k"), load_whole),
    "shortcut": (copy_of(MODELS / "emoji-64/shortcut"), load_shortcut),
    "durations": (copy_of(MODELS / "heart-16k/durations"), DurationPredictor.from_bundle),
    "text": (copy_of(TOKENIZERS / "text-bpe/bundle"), load_tokenizer),
    "image": (copy_of(TOKENIZERS / "image-emoji64/bundle"), load_tokenizer),
    "features": (copy_of(TOKENIZERS / "image-emoji64/features"), lambda folder: LearnedFeatures(str(folder))),
    "audio": (copy_of(TOKENIZERS / "audio-speech16k/bundle"), load_tokenizer),
    "phones": (copy_of(TOKENIZERS / "phones-en/bundle"), load_tokenizer),
    "speakers": (copy_of(TOKENIZERS / "speakers/bundle"), load_tokenizer),
    "transcript": (copy_of(TOKENIZERS / "transcript-en/bundle"), load_tokenizer),
    "towers": (tiny_towers, load_parts),
    "adapted": (tiny_adapted, load_parts),
    "critic": (tiny_critic, load_critic),
    "adapter": (tiny_adapter, load_adapter),
    "vq": (tiny_vq, load_tokenizer),
    "llamagen": (tiny_llamagen, load_tokenizer),
    "encodec": (tiny_encodec, load_tokenizer),
    "transformers encodec": (
        tiny_codec("encodec", num_filters=4, upsampling_ratios=[4, 2], hidden_size=8, target_bandwidths=[5.0, 10.0]),
        load_tokenizer,
    ),
    "dac": (
        tiny_codec("dac", encoder_hidden_size=4, decoder_hidden_size=16, downsampling_ratios=[2, 5], n_codebooks=3, codebook_dim=4),
        load_tokenizer,
    ),
    "mimi": (
        tiny_codec(
            "mimi",
            **{"num_filters": 4, "upsampling_ratios": [4, 2], "hidden_size": 16, "codebook_dim": 8, "num_quantizers": 3},
            **{"vector_quantization_hidden_dimension": 8, "upsample_groups": 16, "num_hidden_layers": 1, "intermediate_size": 16},
            **{"num_attention_heads": 2, "num_key_value_heads": 2, "sliding_window": 20},
        ),
        load_tokenizer,
    ),
}


@pytest.fixture(scope="module", params=BUNDLES)
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Callable[[Path], Any]]:
    """A whole bundle and what loads it; it was loaded once, so that imports cost none of the time that is measured."""
    make, load = BUNDLES[request.param]
    folder = tmp_path_factory.mktemp("hostile") / "bundle"
    make(folder)
    load(folder)
    return folder, load


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) of a configuration."""
    pairs = list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    for key, inner in pairs:
        yield value, key
        yield from places(inner)


def mutated(config: Any, chance: random.Random) -> Any:
    """The configuration with one to three values replaced, removed, added or repeated."""
    config = {"config": json.loads(json.dumps(config))}
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        container, key = chance.choice(list(places(config)))
        how = chance.choice(["replace", "replace", "replace", "remove", "add", "repeat", "nest"])
        if how == "remove" and container is not config:
            del container[key]
        elif how == "add" and isinstance(container, dict) and container is not config:
            container[chance.choice(["x", "", "dim", "__class__", "_target_"])] = deepcopy(chance.choice(ABSURD))
        elif how == "repeat" and isinstance(container, list):
            container.extend(container[:1] * chance.choice([1, 10, 5000]))
        elif how == "nest":
            container[key] = [container[key]]
        else:
            container[key] = deepcopy(chance.choice(ABSURD))
        if not config["config"]:
            break
    return config["config"]


def seal(folder: Path, config: Any) -> None:
    """Write a configuration into a bundle, with the fingerprint that is right for it."""
    record = json.loads((folder / CONFIG_FILE).read_text())
    record["config"] = config
    record["fingerprint"] = fingerprint_of(record["kind"], config, record["files"]) if isinstance(config, dict) else "0" * 64
    (folder / CONFIG_FILE).unlink()
    (folder / CONFIG_FILE).write_text(json.dumps(record))


@contextmanager
def little_memory() -> Iterator[None]:
    """No more than `MOST_BYTES` of further address space."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MOST_BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def refuse_all(bundle: tuple[Path, Callable[[Path], Any]], seeds: range) -> None:
    folder, load = bundle
    whole = json.loads((folder / CONFIG_FILE).read_text())["config"]
    load(folder)  # what a first load imports is not a configuration's time
    try:
        for seed in seeds:
            config = mutated(whole, random.Random(f"{folder.parent.name[:7]}{sorted(whole)}{seed}"))
            seal(folder, config)
            shown, started, refusal = json.dumps(config)[:2000], time.process_time(), "none"
            try:
                with little_memory():
                    load(folder)
            except ValueError as error:
                refusal = str(error)
            except Exception as error:
                raise AssertionError(f"seed {seed}: {type(error).__name__} {error}: {shown}") from error
            assert refusal.strip(), f"seed {seed}: {shown}"
            assert "allocate" not in refusal, f"seed {seed}: {refusal}: {shown}"
            assert time.process_time() - started < LONGEST_S, f"seed {seed}: {time.process_time() - started:.1f} s: {shown}"
    finally:
        seal(folder, whole)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def test_absurd_configurations_are_refused_with_a_value_error(bundle: tuple[Path, Callable[[Path], Any]]) -> None:
    refuse_all(bundle, range(6 if bundle[1] is load_whole else 17))


@pytest.mark.slow
def test_many_absurd_configurations_are_refused_with_a_value_error(bundle: tuple[Path, Callable[[Path], Any]]) -> None:
    refuse_all(bundle, range(17, 117))
