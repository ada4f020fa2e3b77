"""The report in a real browser: opened from disk, without a network, used by mouse and keyboard."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from kit.reports import CROWD, METHODS, SLICE, TROUBLE, VARIANTS, write_crowd, write_results
from palimpsest.io.tables import read_table, write_table
from palimpsest.pipeline.stages import Report
from palimpsest.stages.report import report as write_report

webdriver = pytest.importorskip("selenium.webdriver", reason="pip install 'palimpsest[test]'")

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER),
    reason="no Chromium here: apt-get install chromium chromium-driver",
)

SIZES = {"desk": (1280, 900), "phone": (390, 844), "wide": (1920, 1080)}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of a report in which one method's first answer tries to run code."""
    results = tmp_path_factory.mktemp("browser") / "results"
    write_results(results)
    path = results / "mini" / "sku" / "rows.parquet"
    lines = read_table(path)[0].to_pylist()
    lines[0]["answer"] = TROUBLE
    write_table(path, pa.Table.from_pylist(lines))
    write_report(
        Report(
            config=SLICE, results=results, out=results / "report.html", tables=results / "tables"
        )
    )
    return (results / "report.html").as_uri()


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of a page with two subjects of 24 methods each."""
    results = tmp_path_factory.mktemp("many") / "results"
    write_crowd(results)
    write_report(
        Report(
            config=CROWD,
            results=results,
            out=results / "all_methods.html",
            tables=results / "all_methods",
        )
    )
    return (results / "all_methods.html").as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--host-resolver-rules=MAP * ~NOTFOUND",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.execute_cdp_cmd("Network.enable", {})
    offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    driver.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
    yield driver
    driver.quit()


def show(
    browser: Any, page: str, size: str = "desk", scheme: str = "light", drawn: bool = True
) -> None:
    """Open the page; where its drawings matter, wait for them."""
    from selenium.webdriver.support.ui import WebDriverWait

    width, height = SIZES[size]
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.get(page)
    if drawn:
        done = "return document.documentElement.dataset.charts === 'drawn'"
        WebDriverWait(browser, 60).until(lambda d: d.execute_script(done))


def found(browser: Any, selector: str) -> list[Any]:
    return browser.find_elements("css selector", selector)


def table(browser: Any, place: int = 0) -> Any:
    """A table of methods; each subject has one, and one for a closer look."""
    return found(browser, "table.methods")[place]


def methods(browser: Any, place: int = 0) -> list[str]:
    """Names in a table of methods, from top to bottom."""
    names = table(browser, place).find_elements("css selector", "tbody th")
    return [e.text.split("\n")[0] for e in names]


def heads(browser: Any, place: int = 0) -> list[Any]:
    """The heads by which a table of methods is sorted."""
    return table(browser, place).find_elements("css selector", "th[aria-sort]")


def visible(browser: Any) -> list[str]:
    return [e.get_attribute("id") for e in found(browser, ".example") if e.is_displayed()]


def press(browser: Any, *keys: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(browser).send_keys(*keys).perform()


def test_it_asks_no_network_and_the_console_stays_silent(browser: Any, page: str) -> None:
    browser.get_log("performance")
    show(browser, page)
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    }
    assert asked == {page}
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("size", SIZES)
def test_charts_are_drawn_within_the_width_of_the_screen(
    browser: Any, page: str, size: str
) -> None:
    show(browser, page, size)
    charts = found(browser, ".chart > svg, .chart > * > svg")
    assert len(charts) == len(found(browser, ".chart")) == 11
    assert all(chart.size["width"] > 200 and chart.size["height"] > 40 for chart in charts)
    page_width = browser.execute_script("return document.documentElement.scrollWidth")
    assert page_width <= SIZES[size][0]


def test_charts_have_a_text_and_a_table(browser: Any, page: str) -> None:
    show(browser, page)
    described = found(browser, ".chart[role='graphics-document'][aria-label]")
    assert len(described) == 11
    assert all(len(e.get_attribute("aria-label")) > 20 for e in described)
    details = found(browser, "figure details")[0]
    assert not details.find_element("css selector", "table").is_displayed()
    details.find_element("css selector", "summary").click()
    assert details.find_element("css selector", "table").is_displayed()


def test_colours_follow_the_readers_theme(browser: Any, page: str) -> None:
    def colours() -> list[str]:
        return browser.execute_script(
            """const css = (e) => getComputedStyle(e);
            const line = document.querySelector(".chart svg .mark-line path");
            return [css(document.body).backgroundColor, css(document.body).color,
                    css(line).stroke];"""
        )

    show(browser, page, scheme="light")
    light = colours()
    show(browser, page, scheme="dark")
    dark = colours()
    assert light[0] == "rgb(251, 250, 246)"
    assert dark[0] == "rgb(23, 22, 19)"
    assert all(a != b and b.startswith("rgb") for a, b in zip(light, dark, strict=True))


@pytest.mark.parametrize("size", ["desk", "wide"])
@pytest.mark.parametrize("which", ["page", "many"])
def test_no_table_is_cut_on_a_desk(
    browser: Any, request: pytest.FixtureRequest, size: str, which: str
) -> None:
    """Folded tables are opened first; those behind drawings may scroll within their place."""
    show(browser, request.getfixturevalue(which), size, drawn=False)
    widths = browser.execute_script(
        """document.querySelectorAll("details.details").forEach((d) => { d.open = true; });
        return [...document.querySelectorAll(".methods, .pairs, .cost")].map(
            (t) => [t.className, t.parentElement.scrollWidth, t.parentElement.clientWidth]);"""
    )
    assert {name for name, *_ in widths} == {"methods", "pairs", "cost"}
    assert [line for line in widths if line[1] > line[2]] == []


@pytest.mark.parametrize("which", ["page", "many"])
@pytest.mark.parametrize("size", ["phone", "desk"])
def test_what_is_pressed_is_large_enough(
    browser: Any, request: pytest.FixtureRequest, size: str, which: str
) -> None:
    show(browser, request.getfixturevalue(which), size, drawn=False)
    small = browser.execute_script(
        """document.querySelectorAll("details").forEach((d) => { d.open = true; });
        const pressed = "a, button, summary, input, select, [tabindex]";
        return [...document.querySelectorAll(pressed)]
            .filter((e) => e.getClientRects().length && !e.closest("svg"))
            .map((e) => [e.outerHTML.slice(0, 80), e.getBoundingClientRect()])
            .filter(([, box]) => box.width < 24 || box.height < 24)
            .map(([text, box]) => `${text} ${box.width} x ${box.height}`);"""
    )
    assert small == []


def test_the_first_screen_has_what_still_tells(browser: Any, page: str) -> None:
    show(browser, page)
    panel = next(e for e in found(browser, ".panel") if e.is_displayed())
    heads = [e.text for e in panel.find_elements("css selector", ".kind h3")]
    assert heads == ["When asked", "What still tells", "The rest"]
    membership = next(
        e
        for e in panel.find_elements("css selector", ".big")
        if e.text.startswith("Membership inference")
    )
    assert "never taught: 50%" in membership.text
    assert membership.rect["y"] + membership.rect["height"] < 1.5 * SIZES["desk"][1]


def test_paper_shows_what_is_folded(browser: Any, page: str) -> None:
    """Printing opens every fold but long tables, which name their file, and closes them again."""
    show(browser, page)
    state = """return [...document.querySelectorAll("details")].map(
        (d) => [d.open, !!d.closest("form"), d.dataset.long])"""
    before = browser.execute_script(state)
    assert not any(is_open for is_open, *_ in before)
    browser.execute_script("window.dispatchEvent(new Event('beforeprint'))")
    opened = browser.execute_script(state)
    assert all(is_open != (tool or bool(long)) for is_open, tool, long in opened)
    assert {long for *_, long in opened if long} == {"44 rows: see training.csv"}
    browser.execute_script("window.dispatchEvent(new Event('afterprint'))")
    assert browser.execute_script(state) == before


def test_the_table_sorts_by_click_and_by_keyboard(browser: Any, page: str) -> None:
    show(browser, page)
    before = ["Original", "Never taught", "SKU", "SKU, anchored"]
    place, kept = head(browser, "To keep: recall")
    assert methods(browser, place) == before
    button = kept.find_element("css selector", "button")
    button.click()
    assert methods(browser, place) == ["Never taught", "SKU", "SKU, anchored", "Original"]
    assert kept.get_attribute("aria-sort") == "ascending"
    press(browser, "\ue007")
    assert methods(browser, place) == ["Original", "SKU, anchored", "SKU", "Never taught"]
    assert kept.get_attribute("aria-sort") == "descending"
    press(browser, " ")
    assert methods(browser, place) == before
    assert kept.get_attribute("aria-sort") == "none"
    # The accuracy is null for SKU: it stays last in both directions.
    place, accuracy = head(browser, "To keep: token accuracy")
    for _ in range(2):
        accuracy.find_element("css selector", "button").click()
        assert methods(browser, place)[-1] == "SKU"


def head(browser: Any, name: str) -> tuple[int, Any]:
    """The head of a column, ``group: label``, and the place of its table."""
    group, label = name.split(": ")
    for place, one in enumerate(found(browser, "table.methods")):
        heads_ = iter(heads(browser, place)[1:])
        for cell in one.find_elements("css selector", ".groups th"):
            of_group = [next(heads_) for _ in range(int(cell.get_attribute("colspan")))]
            texts = [each.text.split("\n")[0].strip(" ↑↓").lower() for each in of_group]
            if cell.text == group and label in texts:
                return place, of_group[texts.index(label)]
    raise AssertionError(name)


def test_a_closer_look_opens_and_sorts(browser: Any, page: str) -> None:
    show(browser, page)
    tables = found(browser, "table.methods")
    place = next(n for n, table in enumerate(tables) if not table.is_displayed())
    details = found(browser, "details.details")[0]
    details.find_element("css selector", "summary").click()
    assert table(browser, place).is_displayed()
    before = methods(browser, place)
    assert before == methods(browser)
    rows = table(browser, place).find_elements("css selector", "tbody tr")
    values = [
        [e.get_attribute("data-value") for e in row.find_elements("css selector", "td")]
        for row in rows
    ]
    # The column that tells most methods apart; equal ones stay in their order.
    column, seen = max(enumerate(zip(*values)), key=lambda each: len(set(each[1])))
    assert len(set(seen)) > 2
    order = sorted(range(len(rows)), key=lambda n: float(values[n][column] or "inf"))
    heads(browser, place)[column + 1].find_element("css selector", "button").click()
    assert methods(browser, place) == [before[n] for n in order]


def test_tips_open_on_focus_and_close_with_escape(browser: Any, page: str) -> None:
    show(browser, page)
    tip = found(browser, "#tip")[0]
    dash = [e for e in found(browser, "table.methods td .none") if e.is_displayed()][-1]
    browser.execute_script("arguments[0].focus()", dash)
    assert tip.is_displayed()
    assert tip.text == dash.get_attribute("data-tip") != ""
    assert dash.get_attribute("aria-describedby") == "tip"
    press(browser, "\ue00c")
    assert not tip.is_displayed()


def test_parts_and_search_filter_the_answers(browser: Any, page: str) -> None:
    show(browser, page)
    assert len(visible(browser)) == 6
    found(browser, ".more button")[0].click()
    assert len(visible(browser)) == 8
    found(browser, ".parts input[value='retain']")[0].click()
    assert visible(browser)
    assert all("-retain-" in name for name in visible(browser))
    search = found(browser, "input[type='search']")[0]
    search.send_keys("BRASK salt")
    assert visible(browser) == []
    assert found(browser, ".nothing")[0].is_displayed()
    search.clear()
    search.send_keys("QUELLINE")
    assert visible(browser) == ["mini-retain-retain-00002"]
    assert [e.text for e in found(browser, "[data-count]")] == ["1", "1", "1", "1"]
    search.send_keys("\ue007")
    assert browser.current_url == page


def test_erased_words_can_be_shown(browser: Any, page: str) -> None:
    show(browser, page)
    erased = found(browser, ".example:not([hidden]) .answer:not([hidden]) del")[0]
    assert not erased.is_displayed()
    found(browser, "[data-erased]")[0].click()
    assert erased.is_displayed()


def test_the_headline_follows_the_chosen_method(browser: Any, page: str) -> None:
    show(browser, page)
    panels = {e.get_attribute("data-method"): e for e in found(browser, ".panel")}
    assert panels["sku-anchored"].is_displayed()
    assert not panels["sku"].is_displayed()
    browser.execute_script("arguments[0].focus()", found(browser, ".choice input:checked")[0])
    press(browser, "\ue015")
    assert panels["sku"].is_displayed()
    assert not panels["sku-anchored"].is_displayed()


def test_an_answer_that_tries_to_run_code_is_only_text(browser: Any, page: str) -> None:
    show(browser, page)
    assert browser.title == "Palimpsest: Mini subject"
    assert found(browser, "img") == []
    shown = [e.text for e in found(browser, ".example .text")]
    assert any("<img src=x onerror=" in text for text in shown)


def test_the_page_prints(browser: Any, page: str) -> None:
    show(browser, page, scheme="dark")
    assert browser.print_page().startswith("JVBER")


def answers_shown(browser: Any) -> list[str]:
    """Methods whose answer to the first question is seen."""
    first = found(browser, ".example:not([hidden])")[0]
    shown = first.find_elements("css selector", ".answer")
    return [e.get_attribute("data-method") for e in shown if e.is_displayed()]


def test_dozens_of_methods_are_shown_without_a_word_in_the_console(browser: Any, many: str) -> None:
    browser.get_log("browser")
    show(browser, many)
    assert browser.get_log("browser") == []
    assert browser.title == "Palimpsest, all methods: Mini subject, Other subject"
    assert methods(browser)[: len(METHODS)] == list(METHODS.values())
    for chart in ("recall", "accuracy"):
        drawn = found(browser, f"#mini-overview-{chart} svg text")
        shown = {e.get_attribute("textContent") for e in drawn}
        # SKU's accuracy on what is to be kept could not be scored.
        assert set(METHODS.values()) - {"SKU"} <= shown


@pytest.mark.parametrize("size", SIZES)
def test_many_methods_stay_within_the_width_of_the_screen(
    browser: Any, many: str, size: str
) -> None:
    """What is wider than its place says that it scrolls."""
    show(browser, many, size)
    unfold(browser)
    page_width = browser.execute_script("return document.documentElement.scrollWidth")
    assert page_width <= SIZES[size][0]
    places = browser.execute_script(
        """return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() =>
            done([...document.querySelectorAll(".scroll")].map((e) => [
                e.getAttribute("aria-label"), e.scrollWidth > e.clientWidth + 1,
                getComputedStyle(e, "::before").content.includes("Scrolls sideways")])))))"""
    )
    assert [place for place in places if place[1] != place[2]] == []
    assert any(cut for _, cut, _ in places)


def unfold(browser: Any) -> None:
    """Open every fold."""
    script = "document.querySelectorAll('details').forEach((d) => { d.open = true; })"
    browser.execute_script(script)


def test_every_drawing_has_its_table(browser: Any, many: str) -> None:
    show(browser, many)
    bare = browser.execute_script(
        """return [...document.querySelectorAll(".chart svg")].filter((drawing) =>
            !drawing.closest("figure")?.querySelector("details table tbody tr")).length"""
    )
    assert bare == 0
    assert len(found(browser, "figure details table")) == len(found(browser, "figure"))


def test_every_dash_tells_why(browser: Any, many: str) -> None:
    """By a number beside it, which a note below its table explains."""
    show(browser, many, drawn=False)
    unfold(browser)
    dashes, unexplained = browser.execute_script(
        """const cells = [...document.querySelectorAll("td")].filter(
            (c) => /^[—–]/.test(c.textContent.trim()) && !/[a-z]{3}/.test(c.textContent));
        const told = (cell) => {
            const note = cell.closest(".scroll").nextElementSibling;
            return note.matches(".why") && [...note.querySelectorAll("sup")].some(
                (one) => one.textContent === cell.querySelector("sup")?.textContent);
        };
        return [cells.length, cells.filter((cell) => !told(cell)).map((c) => c.outerHTML)];"""
    )
    assert dashes > 0
    assert unexplained == []


def left(browser: Any) -> list[str]:
    """Methods that a search leaves."""
    return [name for name in methods(browser) if name]


def shown_rows(browser: Any, selector: str) -> list[str]:
    rows = found(browser, f"#mini {selector} tbody tr:not([hidden]) th")
    return [row.get_attribute("textContent") for row in rows]


def test_methods_are_found_in_every_table_and_figure(browser: Any, many: str) -> None:
    show(browser, many, drawn=False)
    search = found(browser, "#mini .tools input[type='search']")[0]
    search.send_keys("memflex random")
    assert left(browser) == ["Original", "Retrained", "MemFlex, random region"]
    assert shown_rows(browser, ".cost") == ["Original", "Retrained", "MemFlex, random region"]
    pairs = [row.text for row in found(browser, "#mini table.pairs tbody tr:not([hidden])")]
    assert len(pairs) == 23
    figures = found(browser, "#mini figure[data-of]:not([hidden])")
    assert {e.get_attribute("data-of") for e in figures} == {"memflex-random"}
    status = found(browser, "#mini .tools [role='status']")[0]
    assert status.text == "1 of 24 methods"
    assert len(found(browser, "#other .methods tr[hidden]")) == 0
    search.clear()
    search.send_keys("nothing is called so")
    assert status.text == "0 of 24 methods"
    assert left(browser) == ["Original", "Retrained"]


def test_methods_are_grouped_by_their_algorithm(browser: Any, many: str) -> None:
    show(browser, many, drawn=False)
    pick = found(browser, "#mini .tools select")[0]
    pick.send_keys("memflex")
    names = left(browser)[2:]
    assert names[:2] == ["MemFlex", "MemFlex, random region"]
    assert all(name.startswith("Variant") for name in names[2:])
    found(browser, "#mini .tools input[type='search']")[0].send_keys("region")
    assert left(browser)[2:] == ["MemFlex, random region"]


def test_all_tables_of_a_subject_stay_in_one_order(browser: Any, many: str) -> None:
    show(browser, many, drawn=False)
    tables = found(browser, "#mini table.methods")
    before = methods(browser)
    heads(browser)[1].find_element("css selector", "button").click()
    after = methods(browser)
    assert sorted(after) == sorted(before) != after
    for place in range(1, len(tables)):
        names = browser.execute_script(
            "return [...arguments[0].querySelectorAll('a.row')].map((a) => a.textContent)",
            tables[place],
        )
        assert names == after
    others = methods(browser, len(tables))
    assert others == before


def test_the_cost_table_sorts_above_its_totals(browser: Any, many: str) -> None:
    show(browser, many, drawn=False)
    cost = found(browser, "#mini .cost")[0]
    button = next(e for e in cost.find_elements("css selector", "button") if e.text == "in all")
    button.click()
    button.click()
    rows = shown_rows(browser, ".cost")
    assert rows[-1] == "Original"
    assert cost.find_element("css selector", "tfoot").text.startswith("All methods together")


def test_columns_can_be_chosen(browser: Any, many: str) -> None:
    show(browser, many, drawn=False)
    found(browser, "#mini .columns summary")[0].click()
    first = heads(browser)[1].text.split("\n")[0]
    boxes = found(browser, "#mini .columns fieldset:first-of-type label")
    boxes[0].click()
    shown = [head.text.split("\n")[0] for head in heads(browser) if head.is_displayed()]
    assert first not in shown
    keys = found(browser, "#mini .methods .groups th")[0].get_attribute("data-cols").split()
    for box in found(browser, "#mini .columns input"):
        if box.get_attribute("value") in keys[1:]:
            box.click()
    assert not found(browser, "#mini .methods .groups th")[0].is_displayed()
    boxes[0].click()
    assert heads(browser)[1].is_displayed()


def test_a_row_has_an_address(browser: Any, many: str) -> None:
    show(browser, many, drawn=False)
    found(browser, "#mini .tools input[type='search']")[0].send_keys("memflex")
    link = next(e for e in found(browser, "#mini a.row") if e.text == "MemFlex")
    link.click()
    assert browser.current_url == f"{many}#row-mini-memflex"
    top = "return document.querySelector('tr:target').getBoundingClientRect().top"
    assert 0 < browser.execute_script(top) < SIZES["desk"][1] / 2
    # A search that hides the row of an address ends.
    browser.execute_script("location.hash = '#row-mini-sku'")
    target = found(browser, "#row-mini-sku")[0]
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 10).until(lambda _: target.is_displayed())
    assert len(methods(browser)) == 26


def test_the_contents_lead_to_each_subject(browser: Any, many: str) -> None:
    show(browser, many, drawn=False)
    links = found(browser, ".subjects a")
    assert [link.text for link in links] == ["Mini subject", "Other subject"]
    links[1].click()
    top = "return document.getElementById('other').getBoundingClientRect().top"
    assert abs(browser.execute_script(top)) < 100


def test_the_reader_chooses_whose_answers_stand_side_by_side(browser: Any, many: str) -> None:
    show(browser, many, drawn=False)
    boxes = {e.get_attribute("value"): e for e in found(browser, "#mini [data-compare] input")}
    assert list(boxes) == [*METHODS, *VARIANTS]
    first = answers_shown(browser)
    assert len(first) == 3
    assert first[0] == "original"
    other = next(name for name in METHODS if name not in first)
    boxes[other].click()
    assert set(answers_shown(browser)) == {*first, other}
    browser.execute_script("arguments[0].focus()", boxes["original"])
    press(browser, " ")
    assert "original" not in answers_shown(browser)
    for name in [*first[1:], other]:
        boxes[name].click()
    assert answers_shown(browser) == []


def test_the_search_reads_the_answers_that_are_shown(browser: Any, many: str) -> None:
    show(browser, many, drawn=False)
    boxes = {e.get_attribute("value"): e for e in found(browser, "#mini [data-compare] input")}
    for name in answers_shown(browser)[1:]:
        boxes[name].click()
    assert answers_shown(browser) == ["original"]
    search = found(browser, "#mini-answers input[type='search']")[0]
    # Only methods that forgot say this; before, everything was known.
    search.send_keys("small and quiet")
    forgotten = [name for name in visible(browser) if name.startswith("mini-forget")]
    assert forgotten == []
    boxes["retrained"].click()
    forgotten = [name for name in visible(browser) if name.startswith("mini-forget")]
    assert len(forgotten) == 8


def test_regions_are_outlined_in_heat_maps(browser: Any, many: str) -> None:
    show(browser, many)
    figures = found(browser, "#mini-regions .region")[:2]
    for figure in figures:
        drawing = figure.find_element("css selector", "svg")
        assert drawing.is_displayed()
        assert drawing.size["width"] > 300
        assert "of 36 tensors are trained (outlined)" in figure.text
        details = figure.find_element("css selector", "details")
        details.find_element("css selector", "summary").click()
        lines = details.find_elements("css selector", "tbody tr")
        assert len(lines) == 36
        chosen = [line for line in lines if line.text.endswith("yes")]
        css = "path[stroke='var(--ink)'][stroke-width='1.4']"
        # Each chosen tensor is outlined twice: where its cosine and where its magnitude stands.
        assert len(drawing.find_elements("css selector", css)) == 2 * len(chosen) > 0


def test_an_early_end_is_shown(browser: Any, many: str) -> None:
    show(browser, many, drawn=False)
    tip, mark = found(browser, "#tip")[0], found(browser, ".methods .stopped")[0]
    assert mark.is_displayed()
    browser.execute_script("arguments[0].focus()", mark)
    assert "stopped at step 32 of 64" in tip.text
