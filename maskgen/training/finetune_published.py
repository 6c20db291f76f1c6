"""Fine-tune a published network on token shards that were made with its own tokenizers."""

from pathlib import Path

import torch

from maskgen.data.shards.manifest import read_index
from maskgen.networks.lora import merge_published
from maskgen.training.finetune import LARGEST_WARMUP, Finetuned, FinetuneSettings, run_training
from maskgen.training.modules.published import PublishedTokenModule

FULL_LR, LORA_LR = 1e-5, 1e-4


def finetune_published(shards: Path, work: Path, model: str, target: str, settings: FinetuneSettings) -> Finetuned:
    """Train an adapter, or all weights, of a published network; called again with the same arguments, resume from the last checkpoint.

    Args:
        shards: Folder of token shards; the split "validation" is held out.
        work: Folder for checkpoints and the facts of the run.
        model: Folder or hub id of the published model.
        target: Modality that is learned.
        settings: How to train.

    Raises:
        ValueError: If the shards were made with other tokenizers, or `work` holds another run.
    """
    module = PublishedTokenModule(
        str(shards),
        model,
        target,
        rank=0 if settings.lora is None else settings.lora.rank,
        alpha=0.0 if settings.lora is None else settings.lora.alpha,
        drop_condition=settings.drop_condition,
        max_steps=settings.steps,
        lr=settings.lr or (FULL_LR if settings.lora is None else LORA_LR),
        warmup_steps=min(LARGEST_WARMUP, settings.steps // 10),
        seed=settings.seed,
    )
    done = run_training(module, shards, work, settings, {"base": model, "target": target, "tokenizers": read_index(shards).fingerprints})
    trained = sum(map(torch.numel, module.trained().values()))
    network = module.model.to("cpu")
    merge_published(network)
    return Finetuned(network, None, trained, done)
