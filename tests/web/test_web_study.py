"""The page of a study in a browser: it loads nothing, filters and sorts, fits a phone, follows the dark."""

import contextlib
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from chromium import resize
from sample_study import sample_study, write_sample_study
from selenium.common.exceptions import TimeoutException, WebDriverException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait
from test_web_report import CONTRAST

from fedsim.studies.page import write_page
from fedsim.studies.table import read_table, write_table

pytestmark = pytest.mark.web

MARKS = """
return [...document.querySelectorAll('[data-plot^={}]:not([hidden]) .mark-symbol.role-mark path')].length
"""
ROWS = "return [...document.querySelectorAll('[data-table={}] tbody tr')].filter(r => !r.hidden).length"
COLUMN = """
const cells = [...document.querySelectorAll('[data-table=rows] tbody tr')].filter(r => !r.hidden)
  .map(r => r.cells[arguments[0]].dataset.by);
return cells.map(v => v === undefined ? null : isNaN(v) ? v : Number(v));
"""
WIDE = """
const out = e => e.getBoundingClientRect().right > document.documentElement.clientWidth + 1;
const seen = e => !e.closest('.scroll') && e.getClientRects().length;
const wide = [...document.querySelectorAll('main *')].filter(e => seen(e) && out(e));
return wide.map(e => e.outerHTML.slice(0, 90));
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = write_sample_study(tmp_path_factory.mktemp("web") / "study", privacy=True, fail=1)
    return write_page(out, name="sample", about="Two data sets, two partitions, two seeds.")


def ready(browser: Any) -> None:
    drawn = "return document.documentElement.dataset.ready"
    WebDriverWait(browser, 60).until(lambda b: b.execute_script(drawn))


@pytest.fixture
def opened(browser: Any, study: Path) -> Any:
    resize(browser, 1280)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    browser.get("about:blank")
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get(study.as_uri())
    ready(browser)
    return browser


def choose(browser: Any, name: str, text: str) -> None:
    Select(browser.find_element("css selector", f".filters [name={name}]")).select_by_visible_text(text)


def count(browser: Any, script: str, name: str) -> int:
    found: int = browser.execute_script(script.format(name))
    return found


def test_it_renders_without_a_network_or_a_complaint(opened: Any) -> None:
    assert opened.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    urls = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert any(url.endswith("study.html") for url in urls), "the log has no requests at all"
    assert {url.split(":")[0] for url in urls} <= {"file", "data"}
    plots = opened.execute_script(
        "return [...document.querySelectorAll('.plot')].map(p => p.children.length)"
    )
    assert len(plots) == 4 + 12 + 12
    drawn = "[...document.querySelectorAll('.drawing > svg')]"
    sizes = opened.execute_script(f"return {drawn}.map(s => [s.clientWidth, s.clientHeight])")
    assert len(sizes) == len(plots)
    assert all(width > 250 and height > 150 for width, height in sizes)
    assert count(opened, MARKS, "tradeoff") == 4 * (1 + 9) * 2


def test_headings_landmarks_and_text_alternatives(opened: Any) -> None:
    heads = opened.execute_script(
        "return [...document.querySelectorAll('h1,h2,h3')].map(h => Number(h.tagName[1]))"
    )
    assert heads.count(1) == 1
    assert all(below - above <= 1 for above, below in itertools.pairwise(heads))
    for landmark in ("header", "nav", "main", "footer"):
        assert len(opened.find_elements("tag name", landmark)) == 1
    told = opened.execute_script(
        "return [...document.querySelectorAll('.plot')].map(p => [p.role, p.ariaLabel])"
    )
    assert all(role == "img" and len(label) > 40 for role, label in told)
    assert (
        opened.execute_script("return [...document.images].filter(i => !i.alt || !i.naturalWidth).length")
        == 0
    )
    targets = opened.execute_script(
        "return [...document.querySelectorAll('a[href^=\"#\"]')].map(a => a.getAttribute('href').slice(1))"
    )
    assert [name for name in targets if not opened.find_elements("id", name)] == []


def test_the_attacker_filters_plots_and_tables(opened: Any) -> None:
    rows, marks = count(opened, ROWS, "rows"), count(opened, MARKS, "tradeoff")
    choose(opened, "attacker", "knows the defence")
    assert (
        count(opened, ROWS, "rows") == 8 + (rows - 8) // 2
    )  # the undefended cells have no attacker to filter
    assert count(opened, ROWS, "thresholds") == 12
    assert count(opened, MARKS, "tradeoff") == marks // 2
    status = opened.find_element("class name", "status").text
    assert status.startswith(f"{8 + (rows - 8) // 2} of {rows} rows")
    opened.find_element("css selector", ".filters [type=reset]").send_keys(Keys.ENTER)
    WebDriverWait(opened, 10).until(lambda b: count(b, ROWS, "rows") == rows)
    assert count(opened, MARKS, "tradeoff") == marks


def test_the_defence_filters_plots_tables_and_pictures(opened: Any) -> None:
    choose(opened, "series", "masking")
    assert count(opened, ROWS, "rows") == 4 * 3 * 2 * 2
    assert count(opened, MARKS, "tradeoff") == 4 * 3 * 2
    shown = "return [...document.querySelectorAll('{}')].filter(e => e.getClientRects().length).length"
    assert opened.execute_script(shown.format("[data-plot^=strength]")) == 4
    assert opened.execute_script(shown.format(".album")) == 4
    pressed = opened.find_elements("css selector", ".legend [aria-pressed=true]")
    assert [button.text for button in pressed] == ["masking"]


def test_data_and_text_filter_as_well(opened: Any) -> None:
    choose(opened, "factor", "mnist")
    choose(opened, "attacker", "ignores the defence")
    opened.find_element("css selector", ".filters [name=text]").send_keys("p = 0.9")
    assert count(opened, ROWS, "rows") == 2 * 2
    assert count(opened, MARKS, "tradeoff") == 2
    opened.find_element("css selector", ".filters [name=text]").send_keys("no such thing")
    assert count(opened, ROWS, "rows") == 0
    told = opened.find_elements("css selector", ".plots .nothing:not([hidden])")
    assert len(told) == 3


def test_the_legend_is_a_filter_for_the_keyboard(opened: Any) -> None:
    rows = count(opened, ROWS, "rows")
    button = opened.find_element("css selector", ".legend [data-series=noising]")
    button.send_keys(Keys.SPACE)
    assert button.get_attribute("aria-pressed") == "false"
    assert count(opened, ROWS, "rows") < rows
    assert opened.find_element("css selector", ".filters [name=series]").get_attribute("value") == "several"
    button.send_keys(Keys.ENTER)
    assert count(opened, ROWS, "rows") == rows
    assert opened.find_element("css selector", ".filters [name=series]").get_attribute("value") == ""


@pytest.mark.parametrize(("column", "key"), [(0, Keys.ENTER), (6, Keys.SPACE), (7, Keys.ENTER)])
def test_headers_sort_by_keyboard(opened: Any, column: int, key: str) -> None:
    head = opened.find_elements("css selector", "[data-table=rows] thead th")[column]
    head.find_element("tag name", "button").send_keys(key)
    assert head.get_attribute("aria-sort") == "ascending"
    rising = opened.execute_script(COLUMN, column)
    assert rising == sorted(rising)
    head.find_element("tag name", "button").send_keys(key)
    assert head.get_attribute("aria-sort") == "descending"
    assert opened.execute_script(COLUMN, column) == sorted(rising, reverse=True)
    assert (
        len(opened.find_elements("css selector", "[data-table=rows] th:not([aria-sort=none])[aria-sort]"))
        == 1
    )


def test_the_front_of_the_plot_is_that_of_the_text(opened: Any) -> None:
    choose(opened, "attacker", "knows the defence")
    lines = opened.find_elements("css selector", "[data-plot=tradeoff-0] .mark-line path")
    stepped = [line.get_attribute("d") for line in lines if line.get_attribute("stroke-width") == "1.4"]
    assert len(stepped) == 1
    label = opened.find_element("css selector", "[data-plot=tradeoff-0] .plot").get_attribute("aria-label")
    told = label.split("Nothing beats")[1]
    beaten = told.count("SSIM") + (int(told.split(" more.")[0].split()[-1]) if " more." in told else 0)
    assert stepped[0].count("L") == 2 * (beaten - 1)  # a step to the right and one up between two cells


@pytest.mark.parametrize("width", [320, 360, 390, 768, 1280, 1920])
def test_no_sideways_scrolling(opened: Any, width: int) -> None:
    resize(opened, width)
    opened.execute_script("window.dispatchEvent(new Event('resize'))")
    with contextlib.suppress(TimeoutException):
        WebDriverWait(opened, 10).until(lambda b: b.execute_script(WIDE) == [])
    assert opened.execute_script(WIDE) == []
    assert opened.execute_script("return document.documentElement.scrollWidth") == width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_reach_text_and_plots(opened: Any, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    paper = opened.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (sum(int(part) for part in paper.strip("rgb()").split(",")) < 3 * 128) == (scheme == "dark")
    assert opened.execute_script(CONTRAST) == []
    first = ".mark-symbol.role-mark path[aria-label], .mark-symbol.role-mark path"
    stroke = f"return getComputedStyle(document.querySelectorAll('{first}')[2]).stroke"
    blue = {"light": "rgb(35, 83, 196)", "dark": "rgb(95, 143, 255)"}
    assert opened.execute_script(stroke) in {blue[scheme], "rgb(91, 87, 80)", "rgb(185, 179, 169)"}
    series = "return getComputedStyle(document.documentElement).getPropertyValue('--series-0')"
    assert opened.execute_script(series).strip() == {"light": "#2353c4", "dark": "#5f8fff"}[scheme]


CSV = """
const done = arguments[0];
URL.createObjectURL = blob => { blob.text().then(done); return 'data:,'; };
HTMLAnchorElement.prototype.click = () => {};
document.querySelector('.download[data-csv=rows]').click();
"""


def test_csv_holds_the_rows_shown(opened: Any) -> None:
    choose(opened, "series", "clipping")
    lines = opened.execute_async_script(CSV).splitlines()
    assert lines[0].startswith("cell,status,reason,seed,data.name")
    assert len(lines) == 1 + 2 * 2 * 3 * 2
    assert all("clipping" in line for line in lines[1:])


def test_the_text_filters_words_of_tables_plots_and_csv_alike(opened: Any) -> None:
    """A strength leaves its lines, marks and rows; a number that only a table tells leaves nothing."""
    strength = opened.execute_script(
        "return document.querySelector('[data-table=rows] tr[data-series=clipping] td').textContent"
    )
    box = opened.find_element("css selector", "[name=text]")
    box.send_keys(strength)
    lines = opened.execute_script(ROWS.format("rows"))
    assert opened.execute_async_script(CSV).count("\r\n") == 1 + lines // 2  # two attackers a row
    assert opened.execute_script(MARKS.format("tradeoff")) == lines // 2  # two seeds a mark
    box.clear()
    box.send_keys(
        opened.execute_script("return document.querySelector('[data-table=rows] .hot').textContent")
    )
    assert opened.execute_script(ROWS.format("rows")) == 0
    assert opened.execute_script(MARKS.format("tradeoff")) == 0


def test_everything_can_be_reached_and_is_seen_to_be(opened: Any) -> None:
    opened.find_element("tag name", "body").send_keys(Keys.TAB)
    assert opened.execute_script("return document.activeElement.className") == "skip"
    for region in opened.find_elements("css selector", ".scroll"):
        assert region.get_attribute("tabindex") == "0"
        assert region.get_attribute("aria-label")
    head = opened.find_element("css selector", "[data-table=rows] thead button")
    opened.execute_script("arguments[0].focus({focusVisible: true})", head)
    assert opened.execute_script("return getComputedStyle(arguments[0]).outlineStyle", head) == "solid"


def test_a_tooltip_tells_strength_seeds_images_and_interval(opened: Any) -> None:
    choose(opened, "attacker", "knows the defence")
    choose(opened, "series", "noising")
    panel = opened.find_element("css selector", "[data-plot=tradeoff-0]")
    opened.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", panel)

    def hovered(browser: Any) -> Any:
        # The plot may just be drawn again for the filters: a mouse that moves again meets the new marks.
        mark = panel.find_element("css selector", ".mark-symbol.role-mark path")
        ActionChains(browser).move_by_offset(1, 1).move_to_element(mark).perform()
        tips = browser.find_elements("css selector", "#vg-tooltip-element.visible")
        return tips[0] if tips and tips[0].text else None

    tip = WebDriverWait(opened, 20, ignored_exceptions=[WebDriverException]).until(hovered)
    words = " ".join(tip.text.split())
    for told in ("Defence noising", "Strength std = ", "knows the defence", "8 images, 2 seeds", " by seed)"):
        assert told in words
    assert re.search(r"Mean SSIM \d\.\d\d \(\d\.\d\d to \d\.\d\d\)", words)


def test_hostile_names_are_text_to_the_browser(browser: Any, tmp_path: Path) -> None:
    name = "</script><img src=x onerror=document.title='owned'>"
    grids = ({"defenses": [[]]}, {"defenses.0.name": ["masking"], "defenses.0.p": [0.1, 0.9]})
    axes = {"data.name": ["mnist", "fashion_mnist"], "seed": [1]}
    out = write_sample_study(tmp_path, sample_study(axes=axes, grids=grids))
    rows = read_table(out)
    write_table([{**row, "data.name": name if row["data.name"] == "mnist" else "other"} for row in rows], out)
    browser.get(write_page(out, name=name, about=name).as_uri())
    ready(browser)
    assert browser.title.startswith(name)
    assert browser.find_element("tag name", "h1").text == name
    labels = [label.text for label in browser.find_elements("css selector", ".panel .label")]
    assert name in labels
    choose(browser, "factor", name)
    assert count(browser, ROWS, "thresholds") == 2
    assert browser.execute_script("return document.querySelectorAll('img:not([alt])').length") == 0
