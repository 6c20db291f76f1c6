"""Arguments that the calls of all pipelines share, read and checked in one place."""

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, Literal, TypedDict, cast

import torch

from maskgen.decoding.settings import GenerationSettings
from maskgen.pipelines.progress import TENSOR_INPUTS, EndOfStep, check_callback

DECODE_NAMES = {
    "num_inference_steps": "steps",
    "guidance_scale": "guidance_scale",
    "guidance_schedule": "guidance_schedule",
    "temperature": "temperature",
    "choice_temperature": "choice_temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "sampler": "sampler",
}
"""Arguments of a call to the generation settings that they change."""
OUTPUT_TYPES = ("pil", "np", "pt")
HINTS = {
    "num_images_per_prompt": "it is for images; give num_outputs",
    "num": "give num_outputs",
    "latents": "a masked decode starts from masked cells; give generator= or seed= for another start",
    "prompt_embeds": "give the prompt as text",
    "negative_prompt_embeds": "give negative_prompt as text",
    "eta": "give sampler= and settings=",
    "timesteps": "give num_inference_steps=",
    "sigmas": "give num_inference_steps=",
    "callback": "give callback_on_step_end=",
    "callback_steps": "callback_on_step_end is called after every step",
    "steps": "give num_inference_steps=",
    "text": "give prompt=",
    "mask": "give mask_image=",
    "targets": "give target=",
}
"""What to do about arguments that users of other libraries and of earlier versions give."""


class CallOptions(TypedDict, total=False):
    """Arguments of every pipeline's call, all of them optional.

    Args:
        seed: Seed of the first output, in [0, 2**63); output i of a prompt has `seed + i`, whatever the prompt. A list gives one an output.
            None draws a seed, which the output names. 0 unless given.
        generator: torch.Generator (or one an output) from which the seeds are drawn, as in diffusers; goes without `seed`.
        num_outputs: Outputs a prompt.
        num_inference_steps: Steps of the coarsest level, or one number a level.
        guidance_scale: logits = uncond + guidance_scale * (cond - uncond); 1 is off.
        guidance_schedule: constant, linear, cosine, mask_rate or interval.
        temperature: Divides the logits, per level; 0 takes the likeliest code.
        choice_temperature: Scale of the noise in a sampler's ranking, per level.
        top_k: Number of codes that may be drawn; 0 for all.
        top_p: Share of probability that may be drawn.
        sampler: Name of the sampler (docs/samplers.md).
        settings: Generation settings that the arguments above change; the model's own if None. Any-to-any calls take a mapping too:
            what is decoded ("text", "transcript", "image", "audio") to its settings.
        callback_on_step_end: Called as (pipeline, step, timestep, callback_kwargs) after every step, as in diffusers; `step` counts from 0
            over all levels, `timestep` is how many steps of the level are left. Codes that it returns take the place of its own.
        callback_on_step_end_tensor_inputs: What `callback_kwargs` holds: "latents" (codes [batch, length] of the level), "state".
        batch_invariant: Keep every row bit-identical to the same row generated alone (float32 on a CPU). False decodes all rows together,
            which is faster, and a row may round differently. None keeps it where that costs nothing: with packed weights, whose
            matrix products round alike in every batch.
        batch_size: Rows that are decoded at once, at most.
    """

    seed: int | Sequence[int] | None
    generator: torch.Generator | Sequence[torch.Generator] | None
    num_outputs: int
    num_inference_steps: int | Sequence[int] | None
    guidance_scale: float | None
    guidance_schedule: str | None
    temperature: float | Sequence[float] | None
    choice_temperature: float | Sequence[float] | None
    top_k: int | None
    top_p: float | None
    sampler: str | None
    settings: GenerationSettings | Mapping[str, GenerationSettings] | None
    callback_on_step_end: EndOfStep | None
    callback_on_step_end_tensor_inputs: Sequence[str]
    batch_invariant: bool | None
    batch_size: int


class ImageOptions(CallOptions, total=False):
    """`CallOptions` and what calls that return images take beside them.

    Args:
        num_images_per_prompt: The name that diffusers gives `num_outputs`.
        output_type: "pil", "np" ([batch, rows, columns, 3] in [0, 1]) or "pt" ([batch, 3, rows, columns]).
        return_dict: False returns the tuple (images,), as in diffusers.
    """

    num_images_per_prompt: int
    output_type: Literal["pil", "np", "pt"]
    return_dict: bool


class DrawingOptions(ImageOptions, total=False):
    """`ImageOptions` and the micro-conditions of models that were trained with them, such as aMUSEd and Meissonic.

    Args:
        original_size: (width, height) of the picture that the model imitates; the size of the output unless given.
        crop: Top left corner of the crop that the picture was; (0, 0), the default, asks for whole objects.
        aesthetic_score: Score from 0 to 10 that LAION's classifier would give; 6 unless given.
    """

    original_size: Sequence[int] | None
    crop: Sequence[int] | None
    aesthetic_score: float | None


def check_names(call: Callable[..., Any], options: Mapping[str, Any], kind: type) -> None:
    """Refuse arguments that a call does not take.

    Args:
        call: The `__call__` of a pipeline.
        options: What came in its `**options`.
        kind: The TypedDict that types them.

    Raises:
        TypeError: Names the argument, what to give instead, and what there is.
    """
    known = [*(name for name in inspect.signature(call).parameters if name not in ("self", "options")), *kind.__annotations__]
    for name in options:
        if name in known:
            continue
        near = difflib.get_close_matches(name, known, 1)
        advice = HINTS.get(name) or (f"did you mean {near[0]}?" if near else f"it takes {', '.join(known)}")
        raise TypeError(f"{call.__qualname__.split('.')[0]} takes no argument {name!r}: {advice}")


def num_outputs(options: Mapping[str, Any]) -> int:
    """Outputs a prompt, under either name.

    Raises:
        TypeError: If it is no whole number.
        ValueError: If it is below 1, or both names are given and differ.
    """
    names = [name for name in ("num_outputs", "num_images_per_prompt") if options.get(name) is not None]
    counts = [options[name] for name in names]
    for name, count in zip(names, counts, strict=True):
        if not _whole(count):
            raise TypeError(f"{name} must be a whole number, got {count!r}")
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")
    if len(set(counts)) > 1:
        raise ValueError(f"num_outputs is {counts[0]} and num_images_per_prompt {counts[1]}, two names of one thing; give one of them")
    return int(counts[0]) if counts else 1


def seeds_of(options: Mapping[str, Any], strides: Sequence[int], count: int) -> list[list[int]]:
    """Seeds of every output, a list for each prompt.

    Args:
        options: `seed` or `generator`, or neither, which is seed 0.
        strides: Of each prompt, how many seeds one output uses up: 1, or in speech its number of sentences.
        count: Outputs a prompt.

    Raises:
        TypeError: If seed or generator is of another type.
        ValueError: If a seed lies outside [0, 2**63), there are too few or too many, or both arguments are given.
    """
    seed, generator, prompts = options.get("seed", 0), options.get("generator"), len(strides)
    if generator is not None:
        if "seed" in options and seed is not None:
            raise ValueError("seed and generator both decide the outputs; give one of them")
        return _drawn(generator, prompts, count)
    if seed is None:
        seed = int(torch.randint(2**31, ()))
    if _whole(seed):
        seed = int(seed)
        return [[_checked(seed + number * stride) for number in range(count)] for stride in strides]
    if isinstance(seed, (list, tuple)) and all(_whole(one) for one in seed):
        if len(seed) != prompts * count:
            raise ValueError(f"seed has {len(seed)} entries for {prompts * count} outputs; give one an output, or one number")
        return [[_checked(int(one)) for one in seed[start : start + count]] for start in range(0, len(seed), count)]
    raise TypeError(f"seed must be a whole number, a list of them or None, got {seed!r}")


def _drawn(generator: Any, prompts: int, count: int) -> list[list[int]]:
    """Seeds drawn from generators; each draw moves its generator on, so the next call gives other outputs, as in diffusers."""
    several = list(generator) if isinstance(generator, (list, tuple)) else [generator] * (prompts * count)
    if not all(isinstance(one, torch.Generator) for one in several):
        raise TypeError(f"generator must be a torch.Generator or a list of them, got {type(generator).__name__}")
    if len(several) != prompts * count:
        raise ValueError(f"generator has {len(several)} entries for {prompts * count} outputs; give one an output, or a single one")
    seeds = [int(torch.randint(2**63 - 1, (), generator=one, device=one.device)) for one in several]
    return [seeds[start : start + count] for start in range(0, len(seeds), count)]


def settings_from(start: GenerationSettings, options: Mapping[str, Any], levels: int) -> GenerationSettings:
    """Generation settings of a call: the model's own, or `settings`, with what the call changes.

    Args:
        start: The model's own.
        options: The call's arguments.
        levels: Levels of the target's codes.

    Raises:
        TypeError: If an argument is of another type.
        ValueError: If one is out of range, or has more entries than there are levels.
    """
    given = options.get("settings")
    if given is not None and not isinstance(given, GenerationSettings):
        raise TypeError(f"settings must be GenerationSettings, got {type(given).__name__}; GenerationSettings.from_dict reads plain data")
    changes = {DECODE_NAMES[name]: value for name, value in options.items() if name in DECODE_NAMES and value is not None}
    for name in DECODE_NAMES:
        _check_kind(name, options.get(name), levels)
    return (given or start).changed(**changes)


def check_common(options: Mapping[str, Any]) -> None:
    """Check what needs no other argument.

    Raises:
        TypeError: If an argument is of another type.
        ValueError: If one is out of range.
    """
    if options.get("callback_on_step_end") is not None:
        check_callback(options["callback_on_step_end"], options.get("callback_on_step_end_tensor_inputs", TENSOR_INPUTS[:1]))
    if not isinstance(options.get("batch_invariant"), bool | None):
        raise TypeError(f"batch_invariant must be True, False or None, got {options['batch_invariant']!r}")
    if options.get("output_type", "pil") not in OUTPUT_TYPES:
        raise ValueError(f"output_type must be one of {', '.join(OUTPUT_TYPES)}, got {options['output_type']!r}")


def as_prompts(prompt: Any, name: str = "prompt") -> list[str]:
    """One text or several as a list.

    Raises:
        TypeError: If it is neither a text nor a list of texts.
        ValueError: If the list is empty.
    """
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(prompts, (list, tuple)) or not all(isinstance(one, str) for one in prompts):
        raise TypeError(f"{name} must be a text or a list of texts, got {prompt!r:.80}")
    if not prompts:
        raise ValueError(f"{name} is an empty list; give one text at least")
    return list(prompts)


def _check_kind(name: str, value: Any, levels: int) -> None:
    """The type of one decode argument, and its number of entries."""
    if value is None:
        return
    if name in ("sampler", "guidance_schedule"):
        if not isinstance(value, str):
            raise TypeError(f"{name} must be a name, got {value!r}")
        return
    several = isinstance(value, (list, tuple))
    if several and name in ("guidance_scale", "top_k", "top_p"):
        raise TypeError(f"{name} must be one number, got {value!r}")
    entries = cast(Sequence[Any], value) if several else [value]
    whole = name in ("num_inference_steps", "top_k")
    for one in entries:
        if not (_whole(one) if whole else _number(one)):
            raise TypeError(f"{name} must be {'a whole number' if whole else 'a number'}, got {one!r}")
    if len(entries) > levels:
        raise ValueError(f"{name} has {len(entries)} entries, the codes have {levels} level{'s' * (levels > 1)}; give at most one a level")


def _whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _checked(seed: int) -> int:
    if not 0 <= seed < 2**63:
        raise ValueError(f"a seed must lie in [0, 2**63), got {seed}")
    return int(seed)
