"""The node that changes how a model decodes."""

from typing import Any, ClassVar

from maskgen.decoding.settings import GenerationSettings
from maskgen.sampling import names

from .inputs import CATEGORY, SETTINGS

OWN = "the model's own"
UNSET = -1


class MaskgenSampling:
    """Sampling settings; -1 keeps the model's own value."""

    RETURN_TYPES = (SETTINGS,)
    RETURN_NAMES = ("settings",)
    FUNCTION = "settings"
    CATEGORY = CATEGORY
    DESCRIPTION = "Sampling settings for the other maskgen nodes. -1 keeps the model's own value, which is the one it was judged with."
    OUTPUT_TOOLTIPS: ClassVar[tuple[str, ...]] = ("The settings that differ from the model's own.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "sampler": ([OWN, *names()], {"tooltip": "Which cells are decided at each step. See docs/samplers.md."}),
                "steps": ("INT", {"default": UNSET, "min": UNSET, "max": 10_000, "tooltip": "Steps of the coarsest level."}),
                "guidance_scale": (
                    "FLOAT",
                    {"default": UNSET, "min": UNSET, "max": 100.0, "step": 0.1, "tooltip": "How strongly the prompt counts; 1 is off."},
                ),
                "temperature": (
                    "FLOAT",
                    {"default": UNSET, "min": UNSET, "max": 100.0, "step": 0.05, "tooltip": "Divides the logits; 0 takes the likeliest."},
                ),
                "choice_temperature": (
                    "FLOAT",
                    {
                        "default": UNSET,
                        "min": UNSET,
                        "max": 1000.0,
                        "step": 0.5,
                        "tooltip": "Noise in the order in which cells are decided.",
                    },
                ),
                "top_k": ("INT", {"default": UNSET, "min": UNSET, "max": 1_000_000, "tooltip": "Codes that may be drawn; 0 for all."}),
                "top_p": (
                    "FLOAT",
                    {
                        "default": UNSET,
                        "min": UNSET,
                        "max": 1.0,
                        "step": 0.01,
                        "tooltip": "Share of probability that may be drawn; 1 for all.",
                    },
                ),
            }
        }

    @classmethod
    def VALIDATE_INPUTS(
        cls,
        sampler: str | None = None,
        steps: int | None = None,
        guidance_scale: float | None = None,
        temperature: float | None = None,
        choice_temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
    ) -> bool | str:
        """True, or what is wrong with a value."""
        try:
            changes = _changes(sampler, steps, guidance_scale, temperature, choice_temperature, top_k, top_p)
            GenerationSettings().changed(**{"steps" if name == "num_inference_steps" else name: one for name, one in changes.items()})
        except ValueError as error:
            return str(error)
        return True

    def settings(
        self,
        sampler: str,
        steps: int,
        guidance_scale: float,
        temperature: float,
        choice_temperature: float,
        top_k: int,
        top_p: float,
    ) -> tuple[dict[str, Any]]:
        """Arguments of a pipeline's call."""
        return (_changes(sampler, steps, guidance_scale, temperature, choice_temperature, top_k, top_p),)


def _changes(sampler: str | None, steps: int | None, *values: float | None) -> dict[str, Any]:
    """The values that are set, by the names of a pipeline's call."""
    named = ("guidance_scale", "temperature", "choice_temperature", "top_k", "top_p")
    found = {"num_inference_steps": steps, **dict(zip(named, values, strict=True))}
    changes: dict[str, Any] = {name: value for name, value in found.items() if value is not None and value != UNSET}
    return changes if sampler in (None, OWN) else {"sampler": sampler, **changes}
