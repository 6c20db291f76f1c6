"""Fine-tune a model bundle on token shards: all weights or a low-rank adapter, resumable, with held-out losses before and after."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from maskgen.data.shards.manifest import read_index
from maskgen.networks.auto import Network
from maskgen.networks.lora import Adapter, adapter_tensors, add_lora, merge_lora
from maskgen.networks.pretrained import Pretrained, load_pretrained, start_from
from maskgen.tokens.space import Segment, TokenSpace
from maskgen.training.finetune_run import LARGEST_WARMUP, FinetuneSettings, TrainingRun, run_training
from maskgen.training.modules.masked import MaskedTokenModule


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a fine-tuning takes from its base besides the weights.

    Args:
        model: Folder or shipped name of the base.
        target: Modality that is learned.
        groups: Levels that are learned together, as in the base's training.
        windows: Steps of time that a cell sees of its modality, one per group, as in the base's training; None is no limit.
        copied: Modality to (new code, old code): the embedding of the new one starts as that of the old one.
        values: Attribute modality to all of its values, where the base has fewer.
    """

    model: str
    target: str
    groups: Sequence[Sequence[int]] | None = None
    windows: Sequence[int] | None = None
    copied: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    values: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Finetuned:
    """Result of a fine-tuning.

    Args:
        model: Plain network in float32, an adapter merged.
        adapter: The adapter alone; None where all weights were trained, and for a published network.
        trained: Number of trained parameters; for an adapter, those that it holds.
        run: What was measured.
    """

    model: Network
    adapter: Adapter | None
    trained: int
    run: TrainingRun


def finetune_tokens(shards: Path, work: Path, start: Start, settings: FinetuneSettings) -> Finetuned:
    """Fine-tune a model on token shards; called again with the same arguments, resume from the last checkpoint.

    Args:
        shards: Folder of token shards in the token space of the base; the split "validation" is held out.
        work: Folder for checkpoints and the facts of the run.
        start: The base, and how it was trained.
        settings: How to train.

    Raises:
        ValueError: If the base is not a model, the shards have another token space or no training rows, or `work` holds another run.
    """
    base = load_pretrained(start.model)
    module = finetune_module(shards, base, start, settings)
    done = run_training(module, shards, work, settings, {"base": base.weights, "target": start.target})
    network = module.model.to("cpu")
    if settings.lora is None:
        count = sum(parameter.numel() for parameter in network.parameters())
        return Finetuned(network.eval().requires_grad_(False), None, count, done)
    values, tensors = {name: list(known) for name, known in start.values.items()}, adapter_tensors(network, base.model)
    adapter = Adapter(settings.lora, start.model, base.weights, values, tensors)
    return Finetuned(merge_lora(network), adapter, sum(map(torch.numel, tensors.values())), done)


def finetune_module(shards: Path, base: Pretrained, start: Start, settings: FinetuneSettings) -> MaskedTokenModule:
    """The training module with the weights of the base, and an adapter where one is wanted.

    An adapter also trains the embeddings of the condition, because words that the base never saw have untrained ones.
    """
    index = read_index(shards)
    space = TokenSpace.from_dict(dict(index.space or {}))
    segments = space.of(start.target)
    kinds = {one.name: one.kind for one in space.modalities}
    is_audio = kinds[start.target] == "audio"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        module = MaskedTokenModule(
            str(shards),
            base.model.config,
            base.grids.get(start.target),
            start.target,
            level_weights=[2.0**-number for number in range(len(start.groups or segments))],
            groups=start.groups,
            windows=start.windows,
            drop_condition=settings.drop_condition,
            prompt_share=0.2 if is_audio else 0.0,
            infill_share=0.2 if is_audio else 0.0,
            drop_parts={name: 0.3 for name, kind in kinds.items() if kind == "attribute" and is_audio},
            max_steps=settings.steps,
            lr=settings.highest_lr,
            warmup_steps=min(LARGEST_WARMUP, settings.steps // 10),
            weight_decay=0.01,
            seed=settings.seed,
        )
    # An attribute with more values than before has another fingerprint, but its old codes mean what they meant.
    prints = {**index.fingerprints, **{name: base.fingerprints[name] for name in start.values if name in base.fingerprints}}
    start_from(module.model, space, prints, start.model, str(shards))
    with torch.no_grad():
        for name, (new, old) in start.copied.items():
            offset = space.segment(name, 0).offset
            module.model.embed.weight[offset + new] = module.model.embed.weight[offset + old]
    if settings.lora is not None:
        condition = [_ids(segment) for name in kinds if name != start.target for segment in space.of(name)]
        add_lora(module.model, settings.lora, condition, settings.seed)
    return module


def _ids(segment: Segment) -> range:
    return range(segment.offset, segment.offset + segment.size)
