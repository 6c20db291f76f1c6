"""Models of the package transformers as a trunk: embeddings in, hidden states out, with any attention mask."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

ATTENTION = "sdpa"
"""The only implementation that accepts a boolean mask; the eager one would add it to the scores."""
NOT_KEPT = {"architectures", "id2label", "label2id", "auto_map", "quantization_config", "dtype", "torch_dtype", "transformers_version"}
"""Entries of a backbone's configuration that do not affect its shape."""


@dataclass(frozen=True)
class BackboneFamily:
    """Properties of a family of backbones.

    Args:
        causal: Whether it was trained on next-token prediction; otherwise it was trained on masked tokens.
        learned_positions: Whether positions are rows of a table of limited length.
        head: Layers between the last hidden state and the output table of its masked language model; None where there are none.
    """

    causal: bool
    learned_positions: bool
    head: Callable[[Any], nn.Module] | None = None


def _bert_head(model: Any) -> nn.Module:
    layers = model.cls.predictions.transform
    return nn.Sequential(layers.dense, layers.transform_act_fn, layers.LayerNorm)


def _roberta_head(model: Any) -> nn.Module:
    return nn.Sequential(model.lm_head.dense, nn.GELU(), model.lm_head.layer_norm)


def _modernbert_head(model: Any) -> nn.Module:
    return nn.Sequential(model.head.dense, model.head.act, model.head.norm)


BACKBONE_FAMILIES = {
    "bert": BackboneFamily(causal=False, learned_positions=True, head=_bert_head),
    "roberta": BackboneFamily(causal=False, learned_positions=True, head=_roberta_head),
    "modernbert": BackboneFamily(causal=False, learned_positions=False, head=_modernbert_head),
    "gpt2": BackboneFamily(causal=True, learned_positions=True),
    "llama": BackboneFamily(causal=True, learned_positions=False),
    "qwen2": BackboneFamily(causal=True, learned_positions=False),
}
"""Supported families by the `model_type` of a configuration; each has its parity test in tests/networks/test_adapted.py."""


class Trunk(nn.Module):
    """Backbone without its embedding table and output table.

    Args:
        config: Its configuration as plain data, as `Found.config` has it. No code is read from it.
        with_head: Whether to include the layers before the output table; causal families have none.
        network: The model itself with its language-model head; None creates one with random weights.

    Raises:
        ImportError: If transformers is missing.
        ValueError: If the family is unknown, or needs an unsupported feature.
    """

    def __init__(self, config: Mapping[str, Any], with_head: bool, network: Any = None) -> None:
        super().__init__()
        self.family = family_of(config, "the bundle")
        model = network or _made(config)
        self.config: Any = model.config
        self.head = self.family.head(model) if with_head and self.family.head else nn.Identity()
        self.body: Any = model.base_model
        self.body.set_input_embeddings(None)
        self.body.pooler = None

    @property
    def first_position(self) -> int:
        """Row of the position table for the first token."""
        return int(self.config.pad_token_id) + 1 if self.config.model_type == "roberta" else 0

    @property
    def positions(self) -> int | None:
        """Maximum number of positions in a row; None where it is unlimited."""
        return self.config.max_position_embeddings - self.first_position if self.family.learned_positions else None

    def forward(
        self, x: Float[Tensor, "batch length dim"], places: Int[Tensor, "batch length"], seen: Bool[Tensor, "batch 1 length length"]
    ) -> Float[Tensor, "batch length dim"]:
        """Last hidden state of every cell, before `head`.

        Args:
            x: Input embeddings, in place of the token embeddings.
            places: Position of each cell, from 0.
            seen: Attention mask. Layers with a local window apply their window to it here: with one mask for all layers, transformers
                would run them without their window.
        """
        mask: Any = seen
        if self.config.model_type == "modernbert":
            near = (places[:, :, None] - places[:, None, :]).abs()[:, None] <= self.config.sliding_window
            mask = {"full_attention": seen, "sliding_attention": seen & near}
        options = {"use_cache": False} if self.family.causal else {}
        answer = self.body(inputs_embeds=x, attention_mask=mask, position_ids=places + self.first_position, **options)
        hidden: Tensor = answer.last_hidden_state
        return hidden


@dataclass(frozen=True)
class Backbone:
    """Parts of a pretrained backbone.

    Args:
        config: Its configuration as plain data.
        trunk: Its layers.
        with_head: Whether the trunk has the layers before the output table.
        table: Its token embeddings.
        out: Its output table; None where it is the same as `table`.
        bias: Bias of its output; None where it has none.
    """

    config: dict[str, Any]
    trunk: Trunk
    with_head: bool
    table: Float[Tensor, "vocabulary dim"]
    out: Float[Tensor, "vocabulary dim"] | None
    bias: Float[Tensor, " vocabulary"] | None


def family_of(config: Mapping[str, Any], source: str) -> BackboneFamily:
    """Family of a configuration.

    Raises:
        ValueError: If the family is not supported, or has sliding windows where its family should have none.
    """
    kind = config.get("model_type")
    if kind not in BACKBONE_FAMILIES:
        raise ValueError(f"{source} holds a backbone of type {kind!r}; adapted are {', '.join(BACKBONE_FAMILIES)}")
    if kind != "modernbert" and "sliding_attention" in (config.get("layer_types") or ()):
        raise ValueError(f"{source} holds a {kind} with sliding windows, which are served in modernbert alone; take one without")
    return BACKBONE_FAMILIES[kind]


def read_backbone(source: str) -> Backbone:
    """Load a pretrained encoder or causal language model; reads safetensors only and runs no code.

    Args:
        source: Folder written by `save_pretrained` (no network access), or a hub id such as "answerdotai/ModernBERT-base" (online).

    Raises:
        ImportError: If transformers is missing.
        ValueError: If the folder does not exist, holds no complete model, or holds one of an unsupported family.
    """
    _require_transformers()
    place = _place(source)
    config = _plain(_read(_config_class().from_pretrained, source, place))
    family = family_of(config, source)
    # Always float32, whatever the file holds: training starts from it.
    options = {"use_safetensors": True, "output_loading_info": True, "dtype": torch.float32, "attn_implementation": ATTENTION}
    model, info = _read(_model_class(family).from_pretrained, source, place | options)
    base = f"{model.base_model_prefix}."
    if lacking := [name for name in [*info["missing_keys"], *map(str, info["mismatched_keys"])] if base in name and ".pooler." not in name]:
        raise ValueError(f"the weights in {source} lack {len(lacking)} tensors, the first is {lacking[0]}; copy the model again")
    with_head = family.head is not None and not info["missing_keys"]
    return _apart(model, config, with_head)


@dataclass(frozen=True)
class Vocabulary:
    """Fast tokenizer of a backbone.

    Args:
        text: Content of its tokenizer.json.
        specials: Its special tokens by role: mask_token, eos_token, sep_token, ...
    """

    text: str
    specials: Mapping[str, str]

    def row(self, role: str) -> int | None:
        """Code of the special token with this role; None where there is none."""
        from tokenizers import Tokenizer as Engine

        token = self.specials.get(role)
        found: int | None = None if token is None else Engine.from_str(self.text).token_to_id(token)
        return found


def read_vocabulary(source: str) -> Vocabulary | None:
    """Load the fast tokenizer of a backbone as data; None where there is none.

    It does not use the loader of transformers, which invents a vocabulary where the files are missing.

    Args:
        source: As for `read_backbone`.

    Raises:
        ValueError: If a file is not JSON.
    """
    texts = {name: _file(source, name) for name in ("tokenizer.json", "special_tokens_map.json", "tokenizer_config.json")}
    vocabulary = texts.pop("tokenizer.json")
    if vocabulary is None:
        return None
    specials = {}
    for name, text in texts.items():
        try:
            entries = json.loads(text or "{}")
        except ValueError as error:
            raise ValueError(f"{name} in {source} is no JSON ({_first_line(error)}); copy the tokenizer again") from error
        for role, value in entries.items():
            token = value.get("content") if isinstance(value, dict) else value
            if role.endswith("_token") and isinstance(token, str):
                specials[role] = token
    return Vocabulary(vocabulary, specials)


def _file(source: str, name: str) -> str | None:
    """Content of a file in a folder or hub repository; None where it does not exist."""
    if Path(source).is_dir():
        path = Path(source) / name
    else:
        from transformers.utils.hub import cached_file

        found = cached_file(source, name, _raise_exceptions_for_missing_entries=False, **_place(source))
        path = Path(found or "")
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _apart(model: Any, config: dict[str, Any], with_head: bool) -> Backbone:
    """Split a model with its language-model head into parts."""
    table, last = model.get_input_embeddings().weight.detach(), model.get_output_embeddings()
    tied = bool(model.config.tie_word_embeddings) or not (with_head or BACKBONE_FAMILIES[config["model_type"]].causal)
    bias = last.bias.detach() if last.bias is not None and with_head else None
    return Backbone(config, Trunk(config, with_head, model), with_head, table, None if tied else last.weight.detach(), bias)


def _made(config: Mapping[str, Any]) -> Any:
    """Create a model with random weights."""
    _require_transformers()
    return _model_class(family_of(config, "the bundle")).from_config(_config_class().for_model(**config), attn_implementation=ATTENTION)


def _plain(config: Any) -> dict[str, Any]:
    """Configuration as plain JSON data, without paths and without references to code."""
    kept = {name: value for name, value in config.to_dict().items() if name not in NOT_KEPT and not name.startswith("_")}
    plain: dict[str, Any] = json.loads(json.dumps(kept))
    return plain


def _place(source: str) -> dict[str, Any]:
    """Arguments that tell `from_pretrained` where to look.

    Raises:
        ValueError: If the source names a folder that does not exist.
    """
    if not Path(source).is_dir() and (Path(source).is_absolute() or source.startswith(".") or source.count("/") > 1):
        raise ValueError(f"the folder {source} does not exist; give a folder that save_pretrained of transformers wrote, or a hub id")
    return {"local_files_only": Path(source).is_dir()}


def _read(read: Any, source: str, options: Mapping[str, Any]) -> Any:
    """Call a reader of transformers and shorten its errors to one sentence."""
    try:
        return read(source, trust_remote_code=False, **options)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ValueError(
            f"no transformers model can be read from {source} ({_first_line(error)}); give config.json and whole safetensors weights"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _require_transformers() -> None:
    try:
        import transformers  # noqa: F401
    except ImportError as error:
        raise ImportError("a pretrained backbone needs transformers: pip install maskgen[adapt]") from error


def _config_class() -> Any:
    from transformers import AutoConfig

    return AutoConfig


def _model_class(family: BackboneFamily) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    return AutoModelForCausalLM if family.causal else AutoModelForMaskedLM
