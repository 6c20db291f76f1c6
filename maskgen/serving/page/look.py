"""How the page looks: fonts and colours of the machine alone, and one style sheet."""

from pathlib import Path

import gradio as gr

FAVICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 4 4'%3E"
    "%3Crect width='4' height='4' rx='.8' fill='%234f46e5'/%3E%3Cpath d='M1 1h1v1H1zM2 2h1v1H2z' fill='%23fff'/%3E%3C/svg%3E"
)
HEAD = f'<link rel="icon" href="{FAVICON}"><meta name="color-scheme" content="light dark">'
HEADER = """
<header class="mg-head"><div class="mg-mark" aria-hidden="true"><i></i><i></i><i></i><i></i></div>
<div><h1>maskgen</h1><p>{about}</p></div><ul aria-label="Loaded models">{models}</ul></header>
"""
CSS = Path(__file__).with_name("page.css")


def page_theme() -> gr.themes.Base:
    """Colours and fonts; every file of it comes from this server."""
    weights = (400, 700)  # the other weights that Gradio ships hold a few letters only
    return gr.themes.Default(
        primary_hue="indigo",
        neutral_hue="slate",
        radius_size="lg",
        font=[gr.themes.LocalFont("IBM Plex Sans", weights), "ui-sans-serif", "system-ui", "sans-serif"],
        font_mono=[gr.themes.LocalFont("IBM Plex Mono", weights), "ui-monospace", "monospace"],
    )
