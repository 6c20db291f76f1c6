"""A picture through the web page beside the same call in Python: from the click to the picture, and seconds of the processor.

uv run python benchmarks/page.py [--runs 5] [--model emoji-64]: in Chromium, one thread, the two take turns, medians. The seconds of the
processor are those of the process that serves the page, without the browser's.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
CHROMIUM = "/usr/bin/chromium"
PROMPT = "a red heart, flat style"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--model", default="emoji-64")
    args = parser.parse_args()
    command = [sys.executable, "-m", "maskgen", "demo", "--model", args.model, "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert server.stdout is not None
        found = re.search(r"http://\S+:\d+", server.stdout.readline())
        assert found is not None, "the page did not start"
        rows = measured(found[0], server.pid, args.model, args.runs)
    finally:
        server.terminate()
        server.wait(30)
    for name, call, page in zip(("seconds", "seconds of the processor"), *(zip(*side, strict=True) for side in rows), strict=True):
        ours, theirs = statistics.median(page[1:]), statistics.median(call[1:])
        print(f"{args.model}, {args.runs} runs: {theirs:.2f} {name} a call, {ours:.2f} through the page, {ours / theirs:.2f} times")


def processor_s(process: int) -> float:
    """Seconds of the processor that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measured(url: str, server: int, model: str, runs: int) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Seconds, and seconds of the processor, of each call and of each click; the first are to warm up."""
    from playwright.sync_api import sync_playwright

    from maskgen import Pipeline

    pipe = Pipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    pipe.enable_packed_weights()
    calls, clicks = [], []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(url)
        page.get_by_label("Prompt", exact=True).locator("visible=true").fill(PROMPT)
        page.get_by_label("number input for Pictures").locator("visible=true").fill("1")
        draw = page.get_by_role("button", name="Draw", exact=True)
        for run in range(runs + 1):
            started_s, used_s = time.perf_counter(), processor_s(os.getpid())
            pipe(PROMPT, seed=run)  # type: ignore[operator]
            calls.append((time.perf_counter() - started_s, processor_s(os.getpid()) - used_s))
            started_s, used_s = time.perf_counter(), processor_s(server)
            draw.click()
            page.get_by_role("progressbar").locator("visible=true").wait_for()
            page.locator(".mg-note", has_text="model calls").locator("visible=true").wait_for()
            clicks.append((time.perf_counter() - started_s, processor_s(server) - used_s))
        browser.close()
    return calls, clicks


if __name__ == "__main__":
    main()
