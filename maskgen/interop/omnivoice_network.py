"""The network of OmniVoice: a Qwen3 trunk that sees both ways, with tables and heads of audio codes, under the published names."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from maskgen.networks.published import PublishedConfig, PublishedNetwork
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.space import MASK, TokenSpace

PROMPT, AUDIO = "prompt", "audio"
"""Modalities of the family: the written prompt, and the codes of recording and speech."""


class FrequenciesOnDemand(nn.Module):
    """Rotary positions without a buffer: exact in every precision of the network, and nothing to load.

    Args:
        head_dim: Width of a head.
        base: Base of the frequencies.
    """

    def __init__(self, head_dim: int, base: float) -> None:
        super().__init__()
        self.head_dim, self.base = head_dim, base

    def forward(
        self, states: Float[Tensor, "batch length dim"], position_ids: Int[Tensor, "rows length"]
    ) -> tuple[Float[Tensor, "rows length head"], Float[Tensor, "rows length head"]]:
        """Cosine and sine of every position, in the precision of the states."""
        exponents = torch.arange(0, self.head_dim, 2, dtype=torch.float32, device=states.device) / self.head_dim
        angles = position_ids[..., None].float() * (1 / self.base**exponents)
        angles = torch.cat([angles, angles], dim=-1)
        return angles.cos().to(states.dtype), angles.sin().to(states.dtype)


class AudioHeads(nn.Module):
    """The heads of all levels as one matrix; no linear layer, because packed and quantized layers have no rows to ask for.

    Args:
        dim: Width of the hidden states.
        size: Ids of all levels.
    """

    def __init__(self, dim: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size, dim))

    def forward(self, hidden: Float[Tensor, "cells dim"], first: int, size: int) -> Float[Tensor, "cells size"]:
        """Logits of the ids `first` to `first + size - 1`."""
        return nn.functional.linear(hidden, self.weight[first : first + size])


class OmniVoiceNetwork(PublishedNetwork):
    """OmniVoice over a token space of a written prompt and audio codes.

    A cell of audio is the sum of one vector a level, a cell of text one row of the text table; all see each other. Hidden cells are as if
    they were not there. Places count from the first visible cell of a row, so what is hidden before it changes nothing.

    Args:
        config: Content of the folder's `config.json`.
        space: Token space with `prompt` and `audio`.

    Raises:
        ValueError: If the configuration and the space do not belong together, or the trunk is of another kind.

    Source: OmniVoice (k2-fsa). Differs: text is looked up at text cells alone, so the text vocabulary may be smaller than the codebook.
    """

    llm: Any
    codebook_layer_offsets: Tensor

    def __init__(self, config: Mapping[str, Any], space: TokenSpace) -> None:
        super().__init__()
        from transformers import Qwen3Config, Qwen3Model

        trunk: Any = Qwen3Config(**{name: value for name, value in config["llm_config"].items() if name != "model_type"})
        if trunk.rope_parameters.get("rope_type", "default") != "default" or set(trunk.layer_types) != {"full_attention"}:
            raise ValueError(
                "the trunk of this OmniVoice has scaled rotary positions or sliding windows, wanted neither; use another model"
            )
        self.text, self.codes = space.of(PROMPT)[0], space.of(AUDIO)
        self.size, self.mask, levels = int(config["audio_vocab_size"]), int(config["audio_mask_id"]), int(config["num_audio_codebook"])
        if levels != len(self.codes) or not self.codes[0].size <= self.mask < self.size or trunk.vocab_size != self.text.size:
            raise ValueError(
                f"config.json has {levels} levels of {self.size} ids with mask {self.mask} and {trunk.vocab_size} text ids, the tokenizers "
                f"{len(self.codes)} levels of {self.codes[0].size} codes and {self.text.size} text ids; copy the whole folder of the model"
            )
        self.llm = Qwen3Model(trunk)
        self.llm.rotary_emb = FrequenciesOnDemand(int(trunk.head_dim), float(trunk.rope_parameters["rope_theta"]))
        self.audio_embeddings = nn.Embedding(levels * self.size, trunk.hidden_size)
        self.audio_heads = AudioHeads(trunk.hidden_size, levels * self.size)
        self.register_buffer("codebook_layer_offsets", torch.arange(levels) * self.size)
        self.published, self.config = dict(config), PublishedConfig(int(trunk.hidden_size))

    @property
    def embed(self) -> nn.Embedding:
        """The text table, which tells device and precision."""
        found: nn.Embedding = self.llm.embed_tokens
        return found

    def forward(
        self, batch: TokenBatch, context: Bool[Tensor, "batch length"] | None = None, window: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch length dim"]:
        """Hidden state of every visible cell; 0 at the others.

        Raises:
            ValueError: If a text cell is unknown, or windows or a blind condition are asked for.
        """
        if context is not None or window is not None:
            raise ValueError("OmniVoice sees whole rows; leave windows and blind conditions off")
        seen = batch.valid & (batch.modality != 0)
        places = torch.arange(seen.shape[1], device=seen.device).expand(seen.shape)
        first = torch.where(seen, places, seen.shape[1]).amin(dim=1, keepdim=True)
        visible = seen[:, None, :] & (batch.document[:, :, None] == batch.document[:, None, :])
        visible = visible | torch.eye(seen.shape[1], dtype=torch.bool, device=seen.device)  # no cell is left without any that it sees
        found = self.llm(
            inputs_embeds=self._vectors(batch),
            attention_mask=visible[:, None],
            position_ids=(places - first).clamp(min=0),
            use_cache=False,
        )
        states: Tensor = found.last_hidden_state
        return states.masked_fill(~seen[..., None], 0)

    def logits(self, hidden: Float[Tensor, "cells dim"], offset: int, size: int) -> Float[Tensor, "cells size"]:
        """Logits of the codes of one level: linear in `hidden`, so guidance may mix hidden states.

        Raises:
            ValueError: If other ids are asked for: the model generates audio alone.
        """
        level = next((one.level for one in self.codes if (one.offset, one.size) == (offset, size)), None)
        if level is None:
            raise ValueError("OmniVoice generates audio alone; take audio as the target")
        found: Tensor = self.audio_heads(hidden, level * self.size, size)
        return found

    def _vectors(self, batch: TokenBatch) -> Float[Tensor, "batch length dim"]:
        """The input of the trunk; 0 at padding."""
        written, spoken = batch.modality == self.text.index, batch.modality == self.codes[0].index
        ids = batch.ids[..., 0][written]
        if bool((ids == MASK).any()):
            raise ValueError('OmniVoice has no mask for text; give the whole prompt, and settings with null "alone" or "absent"')
        vectors = torch.zeros(*batch.modality.shape, self.config.dim, dtype=self.embed.weight.dtype, device=batch.ids.device)
        vectors[written] = self.embed(ids - self.text.offset)
        shared = batch.ids[..., : len(self.codes)][spoken]
        offsets = torch.tensor([one.offset for one in self.codes], device=shared.device)
        local = torch.where(shared == MASK, self.mask, shared - offsets)
        vectors[spoken] = self.audio_embeddings(local + self.codebook_layer_offsets).sum(dim=1)
        return vectors
