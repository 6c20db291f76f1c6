"""Fine-tune a published network on token shards that were made with its own tokenizers."""

from pathlib import Path

import torch

from maskgen.data.shards.manifest import read_index
from maskgen.io.checkpoint import read_checkpoint, weights
from maskgen.io.schema import Real, Record, Text, Whole
from maskgen.networks.lora import LARGEST_RANK, LoraSettings, adapt_published, merge_published
from maskgen.networks.published import PublishedNetwork
from maskgen.pipelines.base import Pipeline
from maskgen.training.finetune import Finetuned
from maskgen.training.finetune_run import LARGEST_WARMUP, FinetuneSettings, run_training
from maskgen.training.modules.published import PUBLISHED_KIND, PublishedTokenModule

FULL_LR, LORA_LR = 1e-5, 1e-4
CHECKPOINT_SCHEMA = Record({"kind": Text(), "start": Text(), "target": Text(), "rank": Whole(0, LARGEST_RANK), "alpha": Real(0.0)})


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


def published_from_checkpoint(path: Path | str, model: str | None = None) -> Pipeline:
    """The pipeline of a published model with the weights of a training.

    Args:
        path: Checkpoint of a PublishedTokenModule.
        model: Folder or hub id of the model that it started from; None takes the name in the checkpoint.

    Raises:
        ValueError: If the checkpoint is damaged or of another training, or its weights do not fit the model.
    """
    checkpoint = read_checkpoint(path, PUBLISHED_KIND)
    made, tensors = checkpoint["maskgen"], weights(checkpoint, "model.")
    CHECKPOINT_SCHEMA.check(made, f"checkpoint {path}")
    name = model or made["start"]
    pipeline = Pipeline.from_pretrained(name)
    if not isinstance(pipeline.model, PublishedNetwork):
        raise ValueError(f"{name} is no published model; give --model, the one that the training started from")
    adapt_published(pipeline.model, LoraSettings(rank=made["rank"], alpha=made["alpha"]) if made["rank"] else None)
    wanted = {key: weight for key, weight in pipeline.model.named_parameters() if weight.requires_grad}
    shapes = [{key: tuple(tensor.shape) for key, tensor in some.items()} for some in (wanted, tensors)]
    if other := sorted({*shapes[0].items()} ^ {*shapes[1].items()}):
        raise ValueError(f"checkpoint {path} does not fit {name}: {other[0][0]} is missing or misshapen; give its own --model")
    with torch.no_grad():
        for key, tensor in tensors.items():
            wanted[key].copy_(tensor)
    merge_published(pipeline.model)
    return pipeline
