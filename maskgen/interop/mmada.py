"""MMaDA: text and images in one vocabulary of LLaDA's network, images by MAGVIT-v2."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from maskgen.decoding.parts import Parts
from maskgen.decoding.settings import GenerationSettings
from maskgen.interop.base import Family, LoadOptions, peek_json, read_json
from maskgen.interop.llada import ANSWER_TOKENS, CONFIG, answering, architectures, read_network, write_network
from maskgen.interop.llada_network import LLaDAConfig, LLaDANetwork
from maskgen.interop.llada_text import read_text_tokenizer
from maskgen.interop.sequences import ModelVocabulary, Order, Piece, SequenceRow, arranged
from maskgen.io.hub import local_folder
from maskgen.tokenizers.magvit2 import WEIGHT_FILES, Magvit2Tokenizer
from maskgen.tokenizers.transformers_text import TransformersTextTokenizer
from maskgen.tokens.space import TokenSpace

IMAGE_TOKENIZER = "showlab/magvitv2"
GRID = (32, 32)
LONGEST_CAPTION = 510
"""Tokens of a caption: the authors cut at 512 with the first and the last one."""
RESERVED = {"<|soi|>": 126084, "<|eoi|>": 126085, "<|t2i|>": 126088, "<|mmu|>": 126089}
"""Ids of LLaDA's reserved tokens that MMaDA gave a meaning, where the vocabulary does not name them."""
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}<|start_header_id|>assistant<|end_header_id|>\n"
)
"""The turns that MMaDA was trained on; LLaDA's own have two line breaks after a header. Jinja drops the last line break of a template."""
QUESTION = "Please describe this image in detail."


@dataclass(frozen=True, kw_only=True)
class MMaDAMarks:
    """Ids of the tokens that MMaDA expects around text and image.

    Args:
        draw: Task token of text to image.
        answer: Task token of an answer about an image.
        begin_text: First token of a text.
        end_text: Token behind a caption.
        begin_image: Token before an image.
        end_image: Token behind an image.
    """

    draw: int
    answer: int
    begin_text: int
    end_text: int
    begin_image: int
    end_image: int


def mmada_order(marks: MMaDAMarks) -> Order:
    """How MMaDA reads a row: `<t2i> <bos> text <eos> <soi> image <eoi>` to draw, `<mmu> <soi> image <eoi> text` to answer.

    Without visible text the caption is empty, which is the null condition that the model was trained on.

    Source: MMaDA, arXiv:2505.15809. Differs: captions of a batch need no padding to one length.
    """

    def order(row: SequenceRow) -> Sequence[Piece]:
        text, image = row.cells["text"], row.cells["image"]
        if not len(image):
            return [text]
        if row.draws_image:
            return [(marks.draw, marks.begin_text), text, (marks.end_text, marks.begin_image), image, (marks.end_image,)]
        return [(marks.answer, marks.begin_image), image, (marks.end_image,), text]

    return order


def _read_marks(tokenizer: TransformersTextTokenizer, folder: Path) -> MMaDAMarks:
    """The ids of a folder: from its vocabulary by name, else LLaDA's reserved tokens.

    Raises:
        ValueError: If the vocabulary has no first or last token of a text, or is too small for the reserved tokens.
    """
    found = {name: tokenizer.token(name) for name in RESERVED}
    ids = {name: RESERVED[name] if code is None else code for name, code in found.items()}
    begin = tokenizer.token((tokenizer.chat.tokens if tokenizer.chat else {}).get("bos_token", ""))
    if begin is None or tokenizer.end is None or max(ids.values()) >= tokenizer.codebook_size:
        raise ValueError(f"the vocabulary in {folder} lacks bos_token, eos_token or the reserved tokens of LLaDA; copy the model again")
    return MMaDAMarks(
        draw=ids["<|t2i|>"],
        answer=ids["<|mmu|>"],
        begin_text=begin,
        end_text=tokenizer.end,
        begin_image=ids["<|soi|>"],
        end_image=ids["<|eoi|>"],
    )


def _recognises(folder: Path) -> bool:
    """Whether a folder holds an MMaDA."""
    config = peek_json(folder / CONFIG)
    return config.get("model_type") == "mmada" or any(name.lower().startswith("mmada") for name in architectures(config))


def read_magvit2(folder: Path) -> Magvit2Tokenizer:
    """The image tokenizer, which the authors publish apart: a folder `magvitv2` inside or beside the model's, else from the hub."""
    for place in (folder / "magvitv2", folder.parent / "magvitv2"):
        if any((place / name).is_file() for name in WEIGHT_FILES):
            return Magvit2Tokenizer.from_pretrained(place)
    return Magvit2Tokenizer.from_pretrained(local_folder(IMAGE_TOKENIZER))


def _load(folder: Path, options: LoadOptions) -> Parts:
    """Read a folder of MMaDA, and the MAGVIT-v2 tokenizer inside it, beside it or on the hub.

    Image codes begin behind the tokens of the vocabulary, as in the authors' scripts. A text never draws image codes.

    Raises:
        ValueError: If a file is missing, damaged or of another network.
    """
    config = LLaDAConfig.from_dict(read_json(folder / CONFIG), str(folder / CONFIG))
    size = read_text_tokenizer(folder, config.vocab_size).num_tokens
    text, image = read_text_tokenizer(folder, size, TEMPLATE, QUESTION), read_magvit2(folder)
    text.longest_prompt = LONGEST_CAPTION
    space = TokenSpace([text.modality("text"), image.modality("image")])
    vocabulary = ModelVocabulary(space, {"text": 0, "image": size}, config.mask_id, config.vocab_size)
    layout = arranged(vocabulary, mmada_order(_read_marks(text, folder)))
    return Parts(
        model=read_network(folder, config, vocabulary, layout, options),
        space=space,
        tokenizers={"text": text, "image": image},
        settings={"image": _drawing(), "text": answering(block_size=128, steps=128)},
        grids={"text": (ANSWER_TOKENS,), "image": GRID},
        family=FAMILY.name,
    )


def _drawing() -> GenerationSettings:
    """How MMaDA draws: 15 steps of MaskGIT's sampler; its guidance 3.5 is 4.5 here.

    Differs: the authors multiply the noise of the ranking by 1 - progress at every step anew, so that it falls faster than they write.
    """
    return GenerationSettings(
        sampler="confidence", steps=(15,), temperature=(1.0,), choice_temperature=(1.0,), schedule="cosine", guidance_scale=4.5
    )


def _export(parts: Parts, folder: Path) -> None:
    """Write the model as a folder that the authors' code loads, with the image tokenizer in a folder inside."""
    image = parts.tokenizers["image"]
    assert isinstance(parts.model, LLaDANetwork), "an MMaDA has LLaDA's network"
    assert isinstance(image, Magvit2Tokenizer), "an MMaDA has MAGVIT-v2's codes"
    write_network(parts.model, folder)
    image.save_pretrained(folder / "magvitv2")


FAMILY = Family(
    name="MMaDA",
    hub_ids={"Gen-Verse/MMaDA-8B-Base": 8082.69 + 95.49, "Gen-Verse/MMaDA-8B-MixCoT": 8082.69 + 95.49},
    makes=("text to image", "inpaint", "caption", "text"),
    code_licence="MIT",
    weights_licence="see the model's card",
    recognises=_recognises,
    load=_load,
    export=_export,
    source="arXiv:2505.15809",
)
