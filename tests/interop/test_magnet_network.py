"""The network and both samplers of MAGNeT beside tensors of its reference (facebookresearch/audiocraft, random weights under its names).

The golden file was made with audiocraft's torch attention, which takes every mask for a causal one (`is_causal=attn_mask is not None`). So
its tensors of finer levels are those of a causal mask, which is handed to our network here where they are compared. What the authors
trained, with xformers, is the mask in `stage1_visible`.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from maskgen.decoding.decoder import Decoder
from maskgen.interop.magnet import MagnetNetwork, magnet_settings
from maskgen.interop.magnet_network import MagnetConfig, MagnetTransformer, near_frames, time_sinusoids
from maskgen.interop.weights import load_exactly
from maskgen.sampling import base
from maskgen.tokens.batch import UNKNOWN, TokenBatch
from maskgen.tokens.packing import pack, unpack
from maskgen.tokens.space import Modality, TokenSpace

GOLDEN = Path(__file__).parent / "golden" / "magnet.safetensors"
LEVELS, CODES, FRAMES, WIDTH, CONTEXT = 3, 20, 12, 14, 2
SPACE = TokenSpace(
    [
        Modality(name="text", kind="text", num_levels=1, codebook_size=9),
        Modality(name="audio", kind="audio", num_levels=LEVELS, codebook_size=CODES),
    ]
)


CAUSAL = torch.ones(FRAMES, FRAMES, dtype=torch.bool).tril()


class GivenStates(nn.Module):
    """States of the golden file in place of T5: the prompt (k,) is its row k."""

    def __init__(self, golden: dict[str, Tensor]) -> None:
        super().__init__()
        self.states, self.said = golden["t5_states"], golden["t5_mask"].bool()

    def forward(self, prompts: list[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
        rows = [
            (self.states[prompt[0]], self.said[prompt[0]]) if prompt else (torch.zeros(5, WIDTH), torch.zeros(5).bool())
            for prompt in prompts
        ]
        states, said = zip(*rows, strict=True)
        return torch.stack(states), torch.stack(said)


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    with safe_open(GOLDEN, framework="pt") as file:
        return {name.removeprefix("io/"): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)


@pytest.fixture(scope="module")
def lm() -> MagnetTransformer:
    with safe_open(GOLDEN, framework="pt") as file:
        config = json.loads(file.metadata()["config"])
    with torch.device("meta"):
        made = MagnetTransformer(MagnetConfig.from_dict(config["transformer_lm"], config["t5_dim"], "golden"))

    def published(name: str) -> str | None:
        return name.removeprefix("weights/") if name.startswith("weights/") else None

    load_exactly(made, [GOLDEN], source="golden", rename=published)
    return made


def network(lm: MagnetTransformer, golden: dict[str, Tensor]) -> MagnetNetwork:
    return MagnetNetwork(lm, GivenStates(golden), SPACE, FRAMES).eval()


def head(lm: MagnetTransformer, hidden: Tensor) -> Tensor:
    return torch.stack([one(hidden) for one in lm.linears], dim=1)


def given_words(lm: MagnetTransformer, golden: dict[str, Tensor]) -> Tensor:
    return lm.words(golden["t5_states"], golden["t5_mask"].bool())


def test_every_intermediate_and_all_logits_are_those_of_the_reference(golden: dict[str, Tensor], lm: MagnetTransformer) -> None:
    ids, seen = golden["codes"].transpose(1, 2), dict[str, Tensor]()
    names = ("transformer.layers.0", "transformer.layers.1", "out_norm")
    hooks = [lm.get_submodule(name).register_forward_hook(lambda _, __, made, name=name: seen.__setitem__(name, made)) for name in names]
    time, words = torch.arange(FRAMES).expand(2, FRAMES), given_words(lm, golden)
    seen |= {"position": time_sinusoids(time[:1], 24), "text": words}
    whole = lm(ids, time, words)
    for hook in hooks:
        hook.remove()
    assert set(seen) == {name.removeprefix("mid.") for name in golden if name.startswith("mid.")}
    for name, states in seen.items():
        torch.testing.assert_close(states, golden[f"mid.{name}"], atol=1e-5, rtol=0)
    near = near_frames(torch.ones(2, FRAMES, dtype=torch.bool), time, torch.full((2,), CONTEXT))
    assert near is not None
    assert torch.equal(near[0, 0], golden["stage1_visible"].bool())
    for name, hidden in (
        ("logits_stage0", whole),
        ("logits_unrestricted", whole),
        ("logits_stage1", lm(ids, time, words, CAUSAL.expand(2, 1, FRAMES, FRAMES))),
        ("logits_stage0_null_text", lm(ids, time, torch.zeros_like(words))),
    ):
        torch.testing.assert_close(head(lm, hidden), golden[name], atol=1e-5, rtol=0)


def rows(golden: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    codes = golden["codes"]
    return [{"text": torch.tensor([[row]]), "audio": torch.where(codes[row] == CODES, UNKNOWN, codes[row])} for row in range(2)]


def test_rows_of_a_batch_have_the_logits_of_the_reference_per_level_and_without_text(
    golden: dict[str, Tensor], lm: MagnetTransformer
) -> None:
    """The text of the golden file's first row has no padding, so all its words are seen; hidden text is the null condition."""
    model, batch = network(lm, golden), pack(rows(golden), SPACE)
    assert bool(golden["t5_mask"][0].all())
    hidden = model(batch)[batch.cells(2)].unflatten(0, (2, FRAMES))
    torch.testing.assert_close(head(lm, hidden)[0], golden["logits_stage0"][0], atol=1e-5, rtol=0)
    hidden = model(batch.hide(batch.modality == 1))
    cells = hidden[batch.cells(2)].unflatten(0, (2, FRAMES))
    torch.testing.assert_close(head(lm, cells), golden["logits_stage0_null_text"], atol=1e-5, rtol=0)
    assert not hidden[:, 0].any()
    for one in SPACE.of("audio"):
        found = model.logits(cells.flatten(0, 1), one.offset, one.size).unflatten(0, (2, FRAMES))
        torch.testing.assert_close(found, golden["logits_stage0_null_text"][:, one.level], atol=1e-5, rtol=0)


def test_finer_levels_see_near_frames_where_the_torch_attention_of_the_reference_sees_all_earlier_ones(
    golden: dict[str, Tensor], lm: MagnetTransformer
) -> None:
    """Two layers of a context of two frames: frame 4 depends on frame 0 and on frame 8, and on none beyond."""
    model, batch = network(lm, golden), pack(rows(golden)[:1], SPACE)
    window = torch.full((1,), CONTEXT)
    plain = model(batch, window=window)[0, 1:]
    wanted = lm(
        golden["codes"][:1].transpose(1, 2),
        torch.arange(FRAMES)[None],
        given_words(lm, golden)[:1],
        golden["stage1_visible"].bool()[None, None],
    )
    torch.testing.assert_close(plain, wanted[0], atol=1e-6, rtol=0)
    for frame, reached in ((0, range(5)), (8, range(4, FRAMES))):
        changed = batch.ids.clone()
        changed[0, 1 + frame, 0] = SPACE.of("audio")[0].offset + 7
        moved = (model(batch.with_ids(changed), window=window)[0, 1:] - plain).abs().amax(dim=1) > 1e-6
        assert moved.nonzero()[:, 0].tolist() == list(reached)


def test_a_row_does_not_depend_on_longer_texts_of_its_batch(golden: dict[str, Tensor], lm: MagnetTransformer) -> None:
    """In the reference the words that pad a shorter text are zeros that take attention."""
    short = int(golden["t5_mask"].sum(dim=1).argmin())
    said = int(golden["t5_mask"][short].sum())
    assert said < 5
    ids, time = golden["codes"].transpose(1, 2)[short : short + 1], torch.arange(FRAMES)[None]
    padded, alone = given_words(lm, golden)[short : short + 1], given_words(lm, golden)[short : short + 1, :said]
    theirs, ours = lm(ids, time, padded), lm(ids, time, padded, told=golden["t5_mask"][short : short + 1].bool())
    torch.testing.assert_close(ours, lm(ids, time, alone), atol=1e-5, rtol=0)
    assert float((theirs - ours).abs().max()) > 1e-3


def fed(monkeypatch: pytest.MonkeyPatch, noise: Tensor) -> Callable[[Any], Any]:
    """Let our sampler draw by the races of the reference, which run over sorted probabilities where a cut by top-p sorts them."""
    now: dict[str, Any] = {"step": -1}

    def draw(logits: Tensor, _rows: Tensor, _generators: Any, *, temperature: float, cut: Any) -> tuple[Tensor, Tensor]:
        probabilities, race = (logits / temperature).softmax(dim=-1), noise[now["step"]].unflatten(0, (2, FRAMES))[now["cells"]]
        order = torch.arange(CODES).expand(len(logits), CODES)
        if cut.top_p is not None:
            probabilities, order = probabilities.sort(dim=-1, descending=True)
            probabilities = probabilities.masked_fill(probabilities.cumsum(dim=-1) - probabilities > cut.top_p, 0.0)
        found = order.gather(1, (probabilities / race).argmax(dim=-1, keepdim=True))
        return found[:, 0], logits.log_softmax(dim=-1).gather(1, found)[:, 0]

    def wrapped(model: Any) -> Any:
        plain = model.logits

        def logits(hidden: Tensor, offset: int, size: int) -> Tensor:
            now["step"] += 1
            found: Tensor = plain(hidden, offset, size)
            return found

        model.logits = logits
        return model

    def asked(batch: TokenBatch, cells: Tensor) -> None:
        now["cells"] = cells[batch.modality == 2].unflatten(0, (2, FRAMES))

    wrapped.asked = asked  # type: ignore[attr-defined]
    monkeypatch.setattr(base, "draw", draw)
    return wrapped


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("sampler", {"steps": [5, 3, 2]}),
        ("sampler2", {"steps": [3, 2, 1], "top_p": 1.0, "guidance_scale": 20.0}),
    ],
)
def test_a_decode_with_the_noise_of_the_reference_has_its_inputs_at_every_step_and_its_codes(
    golden: dict[str, Tensor], lm: MagnetTransformer, monkeypatch: pytest.MonkeyPatch, name: str, changes: dict[str, Any]
) -> None:
    settings = magnet_settings(LEVELS, CONTEXT, 3, effects=False).changed(**changes)
    if name == "sampler2":
        settings = settings.changed(sampler_options={**settings.sampler_options, "arrangement": "stride1"})
    words = given_words(lm, golden)
    nulls = torch.zeros_like(words)
    inputs, plain, wrapped = list[Tensor](), lm.forward, fed(monkeypatch, golden[f"{name}_exp"])

    def called(ids: Tensor, time: Tensor, _words: Tensor, near: Any = None, _told: Any = None) -> Tensor:
        inputs.append(ids[:2].transpose(1, 2))
        near = None if near is None else CAUSAL.expand(len(ids), 1, FRAMES, FRAMES)
        return plain(ids, time, torch.cat([words, nulls])[: len(ids)], near)  # the zeros of the reference take attention

    model = wrapped(network(lm, golden))
    monkeypatch.setattr(lm, "forward", called)
    blank = [{"text": torch.tensor([[row]]), "audio": torch.full((LEVELS, FRAMES), UNKNOWN)} for row in range(2)]
    decoder, batch = Decoder(model, SPACE, "audio", settings), pack(blank, SPACE)
    whole = base.Sampler._draw

    def watched(self: Any, logits_fn: Any, own: Any, cells: Tensor, other: Any = None) -> Any:
        wrapped.asked(own.batch, cells)  # type: ignore[attr-defined]
        return whole(self, logits_fn, own, cells, other)

    monkeypatch.setattr(base.Sampler, "_draw", watched)
    made = decoder(batch, [torch.Generator()] * 2)
    assert torch.equal(torch.stack(inputs), golden[f"{name}_model_inputs"])
    found = torch.stack([row["audio"] for row in unpack(made.batch, SPACE)])
    assert torch.equal(found, golden[f"{name}_result"])
