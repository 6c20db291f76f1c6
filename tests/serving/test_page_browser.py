"""The web page in a real browser: a person clicks through every tab with tiny models; nothing fails and nothing leaves the machine."""

import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile
from builders.media import recording
from builders.page import Watch, browser, shown
from builders.served import Running
from PIL import Image

from maskgen.pipelines.base import Pipeline
from maskgen.serving.keys import ApiKeys

pytest.importorskip("gradio", reason="the page needs gradio: pip install maskgen[demo]")
TABS = ("Text to image", "Edit", "Speech", "Any to any", "Inspect")
NAMED = ("button", "textbox", "searchbox", "slider", "spinbutton", "checkbox", "radio", "combobox", "tab", "link", "img", "progressbar")
"""Roles of what a person uses or hears, each of which needs a name."""
PHONE = {"width": 390, "height": 844}
KEY = "a-key-of-the-tests"


@pytest.fixture(scope="module")
def server(models: dict[str, Pipeline]) -> Iterator[Running]:
    with shown(models) as (found, _):
        yield found


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as found:
        yield found


def opened(chromium: Any, server: Running, **options: Any) -> tuple[Any, Watch]:
    """A page at its first tab, and what watches it."""
    page = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **options}).new_page()
    page.set_default_timeout(20_000)
    watch = Watch(page, server.url)
    page.goto(server.url)
    page.get_by_role("button", name="Draw", exact=True).wait_for()
    return page, watch


def press(page: Any, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).locator("visible=true").click()


def wait_for(page: Any, words: str) -> None:
    """Wait until the visible tab says so."""
    page.locator(".mg-note", has_text=words).locator("visible=true").wait_for()


def drag(page: Any, place: str, *stops: tuple[float, float]) -> None:
    """Press, move and release over an element; stops are shares of its box."""
    box = page.locator(place).bounding_box()
    for number, (right, down) in enumerate(stops):
        page.mouse.move(box["x"] + right * box["width"], box["y"] + down * box["height"], steps=1 if number == 0 else 6)
        if number == 0:
            page.mouse.down()
    page.mouse.up()


def upload(page: Any, path: Path) -> None:
    """Give a file to the visible field for one."""
    with page.expect_file_chooser() as chooser:
        page.get_by_text("Click to Upload").locator("visible=true").click()
    chooser.value.set_files(path)


def played(page: Any) -> bool:
    """Whether the first visible player runs after its button is pressed."""
    page.get_by_role("button", name="Play", exact=True).locator("visible=true").first.click()
    page.get_by_role("button", name="Pause", exact=True).locator("visible=true").first.wait_for()
    return True


def test_a_person_uses_every_tab(chromium: Any, server: Running, tmp_path: Path) -> None:
    Image.effect_noise((48, 48), 90).convert("RGB").save(tmp_path / "picture.png")
    soundfile.write(tmp_path / "speech.wav", recording(1.0).samples.T, 16_000)
    page, watch = opened(chromium, server)

    page.get_by_label("Prompt", exact=True).locator("visible=true").fill("a blue square, 3d style")
    press(page, "Draw")
    wait_for(page, "4 pictures of 32 x 32 pixels")
    assert page.locator(".mg-gallery img").locator("visible=true").count() == 4

    page.get_by_role("tab", name="Edit").click()
    upload(page, tmp_path / "picture.png")
    page.locator(".mg-paint").wait_for()
    drag(page, ".mg-paint", (0.1, 0.1), (0.9, 0.1))
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    assert page.locator(".mg-paint [aria-pressed=true]").count() == 5
    press(page, "Edit")
    wait_for(page, "2 pictures of 32 x 32 pixels")
    page.get_by_label("Outpaint").click()
    page.get_by_label("Right").locator("visible=true").first.wait_for()
    press(page, "Edit")
    wait_for(page, "2 pictures of 48 x 32 pixels")

    page.get_by_role("tab", name="Speech").click()
    press(page, "Speak")
    wait_for(page, "of speech in")
    assert played(page)
    press(page, "Take the speech above")
    page.locator(".mg-wave").wait_for()
    drag(page, ".mg-wave", (0.2, 0.5), (0.6, 0.5))
    page.locator("[data-edge=end]").press("ArrowRight")
    press(page, "Replace the span")
    page.get_by_role("button", name="Play", exact=True).locator("visible=true").nth(2).wait_for()

    page.get_by_role("tab", name="Any to any").click()
    page.get_by_label("a recording").click()
    upload(page, tmp_path / "speech.wav")
    page.get_by_role("button", name="Play", exact=True).locator("visible=true").first.wait_for()
    page.get_by_label("New seed each time").locator("visible=true").uncheck()
    page.get_by_label("Seed", exact=True).locator("visible=true").fill("3")
    page.get_by_label("number input for Candidates").fill("2")
    press(page, "Get the others")
    wait_for(page, "audio to text, then text to image")

    page.get_by_role("tab", name="Inspect").click()
    press(page, "Decode and inspect")
    wait_for(page, "mean confidence")
    assert page.locator(".mg-map img").count() == 4
    assert watch.errors == []
    assert watch.strangers == []


def test_an_error_is_a_sentence_on_the_page(chromium: Any, server: Running) -> None:
    page, watch = opened(chromium, server)
    page.get_by_label("Prompt", exact=True).locator("visible=true").fill("")
    press(page, "Draw")
    page.locator(".mg-error", has_text="the prompt is empty").wait_for()
    assert watch.strangers == []


def unnamed(page: Any) -> list[str]:
    """What assistive technology finds without a name."""
    nodes = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    seen = [(one["role"]["value"], one.get("name", {}).get("value", "").strip()) for one in nodes if not one["ignored"]]
    assert sum(role in NAMED for role, _ in seen) > 10
    return [role for role, name in seen if role in NAMED and not name]


@pytest.mark.slow
def test_the_page_fits_a_phone_and_everything_on_it_has_a_name(chromium: Any, server: Running) -> None:
    page, watch = opened(chromium, server, viewport=PHONE, has_touch=True)
    for name in TABS:
        page.get_by_role("tab", name=name).tap()
        page.wait_for_timeout(300)
        for closed in page.get_by_role("button", expanded=False).locator("visible=true").all():
            closed.tap()
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
        assert unnamed(page) == []
    press(page, "Decode and inspect")
    wait_for(page, "mean confidence")
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    assert (watch.errors, watch.strangers) == ([], [])


@pytest.mark.slow
def test_a_tab_that_is_closed_cancels_its_decode(chromium: Any, models: dict[str, Pipeline]) -> None:
    slow = models["pictures"].model.register_forward_pre_hook(lambda *_: time.sleep(0.5))
    try:
        with shown({"pictures": models["pictures"]}) as (server, _):
            page, _ = opened(chromium, server)
            press(page, "Draw")
            page.get_by_text("Decoding picture: step 1").wait_for()
            stats, left_s = server.catalogue.models["pictures"].engine.stats, time.monotonic()
            page.close()
            while stats.running and time.monotonic() < left_s + 20:
                time.sleep(0.05)
            assert (stats.running, stats.cancelled) == (0, 1)
            assert time.monotonic() < left_s + 3
    finally:
        slow.remove()


@pytest.mark.slow
def test_a_browser_asks_for_a_key(chromium: Any, models: dict[str, Pipeline]) -> None:
    with shown({"pictures": models["pictures"]}, keys=ApiKeys([KEY])) as (server, _):
        page, watch = opened(chromium, server, http_credentials={"username": "me", "password": KEY})
        press(page, "Draw")
        wait_for(page, "4 pictures of 32 x 32 pixels")
        assert (watch.errors, watch.strangers) == ([], [])
        assert server.call("GET", "/config")[0] == 401
        assert server.call("POST", "/gradio_api/queue/join", b"{}")[0] == 401


@pytest.mark.slow
def test_an_open_page_does_not_hold_a_shutdown(chromium: Any, models: dict[str, Pipeline]) -> None:
    with shown({"pictures": models["pictures"]}) as (server, folder):
        page, _ = opened(chromium, server)
        press(page, "Draw")
        wait_for(page, "4 pictures")
        assert any(folder.rglob("*.png"))
        server.server.drain()
        server.server.should_exit = True
        server.thread.join(5)
        assert not server.thread.is_alive()
    assert not folder.exists()


def resident_mb() -> float:
    """Memory of this process, which holds the server."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


@pytest.mark.slow
def test_memory_is_flat_over_fifty_generations(chromium: Any, server: Running) -> None:
    page, watch = opened(chromium, server)
    before, said = 0.0, "nothing yet"
    for number in range(60):
        press(page, "Draw")
        note = page.locator(".mg-note", has_text="4 pictures of 32 x 32 pixels").filter(has_not_text=said).locator("visible=true")
        note.wait_for()
        said = note.inner_text().partition("calls, ")[2]  # the seed, another one each time
        if number == 9:
            before = resident_mb()
    assert resident_mb() - before < 20
    assert watch.errors == []
