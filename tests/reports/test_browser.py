"""The report in a real browser: it opens offline and without a complaint, and everything on it that can be used works.

Needs chromium and its driver, from Debian's packages chromium and chromium-driver; where they are missing this fails.
"""

import csv
import dataclasses
import json
import math
import time
from pathlib import Path

import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from neurocollapse.reports import report_content, report_page
from tests.example_runs import report_run

pytestmark = pytest.mark.slow

DECAYS = (0.0, 5e-4, 1e-3)
SWEEP = [report_run(weight_decay=decay, seed=seed, epochs=80, records=30) for decay in DECAYS for seed in range(3)]
FIRST = SWEEP[3]  # of the runs with decay, which the page begins with
THEORY = {
    FIRST.name: {
        "sections": {"identities": [
            {"name": "Euler", "predicted": 1.0, "measured": 1.0, "residual": 1e-9, "tells": "rounding"},
            {"name": "Eq. 2", "predicted": 1.0, "measured": None, "residual": 0.3, "tells": "distance"},
        ]},
        "notes": ["a note"],
    }
}  # fmt: skip
CLAIMS = [
    {"claim": "It <collapses>", "setting": "mnist5k", "verdict": "holds", "source": "the paper", "parts": [
        {"quantity": "q", "verdict": "holds", "findings": [
            {"label": "λ = 1", "estimate": 0.5, "low": "nan", "high": 1.0, "seeds": 5}]}]},
]  # fmt: skip


class Page:
    """A browser's window, of a phone or a desk."""

    def __init__(self, downloads: Path):
        options = webdriver.ChromeOptions()
        options.binary_location = "/usr/bin/chromium"
        for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "enable-unsafe-swiftshader"):
            options.add_argument(f"--{argument}")
        automatic = "profile.default_content_setting_values.automatic_downloads"
        options.add_experimental_option("prefs", {"download.default_directory": str(downloads), automatic: 1})
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.downloads = downloads
        self.driver = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
        self.driver.execute_cdp_cmd("Network.enable", {})
        offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        self.driver.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
        self.size(1280)

    def size(self, width: int, *, dark: bool = False, still: bool = False) -> None:
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        features += [{"name": "prefers-reduced-motion", "value": "reduce" if still else "no-preference"}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def open(self, path: Path) -> None:
        self.driver.get(path.as_uri())
        self.until("return document.documentElement.dataset.ready === 'yes'")

    def run(self, script, *args):
        return self.driver.execute_script(script, *args)

    def text(self, name):
        """The text shown in the element of that id."""
        return self.run("return document.getElementById(arguments[0]).innerText", name)

    def layout(self, name, key):
        return self.run(f"return document.querySelector('#plot-{name} .plot').layout.{key}")

    def move_to(self, frame):
        script = (
            "const e = document.getElementById('epoch'); e.value = arguments[0]; e.dispatchEvent(new Event('input'))"
        )
        self.run(script, frame)

    def reload(self):
        self.run("delete document.documentElement.dataset.ready; location.reload()")
        self.until("return document.documentElement.dataset.ready === 'yes'")

    def until(self, script, seconds=60):
        end = time.monotonic() + seconds
        while not self.run(script):
            assert time.monotonic() < end, script
            time.sleep(0.05)

    def click(self, selector, place=0):
        self.run("document.querySelectorAll(arguments[0])[arguments[1]].click()", selector, place)

    def drawn(self, name):
        """The traces of a plot."""
        self.run("document.getElementById(arguments[0]).scrollIntoView()", f"plot-{name}")
        self.until(f"return !!document.querySelector('#plot-{name} .plot').data")
        return self.run(f"""return document.querySelector('#plot-{name} .plot').data.map(
            (trace) => ({{...trace, x: trace.x && [...trace.x], y: trace.y && [...trace.y]}}))""")

    def complaints(self):
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

    def downloaded(self, name):
        end = time.monotonic() + 20
        while not (self.downloads / name).exists() or list(self.downloads.glob("*.crdownload")):
            assert time.monotonic() < end, name
            time.sleep(0.05)
        return (self.downloads / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    page = Page(tmp_path_factory.mktemp("downloads"))
    yield page
    page.driver.quit()


@pytest.fixture
def opened(browser, tmp_path):
    """A function that opens the report of some runs; whatever a test does, the browser may not complain of the page."""

    def opened(runs=SWEEP, **options):
        path = tmp_path / "report.html"
        path.write_text(report_page(report_content(runs, title=options.pop("title", "A sweep"), **options)))
        browser.open(path)
        return browser

    browser.size(1280)
    yield opened
    assert browser.complaints() == []


def lines(traces):
    return [trace for trace in traces if "lines" in trace["mode"]]


# What is seen


def test_every_panel_has_a_line_for_every_run_with_its_values(opened):
    page = opened()
    for key in ("loss_data", "nc1", "nc2_equinorm", "nc2_cosine", "nc3", "nc4"):
        drawn = lines(page.drawn(key))
        assert len(drawn) == len(SWEEP)
        for line, run in zip(drawn, SWEEP, strict=True):
            np.testing.assert_allclose(line["y"], [record[f"train.{key}"] for record in run.records], rtol=1e-4)
            assert line["customdata"] == [record["epoch"] for record in run.records]
            assert line["x"][:2] == [0.5, run.records[1]["epoch"]]
    looks = {(line["line"]["color"], line["marker"]["symbol"]) for line in drawn}
    assert len(looks) == len(DECAYS) == len({colour for colour, _ in looks})


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280, 1920])
def test_it_fits_the_screen(opened, width, dark):
    page = opened(theory=THEORY, claims=CLAIMS)
    page.size(width, dark=dark)
    page.reload()
    for key in ("nc1", "motion", "norms", "simplex"):
        page.drawn(key)
    assert page.run("return document.documentElement.scrollWidth") <= width
    lightness = page.run("return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (max(lightness) < 60) == dark
    for card in page.run("return [...document.querySelectorAll('.card')].map((card) => card.getBoundingClientRect())"):
        assert card["left"] >= 0
        assert card["right"] <= width


@pytest.mark.parametrize("width", [320, 390, 500])
def test_a_page_with_layers_fits_a_phone(opened, width):
    name = "a_package_of_a_long_name.with_modules:network_"
    page = opened([report_run(seed=seed, layers="all", network=name + "of_mine"[:seed]) for seed in range(2)])
    page.size(width)
    page.reload()
    page.drawn("layers")
    assert page.run("return document.documentElement.scrollWidth") <= width
    inside = "return arguments[0].every((name) => document.querySelector(name).getBoundingClientRect().right <= {})"
    assert page.run(inside.format(width), ["#plot-layers .tools", "#layers-measure", "#plot-layers .main-svg"])


def test_a_scroll_bar_that_takes_room_leaves_the_plots_in_their_cards(opened):
    page = opened()
    page.driver.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": False})
    page.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    )
    page.reload()
    page.drawn("norms")
    width = page.run("return document.documentElement.clientWidth")
    assert width < 390
    assert page.run("return document.documentElement.scrollWidth") <= width
    for card, plot in page.run("""return [...document.querySelectorAll('.card')].filter((card) =>
            card.querySelector('.main-svg')).map((card) => [card, card.querySelector('.main-svg')].map((each) =>
            each.getBoundingClientRect()))"""):
        assert card["left"] <= plot["left"] < plot["right"] <= card["right"] <= width


def test_tables_show_the_theory_the_claims_and_the_runs(opened):
    page = opened(theory=THEORY, claims=CLAIMS)
    told = page.text("theory")
    assert "Euler" in told
    assert "1.0e-9" in told
    assert "a note" in told
    shades = page.run("return [...document.querySelectorAll('#theory td')].map((cell) => cell.style.background)")
    assert len({shade for shade in shades if shade}) == 2
    sides = page.run("return [...document.querySelectorAll('#theory th')].map((th) => getComputedStyle(th).textAlign)")
    assert sides == ["left", "right", "right", "right", "left", "left"]  # numbers stand under their headings
    assert "It <collapses>" in page.text("claims")
    assert "● holds" in page.text("claims")
    assert page.text("about").count("finished") == len(SWEEP)
    assert "torch" in page.text("about")
    page.run("state.run = arguments[0]; showTheory()", SWEEP[1].name)
    assert "others have one" in page.text("theory")
    opened()
    assert page.run("return document.getElementById('claims-section')") is None


# What can be switched


def test_runs_are_switched_by_their_fields_and_samples_by_their_split(opened):
    page = opened()
    page.drawn("nc1")
    page.click("[data-field=weight_decay] input", 1)
    page.click("[data-field=seed] input", 0)
    kept = [run for run in SWEEP if run.config["weight_decay"] != 5e-4 and run.config["seed"] != 0]
    assert [line["y"][0] for line in lines(page.drawn("nc1"))] == pytest.approx(
        [run.records[0]["train.nc1"] for run in kept], rel=1e-4
    )
    page.click("input[name=split][value=test]")
    assert [line["y"][0] for line in lines(page.drawn("nc1"))] == pytest.approx(
        [run.records[0]["test.nc1"] for run in kept], rel=1e-4
    )
    page.click("input[name=split][value=both]")
    assert len(lines(page.drawn("nc1"))) == 2 * len(kept)
    for place in (0, 2):
        page.click("[data-field=weight_decay] input", place)
    assert page.drawn("nc1") == []
    assert "is switched on" in page.run("return document.querySelector('#plot-nc1 .plot').innerText")


def test_where_several_fields_tell_settings_apart_each_has_its_line_in_a_legend(opened):
    runs = [report_run(weight_decay=decay, depth=depth, seed=seed) for decay in (0.0, 1e-3) for depth in (3, 5)
            for seed in (0, 1)]  # fmt: skip
    page = opened(runs)
    told = page.run("return [...document.querySelectorAll('#legend li')].map((item) => item.innerText)")
    assert told == ["● λ = 0, depth 3", "■ λ = 0, depth 5", "◆ λ = 0.001, depth 3", "▲ λ = 0.001, depth 5"]
    drawn = {(line["line"]["color"], line["marker"]["symbol"]) for line in lines(page.drawn("nc1"))}
    assert len(drawn) == 4
    opened()
    assert page.run("return document.getElementById('legend')") is None


def test_axes_are_logarithmic_or_not(opened):
    page = opened()
    assert page.drawn("nc1")[0]["x"][0] == 0.5
    assert page.layout("nc1", "yaxis.type") == "log"
    page.drawn("nc4")
    assert page.layout("nc4", "yaxis.type") != "log"
    page.click("#plot-nc1 input")
    assert page.layout("nc1", "yaxis.type") != "log"
    page.click("#log-epochs")
    assert page.drawn("nc1")[0]["x"][0] == 0
    assert page.layout("nc1", "xaxis.type") != "log"


def test_what_was_chosen_outlives_a_reload(opened):
    page = opened()
    page.click("[data-field=seed] input", 2)
    page.click("#classes input", 3)
    page.click("input[name=split][value=test]")
    page.move_to(5)
    page.run("document.getElementById('seed-1').focus()")
    page.run("scrollTo(0, 700)")
    told = page.text("epoch-shown")
    page.reload()
    assert page.run("return document.activeElement.id") == "seed-1"
    assert len(lines(page.drawn("nc1"))) == 6
    assert page.run("return document.querySelector('input[name=split]:checked').value") == "test"
    assert page.run("return state.classes") == [0, 1, 2, 3]
    assert page.text("epoch-shown") == told
    assert len(page.run("return [...document.querySelectorAll('[data-field=seed] input:checked')]")) == 2


# Motion


def twin(shot, classes):
    """Means, rows and samples in the basis of the rows' span closest to them, less its all-ones direction."""
    gram = shot["weight_gram"][np.ix_(classes, classes)].astype(float)
    values, vectors = np.linalg.eigh(gram)
    kept = values > 1e-9 * values.max()
    raised = {
        power: (vectors[:, kept] * values[kept] ** power) @ vectors[:, kept].T for power in (0.5, -0.5)
    }  # fmt: skip
    centred = lambda points: points - points.mean(axis=1, keepdims=True)  # noqa: E731
    means = centred(shot["means"][np.ix_(classes, classes)] @ raised[-0.5])
    rows = centred(raised[0.5])
    samples = [centred(shot["samples"][shot["labels"] == c][:, classes] @ raised[-0.5]) for c in classes]
    unit = np.linalg.norm(means, axis=1).mean()
    return means / unit, rows / np.linalg.norm(rows, axis=1).mean(), [each / unit for each in samples]


@pytest.mark.parametrize("classes", [[0, 1, 2], [0, 2, 3], [0, 1, 2, 3]], ids=str)
def test_samples_are_projected_on_the_span_of_the_rows(opened, classes):
    """Lengths and products agree with NumPy's, for any basis of the plane."""
    generator = np.random.default_rng(0)
    weight, features = generator.standard_normal((5, 7)), generator.standard_normal((5, 4, 7))
    shot = {
        "labels": np.repeat(np.arange(5), 4),
        "samples": (features @ weight.T).reshape(20, 5),
        "means": features.mean(axis=1) @ weight.T,
        "means_gram": features.mean(axis=1) @ features.mean(axis=1).T,
        "weight_gram": weight @ weight.T,
    }
    page = opened([dataclasses.replace(report_run(classes=5), snapshots={0: shot})])
    found = page.run("return coordinates(unpacked(moving()), 0, arguments[0])", classes)
    means, rows, samples = twin(shot, classes)
    flat = [np.concatenate([means, rows, *samples])]
    flat.append(np.concatenate([found["means"], found["rows"], *found["samples"]]))
    np.testing.assert_allclose(flat[1] @ flat[1].T, flat[0] @ flat[0].T, atol=2e-3)


def test_at_collapse_the_means_and_the_rows_are_the_simplex(opened):
    page = opened()
    for classes in ([0, 1, 2], [0, 1, 2, 3]):
        found = page.run("return coordinates(unpacked(moving()), moving().epochs.length - 1, arguments[0])", classes)
        vertices = page.run("return VERTICES[arguments[0]]", len(classes))
        np.testing.assert_allclose(found["means"], vertices, atol=1e-3)
        np.testing.assert_allclose(found["rows"], vertices, atol=1e-3)


def test_the_slider_moves_samples_and_gram_matrices_also_by_the_keyboard(opened):
    page = opened()
    at_end = page.drawn("motion")
    assert page.text("epoch-shown") == "80 of 80"
    page.run("document.getElementById('epoch').focus()")
    page.driver.switch_to.active_element.send_keys(Keys.HOME)
    assert page.text("epoch-shown") == "0 of 80"
    at_start = page.drawn("motion")
    assert [trace["name"] for trace in at_start] == [trace["name"] for trace in at_end]
    spread = lambda traces: np.std(next(t["x"] for t in traces if t["name"] == "samples of 0"))  # noqa: E731
    assert spread(at_start) > 10 * spread(at_end)
    page.driver.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    epoch = FIRST.records[1]["epoch"]
    assert page.text("epoch-shown") == f"{epoch} of 80"
    (gram,) = page.drawn("means_gram")
    assert gram["z"][0][1] == pytest.approx(-1 / 3, abs=1e-4)


@pytest.mark.parametrize("still", [False, True], ids=["moving", "reduced"])
def test_play_comes_to_the_end_and_can_be_stopped(opened, still):
    page = opened([report_run(epochs=30)])
    page.size(1280, still=still)
    page.drawn("motion")
    page.click("#play")
    page.until("return document.getElementById('play').textContent.includes('pause')")
    page.until("return motion.frame > 0.2")
    page.click("#play")
    stopped = page.run("return motion.frame")
    assert stopped == round(stopped) < 30
    page.move_to(28)
    page.click("#play")
    page.until("return motion.frame === 30 && !motion.playing")
    assert page.text("epoch-shown") == "30 of 30"


def test_four_classes_are_a_tetrahedron_and_never_fewer_than_three_are_shown(opened):
    page = opened()
    page.drawn("motion")
    page.click("#classes input", 3)
    points = "const p = coordinates(unpacked(moving()), motion.frame, state.classes).means.flat()"
    before = page.run(f"{points}; return [p, seen(p.slice(0, 3))]")
    assert math.hypot(*before[1]) == pytest.approx(math.hypot(*before[0][:3]))  # turning keeps lengths
    shown = [trace["x"] for trace in page.drawn("motion")]
    target = page.driver.find_element("css selector", "#plot-motion .plot")
    target.send_keys(Keys.ARROW_RIGHT)
    turned = [trace["x"] for trace in page.drawn("motion")]
    assert turned != shown
    ActionChains(page.driver).drag_and_drop_by_offset(target, -15, 0).perform()  # as far back as the key has turned it
    back = [[x for x in trace["x"] if x is not None] for trace in page.drawn("motion")]
    for one, other in zip(back, shown, strict=True):
        np.testing.assert_allclose(one, [x for x in other if x is not None], atol=1e-9)
    for place in (0, 1, 2, 3):
        page.click("#classes input", place)
    assert len(page.run("return state.classes")) == 3
    assert len(page.run("return [...document.querySelectorAll('#classes input:checked')]")) == 3


def test_another_run_is_shown_below(opened):
    page = opened()
    page.drawn("norms")
    page.run("const s = document.getElementById('run'); s.value = arguments[0]; s.dispatchEvent(new Event('change'))",
             SWEEP[4].name)  # fmt: skip
    layers = page.drawn("norms")
    assert [layer["name"] for layer in layers] == ["layer 1", "layer 2"]
    np.testing.assert_allclose(layers[0]["y"], [r["train.weight_norms"][0] for r in SWEEP[4].records], rtol=1e-4)


# What can be taken away


def test_values_are_downloaded_as_csv(opened):
    page = opened()
    page.click("[data-field=weight_decay] input", 0)
    page.drawn("nc3")
    page.click("#plot-nc3 button", 1)
    rows = list(csv.DictReader(page.downloaded("nc3.csv").splitlines()))
    expected = [
        (run.name, record["epoch"], record["train.nc3"])
        for run in SWEEP if run.config["weight_decay"] for record in run.records
    ]  # fmt: skip
    assert [(row["run"], int(row["epoch"])) for row in rows] == [(name, epoch) for name, epoch, _ in expected]
    np.testing.assert_allclose([float(row["nc3"]) for row in rows], [value for *_, value in expected], rtol=1e-4)
    for name, count in (("motion", 3 * 62), ("norms", 2 * 30), ("simplex", 16)):
        page.drawn(name)
        page.click(f"#plot-{name} button", 1)
        assert len(list(csv.DictReader(page.downloaded(f"{name}.csv").splitlines()))) == count


@pytest.mark.parametrize("name", ["nc2_cosine", "motion", "weight_gram"])
def test_plots_are_downloaded_as_svg(opened, name):
    page = opened()
    page.drawn(name)
    page.click(f"#plot-{name} button", 0)
    assert page.downloaded(f"{name}.svg").startswith("<svg")


# Runs that are not as one wishes


def test_text_is_never_markup(opened):
    bad = "<img src=x onerror=\"document.title='caught'\"><script>document.title='caught'</script>"
    run = dataclasses.replace(
        report_run(), name=bad, status="diverged", message=bad, notes=[bad], provenance=[{bad: bad}]
    )
    run.config["dataset"] = bad
    other = dataclasses.replace(report_run(seed=1), config={**report_run(seed=1).config, "network": bad})
    theory = {bad: {"sections": {bad: [{"name": bad, "residual": 1.0}]}, "notes": [bad]}}
    page = opened([run, other], title=bad, theory=theory)
    page.drawn("nc1")
    page.run("""const at = document.querySelector('#plot-nc1 .plot');
        Plotly.Fx.hover(at, [{curveNumber: 0, pointNumber: 1}])""")
    assert page.run("return document.querySelectorAll('body img').length") == 0
    assert page.run("return document.title") == bad
    assert bad in page.text("failures")
    assert page.text("title") == bad


def test_nothing_comes_in_and_nothing_goes_out(opened):
    page = opened()
    page.run("""window.refused = new Set();
        document.addEventListener('securitypolicyviolation', (event) => window.refused.add(event.effectiveDirective));
        const script = document.createElement('script');
        script.textContent = "document.title = 'caught'";
        document.body.append(script);
        new Image().src = 'https://example.org/picture.png';
        fetch('https://example.org/').catch(() => 0);""")
    page.until("return ['script-src-elem', 'img-src', 'connect-src'].every((each) => window.refused.has(each))")
    assert page.run("return document.title") == "A sweep"
    assert all("Content Security Policy" in complaint for complaint in page.complaints())


def test_failed_unfinished_and_damaged_runs_are_named_above_the_others(opened):
    diverged = dataclasses.replace(report_run(seed=1), status="diverged", message="the objective became nan")
    unfinished = dataclasses.replace(report_run(seed=2), status="unfinished")
    damaged = dataclasses.replace(report_run(seed=3), status="damaged", message="cut short", config={}, records=())
    page = opened([report_run(), diverged, unfinished, damaged], left_out=["theory.json cannot be read <b>"])
    told = page.text("failures")
    parts = ["the objective became nan", "unfinished, at epoch 4 of 4", f"{damaged.name}: damaged: cut short"]
    for part in [*parts, "left out: theory.json cannot be read <b>"]:
        assert part in told
    assert len(lines(page.drawn("nc1"))) == 3


EDGES = {
    "no run": [],
    "a run without a record": [dataclasses.replace(report_run(), records=(), snapshots={}, status="unfinished")],
    "a single record": [report_run(epochs=0)],
    "no snapshots": [dataclasses.replace(report_run(), snapshots={})],
    "two classes": [report_run(classes=2)],
    "all damaged": [dataclasses.replace(report_run(), status="damaged", message="x", config={}, records=())],
    "a dead classifier": [dataclasses.replace(report_run(), snapshots={
        0: {name: np.zeros_like(array) for name, array in report_run().snapshots[0].items()}})],
}  # fmt: skip


@pytest.mark.parametrize("runs", EDGES.values(), ids=EDGES)
def test_the_page_is_whole_whatever_there_is(opened, runs):
    page = opened(runs)
    if [run for run in runs if run.status != "damaged"]:
        for name in ("nc1", "motion", "norms", "means_gram"):
            page.drawn(name)
    assert "Runs, and their last records" in page.text("about")


def test_on_paper_every_plot_is_drawn(opened):
    page = opened()
    drawn = "return [...document.querySelectorAll('.plot')].filter((plot) => plot.data).length"
    everything = page.run("return plots.length")
    assert page.run(drawn) < everything
    page.run("dispatchEvent(new Event('beforeprint'))")
    assert page.run(drawn) == everything


def test_layers_of_a_run_of_each_setting_are_side_by_side(opened):
    runs = [report_run(weight_decay=decay, seed=seed, layers="all") for decay in DECAYS[:2] for seed in range(2)]
    page = opened(runs)
    undecayed, decayed = page.drawn("layers")
    assert undecayed["y"] == decayed["y"] == ["body.0", "body.1", "head"]
    second = [record["train.layers.body.1.nc1"] for record in runs[0].records]
    assert undecayed["customdata"][1] == pytest.approx(second, rel=1e-6)
    assert 10 ** undecayed["z"][1][0] == pytest.approx(second[0], rel=1e-6)
    page.run("""const e = document.getElementById('layers-measure'); e.value = 'weight_share_frame';
        e.dispatchEvent(new Event('change'))""")
    assert page.drawn("layers")[1]["y"] == ["body.0", "head"]
    page.click("#weight_decay-0")
    assert len(page.drawn("layers")) == 1


def test_what_a_link_leads_to_is_not_under_the_switches(opened):
    page = opened()
    page.click("nav a", 1)
    page.until("return Math.abs(scrollY - (window.before ?? -1)) < 1 || ((window.before = scrollY), false)")
    bar, heading = page.run(
        "return [document.getElementById('switches').getBoundingClientRect().bottom,"
        " document.querySelector('#run-section h2').getBoundingClientRect().top]"
    )
    assert 0 < bar <= heading


def test_long_names_of_runs_do_not_widen_a_phones_page(opened):
    runs = [
        dataclasses.replace(run, config={**run.config, "network": "a_module_of_mine:a_network_of_mine", "depth": k})
        for k, run in enumerate([report_run(seed=seed) for seed in range(3)], start=2)
    ]
    page = opened(runs)
    page.size(390)
    assert page.run("return document.documentElement.scrollWidth") <= 390


def test_what_there_is_nothing_to_choose_of_cannot_be_chosen(opened):
    alone = report_run(epochs=0)
    records = [{key: value for key, value in alone.records[0].items() if not key.startswith("test.")}]
    page = opened([dataclasses.replace(alone, records=records)])
    disabled = "return ['play', 'epoch', 'split-test', 'split-both'].map((id) => document.getElementById(id).disabled)"
    assert all(page.run(disabled))
    page = opened([report_run()])
    assert not any(page.run(disabled))
    assert page.run("return document.getElementById('epoch').getAttribute('aria-valuetext')") == "4 of 4"


def test_norms_that_differ_by_rounding_are_not_drawn_as_if_they_differed(opened):
    alone = report_run(epochs=0)
    records = [{**alone.records[0], "train.weight_norms": [16.000001, 15.999999]}]
    page = opened([dataclasses.replace(alone, records=records)])
    page.drawn("norms")
    low, high = page.layout("norms", "yaxis.range")
    assert low < math.log10(14) < math.log10(18) < high


def test_two_hundred_runs_are_a_page(opened):
    decays = [k * 1e-4 for k in range(10)]
    runs = [report_run(weight_decay=decay, seed=seed, records=15, epochs=20) for decay in decays for seed in range(20)]
    page = opened(runs)
    assert len(page.drawn("nc1")) == 200
    page.click("[data-field=seed] button")
    assert page.drawn("nc1") == []
    page.click("[data-field=seed] input", 7)
    assert len(lines(page.drawn("nc1"))) == 10


def test_a_page_of_runs_that_go_on_loads_itself_again_unless_it_is_told_not_to(opened):
    page = opened(reload_seconds=3.0)  # longer than a busy machine takes between two looks
    page.run("document.documentElement.dataset.seen = 'yes'")
    page.until("return document.documentElement.dataset.seen === undefined")
    page.until("return document.documentElement.dataset.ready === 'yes'")
    page.click("#reload")
    page.run("document.documentElement.dataset.seen = 'yes'")
    time.sleep(4)
    assert page.run("return document.documentElement.dataset.seen") == "yes"
    assert math.isfinite(json.loads(page.run("return sessionStorage.getItem(KEPT)"))["scroll"])
