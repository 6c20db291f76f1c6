"""The nodes that draw and edit images."""

from collections.abc import Mapping
from typing import Any, ClassVar

from PIL import Image
from torch import Tensor

from maskgen import TextToImagePipeline
from maskgen.processors.animation import decode_frames

from .inputs import (
    CATEGORY,
    DECODE,
    MODEL_INPUT,
    PREVIEWS_INPUT,
    SEED_INPUT,
    SETTINGS_INPUT,
    call_options,
    given,
    refuse_other,
    text_input,
)
from .media import as_image_batch, images_of, masks_of

SIDE = {"default": 0, "min": 0, "max": 4096, "step": 8}
SIDES = ("left", "top", "right", "bottom")
UNCHANGED = -1.0
NEGATIVE_INPUT = text_input("What guidance leads away from; needs a guidance scale above 1.")


class MaskgenTextToImage:
    """Draws a caption or a class."""

    RETURN_TYPES = ("IMAGE", DECODE)
    RETURN_NAMES = ("image", "decode")
    FUNCTION = "draw"
    CATEGORY = CATEGORY
    DESCRIPTION = "Draws images of a caption, or of a class where the model knows classes."
    OUTPUT_TOOLTIPS: ClassVar[tuple[str, ...]] = ("The images.", "What each step decided, for maskgen Decode Steps.")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "pipeline": MODEL_INPUT,
                "prompt": text_input("What the image shows."),
                "seed": SEED_INPUT,
                "batch_size": ("INT", {"default": 1, "min": 1, "max": 64, "tooltip": "Number of images."}),
            },
            "optional": {
                "negative_prompt": NEGATIVE_INPUT,
                "label": text_input("Class of a class-conditional model: its name or number.", multiline=False),
                "width": ("INT", {**SIDE, "tooltip": "Pixels, a multiple of the model's cell; 0 is the model's own."}),
                "height": ("INT", {**SIDE, "tooltip": "Pixels, a multiple of the model's cell; 0 is the model's own."}),
                "settings": SETTINGS_INPUT,
                "previews": PREVIEWS_INPUT,
            },
        }

    def draw(
        self,
        pipeline: Any,
        prompt: str,
        seed: int,
        batch_size: int,
        negative_prompt: str = "",
        label: str = "",
        width: int = 0,
        height: int = 0,
        settings: Mapping[str, Any] | None = None,
        previews: int = 0,
    ) -> tuple[Tensor, dict[str, Any]]:
        """The images, and what each step decided.

        Raises:
            TypeError: If the model is for something else.
            ValueError: If the prompt is empty, or an input is out of range.
        """
        refuse_other(pipeline, (TextToImagePipeline,), "maskgen Text to Image", "text to image")
        asked = given(prompt=prompt.strip(), negative_prompt=negative_prompt.strip(), label=label.strip(), width=width, height=height)
        output = pipeline(num_outputs=batch_size, **asked, **call_options(pipeline, seed, settings, previews))
        first = {"tokenizer": pipeline.tokenizers["image"], "codes": output.codes[0], "picture": output.images[0]}
        return as_image_batch(output.images), {**first, "trajectories": output.trajectories}


class MaskgenEditImage:
    """Regenerates a part of images."""

    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("image",)
    FUNCTION = "edit"
    CATEGORY = CATEGORY
    DESCRIPTION = "Regenerates what a mask covers, or with `strength` a random share of an image."
    OUTPUT_TOOLTIPS: ClassVar[tuple[str, ...]] = ("The edited images, of the model's size; pixels outside of the mask are unchanged.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "pipeline": MODEL_INPUT,
                "image": ("IMAGE", {"tooltip": "Images to edit; those of another size than the model's are letterboxed."}),
                "prompt": text_input("What the edited image shows; may be empty."),
                "seed": SEED_INPUT,
            },
            "optional": {
                "mask": ("MASK", {"tooltip": "1 where the image is regenerated; as large as the image."}),
                "strength": (
                    "FLOAT",
                    {"default": UNCHANGED, "min": UNCHANGED, "max": 1.0, "step": 0.05, "tooltip": "Share that is regenerated; -1 is off."},
                ),
                "negative_prompt": NEGATIVE_INPUT,
                "settings": SETTINGS_INPUT,
                "previews": PREVIEWS_INPUT,
            },
        }

    def edit(
        self,
        pipeline: Any,
        image: Tensor,
        prompt: str,
        seed: int,
        mask: Tensor | None = None,
        strength: float = UNCHANGED,
        negative_prompt: str = "",
        settings: Mapping[str, Any] | None = None,
        previews: int = 0,
    ) -> tuple[Tensor]:
        """The edited images; image i has seed + i.

        Raises:
            TypeError: If the model is for something else.
            ValueError: If there is not exactly one of mask and strength, or an input is out of range.
        """
        refuse_other(pipeline, (TextToImagePipeline,), "maskgen Edit Image", "text to image")
        if (mask is None) == (strength < 0):
            raise ValueError(f"give a mask or a strength from 0 to 1, got {'neither' if mask is None else 'both'}")
        pictures = images_of(image)
        masks: list[Image.Image] | list[None] = [None] * len(pictures) if mask is None else masks_of(mask, pictures)
        asked = given(prompt=prompt.strip(), negative_prompt=negative_prompt.strip())
        made = []
        for number, (picture, painted) in enumerate(zip(pictures, masks, strict=True)):
            how = {"strength": strength} if painted is None else {"mask_image": painted}
            output = pipeline(image=picture, **how, **asked, **call_options(pipeline, seed + number, settings, previews))
            made += output.images
        return (as_image_batch(made),)


class MaskgenOutpaintImage:
    """Extends images."""

    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("image",)
    FUNCTION = "extend"
    CATEGORY = CATEGORY
    DESCRIPTION = "Extends images at their sides."
    OUTPUT_TOOLTIPS: ClassVar[tuple[str, ...]] = ("The extended images.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "pipeline": MODEL_INPUT,
                "image": ("IMAGE", {"tooltip": "Images to extend."}),
                "prompt": text_input("What the extended image shows; may be empty."),
                "seed": SEED_INPUT,
                **{side: ("INT", {**SIDE, "tooltip": "Pixels to add, a multiple of the model's cell."}) for side in SIDES},
            },
            "optional": {"negative_prompt": NEGATIVE_INPUT, "settings": SETTINGS_INPUT, "previews": PREVIEWS_INPUT},
        }

    @classmethod
    def VALIDATE_INPUTS(
        cls, left: int | None = None, top: int | None = None, right: int | None = None, bottom: int | None = None
    ) -> bool | str:
        """True, or what is wrong with the sides; those that come over a link are not known yet."""
        sides = (left, top, right, bottom)
        given = [side for side in sides if side is not None]
        if any(not SIDE["min"] <= side <= SIDE["max"] for side in given):
            return f"each side is {SIDE['min']} to {SIDE['max']} pixels, got {given}"
        return True if None in sides or any(given) else f"nothing is added; set one of {', '.join(SIDES)}"

    def extend(
        self,
        pipeline: Any,
        image: Tensor,
        prompt: str,
        seed: int,
        left: int,
        top: int,
        right: int,
        bottom: int,
        negative_prompt: str = "",
        settings: Mapping[str, Any] | None = None,
        previews: int = 0,
    ) -> tuple[Tensor]:
        """The extended images; image i has seed + i.

        Raises:
            TypeError: If the model is for something else.
            ValueError: If an input is out of range.
        """
        refuse_other(pipeline, (TextToImagePipeline,), "maskgen Outpaint Image", "text to image")
        asked = {"outpaint": (left, top, right, bottom), **given(prompt=prompt.strip(), negative_prompt=negative_prompt.strip())}
        made = []
        for number, picture in enumerate(images_of(image)):
            made += pipeline(image=picture, **asked, **call_options(pipeline, seed + number, settings, previews)).images
        return (as_image_batch(made),)


class MaskgenDecodeSteps:
    """Shows a decode step by step."""

    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("frames",)
    FUNCTION = "frames"
    CATEGORY = CATEGORY
    DESCRIPTION = "The first image of a batch after every step of its decode; what is not decided yet is grey."
    OUTPUT_TOOLTIPS: ClassVar[tuple[str, ...]] = ("One frame a step; the last one is the finished image.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"decode": (DECODE, {"tooltip": "From maskgen Text to Image."})}}

    def frames(self, decode: Mapping[str, Any]) -> tuple[Tensor]:
        """The frames."""
        shown = decode_frames(decode["tokenizer"], decode["codes"], decode["trajectories"], decode["picture"])
        return (as_image_batch([frame.resize(decode["picture"].size, Image.Resampling.NEAREST) for frame in shown]),)
