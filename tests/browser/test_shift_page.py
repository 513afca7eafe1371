"""The report's page in a real browser: silent, offline, inert and readable on a phone."""

import shutil
from pathlib import Path

import pytest

from nlp_transfer.reporting.html import shift_page
from nlp_transfer.shift.report import shift_report
from nlp_transfer.shift.rows import load_side
from tests.shift.domains import WordEncoder, rows, write

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
NASTY = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"


@pytest.fixture(scope="module")
def browser():
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=found, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("page")
    long = {"text": "unbroken" * 60, "label": "positive"}
    source = [{"text": NASTY, "label": "positive"}, long, *rows("books", 60)]
    sides = [
        load_side(write(folder / "books.jsonl", source), "source", seed=1),
        load_side(write(folder / "pans.jsonl", rows("pans", 60)), "target", seed=1),
    ]
    report = shift_report(*sides, embedder=WordEncoder(), permutations=50)
    out = {"one": folder / "one.html", "several": folder / "several.html"}
    out["one"].write_text(report.to_html(), encoding="utf-8")
    out["several"].write_text(shift_page([report, report]), encoding="utf-8")
    return out


class Visit:
    """A page opened, with everything it said and asked for."""

    def __init__(self, browser, path, *, width=1280, **settings):
        self.context = browser.new_context(viewport={"width": width, "height": 900}, **settings)
        self.page = self.context.new_page()
        self.said, self.asked = [], []
        self.page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("[data-plot=map] .point", state="attached")
        self.page.wait_for_timeout(300)


@pytest.fixture
def visit(browser, request):
    opened = []

    def open_page(path, **settings):
        opened.append(Visit(browser, path, **settings))
        return opened[-1]

    yield open_page
    for item in opened:
        item.context.close()


@pytest.mark.parametrize("name", ["one", "several"])
def test_no_console_message_and_no_request(visit, pages, name):
    seen = visit(pages[name])
    assert seen.said == []
    assert [url for url in seen.asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert len(seen.asked) == 1


def test_a_script_in_a_review_is_inert(visit, pages):
    seen = visit(pages["one"])
    assert seen.page.evaluate("window.hacked") is None
    assert seen.page.locator("img").count() == 0
    assert seen.page.evaluate("document.body.textContent.includes('window.hacked')")


def test_pointing_at_a_text_shows_it(visit, pages):
    seen = visit(pages["one"])
    point = seen.page.locator("[data-plot=map] .point").first
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    seen.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    seen.page.wait_for_selector("[data-plot=map] .hovertext")
    shown = seen.page.locator("[data-plot=map] .hovertext").first.text_content()
    assert shown.startswith(("books", "pans"))
    assert len(seen.page.locator(".reader .text").first.text_content()) > 10
    assert seen.page.evaluate("window.hacked") is None
    assert seen.said == []


@pytest.mark.parametrize("name", ["one", "several"])
@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_nothing_scrolls_sideways(visit, pages, width, name):
    seen = visit(pages[name], width=width, has_touch=width < 700)
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width


CONTRAST = """
(selector) => {
  const pixel = document.createElement("canvas").getContext("2d");
  const part = (v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const luminance = (css) => {
    pixel.fillStyle = css;
    pixel.fillRect(0, 0, 1, 1);
    const [r, g, b] = pixel.getImageData(0, 0, 1, 1).data;
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  let node = document.querySelector(selector);
  const ink = luminance(getComputedStyle(node).color);
  while (getComputedStyle(node).backgroundColor === "rgba(0, 0, 0, 0)") node = node.parentElement;
  const ground = luminance(getComputedStyle(node).backgroundColor);
  return [(Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05), ground];
}
"""
READ = (".level", ".verdict p", ".note", "td.meaning", ".texts li", "h1 .source", "h1 .target", ".scale")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_colour_schemes_are_readable(visit, pages, scheme):
    seen = visit(pages["one"], color_scheme=scheme)
    for selector in READ:
        contrast, ground = seen.page.evaluate(CONTRAST, selector)
        assert contrast >= 4.5, selector  # WCAG 2.2, level AA
        assert (ground < 0.1) == (scheme == "dark")


def test_the_verdict_stands_first_and_is_said_in_words(visit, pages):
    seen = visit(pages["one"], width=390)
    verdict = seen.page.locator(".verdict")
    assert verdict.bounding_box()["y"] < 600
    assert "risk of negative transfer" in verdict.text_content()
    assert seen.page.locator(".verdict .icon svg path").count() == 1


def test_other_sources_unfold(visit, pages):
    seen = visit(pages["several"])
    second = seen.page.locator("#report-1")
    assert second.get_attribute("open") is None
    seen.page.locator("a[data-open=report-1]").click()
    seen.page.wait_for_selector("#report-1 [data-plot=map] .point", state="attached")
    assert seen.said == []
