"""Show-o: its network beside transformers' Phi with the authors' layouts and masks, and whole from a folder laid out as the hub's."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from builders.hub_folders import scrambled
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

import maskgen
from maskgen.decoding.decoder import Decoder
from maskgen.decoding.settings import GenerationSettings
from maskgen.interop.sequences import ModelVocabulary, cell_after_cell
from maskgen.interop.showo import NEW_TOKENS, showo_answering, showo_drawing
from maskgen.interop.showo_network import PhiSizes, ShowoNetwork, omni_mask
from maskgen.sampling import names
from maskgen.tokens.batch import UNKNOWN
from maskgen.tokens.packing import pack
from maskgen.tokens.space import Modality, TokenSpace
from tests.interop.llada_cases import SPECIALS, chat_vocabulary, golden

pytest.importorskip("transformers", reason="needs transformers: pip install maskgen[codecs]")
WORDS, CODES, SIDE = 300, 128, 2
FIRST, TOTAL = WORDS + len(NEW_TOKENS), WORDS + len(NEW_TOKENS) + CODES + 1
MASK, END, PAD = TOTAL - 1, SPECIALS["<|endoftext|>"], WORDS
SOI, EOI, T2I, MMU = (WORDS + NEW_TOKENS.index(name) for name in ("<|soi|>", "<|eoi|>", "<|t2i|>", "<|mmu|>"))
PHI = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "partial_rotary_factor": 0.5}


def space_of(words: int, codes: int) -> TokenSpace:
    text, image = (
        Modality(name=name, kind=name, num_levels=1, codebook_size=size)  # type: ignore[arg-type]
        for name, size in (("text", words), ("image", codes))
    )
    return TokenSpace([text, image])


def phi() -> Any:
    """Transformers' Phi with norms on queries and keys, as the authors' copy of it always has."""
    from transformers import PhiConfig, PhiForCausalLM

    config: Any = PhiConfig(**PHI, vocab_size=TOTAL, qk_layernorm=True, attn_implementation="sdpa", max_position_embeddings=64)
    torch.manual_seed(0)
    return scrambled(PhiForCausalLM(config))


@pytest.fixture(scope="module")
def theirs() -> Any:
    return phi()


def write_showo(place: Path) -> None:
    """A folder laid out as the hub's, with phi-1.5's tokenizer and MAGVIT-v2 beside it."""
    place.mkdir(parents=True, exist_ok=True)
    config = {"_class_name": "Showo", "_version": "0.0.1", "codebook_size": CODES, "llm_model_path": "", "llm_vocab_size": WORDS}
    config |= {"load_from_showo": True, "mask_token_id": MASK, "num_vq_tokens": SIDE**2, "vocab_size": TOTAL, "w_clip_vit": False}
    (place / "config.json").write_text(json.dumps(config))
    save_file({f"showo.{name}": tensor for name, tensor in phi().state_dict().items()}, place / "pytorch_model.safetensors")
    (place.parent / "phi-1_5").mkdir()
    (place.parent / "phi-1_5" / "tokenizer.json").write_text(chat_vocabulary())
    (place.parent / "phi-1_5" / "config.json").write_text(json.dumps({**PHI, "model_type": "phi"}))
    weights, _, _ = golden("magvitv2")
    (place.parent / "magvitv2").mkdir()
    save_file(weights, place.parent / "magvitv2" / "pytorch_model.safetensors")
    (place.parent / "magvitv2" / "config.json").write_text(json.dumps({"_class_name": "MAGVITv2", "num_groups": 2}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("showo") / "model"
    write_showo(place)
    return place


@pytest.fixture(scope="module")
def pipe(folder: Path) -> maskgen.TextToImagePipeline:
    found = maskgen.Pipeline.from_pretrained(folder)
    assert isinstance(found, maskgen.TextToImagePipeline)
    found.set_progress_bar_config(disable=True)
    return found


@pytest.fixture(scope="module")
def writer(folder: Path) -> maskgen.TextGenerationPipeline:
    return maskgen.TextGenerationPipeline.from_pretrained(folder)


def authors_mask(ids: list[int]) -> Tensor:
    """Who sees whom, in the words of the authors' two builders: drawing with padding on the left, and answering."""
    size, seen = len(ids), torch.zeros(len(ids), len(ids), dtype=torch.bool)
    begin, end = (ids.index(one) if one in ids else -1 for one in (SOI, EOI))
    answering = MMU in ids
    for query in range(size):
        for key in range(size):
            if answering:
                seen[query, key] = key <= query or key <= end
            elif ids[key] != PAD or ids[query] == PAD:
                seen[query, key] = key <= query or begin <= query <= end
    return seen


def their_logits(theirs: Any, ids: list[int]) -> Tensor:
    with torch.no_grad():
        found: Tensor = theirs(input_ids=torch.tensor([ids]), attention_mask=authors_mask(ids)[None, None], use_cache=False).logits
    return found[0]


DRAWN = [T2I, END, 7, 8, END, SOI, *[MASK] * 3, FIRST + 5, EOI]
ASKED = [MMU, SOI, FIRST, FIRST + 1, FIRST + 2, FIRST + 3, EOI, END, 40, 41, 42]


def test_who_sees_whom_is_as_the_authors_say() -> None:
    for ids in (DRAWN, ASKED, [END, 3, 4, 5]):
        found = omni_mask(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.bool), SOI, EOI, MMU)
        assert torch.equal(found[0, 0], authors_mask(ids))


def test_every_layer_is_that_of_transformers_given_the_same_mask(pipe: maskgen.TextToImagePipeline, theirs: Any) -> None:
    trunk: Any = pipe.model.showo["model"]
    states = list[Tensor]()
    hooks = [layer.register_forward_hook(lambda _, __, made: states.append(made)) for layer in trunk.layers]
    for ids in (DRAWN, ASKED):
        seen = authors_mask(ids)[None, None]
        states.clear()
        found = trunk(torch.tensor([ids]), seen)
        with torch.no_grad():
            wanted = theirs.model(input_ids=torch.tensor([ids]), attention_mask=seen, output_hidden_states=True, use_cache=False)
        assert len(states) == 2
        torch.testing.assert_close(states[0], wanted.hidden_states[1], atol=1e-5, rtol=0)
        torch.testing.assert_close(found, wanted.last_hidden_state, atol=1e-5, rtol=0)
    for hook in hooks:
        hook.remove()


def test_drawn_cells_have_the_logits_of_the_authors_layout_with_its_padding(pipe: maskgen.TextToImagePipeline, theirs: Any) -> None:
    image = torch.tensor([[[UNKNOWN, UNKNOWN], [UNKNOWN, 5]]])
    batch = pack([{"text": torch.tensor([[7, 8]]), "image": image}, {"image": image}], pipe.space)
    segment = pipe.space.of("image")[0]
    found = pipe.model.logits(pipe.model(batch)[batch.cells(segment.index)], segment.offset, segment.size).unflatten(0, (2, 4))
    for row, text in enumerate(([7, 8], [])):
        ids = [*[PAD] * (5 - len(text)), T2I, END, *text, END, SOI, *[MASK] * 3, FIRST + 5, EOI]
        wanted = their_logits(theirs, ids)[-5:-1, FIRST:MASK]
        torch.testing.assert_close(found[row], wanted, atol=1e-5, rtol=0)


def test_an_answer_is_the_likeliest_next_token_one_after_the_other(writer: maskgen.TextGenerationPipeline, theirs: Any) -> None:
    """As the authors write: the image before the question, and every token from the logits of the one before it."""
    image = Image.effect_noise((32, 32), 80).convert("RGB")
    made = writer("a heart", image=image, length=6, num_inference_steps=6)
    codes = made.generation.codes[0][0].tolist()
    asked = writer.tokenizers["text"].encode_chat("a heart")[0].tolist()
    assert asked[0] == END
    picture = (writer.tokenizers["image"].encode([image])[0].flatten() + FIRST).tolist()
    ids = [MMU, SOI, *picture, EOI, *asked]
    for _ in range(6):
        ids.append(int(their_logits(theirs, ids)[-1, :WORDS].argmax()))
    assert codes == ids[3 + SIDE**2 :]
    until = codes[len(asked) :]
    until = until[: until.index(END)] if END in until else until
    assert made.generation.model_calls == [6]
    with pytest.raises(ValueError, match="300 blocks of 1, and there are 256 steps; take at least a step a block"):
        writer("a heart", image=image, length=300)
    assert made.text == writer.tokenizers["text"].decode([torch.tensor([until], dtype=torch.long)])[0]
    question = writer.tokenizers["text"].chat.question  # type: ignore[attr-defined]
    few: dict[str, Any] = {"length": 3, "num_inference_steps": 3}
    assert writer(image=image, **few).text == writer(question, image=image, **few).text
    assert writer("a heart", **few).generation.codes[0].shape == (1, len(asked) + 3)


def test_a_prompt_becomes_an_image(pipe: maskgen.TextToImagePipeline) -> None:
    made = pipe("a red heart", num_inference_steps=2, num_outputs=2)
    assert [image.size for image in made.images] == [(32, 32)] * 2
    assert made.model_calls == [4, 4]
    assert pipe("a red heart", num_inference_steps=2, guidance_scale=1.0).model_calls == [2]
    together = pipe(["a red heart", "a tall tree near the table"], num_inference_steps=2)
    assert torch.equal(together.codes[1], pipe("a tall tree near the table", num_inference_steps=2).codes[0])


def test_an_edit_keeps_what_is_outside_its_mask_and_a_shifted_image_is_continued(pipe: maskgen.TextToImagePipeline) -> None:
    """The authors continue an image by drawing the free half of a shifted one; so does an edit here."""
    image, mask = Image.effect_noise((32, 32), 80).convert("RGB"), Image.new("L", (32, 32), 0)
    mask.paste(255, (16, 0, 32, 32))
    shifted = Image.new("RGB", (32, 32))
    shifted.paste(image.crop((16, 0, 32, 32)), (0, 0))
    made = pipe("a red heart", image=shifted, mask_image=mask, num_inference_steps=2)
    assert made.images[0].crop((0, 0, 16, 32)).tobytes() == image.crop((16, 0, 32, 32)).tobytes()
    with pytest.raises(ValueError, match=r"trained on whole images of 2 x 2 cells, got \[\(2, 3\)\] with 6 cells seen"):
        pipe("a red heart", width=48, height=32)


def test_an_edit_follows_the_schedule_of_its_own_cells() -> None:
    """The reference takes its counts from the whole image: of 10 free cells of 16 it writes 1, 1, 2 and 6 in four steps."""
    vocabulary = ModelVocabulary(space_of(9, 8), {"text": 0, "image": 10}, 18, 19)
    sizes = PhiSizes.from_dict({**PHI, "num_hidden_layers": 1}, 19, "a test")
    model = scrambled(ShowoNetwork(sizes, vocabulary, cell_after_cell(vocabulary), (9, 9, 9), 4))
    image = torch.zeros(1, 16, dtype=torch.long)
    image[0, :10] = UNKNOWN
    settings = showo_drawing(4).changed(steps=4, guidance_scale=1.0)
    batch = pack([{"image": image.view(1, 4, 4)}], vocabulary.space)
    made = Decoder(model, vocabulary.space, "image", settings)(batch, [torch.Generator().manual_seed(0)])
    assert [int(step.sum()) for step in made.trajectories[0].changed] == [1, 2, 4, 3]


@pytest.mark.parametrize("name", [name for name in names() if name not in ("critic", "frequency")])
# The samplers left out need a trained critic, or the attention of maskgen's own transformer.
def test_every_sampler_fills_the_blanks_and_keeps_what_was_known(pipe: maskgen.TextToImagePipeline, name: str) -> None:
    known = torch.tensor([[[3, UNKNOWN], [UNKNOWN, 7]]])
    options = {"block_size": 2} if name == "blocks" else {}
    for target, codes in (("image", known), ("text", torch.tensor([[5, UNKNOWN, UNKNOWN, 9]]))):
        settings = GenerationSettings(sampler=name, steps=(2,), guidance_scale=2.0, sampler_options=options)
        other = {"text": torch.tensor([[7, 8]])} if target == "image" else {"image": known.clamp(min=0)}
        if target == "text" and name == "halton":
            continue  # places of a grid alone
        found = pipe.generate([{**other, target: codes}], target, [1], settings).codes[0]
        assert torch.equal(found[codes != UNKNOWN], codes[codes != UNKNOWN])
        assert int(found.min()) >= 0


def test_what_is_saved_has_the_authors_names_and_loads_alike(
    pipe: maskgen.TextToImagePipeline, folder: Path, tmp_path: Path, theirs: Any
) -> None:
    pipe.save_pretrained(tmp_path)
    wanted, found = (load_file(place / "pytorch_model.safetensors") for place in (folder, tmp_path))
    assert set(found) == {f"showo.{name}" for name in theirs.state_dict()}
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert json.loads((tmp_path / "config.json").read_text()) == json.loads((folder / "config.json").read_text())
    again = maskgen.Pipeline.from_pretrained(tmp_path)
    assert again.family == "Show-o"
    assert {name: one.fingerprint for name, one in again.tokenizers.items()} == {
        name: one.fingerprint for name, one in pipe.tokenizers.items()
    }
    options = {"num_inference_steps": 2}
    assert again("a red heart", **options).images[0].tobytes() == pipe("a red heart", **options).images[0].tobytes()


def test_damaged_and_foreign_folders_are_named(folder: Path, tmp_path: Path) -> None:
    for path in folder.parent.iterdir():
        if path != folder:
            (tmp_path / path.name).symlink_to(path)
    place = tmp_path / "model"
    place.mkdir()
    config, weights = json.loads((folder / "config.json").read_text()), load_file(folder / "pytorch_model.safetensors")

    def refused(sentence: str, changes: dict[str, Any], tensors: dict[str, Tensor] = weights) -> None:
        (place / "config.json").write_text(json.dumps({**config, **changes}))
        save_file(tensors, place / "pytorch_model.safetensors")
        with pytest.raises(ValueError, match=sentence):
            maskgen.Pipeline.from_pretrained(place)

    refused("sees images by CLIP", {"w_clip_vit": True})
    refused("gives None for num_vq_tokens", {"num_vq_tokens": None})
    refused("for images of 5 cells, wanted 439 ids and a square", {"num_vq_tokens": 5})
    name = "showo.model.layers.1.self_attn.q_layernorm.weight"
    refused(rf"lack {name} \[8\]", {}, {key: one for key, one in weights.items() if key != name})
    refused(r"have the unknown tensors mm_projector.0.weight \[2, 2\]", {}, {**weights, "mm_projector.0.weight": torch.zeros(2, 2)})


def test_published_defaults_and_the_published_number_of_values(pipe: maskgen.TextToImagePipeline) -> None:
    """5.79 GB in float32."""
    large, small = showo_drawing(32), showo_drawing(16)
    assert (large.steps, large.guidance_scale, small.steps, small.guidance_scale) == ((50,), 6.0, (16,), 2.75)
    assert pipe.settings_of("text") == showo_answering()
    assert (T2I - WORDS, MMU - WORDS, SOI - WORDS) == (5, 6, 1)
    vocabulary = ModelVocabulary(space_of(50_295, 8192), {"text": 0, "image": 50_305}, 58_497, 58_498)
    with torch.device("meta"):
        network = ShowoNetwork(PhiSizes.from_dict({}, 58_498, "phi-1.5"), vocabulary, cell_after_cell(vocabulary), (1, 2, 3), 32)
    count = sum(tensor.numel() for tensor in network.state_dict().values())
    assert round(count / 1e6, 2) == 1448.18
    assert round(count * 4 / 1e9, 2) == 5.79
