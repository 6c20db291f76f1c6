"""Lumina-DiMOO: text and images of any size in one vocabulary of LLaDA's network, images by a VQModel."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from maskgen.decoding.parts import Parts
from maskgen.decoding.settings import GenerationSettings
from maskgen.interop.base import Family, LoadOptions, peek_json, read_json
from maskgen.interop.llada import CONFIG, answering, read_network, write_network
from maskgen.interop.llada_network import LLaDAConfig, LLaDANetwork
from maskgen.interop.llada_text import read_text_tokenizer
from maskgen.interop.sequences import ModelVocabulary, Order, Piece, SequenceRow, arranged
from maskgen.tokenizers.diffusers_vq import DiffusersVQTokenizer
from maskgen.tokens.space import TokenSpace

PIPELINE = "LuminaDiMOOPipeline"
FIRST_IMAGE_CODE = 126356
"""Id of image code 0 in the published vocabulary."""
GRID = (64, 64)
ROW = 1
"""Number of the row among the coordinates of a cell, (time, row, column)."""
DRAW = "<system>Generate an image according to the text prompt.</system><user>"
END_TURN, QUESTION = "</user>", "Please describe this image in detail."
ANSWER_TOKENS = 1024
LONGEST_CAPTION = 1024
"""Tokens of a caption that are taken; the authors set no limit."""
TEMPLATE = (
    "<system>You are a multimodal model that can process both text and images. Answer the following question based on the provided images. "
    "Analyze each image and combine relevant details to answer.</system><user>{{ messages[-1]['content'] }}</user>"
)


@dataclass(frozen=True, kw_only=True)
class LuminaMarks:
    """Ids of the tokens that Lumina-DiMOO expects around text and image.

    Args:
        begin_image: Token before an image.
        end_image: Token behind an image.
        end_row: Token behind each row of an image.
        nothing: Token in the place of a caption that was left out.
        begin_answer: Token before what is generated.
        end_answer: Token behind what is generated.
        draw: Tokens before a caption.
        end_turn: Tokens behind a caption or a question.
    """

    begin_image: int
    end_image: int
    end_row: int
    nothing: int
    begin_answer: int
    end_answer: int
    draw: tuple[int, ...]
    end_turn: tuple[int, ...]

    @classmethod
    def before(cls, first: int, draw: Sequence[int], end_turn: Sequence[int]) -> "LuminaMarks":
        """The ids of a vocabulary whose image code 0 is `first`: all of them stand right before it, but for the end of a row."""
        return cls(
            begin_image=first - 7,
            end_image=first - 6,
            nothing=first - 5,
            begin_answer=first - 2,
            end_answer=first - 1,
            end_row=first - 272,
            draw=tuple(draw),
            end_turn=tuple(end_turn),
        )


def lumina_order(marks: LuminaMarks) -> Order:
    """How Lumina-DiMOO reads a row.

    To draw: the instruction, the caption or the token for none, the end of the turn, then the image inside the marks of an answer. To
    answer: the conversation with the image before the end of the user's turn, then the answer inside its marks. Every row of an image ends
    in a token of its own, which tells the model the size of the image.

    Source: Lumina-DiMOO, arXiv:2510.06308. Differs: several rows of any size go together; the authors' script takes one.
    """

    def order(row: SequenceRow) -> Sequence[Piece]:
        text = row.cells["text"]
        image = _image(row, marks) if len(row.cells["image"]) else []
        if row.draws_image:
            caption: Piece = text if len(text) else (marks.nothing,)
            return [marks.draw, caption, marks.end_turn, (marks.begin_answer,), *image, (marks.end_answer,)]
        turn = _turn(row.ids[text], marks.end_turn)
        if turn is None:
            return [*image, text]
        return [text[: turn - 1], *image, text[turn - 1 : turn], (marks.begin_answer,), text[turn:], (marks.end_answer,)]

    return order


def _image(row: SequenceRow, marks: LuminaMarks) -> list[Piece]:
    """The cells of an image row by row, inside its marks."""
    cells = row.cells["image"]
    lines = row.coords[cells, ROW]
    starts = [0, *((lines[1:] != lines[:-1]).nonzero()[:, 0] + 1).tolist(), len(cells)]
    pieces: list[Piece] = []
    for start, stop in pairwise(starts):
        pieces += [cells[start:stop], (marks.end_row,)]
    return [(marks.begin_image,), *pieces, (marks.end_image,)]


def _turn(ids: Int[Tensor, " cells"], end_turn: Sequence[int]) -> int | None:
    """Number of tokens up to the last end of a turn, and with it; None if there is none."""
    wanted, size = ids.new_tensor(list(end_turn)), len(end_turn)
    found = [stop for stop in range(size, len(ids) + 1) if torch.equal(ids[stop - size : stop], wanted)]
    return found[-1] if found else None


def _recognises(folder: Path) -> bool:
    """Whether a folder holds a Lumina-DiMOO."""
    return peek_json(folder / "model_index.json").get("_class_name") == PIPELINE


def _load(folder: Path, options: LoadOptions) -> Parts:
    """Read a folder of Lumina-DiMOO: the network's files, the tokenizer's and `vqvae/`.

    The special tokens stand before image code 0, which is 126356 in the published vocabulary; a text never draws image codes.

    Raises:
        ValueError: If a file is missing, damaged or of another network.
    """
    config = LLaDAConfig.from_dict(read_json(folder / CONFIG), str(folder / CONFIG))
    image = DiffusersVQTokenizer.from_pretrained(folder, subfolder="vqvae", value_range=(0, 1))
    first = FIRST_IMAGE_CODE if config.vocab_size >= FIRST_IMAGE_CODE + image.codebook_size else config.vocab_size - image.codebook_size
    text = read_text_tokenizer(folder, first, TEMPLATE, QUESTION)
    text.longest_prompt = LONGEST_CAPTION
    space = TokenSpace([text.modality("text"), image.modality("image")])
    vocabulary = ModelVocabulary(space, {"text": 0, "image": first}, config.mask_id, config.vocab_size)
    marks = LuminaMarks.before(first, text.encode_special(DRAW), text.encode_special(END_TURN))
    return Parts(
        model=read_network(folder, config, vocabulary, arranged(vocabulary, lumina_order(marks)), options),
        space=space,
        tokenizers={"text": text, "image": image},
        settings={"image": _drawing(), "text": answering(block_size=256, steps=128)},
        grids={"text": (ANSWER_TOKENS,), "image": GRID},
        family=FAMILY.name,
    )


def _drawing() -> GenerationSettings:
    """How Lumina-DiMOO draws: 64 steps of MaskGIT's sampler with constant noise in the ranking; its guidance 4 is 5 here."""
    return GenerationSettings(
        sampler="confidence",
        sampler_options={"annealing": "constant"},
        steps=(64,),
        temperature=(1.0,),
        choice_temperature=(1.0,),
        schedule="cosine",
        guidance_scale=5.0,
    )


def _export(parts: Parts, folder: Path) -> None:
    """Write the model as a folder that the authors' code loads."""
    image = parts.tokenizers["image"]
    assert isinstance(parts.model, LLaDANetwork), "a Lumina-DiMOO has LLaDA's network"
    assert isinstance(image, DiffusersVQTokenizer), "a Lumina-DiMOO has the codes of a VQModel"
    write_network(parts.model, folder)
    image.model.save_pretrained(folder / "vqvae", safe_serialization=True)


FAMILY = Family(
    name="Lumina-DiMOO",
    hub_ids={"Alpha-VLLM/Lumina-DiMOO": 8081.81 + 146.24},
    tokenizer_millions={"Alpha-VLLM/Lumina-DiMOO": 146.24},
    makes=("text to image", "inpaint", "caption", "text"),
    code_licence="Apache-2.0",
    weights_licence="see the model's card",
    recognises=_recognises,
    load=_load,
    export=_export,
    source="arXiv:2510.06308",
)
