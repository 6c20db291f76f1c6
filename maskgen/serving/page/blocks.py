"""The page itself: a tab for each thing that the loaded models can do."""

import html

import gradio as gr

from maskgen.serving.page.any_tab import AnyTab
from maskgen.serving.page.draw_tab import DrawTab
from maskgen.serving.page.edit_tab import EditTab
from maskgen.serving.page.inspect_tab import InspectTab
from maskgen.serving.page.look import HEADER
from maskgen.serving.page.speech_tab import SpeechTab
from maskgen.serving.served import Served
from maskgen.serving.service import Service

FILES_KEPT_S = 3600
"""How long pictures, speech and uploads of the page stay on disk."""
FILES_LOOKED_AT_S = 60


def page_blocks(service: Service) -> gr.Blocks:
    """The page around some models.

    Args:
        service: Models, limits and metrics, shared with the routes of the server.

    Raises:
        ValueError: If no model draws, speaks or goes from any medium to any.
    """
    able = {
        task: [one for one in service.catalogue.models.values() if task in one.tasks] for task in ("draw", "edit", "speak", "transcribe")
    }
    if not able["draw"] and not able["speak"]:
        raise ValueError("no model of this page draws or speaks; name one that does, such as --model emoji-64")
    with gr.Blocks(title="maskgen", analytics_enabled=False, delete_cache=(FILES_LOOKED_AT_S, FILES_KEPT_S), fill_width=True) as blocks:
        names = "".join(f"<li>{html.escape(one.name)}</li>" for one in service.catalogue.models.values())
        gr.HTML(HEADER.format(about=_about(able), models=names))
        with gr.Tabs():
            if able["draw"]:
                with gr.Tab("Text to image"):
                    DrawTab(service, able["draw"]).build()
            if able["edit"]:
                with gr.Tab("Edit"):
                    EditTab(service, able["edit"]).build()
            if able["speak"]:
                with gr.Tab("Speech"):
                    SpeechTab(service, able["speak"]).build()
            if able["transcribe"]:
                with gr.Tab("Any to any"):
                    AnyTab(service, able["transcribe"]).build()
            with gr.Tab("Inspect"):
                InspectTab(service, able["draw"], able["speak"]).build()
    blocks.queue(max_size=service.limits.max_requests, default_concurrency_limit=None, api_open=False)
    page: gr.Blocks = blocks
    return page


def _about(able: dict[str, list[Served]]) -> str:
    """What the page does, in a line."""
    words = {"draw": "draw", "edit": "edit pictures", "speak": "speak", "transcribe": "listen"}
    done = [words[task] for task, models in able.items() if models]
    return f"Masked token generation on this machine: {', '.join(done)}, and see how each decode went."
