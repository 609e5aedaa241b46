import itertools
import json
from typing import Any

import pytest
from chromium import resize

pytestmark = pytest.mark.web

CONTRAST = """
const channel = v => { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; };
const parse = s => (s.match(/[\\d.]+/g) || []).map(Number);
const luminance = c => .2126 * channel(c[0]) + .7152 * channel(c[1]) + .0722 * channel(c[2]);
const background = e => { for (; e; e = e.parentElement) {
  const c = parse(getComputedStyle(e).backgroundColor);
  if (c.length === 3 || c[3] === 1) return c; } return [255, 255, 255]; };
const bad = [];
for (const e of document.body.querySelectorAll('*')) {
  const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
  const style = getComputedStyle(e);
  if (!own || !e.getClientRects().length || e.closest('.role-mark')) continue;
  const a = luminance(parse(e instanceof SVGElement ? style.fill : style.color));
  const b = luminance(background(e));
  const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  if (ratio < 4.5) bad.push([e.tagName, e.textContent.trim().slice(0, 40), ratio.toFixed(2)]);
}
return bad;
"""


def test_it_loads_itself_and_nothing_else(opened: Any) -> None:
    assert [entry for entry in opened.get_log("browser") if entry["level"] == "SEVERE"] == []
    events = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    urls = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert any(url.endswith("report.html") for url in urls), "the log has no requests at all"
    assert {url.split(":")[0] for url in urls} <= {"file", "data"}


def test_headings_and_landmarks(opened: Any) -> None:
    heads = opened.execute_script("return [...document.querySelectorAll('h1,h2,h3')].map(h => h.tagName)")
    assert heads.count("H1") == 1
    assert heads.count("H2") >= 6
    levels = [int(head[1]) for head in heads]
    assert all(below - above <= 1 for above, below in itertools.pairwise(levels))
    for landmark in ("header", "nav", "main", "footer"):
        assert len(opened.find_elements("tag name", landmark)) == 1
    assert "read 10 of 10 images" in opened.find_element("class name", "verdict").text


def test_every_link_of_the_page_has_its_target(opened: Any) -> None:
    script = (
        "return [...document.querySelectorAll('a[href^=\"#\"]')].map(a => a.getAttribute('href').slice(1))"
    )
    targets = opened.execute_script(script)
    assert len(targets) > 5
    assert [name for name in targets if not opened.find_elements("id", name)] == []


def test_pictures_are_there_aligned_and_described(opened: Any) -> None:
    seen = "[i.naturalWidth, i.alt, Math.round(i.getBoundingClientRect().left)]"
    images = opened.execute_script(f"return [...document.images].map(i => {seen})")
    assert len(images) == 50  # 10 truths and 10 reconstructions; 10 truths and 2 x 10 reconstructions
    assert all(width == 28 and text for width, text, _ in images)
    assert len({left for _, _, left in images}) == 10


@pytest.mark.parametrize("width", [320, 390, 768, 1280, 1920])
def test_no_sideways_scrolling(opened: Any, width: int) -> None:
    resize(opened, width)
    assert opened.execute_script("return document.documentElement.scrollWidth") == width


@pytest.mark.parametrize("width", [390, 1280])
def test_one_drawing_of_each_chart_fits_the_screen(opened: Any, width: int) -> None:
    resize(opened, width)
    drawings = "[...document.querySelectorAll('.chart svg')].filter(s => s.getClientRects().length)"
    shown = opened.execute_script(f"return {drawings}.map(s => s.clientWidth)")
    assert len(shown) == len(opened.find_elements("class name", "chart"))
    assert all(0 < drawn <= width for drawn in shown)


CUT_OFF = """
const shown = [...document.querySelectorAll('.chart svg')].filter(s => s.getClientRects().length);
return shown.flatMap(svg => { const box = svg.getBoundingClientRect();
  return [...svg.querySelectorAll('text')].filter(t => { const b = t.getBoundingClientRect();
    return b.left < box.left - 1 || b.right > box.right + 1; }).map(t => t.textContent); });
"""


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("font", ["sans-serif", "DejaVu Sans"])
def test_no_label_of_a_chart_is_cut_off(opened: Any, width: int, font: str) -> None:
    resize(opened, width)
    opened.execute_script(f"document.body.style.fontFamily = '{font}'")
    assert opened.execute_script(CUT_OFF) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_background(opened: Any, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    paper = opened.execute_script("return getComputedStyle(document.body).backgroundColor")
    dark = sum(int(part) for part in paper.strip("rgb()").split(",")) < 3 * 128
    assert dark == (scheme == "dark")
    assert opened.execute_script(CONTRAST) == []


def test_the_keyboard_reaches_the_report(opened: Any) -> None:
    opened.find_element("tag name", "body").send_keys("\ue004")  # Tab
    assert opened.execute_script("return document.activeElement.className") == "skip"
    regions = opened.find_elements("css selector", ".scroll")
    assert len(regions) >= 3
    for region in regions:
        assert region.get_attribute("tabindex") == "0"
        assert region.get_attribute("aria-label")
