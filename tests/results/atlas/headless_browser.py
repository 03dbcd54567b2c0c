"""A headless Chromium without a network; as a program, it takes a picture of a page.

python tests/results/atlas/headless_browser.py atlas/atlas.html atlas.png --hash=cluster-3
"""

import argparse
import contextlib
import io
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

# Debian's packages; without them, what `playwright install chromium` has brought.
_NAMES = ("chromium-headless-shell", "chromium")
_COLOURS = 200  # of a picture for the documentation


@contextlib.contextmanager
def open_chromium():
    """A browser; its pages are closed with it."""
    path = next(filter(None, map(shutil.which, _NAMES)), None)
    with sync_playwright() as playwright:
        # A container's root may not use the sandbox; the pages are ours.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def open_page(browser, path, *, place="", said=None, **options):
    """A page of the disk; `said` collects what it says, what fails, and what it has others send."""
    said = [] if said is None else said
    context = browser.new_context(
        offline=True, **{"viewport": {"width": 1280, "height": 860}} | options
    )
    page = context.new_page()
    page.set_default_timeout(10_000)
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("requestfailed", lambda request: said.append(f"failed: {request.url}"))
    page.on(
        "request",
        lambda request: (
            None
            if request.url.startswith(("file://", "blob:", "data:"))
            else said.append(f"asked for: {request.url}")
        ),
    )
    page.goto(f"{Path(path).resolve().as_uri()}#{place}")
    try:
        yield page
    finally:
        context.close()


def main():
    """Writes a picture of few colours, as small as a documentation wants it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--hash", default="")
    parser.add_argument("--dark", action="store_true")
    given = parser.parse_args()
    scheme = "dark" if given.dark else "light"
    with open_chromium() as browser:
        with open_page(browser, given.page, place=given.hash, color_scheme=scheme) as page:
            page.wait_for_timeout(1000)
            picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    picture.quantize(_COLOURS, dither=Image.Dither.NONE).save(given.out, optimize=True)


if __name__ == "__main__":
    main()
