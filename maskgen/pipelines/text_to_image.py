"""Text to image, inpainting, outpainting and variation."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Unpack

from maskgen.decoding.settings import GenerationSettings
from maskgen.pipelines.base import Pipeline
from maskgen.pipelines.options import DrawingOptions, as_prompts, check_names, num_outputs, seeds_of, settings_from
from maskgen.pipelines.outputs import GenerationOutput, as_type
from maskgen.pipelines.storing import names_of
from maskgen.processors.image import ImageProcessor, ImageRequest
from maskgen.processors.labels import label_codes
from maskgen.processors.micro import learned_micro
from maskgen.processors.text import encoders_of
from maskgen.tokenizers.base import Tokenizer
from maskgen.tokenizers.image_geometry import image_size
from maskgen.tokens.batch import Codes
from maskgen.tokens.micro import NAME as MICRO
from maskgen.tokens.micro import micro_codes

logger = logging.getLogger(__name__)


class TextToImagePipeline(Pipeline):
    """Draws captions and labels, and edits images; a model without either draws from nothing.

    `TextToImagePipeline.from_pretrained("emoji-64")("a red heart, flat style").images[0]`
    """

    needs: ClassVar[frozenset[str]] = frozenset({"image"})
    makes: ClassVar[str | None] = "image"
    does: ClassVar[str] = "text to image"

    @property
    def processor(self) -> ImageProcessor:
        """Captions and edits to cells and back."""
        return ImageProcessor(self.tokenizers["image"], self.readers, self.grids.get("image"))

    @property
    def readers(self) -> dict[str, Tokenizer]:
        """What reads a prompt: the text tokenizer, and frozen text encoders."""
        text = {"text": self.tokenizers["text"]} if "text" in self.tokenizers else {}
        return {**text, **encoders_of(self.tokenizers)}

    def text_codes(self, text: str) -> dict[str, Codes]:
        """Known cells of a caption: {"text": codes [1, n]}, and the features of frozen encoders.

        Raises:
            ValueError: If the caption is empty, too long, or the model has no text.
        """
        return dict(self.processor.text_codes(text))

    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        label: Any = None,
        image: Any = None,
        mask_image: Any = None,
        strength: float | None = None,
        outpaint: Sequence[int] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        width: int | None = None,
        height: int | None = None,
        unconditional: bool = False,
        **options: Unpack[DrawingOptions],
    ) -> Any:
        """Generate images from captions; with `image`, edit one: every edit is the same decode with other known cells.

        Args:
            prompt: One caption or several; may be left out where `image` or `label` is given, or the model has no text.
            label: Class of a class-conditional model: its name or number, or a list of one an output. A mapping of attribute to name or
                number where the model has several. None draws any class.
            image: Image to edit: a PIL image, a path, an array or a tensor. Other sizes than the model's are letterboxed.
            mask_image: White where the image is regenerated; as large as `image`. Pixels outside come back exactly.
            strength: Share of random cells that are regenerated, in [0, 1]; 0 returns the image, 1 makes a new one.
            outpaint: Pixels to add (left, top, right, bottom), multiples of the cell.
            negative_prompt: What guidance leads away from, one text or one a prompt.
            width: Pixels of a new image, a multiple of the cell; the model's own if None.
            height: As `width`.
            unconditional: Draw without any condition, as a model without text does where no label is given.
            options: Seeds, sampling, callbacks, the form of the output, and micro-conditions; see `DrawingOptions`.

        Returns:
            GenerationOutput with `images`, prompt after prompt; or a tuple (images,) with `return_dict=False`.

        Raises:
            TypeError: If an argument has another type or there is none of its name.
            ValueError: If an argument is out of range or two contradict each other.

        Source: MaskGIT, arXiv:2202.04200; Muse, arXiv:2301.00704.
        """
        check_names(TextToImagePipeline.__call__, options, DrawingOptions)
        labels = [label_codes(self.tokenizers, one) for one in (label if isinstance(label, (list, tuple)) else [label])]
        free = self._free(prompt, label, image, unconditional)
        if prompt is None and image is None and not free:
            raise ValueError("the prompt is empty; say what the image shows, or give image, an image to edit")
        prompts, labels = _paired(as_prompts("" if prompt is None else prompt), labels)
        request = ImageRequest(
            prompts=prompts,
            seeds=seeds_of(options, [1] * len(prompts), num_outputs(options)),
            image=image,
            mask_image=mask_image,
            strength=strength,
            outpaint=outpaint,
            negative_prompts=_negatives(negative_prompt, len(prompts)),
            size=self._size(width, height),
            labels=None if label is None else labels,
            unconditional=free,
            micro=self._micro(self._size(width, height), options),
        )
        return self._drawn(request, options)

    def _drawn(self, request: ImageRequest, options: DrawingOptions) -> Any:
        """The output of a request, in the form that the options ask for."""
        settings = self._unguided(settings_from(self.settings_of("image"), options, len(self.space.of("image"))), options)
        with self._watched(options) as callback:
            plan = self.processor.prepare(request)
            limits = options.get("batch_size", 32), options.get("batch_invariant")
            output = self.generate(plan.rows, "image", plan.seeds, settings, plan.negative, callback, *limits)
        media = as_type(self.processor.finish(plan, output.media), options.get("output_type", "pil"))
        made: GenerationOutput = replace(output, media=media)
        return made if options.get("return_dict", True) else (media,)

    def _unguided(self, settings: GenerationSettings, options: DrawingOptions) -> GenerationSettings:
        """The settings without guidance where the model learned no condition, so that no second view is computed.

        Raises:
            ValueError: If a call asks for guidance all the same.
        """
        if len(self.space.modalities) > 1 or settings.null != "absent":
            return settings
        asked = [name for name in ("guidance_scale", "guidance_schedule") if options.get(name) not in (None, 1, 1.0)]
        if asked:
            raise ValueError(f"this model learned images alone, without a condition to guide by; leave {asked[0]} out")
        return replace(settings, guidance_scale=1.0, guidance_schedule="constant")

    def _free(self, prompt: Any, label: Any, image: Any, unconditional: bool) -> bool:
        """Whether a call needs no caption.

        Raises:
            ValueError: If a condition is given that should not be.
        """
        if unconditional and (prompt is not None or label is not None):
            raise ValueError(
                f"unconditional draws without a {'prompt' if prompt is not None else 'label'}, and one is given; leave one out"
            )
        needless = unconditional or not self.readers
        nothing = prompt is None and label is None and image is None and bool(set(names_of(self.space)) - {"image", MICRO})
        if needless and nothing and self.settings_of("image").guidance_scale == 1:
            logger.warning("drawn without a condition, which a model has learned only if its training had drop_condition above 0")
        return needless or label is not None

    def _micro(self, size: tuple[int, int] | None, options: DrawingOptions) -> Codes | None:
        """Micro-conditions of a call as known cells; None where none is given and the model has its own defaults.

        Raises:
            ValueError: If the model knows none.
        """
        original_size, crop, score = options.get("original_size"), options.get("crop"), options.get("aesthetic_score")
        given = {"original_size": original_size, "crop": crop, "aesthetic_score": score}
        names, learned = [name for name, value in given.items() if value is not None], self.tokenizers.get(MICRO)
        if not names and learned is None:
            return None
        if MICRO not in names_of(self.space):
            raise ValueError(f"this model was not trained with micro-conditions; leave {' and '.join(names)} out")
        own = size or image_size(self.tokenizers["image"], self.grids.get("image")) or (0, 0)
        return micro_codes(own, original_size, crop, score) if learned is None else learned_micro(learned, own, original_size, crop, score)

    def _size(self, width: Any, height: Any) -> tuple[int, int] | None:
        """Size of a new image; what is not given is the model's own."""
        if width is None and height is None:
            return None
        if not all(isinstance(side, int | None) for side in (width, height)):
            raise TypeError(f"width and height must be whole numbers of pixels, got {width!r} and {height!r}")
        own = (width, height) if width and height else image_size(self.tokenizers["image"], self.grids.get("image")) or (0, 0)
        return width or own[0], height or own[1]


def _paired(prompts: list[str], labels: list[Any]) -> tuple[list[str], list[Any]]:
    """Prompts and labels of the same number; one of either goes with all of the others.

    Raises:
        ValueError: If their numbers differ, or there is no label in a list.
    """
    if not labels or (len(prompts) != len(labels) and 1 not in (len(prompts), len(labels))):
        raise ValueError(f"label has {len(labels)} entries for {len(prompts)} prompts; give one, or one a prompt")
    most = max(len(prompts), len(labels))
    return prompts * (most // len(prompts)), labels * (most // len(labels))


def _negatives(negative: Any, prompts: int) -> list[str] | None:
    """A negative prompt for each prompt."""
    if negative is None:
        return None
    texts = as_prompts(negative, "negative_prompt")
    if len(texts) not in (1, prompts):
        raise ValueError(f"negative_prompt has {len(texts)} texts for {prompts} prompts; give one text, or one a prompt")
    return texts * prompts if len(texts) == 1 else texts
