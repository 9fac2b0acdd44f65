"""The report in a real browser: at desktop and phone width, without a network."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.stand_ins.small_report import small_report
from training.report.report import write_report

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# The page is loaded in a frame as wide as the screen it is meant for: a browser's window can't be as narrow as a
# phone. The script measures what a person would see, and leaves it in the document for --dump-dom.
LOOK = """<script>
addEventListener("load", () => {
  const page = document.querySelector("iframe").contentWindow, root = page.document.documentElement;
  page.document.querySelectorAll("details").forEach(part => part.open = true);
  const of = (selector, what) => Array.from(page.document.querySelectorAll(selector), what);
  const found = {
    page: root.scrollWidth, screen: root.clientWidth, height: root.scrollHeight,
    figures: of("figure svg", svg => [svg.getBoundingClientRect().width, svg.getBoundingClientRect().height]),
    type: of("figure svg text", text => text.getBoundingClientRect().height),
    outside: of("main *", part => part).filter(part => !part.closest(".scroll table, svg")
      && part.getBoundingClientRect().right > root.clientWidth + 1).map(part => part.outerHTML.slice(0, 100)),
    lost: of("figure svg", svg => svg).flatMap(svg => Array.from(svg.querySelectorAll("text")).filter(text => {
      const box = svg.getBoundingClientRect(), own = text.getBoundingClientRect();
      return own.left < box.left - 1 || own.right > box.right + 1 || own.bottom > box.bottom + 1;
    }).map(text => text.textContent)),
    requests: page.performance.getEntriesByType("resource").map(entry => entry.name),
    paper: page.getComputedStyle(page.document.body).backgroundColor,
    errors: page.errors || [],
  };
  document.body.innerHTML = "<pre id=found></pre>";
  document.getElementById("found").textContent = JSON.stringify(found);
});
</script>"""


@pytest.fixture(scope="module")
def browser() -> str:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("NOT TESTED: no Chromium here to look at the report in (apt-get install chromium)")
    return found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the bundle that GRADIENTSPACE_TEST_REPORT names, or of ten clusters and thirty long sources."""
    given = os.environ.get("GRADIENTSPACE_TEST_REPORT")
    if given:
        return Path(given)
    report, k = small_report(), 10
    counts = {f"a-rather-long-name-of-a-source-{number}": [number] * k for number in range(30)}
    report["clusters"] |= {
        "k": k, "rows": [4] * k, "share": [0.1] * k, "mean_cosine": [0.5] * k, "by_source": counts,
        "margins": [[0.1 * part for part in range(11)]] * k,
    }  # fmt: skip
    report["terms"] = [["word" * 5] * 8] * k
    report["examples"] = report["examples"][:1] * k
    for each in report["examples"]:
        each["nearest"][0]["answer"] = "w" * 300  # no place to break
    folder = tmp_path_factory.mktemp("page")
    write_report(folder, report)
    return folder / "report.html"


def look(browser: str, page: Path, width: int, folder: Path, *options: str) -> dict[str, Any]:
    frame = f'<iframe style="border:0;width:{width}px;height:900px" srcdoc="{html.escape(page.read_text())}"></iframe>'
    scheme = '<meta name="color-scheme" content="light dark">'
    (folder / "look.html").write_text(f"<!doctype html>{scheme}<body>{frame}{LOOK}", encoding="utf-8")
    done = subprocess.run(
        [
            *(browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
            *("--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={folder / 'profile'}"),
            *("--window-size=1400,1000", *options, "--dump-dom", (folder / "look.html").as_uri()),
        ],
        capture_output=True, text=True, timeout=600, check=True,
    )  # fmt: skip
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stdout[-2000:] + done.stderr[-2000:]
    return dict(json.loads(html.unescape(found[1])))


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_it_can_be_read_at_desktop_and_at_phone_width(
    width: int, browser: str, page: Path, tmp_path: Path
) -> None:
    seen = look(browser, page, width, tmp_path)
    assert seen["screen"] == width
    assert seen["page"] <= width, "the page scrolls sideways"
    assert seen["outside"] == []
    assert len(seen["figures"]) >= 3
    assert all(wide > 200 and high > 60 for wide, high in seen["figures"]), seen["figures"]
    assert min(seen["type"]) >= 9, "type in a figure is too small to read"
    assert seen["lost"] == [], "type runs out of its figure"
    assert seen["requests"] == []


@pytest.mark.slow
def test_it_is_dark_where_the_reader_wants_it_dark(browser: str, page: Path, tmp_path: Path) -> None:
    assert look(browser, page, 390, tmp_path)["paper"] == "rgb(255, 255, 255)"
    dark = look(browser, page, 390, tmp_path, "--force-dark-mode")
    assert dark["paper"] == "rgb(15, 19, 24)"
