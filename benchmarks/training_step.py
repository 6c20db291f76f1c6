"""One training step (forward, backward, clip, optimizer) of ours, of muse-maskgit-pytorch and of transformers' ModernBERT, in turn.

A row is 32 words and 16 x 16 picture cells of 8192 codes. Ours and ModernBERT have the words in the sequence; the muse reads them by
cross-attention from planted T5 features. All draw masks by the cosine law and have as wide layers; the muse has as many blocks as bring
its parameters nearest to ours. All use fused AdamW; our own optimizer, Muon with AdamW, is a fourth side.

Run:    uv run python benchmarks/training_step.py --size emoji-64        # ModernBERT only; for the muse see benchmarks/muse.py
        uv run python benchmarks/training_step.py --size 45m --device cuda --autocast --batch 64 --rounds 30 --json out/training_step.json
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lucidrains import parameters
from muse import CODES, INSTALL, SIDE, WIDTH, WORDS, peer
from side_by_side import arguments, batches, flops_of, machine, peak_flops, seconds, written
from torch import Tensor, nn

from maskgen.data.shards.manifest import Index, write_index
from maskgen.masking.masks import draw_masks
from maskgen.masking.schedule import Cosine
from maskgen.networks.transformer import TransformerConfig
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.packing import pack
from maskgen.tokens.space import Modality, TokenSpace
from maskgen.training.modules.masked import MaskedTokenModule

SIZES = {"tiny": (64, 2), "emoji-64": (384, 6), "45m": (512, 12)}
"""Width and layers of ours; heads are 64 wide."""
SPACE = TokenSpace([Modality(name=name, kind=name, num_levels=1, codebook_size=CODES) for name in ("text", "image")])  # type: ignore[arg-type]
Loss = Callable[[TokenBatch, torch.Generator], Tensor]


@dataclass(frozen=True)
class Side:
    """One contestant.

    Args:
        name: For the table.
        net: What is trained.
        loss: Its loss on a batch.
        optimizer: Its optimizer.
    """

    name: str
    net: nn.Module
    loss: Loss
    optimizer: Any

    def step(self, batch: TokenBatch, number: int, args: argparse.Namespace) -> None:
        """One whole update."""
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(torch.device(args.device).type, torch.bfloat16, enabled=args.autocast):
            loss = self.loss(batch, torch.Generator().manual_seed(number))
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()


def rows(count: int) -> TokenBatch:
    """Planted random rows."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"text": (1, WORDS), "image": (1, SIDE, SIDE)}
    return pack([{name: torch.randint(CODES, shape, generator=generator) for name, shape in shapes.items()} for _ in range(count)], SPACE)


def adamw(net: nn.Module) -> torch.optim.Optimizer:
    """The optimizer that all share."""
    return torch.optim.AdamW(net.parameters(), lr=1e-4, fused=True)


def ours(config: TransformerConfig, device: str, compiled: bool, muon: bool) -> Side:
    """MaskedTokenModule's model, masks and losses."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        write_index(Path(folder), Index(kind="tokens", shards=(), space=SPACE.to_dict(), fingerprints={}))
        module = MaskedTokenModule(folder, config, [SIDE, SIDE], compile=compiled).to(device)

    def loss(batch: TokenBatch, generator: torch.Generator) -> Tensor:
        masked = draw_masks(batch, module.segments, module.schedule, (1.0,), module.drop_condition, generator)
        return module.reduced(masked, module.losses(masked, 0.0))

    optimizer = module.configure_optimizers()["optimizer"] if muon else adamw(module.model)
    return Side("maskgen, Muon" if muon else "maskgen", module.model, loss, optimizer)


def muse(config: TransformerConfig, wanted: int, device: str, compiled: bool) -> Side:
    """MaskGit of muse-maskgit-pytorch with planted features.

    Raises:
        ImportError: If the package is missing.
    """
    torch.manual_seed(0)
    one, two = (parameters(peer(config.dim, depth, "cpu").transformer) for depth in (1, 2))
    made = peer(config.dim, max(1, round((wanted - one) / (two - one)) + 1), device)
    net = made.transformer.train().requires_grad_(True).to(device)
    made = made.to(device)
    if compiled:
        net.compile(dynamic=False)
    features = torch.randn(1, WORDS, WIDTH, generator=torch.Generator().manual_seed(1)).to(device)

    def loss(batch: TokenBatch, generator: torch.Generator) -> Tensor:
        segment = SPACE.segment("image", 0)
        codes = batch.ids[:, WORDS:, 0] - segment.offset
        found: Tensor = made(codes, text_embeds=features.expand(len(batch), -1, -1), cond_drop_prob=0.1)
        return found

    return Side("muse-maskgit", net, loss, adamw(net))


def modern_bert(config: TransformerConfig, device: str, compiled: bool, sparse: bool) -> Side:
    """transformers' ModernBertForMaskedLM with random weights; words and picture in one sequence, our masks.

    Raises:
        ImportError: If transformers is missing.
    """
    from transformers import ModernBertConfig, ModernBertForMaskedLM

    torch.manual_seed(0)
    wanted = ModernBertConfig(
        vocab_size=SPACE.size, hidden_size=config.dim, intermediate_size=config.inner_dim, num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads, max_position_embeddings=512, pad_token_id=0, bos_token_id=None, eos_token_id=None,
        cls_token_id=None, sep_token_id=None, sparse_prediction=sparse,
    )  # fmt: skip
    net = ModernBertForMaskedLM(wanted).to(device).train()
    if compiled:
        net.compile(dynamic=False)
    segments = SPACE.of("image")

    def loss(batch: TokenBatch, generator: torch.Generator) -> Tensor:
        masked = draw_masks(batch, segments, Cosine(), (1.0,), 0.1, generator)
        labels = torch.where(masked.cells[..., 0], batch.ids[..., 0], -100)
        found: Tensor = net(input_ids=masked.batch.ids[..., 0], attention_mask=masked.batch.valid.long(), labels=labels).loss
        return found

    return Side("ModernBERT", net, loss, adamw(net))


def all_sides(args: argparse.Namespace) -> list[Side]:
    """Whoever can be imported; who cannot is named with its installation."""
    dim, layers = SIZES[args.size]
    config = TransformerConfig(dim=dim, num_layers=layers, num_heads=dim // 64, tie_head=True)
    found = [ours(config, args.device, args.compile, muon) for muon in (False, True)]
    makers: dict[str, Callable[[], Side]] = {
        "muse-maskgit-pytorch": lambda: muse(config, parameters(found[0].net), args.device, args.compile),
        "transformers": lambda: modern_bert(config, args.device, args.compile, args.sparse),
    }
    for package, make in makers.items():
        try:
            found.append(make())
        except ImportError as error:
            hint = INSTALL if package.startswith("muse") else "    pip install maskgen[diffusers]"
            print(f"left out: {package} cannot be imported ({error}). Install it beside maskgen:\n{hint}", file=sys.stderr)
    return found


def measured(sides: list[Side], count: int, args: argparse.Namespace) -> dict[str, Any]:
    """All sides in turn at one batch size, the one that begins changing from round to round."""
    batch = rows(count).to(args.device)
    dtype = torch.bfloat16 if args.autocast else torch.float32
    peak = peak_flops(args.device, dtype)
    with torch.compiler.set_stance("force_eager"):  # what a compiled graph multiplies is not counted
        flops = {side.name: flops_of(lambda side=side: side.step(batch, 0, args)) for side in sides}  # type: ignore[misc]
    taken: dict[str, list[float]] = {side.name: [] for side in sides}
    for number in range(args.warmup + args.rounds):
        for place in range(len(sides)):
            side = sides[(number + place) % len(sides)]
            took_s = seconds(lambda side=side, number=number: side.step(batch, number, args), args.device)  # type: ignore[misc]
            if number >= args.warmup:
                taken[side.name].append(took_s)
    best = max(peak, peak_flops(args.device, dtype))
    cells = WORDS + SIDE**2
    found = [summary(side, taken[side.name], flops[side.name], taken["maskgen"], count * cells, best) for side in sides]
    settings = {"size": args.size, "batch": count, "cells a row": cells, "autocast": args.autocast, "compile": args.compile}
    return {"title": "Training step", "settings": settings, "machine": machine(args.device), "peak_flops": best, "rows": found}


def summary(side: Side, taken_s: list[float], flops: int, ours_s: list[float], tokens: int, peak: float) -> dict[str, Any]:
    """Medians, ranges and ratios of one side."""
    median, ratios = statistics.median(taken_s), [their_s / our_s for their_s, our_s in zip(taken_s, ours_s, strict=True)]
    return {
        "side": side.name,
        "parameters": parameters(side.net),
        "median_s": median,
        "range_s": [min(taken_s), max(taken_s)],
        "tokens_per_s": tokens / median,
        "flops": flops,
        "share_of_peak": flops / median / peak,
        "times_ours": median / statistics.median(ours_s),
        "times_ours_range": [min(ratios), max(ratios)],
    }


def table(found: dict[str, Any]) -> None:
    """Print the results."""
    facts = {**found["settings"], **found["machine"]}
    print(f"{found['title']}: " + ", ".join(f"{name} {value}" for name, value in facts.items()))
    print(f"  peak of a matrix product {found['peak_flops'] / 1e9:,.0f} GFLOP/s")
    print(f"  {'':14} {'parameters':>11} {'median, s [range]':>26} {'tokens/s':>10} {'GFLOP':>8} {'of peak':>8} {'times ours [range]':>20}")
    for row in found["rows"]:
        taken = f"{row['median_s']:.4g} [{row['range_s'][0]:.4g} {row['range_s'][1]:.4g}]"
        ratio = f"{row['times_ours']:.2f} [{row['times_ours_range'][0]:.2f} {row['times_ours_range'][1]:.2f}]"
        speed = f"{row['tokens_per_s']:>10,.0f} {row['flops'] / 1e9:>8.1f} {row['share_of_peak']:>8.0%}"
        print(f"  {row['side']:14} {row['parameters']:>11,} {taken:>26} {speed} {ratio:>20}")


def main() -> None:
    """Measure each batch size."""
    parser = arguments(__doc__, rounds=10)
    parser.add_argument("--size", choices=SIZES, default="emoji-64")
    parser.add_argument("--warmup", type=int, default=2, help="rounds that are not measured")
    parser.add_argument("--autocast", action="store_true", help="bfloat16 autocast; weights stay float32")
    parser.add_argument("--compile", action="store_true", help="torch.compile on all sides")
    parser.add_argument("--sparse", action="store_true", help="ModernBERT's head at masked cells alone")
    args = parser.parse_args()
    if args.dtype != "float32":
        parser.error("weights are float32 here; use --autocast for bfloat16")
    found = []
    sides = all_sides(args)
    for count in batches(args):
        found.append(measured(sides, count, args))
        table(found[-1])
        if args.json is not None:
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.write_text(json.dumps(found) + "\n", encoding="utf-8")
    written(found, None)


if __name__ == "__main__":
    main()
