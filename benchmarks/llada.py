"""LLaDA beside its authors' loop: the same random weights and prompt, written by maskgen and by generate() of the paper.

Run:    uv run python benchmarks/llada.py
        uv run python benchmarks/llada.py --size large --device cuda --dtype bfloat16 --batch 1,8

The authors' remote code does not run on current transformers, so their network is transformers' Llama with the causal mask taken away,
which is the same function (the logits are compared), and their loop is written after algorithm 5 of arXiv:2502.09992: every step computes
the logits of every cell. Codes are drawn greedily and must be equal.
"""

from typing import Any

import torch
from side_by_side import arguments, batches, compare, peak_flops, report, written
from torch import Tensor

from maskgen.decoding.decoder import Decoder
from maskgen.interop.llada import answering
from maskgen.interop.llada_network import LLaDAConfig, LLaDANetwork
from maskgen.interop.sequences import ModelVocabulary, cell_after_cell
from maskgen.networks.packed_linear import packed
from maskgen.tokens.batch import UNKNOWN
from maskgen.tokens.packing import pack
from maskgen.tokens.space import Modality, TokenSpace

PROMPT, ANSWER, BLOCK, STEPS = 64, 128, 32, 64
SIZES = {
    "tiny": {"dim": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 4, "hidden_dim": 48, "vocab_size": 64},
    "small": {"dim": 512, "num_layers": 8, "num_heads": 8, "num_kv_heads": 8, "hidden_dim": 1408, "vocab_size": 32_000},
    "large": {"dim": 4096, "num_layers": 32, "num_heads": 32, "num_kv_heads": 32, "hidden_dim": 12_288, "vocab_size": 126_464},
}
PLACES = {
    "self_attn.q_proj": "q_proj",
    "self_attn.k_proj": "k_proj",
    "self_attn.v_proj": "v_proj",
    "self_attn.o_proj": "attn_out",
    "mlp.gate_proj": "ff_proj",
    "mlp.up_proj": "up_proj",
    "mlp.down_proj": "ff_out",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ff_norm",
}
"""Names of a block in transformers' Llama, to LLaDA's."""


class Writing:
    """One answer to a random prompt by both sides.

    Args:
        size: Name in `SIZES`.
        rows: Prompts at once.
        device: Where.
        dtype: Precision of both networks.
        answer: Tokens of the answer.
        steps: Steps over all blocks.
    """

    def __init__(self, size: str, rows: int, device: str, dtype: torch.dtype, answer: int = ANSWER, steps: int = STEPS) -> None:
        config = LLaDAConfig(**SIZES[size], mask_id=SIZES[size]["vocab_size"] - 1)
        self.config, self.rows, self.answer, self.steps, self.device = config, rows, answer, steps, device
        text = Modality(name="text", kind="text", num_levels=1, codebook_size=config.vocab_size - 1)
        self.space = TokenSpace([text])
        vocabulary = ModelVocabulary(self.space, {"text": 0}, config.mask_id, config.vocab_size)
        torch.manual_seed(0)
        network = LLaDANetwork(config, vocabulary, cell_after_cell(vocabulary)).eval().requires_grad_(False)
        for parameter in network.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
        network = network.to(device, dtype)
        self.peer = llama(network, config)
        self.network = packed(network) if device == "cpu" else network
        self.prompt = torch.randint(config.vocab_size - 1, (rows, PROMPT), generator=torch.Generator().manual_seed(1))
        self.decoder = Decoder(self.network, self.space, "text", answering(BLOCK, steps))

    def ours(self) -> Tensor:
        """Codes of prompt and answer by maskgen's decoder."""
        blank = torch.full((self.answer,), UNKNOWN)
        batch = pack([{"text": torch.cat([row, blank])[None]} for row in self.prompt], self.space).to(self.device)
        made = self.decoder(batch, [torch.Generator().manual_seed(row) for row in range(self.rows)])
        return made.batch.ids[..., 0] - self.space.segment("text", 0).offset

    def theirs(self) -> Tensor:
        """Codes by the loop of the paper: low-confidence remasking, block after block."""
        codes = torch.full((self.rows, PROMPT + self.answer), self.config.mask_id, device=self.device)
        codes[:, :PROMPT] = self.prompt.to(self.device)
        blocks = self.answer // BLOCK
        for block in range(blocks):
            end = PROMPT + (block + 1) * BLOCK
            for _ in range(self.steps // blocks):
                logits = self.peer_logits(codes)
                logits[..., self.config.mask_id] = -torch.inf
                drawn = logits.argmax(-1)
                sure = logits.double().softmax(-1).gather(-1, drawn[..., None])[..., 0]
                sure[:, end:] = -torch.inf
                sure = sure.where(codes == self.config.mask_id, -torch.inf)
                kept = sure.topk(BLOCK * blocks // self.steps, dim=-1).indices
                codes = codes.scatter(1, kept, drawn.gather(1, kept))
        return codes

    def peer_logits(self, codes: Tensor) -> Tensor:
        """Logits of every cell by transformers' Llama, each cell of which sees all others."""
        every = torch.zeros(1, 1, codes.shape[1], codes.shape[1], device=self.device, dtype=self.peer.dtype)
        found: Tensor = self.peer(codes, attention_mask=every, use_cache=False).logits
        return found

    def check(self) -> float:
        """Largest difference of the first logits, over their largest size; both sides must write the same."""
        ours, theirs = self.ours(), self.theirs()
        if self.peer.dtype == torch.float32 and not torch.equal(ours, theirs):
            raise AssertionError(f"{int((ours != theirs).sum())} of {ours.numel()} codes differ from those of the authors' loop")
        batch = pack([{"text": row[None]} for row in self.prompt], self.space).to(self.device)
        wanted = self.peer_logits(self.prompt.to(self.device))
        found = self.network.logits(self.network(batch).flatten(0, 1), self.space.segment("text", 0).offset, self.config.vocab_size - 1)
        wanted = wanted.flatten(0, 1)[:, : self.config.vocab_size - 1]
        return float((found - wanted).abs().max() / wanted.abs().max())


def llama(network: LLaDANetwork, config: LLaDAConfig) -> Any:
    """transformers' Llama with the weights of LLaDA's network."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = LlamaConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.dim,
        intermediate_size=config.hidden_dim,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_kv_heads,
        rms_norm_eps=config.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        tie_word_embeddings=False,
        attn_implementation="sdpa",
    )
    weights = {name.removeprefix("model.transformer."): tensor for name, tensor in network.state_dict().items()}
    found = {"model.embed_tokens.weight": "wte.weight", "model.norm.weight": "ln_f.weight", "lm_head.weight": "ff_out.weight"}
    for layer in range(config.num_layers):
        found |= {f"model.layers.{layer}.{theirs}.weight": f"blocks.{layer}.{ours}.weight" for theirs, ours in PLACES.items()}
    with torch.device("meta"):
        peer = LlamaForCausalLM(sizes)
    peer = peer.to_empty(device=network.embed.weight.device).to(network.embed.weight.dtype)
    peer.load_state_dict({theirs: weights[ours] for theirs, ours in found.items()})
    peer.model.rotary_emb = type(peer.model.rotary_emb)(sizes).to(network.embed.weight.device)
    return peer.eval().requires_grad_(False)


def measured(size: str, rows: int, rounds: int, device: str, dtype: torch.dtype, **lengths: int) -> dict[str, Any]:
    """Both sides at one batch size."""
    writing = Writing(size, rows, device, dtype, **lengths)
    with torch.no_grad():
        difference, peak = writing.check(), peak_flops(device, dtype)
        comparison = compare("end to end", writing.ours, writing.theirs, rounds, device)
    parameters = sum(tensor.numel() for tensor in writing.peer.parameters())
    settings = {"size": size, "parameters": f"{parameters / 1e6:.0f} M", "batch": rows, "dtype": str(dtype).removeprefix("torch.")}
    settings |= {"prompt": PROMPT, "answer": writing.answer, "block": BLOCK, "steps": writing.steps}
    settings["logits differ by"] = f"{difference:.1e}"
    return report("LLaDA: maskgen beside the authors' loop", settings, [comparison], max(peak, peak_flops(device, dtype)), device)


def main() -> None:
    """Measure each batch size."""
    parser = arguments(__doc__)
    parser.add_argument("--size", choices=tuple(SIZES), default="small")
    args = parser.parse_args()
    results = [measured(args.size, rows, args.rounds, args.device, getattr(torch, args.dtype)) for rows in batches(args)]
    written(results, args.json)


if __name__ == "__main__":
    main()
