"""How the page looks: fonts and colours of the machine alone, and one style sheet."""

import gradio as gr

FAVICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 4 4'%3E%3Crect width='4' height='4' rx='.8' fill='%234f46e5'/%3E"
    "%3Cpath d='M1 1h1v1H1zM2 2h1v1H2z' fill='%23fff'/%3E%3C/svg%3E"
)
HEAD = f'<link rel="icon" href="{FAVICON}"><meta name="color-scheme" content="light dark">'
HEADER = """
<header class="mg-head"><div class="mg-mark" aria-hidden="true"><i></i><i></i><i></i><i></i></div>
<div><h1>maskgen</h1><p>{about}</p></div><ul aria-label="Loaded models">{models}</ul></header>
"""
CSS = """
.gradio-container { max-width: 1160px !important; width: 100% !important; min-width: 0 !important; margin: 0 auto !important; padding: 0 20px 32px !important;
  box-sizing: border-box; }
.gradio-container .main.app, .gradio-container main { padding: 0 !important; min-width: 0; }
.gradio-container .html-container { padding: 0 !important; }
.mg-head { display: flex; align-items: center; gap: 14px; padding: 20px 0 10px; flex-wrap: wrap; }
.mg-head h1 { font-size: 1.5rem; font-weight: 650; margin: 0; line-height: 1.2; letter-spacing: -.01em; }
.mg-head p { margin: 0; color: var(--body-text-color-subdued); font-size: .92rem; }
.mg-head ul { display: flex; flex-wrap: wrap; gap: 6px; list-style: none; margin: 0 0 0 auto; padding: 0; }
.mg-head li { font: .8rem var(--font-mono); padding: 3px 10px; border-radius: 99px; color: var(--primary-700); background: var(--primary-50);
  border: 1px solid var(--primary-200); margin: 0; }
.dark .mg-head li { color: var(--primary-200); background: var(--neutral-800); border-color: var(--neutral-700); }
.mg-mark { display: grid; grid-template-columns: 1fr 1fr; gap: 3px; width: 34px; height: 34px; }
.mg-mark i { border-radius: 4px; background: var(--primary-500); }
.mg-mark i:nth-child(2) { background: var(--primary-200); } .mg-mark i:nth-child(3) { background: var(--neutral-300); }
.mg-columns { gap: 24px !important; }
.mg-note { padding: 10px 14px; border-radius: 10px; background: var(--primary-50); color: var(--primary-900); font-size: .92rem; }
.dark .mg-note { background: var(--neutral-800); color: var(--neutral-100); }
.mg-error { background: #fef2f2; color: #991b1b; } .dark .mg-error { background: #450a0a; color: #fecaca; }
.mg-live p, .mg-hint { margin: 6px 0; font-size: .88rem; color: var(--body-text-color-subdued); }
.mg-bar { height: 8px; border-radius: 99px; background: var(--neutral-200); overflow: hidden; }
.dark .mg-bar { background: var(--neutral-700); }
.mg-bar i { display: block; height: 100%; border-radius: 99px; background: var(--primary-500); transition: width .15s; }
.mg-preview { width: min(100%, 320px); aspect-ratio: auto; border-radius: 12px; border: 1px solid var(--border-color-primary); display: block; margin: 6px auto; }
.mg-small { align-self: flex-start; }
.mg-card { padding: 14px !important; border: 1px solid var(--border-color-primary); border-radius: 12px !important; }
.mg-card .styler, .mg-card.styler { background: var(--block-background-fill); gap: 10px; }
.mg-gallery .grid-wrap { max-height: none !important; } .mg-gallery img { background: #fff; }
.mg-paint { image-rendering: auto; display: grid; grid-template-columns: repeat(var(--columns), 1fr); width: min(100%, 340px); margin: 0 auto; background-size: 100% 100%;
  border-radius: 8px; overflow: hidden; touch-action: none; border: 1px solid var(--border-color-primary); }
.mg-paint button { border: .5px solid rgb(120 120 140 / .35); background: transparent; padding: 0; min-width: 0; cursor: crosshair; }
.mg-paint button[aria-pressed="true"] { background: rgb(79 70 229 / .62); }
.mg-paint button:focus-visible, .mg-handle:focus-visible { outline: 3px solid var(--primary-500); outline-offset: -3px; }
.mg-wave { position: relative; height: 84px; border-radius: 8px; background: var(--neutral-100); touch-action: none; cursor: col-resize; margin: 0 10px; }
.dark .mg-wave { background: var(--neutral-800); }
.mg-wave svg { width: 100%; height: 100%; display: block; } .mg-wave path { stroke: var(--primary-400); stroke-width: 1; vector-effect: non-scaling-stroke; }
.mg-span { position: absolute; inset-block: 0; background: rgb(79 70 229 / .22); }
.mg-handle { position: absolute; inset-block: 0; width: 20px; margin-left: -10px; cursor: ew-resize; }
.mg-handle::after { content: ""; position: absolute; inset: 0 8px; background: var(--primary-600); border-radius: 2px; }
.mg-words { display: flex; flex-wrap: wrap; gap: 4px 10px; list-style: none; padding: 0; margin: 8px 0 0; font-size: .88rem; }
.mg-words li { margin: 0; color: var(--body-text-color-subdued); } .mg-words b { color: var(--body-text-color); }
.mg-legend { display: flex; gap: 10px; align-items: center; font-size: .82rem; color: var(--body-text-color-subdued); }
.mg-legend i { flex: 1; height: 10px; border-radius: 99px; background: linear-gradient(90deg, #440154, #3b528b, #21918c, #5ec962, #fde725); }
.mg-bars svg { width: 100%; height: 120px; background: var(--neutral-50); border-radius: 8px; } .dark .mg-bars svg { background: var(--neutral-800); }
.mg-bars { line-height: 0; }
.mg-seen section { margin: 0 0 18px; } .mg-seen h4 { margin: 0 0 6px; font-size: .92rem; font-weight: 700; }
.mg-two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 260px), 1fr)); gap: 0 22px; }
.mg-maps { display: flex; flex-wrap: wrap; gap: 8px; margin-bottom: 8px; }
.mg-seen figure { margin: 0; } .mg-seen figcaption { font-size: .76rem; color: var(--body-text-color-subdued); text-align: center; }
.mg-map { flex: 1 1 70px; max-width: 180px; } .mg-map.mg-long { max-width: none; flex-basis: 100%; }
.mg-map img { width: 100%; aspect-ratio: 1; image-rendering: pixelated; border-radius: 8px; display: block; } .mg-long img { aspect-ratio: auto; height: 130px; }
.mg-strip { display: grid; grid-template-columns: repeat(auto-fill, minmax(56px, 1fr)); gap: 6px; }
.mg-frame img { width: 100%; border-radius: 6px; border: 1px solid var(--border-color-primary); display: block; }
.mg-key { display: flex; flex-wrap: wrap; gap: 4px 14px; font-size: .8rem; color: var(--body-text-color-subdued); margin-top: 4px; }
.mg-key i { display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin-right: 5px; }
.mg-picture img { width: 100%; height: 100%; object-fit: contain; }
.mg-level0 { fill: #4f46e5; background: #4f46e5; } .mg-level1 { fill: #0e9f8e; background: #0e9f8e; }
.mg-level2 { fill: #d97706; background: #d97706; } .mg-level3 { fill: #be185d; background: #be185d; }
@media (max-width: 640px) {
  .gradio-container { padding: 0 10px 24px !important; }
  .mg-head { flex-wrap: nowrap; align-items: flex-start; padding-top: 14px; } .mg-head ul { display: none; }
  .tab-container button { padding: 0 7px !important; font-size: .86rem !important; }
}
"""


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
