"""Text models of equal size side by side: masked diffusion, masks and wrong codes, a causal Llama, a BERT with 15 % masks.

All take a step in turn on the same texts until each has had its minutes or its tokens; then held-out texts are scored: the causal model
exactly, the others by the bound of `maskgen.evaluation.text.perplexity`. A causal model pays for the end of a text, the others are told its
length; "with length" adds to theirs what the lengths cost under the law of the training lengths, so that column compares.

Run:    uv run python benchmarks/text_models.py --minutes 10 --json out/text_models.json      (needs maskgen[diffusers] for transformers)
"""

import argparse
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lucidrains import parameters
from side_by_side import machine, seconds, written
from torch import Tensor, nn
from torch.nn import functional

from maskgen.data.loading.samples import TokenRows, open_rows
from maskgen.data.shards.store import ShardStore
from maskgen.decoding.logits import model_logits
from maskgen.evaluation.text.held_out import LengthLaw, by_length, held_out_texts
from maskgen.evaluation.text.perplexity import row_bounds, summed_losses, text_bound
from maskgen.evaluation.text.quality import NGramModel, Score, text_of, text_quality
from maskgen.masking.masks import draw_masks
from maskgen.masking.noise import draw_noise
from maskgen.masking.schedule import Linear
from maskgen.networks.transformer import TransformerConfig
from maskgen.sampling.ancestral import AncestralSampler
from maskgen.tokens.batch import Codes, TokenBatch
from maskgen.tokens.functions import LogitsFn
from maskgen.tokens.packing import pack
from maskgen.tokens.space import MASK, TokenSpace
from maskgen.training.modules.hybrid_noise import HybridNoiseModule
from maskgen.training.modules.masked import MaskedTokenModule
from maskgen.training.modules.optim import MuonAdamW

Texts = Sequence[dict[str, Codes]]
WARMUP, FLOOR = 0.05, 0.02
"""Share of the budget in which the learning rate rises, and its last factor."""


class Contestant(ABC):
    """One model with its optimizer and what it has used.

    Args:
        net: What is trained.
        args: The options.
    """

    name: str

    def __init__(self, net: nn.Module, args: argparse.Namespace) -> None:
        self.net, self.args = net.to(args.device), args
        tables = {id(module.weight) for module in net.modules() if isinstance(module, nn.Embedding)}
        linear = {id(module.weight) for module in net.modules() if isinstance(module, nn.Linear)} - tables
        trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
        matrices, others = ([one for one in trained if (id(one) in linear) == hidden] for hidden in (True, False))
        self.optimizer = MuonAdamW(matrices, others, lr=args.lr, weight_decay=0.05)
        self.steps, self.tokens, self.elapsed_s, self.losses = 0, 0, 0.0, list[float]()

    @abstractmethod
    def loss(self, batch: TokenBatch, generator: torch.Generator) -> Tensor:
        """What is made smaller."""

    @abstractmethod
    def score(self, texts: Texts, lengths: LengthLaw) -> dict[str, Any]:
        """Nats a token on held-out texts."""

    @abstractmethod
    def sample(self, lengths: Sequence[int], seed: int) -> list[list[int]]:
        """As many texts, without condition."""

    @property
    def used(self) -> float:
        """Share of the budget that is used."""
        return self.tokens / self.args.tokens if self.args.tokens else self.elapsed_s / (60 * self.args.minutes)

    def step(self, batch: TokenBatch) -> None:
        """One update; its time counts."""
        factor = min(1.0, (self.used + 1e-3) / WARMUP) * (FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * min(self.used, 1.0))))
        for group in self.optimizer.param_groups:
            group["lr"] = self.args.lr * factor
        generator = torch.Generator().manual_seed(self.steps)

        def update() -> None:
            self.optimizer.zero_grad()
            with torch.autocast(torch.device(self.args.device).type, torch.bfloat16, enabled=self.args.autocast):
                loss = self.loss(batch, generator)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
            self.optimizer.step()
            self.losses.append(float(loss.detach()))

        took_s = seconds(update, self.args.device)
        if self.steps:  # the first step allocates and compiles
            self.elapsed_s += took_s
        self.steps, self.tokens = self.steps + 1, self.tokens + int(batch.valid.sum())


class Filling(Contestant):
    """A model that fills masked cells.

    Args:
        net: What is trained.
        args: The options.
        space: Token space.
        logits_fn: The model as a function.
    """

    def __init__(self, net: nn.Module, args: argparse.Namespace, space: TokenSpace, logits_fn: LogitsFn) -> None:
        super().__init__(net, args)
        self.space, self.segment, self.logits_fn = space, space.segment("text", 0), logits_fn

    def score(self, texts: Texts, lengths: LengthLaw) -> dict[str, Any]:
        self.net.eval()
        generator, device = torch.Generator().manual_seed(0), self.args.device
        batches = [batch.to(device) for batch in by_length(texts, self.space, self.args.batch)]
        bound = text_bound([row_bounds(self.logits_fn, batch, self.segment, generator, self.args.masks) for batch in batches])
        cost = sum(lengths.nats(sample["text"].shape[1]) for sample in texts) / bound.tokens
        found = {"kind": "bound", "nats": bound.nats_per_token, "interval": bound.interval, "by_masks": bound.monte_carlo_error}
        found |= {"nats_with_length": bound.nats_per_token + cost, "by_rate": bound.nats_by_rate}
        return found | {"pseudo_nats": self.pseudo(texts[: self.args.pseudo])}

    @torch.no_grad()
    def pseudo(self, texts: Texts) -> float:
        """Pseudo negative log-likelihood a token: each cell alone masked, all others seen. Source: arXiv:1910.14659."""
        total, tokens = 0.0, 0
        for sample in texts:
            batch = pack([sample], self.space).to(self.args.device)
            length = batch.ids.shape[1]
            alone = torch.eye(length, dtype=torch.bool, device=batch.ids.device)
            total += float(summed_losses(self.logits_fn, batch.repeat(length), self.segment, alone).sum())
            tokens += length
        return total / max(tokens, 1)

    def sample(self, lengths: Sequence[int], seed: int) -> list[list[int]]:
        self.net.eval()
        batch = pack([{"text": torch.full((1, length), -1)} for length in lengths], self.space).to(self.args.device)
        generators = [torch.Generator().manual_seed(seed + row) for row in range(len(lengths))]
        made, _ = AncestralSampler(steps=self.args.sample_steps).sample(self.logits_fn, batch, self.segment, generators)
        codes = made.ids[..., 0].cpu() - self.segment.offset
        return [row[:length].tolist() for row, length in zip(codes, lengths, strict=True)]


class Masked(Filling):
    """Ours: masked diffusion, loss over rate."""

    name = "masked diffusion"

    def __init__(self, args: argparse.Namespace, space: TokenSpace) -> None:
        self.module = MaskedTokenModule(str(args.shards), sizes(args), target="text", schedule=Linear(), weight="elbo")
        super().__init__(self.module.model, args, space, model_logits(self.module.model))

    def loss(self, batch: TokenBatch, generator: torch.Generator) -> Tensor:
        self.net.train()
        masked = draw_masks(batch, self.module.segments, Linear(), (1.0,), 0.0, generator)
        return self.module.reduced(masked, self.module.losses(masked, 0.0))


class Hybrid(Filling):
    """Ours: masks and wrong codes."""

    name = "hybrid noise"

    def __init__(self, args: argparse.Namespace, space: TokenSpace) -> None:
        self.module = HybridNoiseModule(str(args.shards), sizes(args))
        super().__init__(self.module.model, args, space, model_logits(self.module.model))

    def loss(self, batch: TokenBatch, generator: torch.Generator) -> Tensor:
        self.net.train()
        found, _ = self.module.losses(draw_noise(batch, self.segment, self.module.noise, generator), "dynamic")
        return found


class Bert(Filling):
    """transformers' BertForMaskedLM: 15 % of the cells asked for, 80 % of them MASK, 10 % another code, 10 % as they are; no time."""

    name = "BERT, 15 % masks"

    def __init__(self, args: argparse.Namespace, space: TokenSpace) -> None:
        from transformers import BertConfig, BertForMaskedLM

        config = BertConfig(
            vocab_size=space.size, hidden_size=args.dim, num_hidden_layers=args.layers, num_attention_heads=args.heads,
            intermediate_size=4 * args.dim, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, max_position_embeddings=512,
        )  # fmt: skip
        net = BertForMaskedLM(config)

        def logits_fn(batch: TokenBatch, cells: Tensor, segment: Any, progress: float) -> Tensor:
            found: Tensor = net(input_ids=batch.ids[..., 0], attention_mask=batch.valid.long()).logits
            return found[cells][:, segment.offset : segment.offset + segment.size]

        super().__init__(net, args, space, logits_fn)

    def loss(self, batch: TokenBatch, generator: torch.Generator) -> Tensor:
        self.net.train()
        device, ids = batch.ids.device, batch.ids[..., 0]
        asked = (torch.rand(ids.shape, generator=generator) < 0.15).to(device) & batch.valid
        asked[:, 0] |= ~asked.any(dim=1)
        fate = torch.rand(ids.shape, generator=generator).to(device)
        other = torch.randint(self.segment.size, ids.shape, generator=generator).to(device) + self.segment.offset
        shown = torch.where(asked & (fate < 0.8), MASK, torch.where(asked & (fate >= 0.9), other, ids))
        logits = self.logits_fn(batch.with_ids(shown[..., None]), asked, self.segment, 0.0)
        return functional.cross_entropy(logits.float(), ids[asked] - self.segment.offset)


class Causal(Contestant):
    """transformers' LlamaForCausalLM."""

    name = "causal Llama"

    def __init__(self, args: argparse.Namespace, space: TokenSpace) -> None:
        from transformers import LlamaConfig, LlamaForCausalLM

        self.space, self.segment = space, space.segment("text", 0)
        self.begin, self.end = space.size, space.size + 1
        config = LlamaConfig(
            vocab_size=space.size + 2, hidden_size=args.dim, intermediate_size=sizes(args).inner_dim, num_hidden_layers=args.layers,
            num_attention_heads=args.heads, num_key_value_heads=args.heads, tie_word_embeddings=True, max_position_embeddings=512,
            bos_token_id=self.begin, eos_token_id=self.end, pad_token_id=0,
        )  # fmt: skip
        super().__init__(LlamaForCausalLM(config), args)

    def row_nats(self, batch: TokenBatch) -> Tensor:
        """Negative log-likelihood of each text and its end."""
        ids, length = batch.ids[..., 0], batch.valid.sum(dim=1)
        shown = functional.pad(ids, (1, 0), value=self.begin)
        wanted = functional.pad(ids.masked_fill(~batch.valid, -100), (0, 1), value=-100).scatter(1, length[:, None], self.end)
        seen = torch.arange(shown.shape[1], device=ids.device)[None] <= length[:, None]
        logits = self.net(input_ids=shown, attention_mask=seen.long()).logits.float()
        return functional.cross_entropy(logits.transpose(1, 2), wanted, reduction="none").sum(dim=1)

    def loss(self, batch: TokenBatch, generator: torch.Generator) -> Tensor:
        self.net.train()
        return self.row_nats(batch).sum() / (batch.valid.sum() + len(batch))

    @torch.no_grad()
    def score(self, texts: Texts, lengths: LengthLaw) -> dict[str, Any]:
        self.net.eval()
        batches = [batch.to(self.args.device) for batch in by_length(texts, self.space, self.args.batch)]
        nats = torch.cat([self.row_nats(batch).double().cpu() for batch in batches])
        tokens = torch.cat([batch.valid.sum(dim=1).cpu() for batch in batches])
        mean = float(nats.sum() / tokens.sum())
        error = 1.96 * float((nats - mean * tokens).square().sum().sqrt() / tokens.sum())
        return {"kind": "exact", "nats": None, "nats_with_length": mean, "interval": (mean - error, mean + error)}

    @torch.no_grad()
    def judge(self, texts: Sequence[Sequence[int]]) -> tuple[float, int]:
        """See `maskgen.evaluation.text.quality.Score`."""
        self.net.eval()
        said = [{"text": torch.tensor([list(text)])} for text in texts if len(text)]
        batches = [batch.to(self.args.device) for batch in by_length(said, self.space, self.args.batch)]
        total = sum(float(self.row_nats(batch).sum()) for batch in batches)
        return total, sum(int(batch.valid.sum()) + len(batch) for batch in batches)

    @torch.no_grad()
    def sample(self, lengths: Sequence[int], seed: int) -> list[list[int]]:
        self.net.eval()
        generator = torch.Generator().manual_seed(seed)
        ids = torch.full((len(lengths), 1), self.begin, device=self.args.device)
        for _ in range(max(lengths)):
            logits = self.net(input_ids=ids).logits[:, -1].float().cpu()
            logits[:, [0, MASK, self.begin]] = -torch.inf
            ids = torch.cat([ids, torch.multinomial(logits.softmax(dim=-1), 1, generator=generator).to(ids.device)], dim=1)
        rows = [row[1:].tolist() for row in ids.cpu()]
        ended = [row[: row.index(self.end)] if self.end in row else row for row in rows]
        return [[one - self.segment.offset for one in row] for row in ended]


CONTESTANTS: dict[str, Callable[..., Contestant]] = {"masked": Masked, "causal": Causal, "bert": Bert, "hybrid": Hybrid}


def sizes(args: argparse.Namespace) -> TransformerConfig:
    """Our transformer; the others follow its width, layers and heads."""
    return TransformerConfig(dim=args.dim, num_layers=args.layers, num_heads=args.heads, tie_head=True, rope_split=(1, 0, 0))


class TrainingTexts:
    """Texts of the training split in memory; batches of like length by number, the same for all contestants.

    Args:
        shards: Token shards.
        space: Their token space.
        args: The options.
    """

    def __init__(self, shards: Path, space: TokenSpace, args: argparse.Namespace) -> None:
        store = ShardStore(str(shards))
        rows = TokenRows(open_rows(store, store.index(), "train", "size"), space)
        count = len(rows) if args.texts is None else min(args.texts, len(rows))
        found = (rows[row, -1] for row in range(0, len(rows), max(1, len(rows) // count)))
        self.texts = [sample for sample in found if 0 < sample["text"].shape[1] <= args.longest]
        self.space, self.size, self.window = space, args.batch, 32 * args.batch

    def batch(self, number: int) -> TokenBatch:
        """Batch of that number: a window of shuffled texts is sorted by length and cut, the pieces in random order."""
        window, place = divmod(number, 32)
        generator = torch.Generator().manual_seed(window)
        drawn = torch.randint(len(self.texts), (self.window,), generator=generator).tolist()
        ranked = sorted((self.texts[one] for one in drawn), key=lambda sample: sample["text"].shape[1])
        start = self.size * int(torch.randperm(32, generator=generator)[place])
        return pack(ranked[start : start + self.size], self.space, 16)


def train(contestants: Sequence[Contestant], texts: TrainingTexts, device: str, log_s: float = 30.0) -> None:
    """Steps in turn, the one that begins changing, until all have used their budgets; Ctrl-C ends it and what was learned is scored."""
    number, told = 0, time.monotonic()
    try:
        while open_ones := [one for one in contestants if one.used < 1]:
            batch = texts.batch(number).to(device)
            for place in range(len(open_ones)):
                open_ones[(number + place) % len(open_ones)].step(batch)
            number += 1
            if time.monotonic() - told > log_s:
                told = time.monotonic()
                print("  " + ", ".join(f"{one.name} {one.used:.0%} loss {one.losses[-1]:.3f}" for one in contestants), flush=True)
    except KeyboardInterrupt:
        print("  stopped; scoring what was learned")


def quality(one: Contestant, lengths: Sequence[int], judges: dict[str, Score]) -> dict[str, Any]:
    """Scores of texts that a model makes; entropy beside every generative perplexity."""
    made = one.sample(lengths, 0)
    found = {name: text_quality(made, judge) for name, judge in judges.items()}
    return next(iter(found.values())).to_dict() | {f"perplexity_by_{name}": each.generative_perplexity for name, each in found.items()}


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """Train all, score all."""
    space = TokenSpace.from_dict(dict(ShardStore(str(args.shards)).index().space or {}))
    training, held_out = TrainingTexts(args.shards, space, args), held_out_texts(str(args.shards), space, "text", args.split, args.limit)
    held_out = [sample for sample in held_out if 0 < sample["text"].shape[1] <= args.longest]
    contestants = []
    for name in args.models.split(","):
        torch.manual_seed(args.seed)
        contestants.append(CONTESTANTS[name](args, space))
    print(f"{len(training.texts)} training texts, {len(held_out)} held out; {', '.join(one.name for one in contestants)}", flush=True)
    train(contestants, training, args.device)
    lengths = LengthLaw(sample["text"].shape[1] for sample in training.texts)
    judges: dict[str, Score] = {"3-gram": NGramModel((text_of(one["text"]) for one in training.texts), space.segment("text", 0).size).score}
    for one in contestants:
        if isinstance(one, Causal):
            judges["causal"] = one.judge
    asked = [held_out[place % len(held_out)]["text"].shape[1] for place in range(args.samples)]
    rows = []
    for one in contestants:
        spent = {"model": one.name, "parameters": parameters(one.net), "steps": one.steps, "tokens": one.tokens, "seconds": one.elapsed_s}
        spent["tokens_per_s"] = one.tokens * (one.steps - 1) / max(one.steps, 1) / max(one.elapsed_s, 1e-9)
        rows.append(spent | {"score": one.score(held_out, lengths), "samples": quality(one, asked, judges), "losses": one.losses})
    true = [text_of(held_out[place % len(held_out)]["text"]) for place in range(args.samples)]
    ceiling = {name: text_quality(true, judge).to_dict() for name, judge in judges.items()}
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
    return {"title": "Text models", "settings": settings, "machine": machine(args.device), "rows": rows, "held_out_texts": ceiling}


def table(found: dict[str, Any]) -> None:
    """Print the results."""
    print(
        f"  {'':18} {'parameters':>11} {'tokens':>11} {'s':>6} {'tokens/s':>9} {'nats':>6} {'nats with length':>17} {'perplexity':>10}",
        end="",
    )
    print(f" {'pseudo':>6} {'entropy':>7} {'gen. ppl':>8} {'repeats':>7}")
    for row in found["rows"]:
        score, made, sign = row["score"], row["samples"], "=" if row["score"]["kind"] == "exact" else "<"
        nats, pseudo = ("" if value is None else f"{value:.3f}" for value in (score["nats"], score.get("pseudo_nats")))
        half = (score["interval"][1] - score["interval"][0]) / 2
        print(
            f"  {row['model']:18} {row['parameters']:>11,} {row['tokens']:>11,} {row['seconds']:>6.0f} {row['tokens_per_s']:>9,.0f}", end=""
        )
        print(f" {nats:>6} {sign} {score['nats_with_length']:>6.3f} +- {half:.3f}", end="")
        print(f" {math.exp(score['nats_with_length']):>10.1f} {pseudo:>6}", end="")
        print(f" {made['unigram_entropy']:>7.2f} {made['generative_perplexity']:>8.1f} {made['repetition']:>7.3f}")
    true = found["held_out_texts"]["3-gram"]
    scores = (
        f"entropy {true['unigram_entropy']:.2f}, 3-gram perplexity {true['generative_perplexity']:.1f}, repeats {true['repetition']:.3f}"
    )
    print(f"  held-out texts: {scores}")


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=Path, default=Path("data/wordnet/build/tokens"))
    parser.add_argument("--split", default="validation")
    parser.add_argument("--models", default="masked,causal,bert,hybrid")
    parser.add_argument("--minutes", type=float, default=1.0, help="training time of each model")
    parser.add_argument("--tokens", type=int, help="training tokens of each model, in place of minutes")
    parser.add_argument("--batch", type=int, default=128, help="texts a step")
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--longest", type=int, default=48, help="longer texts are left out, in training and in scores")
    parser.add_argument("--texts", type=int, help="training texts; all if not given")
    parser.add_argument("--limit", type=int, help="held-out texts; all if not given")
    parser.add_argument("--masks", type=int, default=16, help="masks a held-out text")
    parser.add_argument("--pseudo", type=int, default=64, help="held-out texts for the pseudo-likelihood")
    parser.add_argument("--samples", type=int, default=128, help="texts that each model makes")
    parser.add_argument("--sample-steps", type=int, default=48)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--autocast", action="store_true", help="bfloat16 in training")
    parser.add_argument("--json", type=Path, help="write the results here too")
    args = parser.parse_args()
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
    found = measured(args)
    table(found)
    written([found], args.json)


if __name__ == "__main__":
    main()
