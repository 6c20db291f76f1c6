"""Show-o: text to image, inpainting, captions and answers about images, from the folders of its authors."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from maskgen.decoding.parts import Parts
from maskgen.decoding.settings import GenerationSettings
from maskgen.interop.base import Family, LoadOptions, peek_json, read_json, write_json, write_tensors
from maskgen.interop.mmada import MMaDAMarks, mmada_order, read_magvit2
from maskgen.interop.sequences import ModelVocabulary, Order, Piece, SequenceRow, arranged
from maskgen.interop.showo_network import PhiSizes, ShowoNetwork
from maskgen.interop.weights import load_exactly, weight_files
from maskgen.io.files import write_atomic
from maskgen.io.hub import hub_file
from maskgen.tokenizers.chat import ChatTemplate
from maskgen.tokenizers.magvit2 import Magvit2Tokenizer
from maskgen.tokenizers.text import VOCABULARY_FILE
from maskgen.tokenizers.transformers_text import TransformersTextTokenizer
from maskgen.tokens.space import TokenSpace

CONFIG, WEIGHTS_STEM = "config.json", "pytorch_model"
PHI_FOLDER, PHI_ID = "phi-1_5", "microsoft/phi-1_5"
END = "<|endoftext|>"
"""Token before and behind every text."""
NEW_TOKENS = ("[PAD]", "<|soi|>", "<|eoi|>", "<|sov|>", "<|eov|>", "<|t2i|>", "<|mmu|>", "<|t2v|>", "<|v2v|>", "<|lvg|>")
"""Tokens that Show-o adds behind the text vocabulary, in this order; image codes follow."""
LONGEST_CAPTION = 126
"""Tokens of a caption: the authors cut at 129 with the task and the tokens at its ends."""
ANSWER_TOKENS, MOST_ANSWER_TOKENS = 100, 256
TEMPLATE = "<|endoftext|>USER: \n{{ messages[-1]['content'] }} ASSISTANT:"
QUESTION = "Please describe this image in detail."


def showo_order(marks: MMaDAMarks) -> Order:
    """How Show-o reads a row: `<t2i> <bos> text <eos> <soi> image <eoi>` to draw, `<mmu> <soi> image <eoi> <bos> text` to answer.

    A text without an image begins with <bos>, which is added if the text does not begin with it.

    Source: Show-o, arXiv:2408.12528.
    """
    with_image = mmada_order(marks)

    def order(row: SequenceRow) -> Sequence[Piece]:
        text, image = row.cells["text"], row.cells["image"]
        if len(image) and row.draws_image:
            return with_image(row)
        begun = len(text) and int(row.ids[text[0]]) == marks.begin_text
        whole: list[Piece] = [text] if begun else [(marks.begin_text,), text]
        return whole if not len(image) else [(marks.answer, marks.begin_image), image, (marks.end_image,), *whole]

    return order


def _marks(first: int, end: int) -> MMaDAMarks:
    """Ids of the tokens around text and image, for a vocabulary whose first added token has the id `first`."""
    new = {name: first + number for number, name in enumerate(NEW_TOKENS)}
    return MMaDAMarks(
        draw=new["<|t2i|>"],
        answer=new["<|mmu|>"],
        begin_text=end,
        end_text=end,
        begin_image=new["<|soi|>"],
        end_image=new["<|eoi|>"],
    )


def _recognises(folder: Path) -> bool:
    """Whether a folder holds a Show-o."""
    return peek_json(folder / CONFIG).get("_class_name") == "Showo"


def _load(folder: Path, options: LoadOptions) -> Parts:
    """Read a folder of Show-o, and MAGVIT-v2 and the tokenizer of phi-1.5 inside it, beside it or on the hub.

    Raises:
        ValueError: If a file is missing, damaged or of another network, or the model sees images by CLIP.
    """
    config = read_json(folder / CONFIG)
    names = ("vocab_size", "llm_vocab_size", "codebook_size", "num_vq_tokens")
    total, words, codes, cells = (_whole(config, name, folder / CONFIG) for name in names)
    side = round(cells**0.5)
    if config.get("w_clip_vit"):
        raise ValueError(f"{folder} sees images by CLIP (w_clip_vit), which maskgen does not run; take showlab/show-o-512x512 or show-o")
    if side**2 != cells or words + len(NEW_TOKENS) + codes + 1 != total:
        raise ValueError(
            f"{folder / CONFIG} has {words} words, {codes} codes and {total} ids for images of {cells} cells, wanted "
            f"{words + len(NEW_TOKENS) + codes + 1} ids and a square; copy the model again"
        )
    image, place = read_magvit2(folder, options.local_files_only), _phi_folder(folder, options.local_files_only)
    if image.codebook_size != codes:
        raise ValueError(f"{folder} knows {codes} image codes, its tokenizer has {image.codebook_size}; give those that go together")
    chat = ChatTemplate(template=TEMPLATE, question=QUESTION)
    text = TransformersTextTokenizer((place / VOCABULARY_FILE).read_text(encoding="utf-8"), END, words, chat)
    text.longest_prompt = LONGEST_CAPTION
    assert text.end is not None, "the tokenizer has it, or refuses its vocabulary"
    space = TokenSpace([text.modality("text"), image.modality("image")])
    vocabulary = ModelVocabulary(space, {"text": 0, "image": words + len(NEW_TOKENS)}, total - 1, total)
    marks, phi = _marks(words, text.end), dict(peek_json(place / CONFIG))
    sizes = PhiSizes.from_dict(phi, total, str(place / CONFIG))
    with torch.device("meta"):
        model = ShowoNetwork(
            sizes, vocabulary, arranged(vocabulary, showo_order(marks)), (marks.begin_image, marks.end_image, marks.answer), side
        )
    load_exactly(model, weight_files(folder, WEIGHTS_STEM), source=str(folder), dtype=options.dtype, device=options.device)
    model.published = {"config": dict(config), "phi": phi}
    return Parts(
        model=model,
        space=space,
        tokenizers={"text": text, "image": image},
        settings={"image": showo_drawing(side), "text": showo_answering()},
        grids={"text": (ANSWER_TOKENS,), "image": (side, side)},
        family=FAMILY.name,
    )


def showo_drawing(side: int) -> GenerationSettings:
    """How Show-o draws: MaskGIT's sampler, with the numbers of the authors' examples; their guidance w in (1 + w) c - w u is w + 1 here.

    Differs: the authors multiply the noise of the ranking by 1 - progress at every step anew, so that it falls faster than they write; and
    they count an edit's cells from the whole image, so that one of few cells is drawn cell by cell.

    Args:
        side: Rows of an image: 32 for the model of 512 pixels, which takes 50 steps and w = 5; smaller ones take 16 and 1.75.
    """
    steps, scale = (50, 6.0) if side >= 32 else (16, 2.75)
    return GenerationSettings(
        sampler="confidence", steps=(steps,), temperature=(1.0,), choice_temperature=(1.0,), schedule="cosine", guidance_scale=scale
    )


def showo_answering() -> GenerationSettings:
    """How Show-o writes: the likeliest next token, one after the other, by one model call each.

    Steps are an upper bound: a longer answer than so many tokens needs more of them.
    """
    return GenerationSettings(sampler="blocks", sampler_options={"block_size": 1}, steps=(MOST_ANSWER_TOKENS,), temperature=(0.0,))


def _whole(config: Any, name: str, path: Path) -> int:
    """A positive whole number of a configuration.

    Raises:
        ValueError: If it is missing or of another kind.
    """
    found = config.get(name)
    if not isinstance(found, int) or isinstance(found, bool) or not 1 <= found <= 2**24:
        raise ValueError(f"{path} gives {found!r} for {name}, wanted a positive whole number; copy the model again")
    return found


def _phi_folder(folder: Path, local_files_only: bool) -> Path:
    """The folder with phi-1.5's tokenizer: inside or beside the model's, else from the hub."""
    for place in (folder / PHI_FOLDER, folder.parent / PHI_FOLDER):
        if (place / VOCABULARY_FILE).is_file():
            return place
    return hub_file(PHI_ID, VOCABULARY_FILE).parent


def _export(parts: Parts, folder: Path) -> None:
    """Write the model as a folder that the authors' code loads, with image tokenizer and text tokenizer in folders inside."""
    model, image, text = parts.model, parts.tokenizers["image"], parts.tokenizers["text"]
    assert isinstance(model, ShowoNetwork), "load made it"
    assert isinstance(image, Magvit2Tokenizer), "a Show-o has MAGVIT-v2's codes"
    assert isinstance(text, TransformersTextTokenizer), "load made it"
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_tensors(folder / f"{WEIGHTS_STEM}.safetensors", weights)
    write_json(folder / CONFIG, model.published["config"])
    image.save_pretrained(folder / "magvitv2")
    (folder / PHI_FOLDER).mkdir(exist_ok=True)
    write_atomic(folder / PHI_FOLDER / VOCABULARY_FILE, text.vocabulary.encode())
    if model.published["phi"]:
        write_json(folder / PHI_FOLDER / CONFIG, model.published["phi"])


FAMILY = Family(
    name="Show-o",
    hub_ids={"showlab/show-o-512x512": 1448.18 + 95.49, "showlab/show-o": 1448.18 + 95.49},
    tokenizer_millions={"showlab/show-o-512x512": 95.49, "showlab/show-o": 95.49},
    download_gb={"showlab/show-o-512x512": 5.79 + 0.38},
    makes=("text to image", "inpaint", "caption", "text"),
    code_licence="Apache-2.0",
    weights_licence="Apache-2.0",
    recognises=_recognises,
    load=_load,
    export=_export,
    source="arXiv:2408.12528",
)
