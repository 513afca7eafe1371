"""The ranking's page in a real browser: it draws, asks for nothing and runs no text."""

import pytest

from nlp_transfer.numeric.transferability import SCORES, Estimate
from nlp_transfer.reporting.rank_page import rank_page
from nlp_transfer.selection.rank import Candidate, Ranking
from tests.browser.test_shift_page import NASTY, browser  # noqa: F401


def ranking():
    def scores(value):
        return {name: Estimate(value, value - 0.02, value + 0.02) for name in SCORES}

    cost = {"parameters": 22_700_000, "disk_mb": 90.9, "memory_mb": 120.0}
    good = [
        Candidate("org/large", scores(0.91), seconds_per_1000=80.0, pareto=True, **cost),
        Candidate(NASTY, scores(0.88), "best", seconds_per_1000=95.0, **cost),
        Candidate("org/small", scores(0.82), seconds_per_1000=9.0, pareto=True, **cost),
    ]
    failed = Candidate("no/such", error=f"no model {NASTY}")
    return Ranking("kitchen", "classification", 400, "linear_probe", [*good, failed])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_picture_and_the_table_are_drawn_without_a_network(browser, tmp_path, scheme):  # noqa: F811
    path = tmp_path / "ranking.html"
    path.write_text(rank_page(ranking()), encoding="utf-8")
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_selector("[data-plot=pareto] .point", state="attached")
    assert page.locator("[data-plot=pareto] .point").count() == 3
    assert page.locator("tbody tr").count() == 3
    assert page.evaluate("window.hacked") is None
    assert said == []
    assert asked == [path.as_uri()]
    wide = page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    context.close()
    assert wide
