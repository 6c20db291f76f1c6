"""How a decode went, as HTML: maps, a strip of pictures and bars. Everything in it has words for those who do not see it."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from maskgen.serving.media import image_bytes
from maskgen.serving.page.following import picture_html
from maskgen.serving.page.reveal import Reveal, RevealStep, map_pictures, order_share

LEGEND = '<div class="mg-legend"><span>{low}</span><i aria-hidden="true"></i><span>{high}</span></div>'
MOST_FRAMES = 64
FRAME_SIDE = 128
"""Pixels of the longer side of a picture in the strip."""
NUM_COLOURS = 4
"""Colours of bars; levels take turns."""


def maps_html(reveal: Reveal) -> str:
    """Order of reveal and confidence, level by level."""
    order, sure = map_pictures(order_share(reveal)), map_pictures(reveal.confidence)
    names = [f"level {place + 1}" for place in range(len(order))] if reveal.order.ndim == 3 else [_frames_name(reveal)]
    style = "mg-map" if reveal.order.ndim == 3 else "mg-map mg-long"
    parts = []
    for title, words, pictures, low, high in (
        ("Order of reveal", "the step that fixed each cell", order, "first step", "last step"),
        ("Confidence", "the probability of each code at that step", sure, "0", "1"),
    ):
        figures = "".join(_figure(picture, f"{title}, {name}: {words}", name, style) for picture, name in zip(pictures, names, strict=True))
        parts.append(f'<section><h4>{title}</h4><div class="mg-maps">{figures}</div>{LEGEND.format(low=low, high=high)}</section>')
    return f'<div class="mg-two">{"".join(parts)}</div>'


def strip_html(frames: Sequence[Image.Image], steps: Sequence[RevealStep]) -> str:
    """The picture after every step; of a long decode some, evenly."""
    shown = min(len(frames), MOST_FRAMES)
    figures = []
    for place in [(place + 1) * len(frames) // shown - 1 for place in range(shown)]:
        frame, step = frames[place].copy(), steps[place]
        frame.thumbnail((FRAME_SIDE, FRAME_SIDE))
        words = f"The picture after step {step.step} of level {step.levels}, which fixed {step.fixed} cells"
        figures.append(_figure(frame, words, f"{step.levels}.{step.step}", "mg-frame"))
    return f'<section><h4>After each step: level.step</h4><div class="mg-strip">{"".join(figures)}</div></section>' if figures else ""


def bars_html(steps: Sequence[RevealStep]) -> str:
    """Mean confidence of each step as bars; the table says the same in numbers."""
    wide, high = 1000, 160
    width, levels = wide / max(1, len(steps)), list(dict.fromkeys(one.levels for one in steps))
    bars = "".join(
        f'<rect x="{place * width + 1:.1f}" y="{high * (1 - value):.1f}" width="{max(1.0, width - 2):.1f}" height="{high * value:.1f}" '
        f'class="mg-level{levels.index(one.levels) % NUM_COLOURS}"><title>level {one.levels}, step {one.step}: {value:.2f}</title></rect>'
        for place, one in enumerate(steps)
        if not np.isnan(value := one.confidence)
    )
    key = "".join(f'<span><i class="mg-level{place % NUM_COLOURS}"></i>level {name}</span>' for place, name in enumerate(levels))
    return (
        f'<section><h4>Mean confidence of the codes that each step fixed</h4><div class="mg-bars">'
        f'<svg viewBox="0 0 {wide} {high}" preserveAspectRatio="none" role="img" '
        f'aria-label="A bar a step, from 0 to 1; the table below has the numbers">{bars}</svg></div>'
        f'<div class="mg-key">{key}</div></section>'
    )


def _figure(picture: Image.Image, words: str, caption: str, style: str) -> str:
    return f'<figure class="{style}">{picture_html(image_bytes(picture, "png"), words, "")}<figcaption>{caption}</figcaption></figure>'


def _frames_name(reveal: Reveal) -> str:
    return f"a row a level, {len(reveal.order)} of them; {reveal.order[0].numel()} frames of time from left to right"
