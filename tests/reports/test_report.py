"""The report's values: what is shown, rounded, left out, packed. What a browser makes of it is in test_browser.py."""

import base64
import dataclasses
import hashlib
import json
import math
import shutil
import signal
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from neurocollapse.datasets import load_dataset
from neurocollapse.reports import report_content, report_page
from neurocollapse.reports.panels import LAYER_PANELS
from neurocollapse.sweeps import Sweep
from neurocollapse.sweeps.resuming import execute
from neurocollapse.training import RunConfig
from neurocollapse.training.run import LAYER_KEYS
from tests.commands import COMMAND, start, wait_for
from tests.example_runs import report_run

GAUSSIAN = load_dataset("gaussian")
SMALL = RunConfig(dataset="gaussian", network="mlp", depth=3, width=12, learning_rate=0.02, epochs=2)


def content(runs, **options):
    made = report_content(runs, title="a title", **options)
    return json.loads(json.dumps(made, allow_nan=False))


def of_page(page):
    """The values that a page holds."""
    text = page.split('<script id="content" type="application/json">')[1].split("</script>")[0]
    return json.loads(text)


# Which runs


def test_what_runs_differ_in_can_be_switched_with_the_decay_first_and_the_seed_last():
    runs = [report_run(weight_decay=decay, seed=seed, depth=depth) for decay in (1e-3, 0.0) for seed in (1, 0)
            for depth in (5, 3)]  # fmt: skip
    made = content(runs)
    assert made["fields"] == [
        {"name": "weight_decay", "values": [0.0, 1e-3]},
        {"name": "depth", "values": [3, 5]},
        {"name": "seed", "values": [0, 1]},
    ]
    places = [tuple(run["values"].values()) for run in made["runs"]]
    assert places[:3] == [(0.0, 3, 0), (0.0, 3, 1), (0.0, 5, 0)]
    assert len(places) == 8
    assert made["common"]["network"] == {"value": "mlp", "default": False}
    assert made["common"]["schedule"] == {"value": "linear", "default": True}
    assert "depth" not in made["common"]


def test_of_values_without_an_order_each_has_its_place():
    runs = [report_run(per_class=value, bias=bias) for value, bias in ((20, "none"), (None, "free"), (5, "all"))]
    fields = {field["name"]: field["values"] for field in content(runs)["fields"]}
    assert fields["per_class"] == [5, 20, None]
    assert fields["bias"] == ["all", "free", "none"]


def test_a_damaged_run_is_named_and_no_curve():
    damaged = dataclasses.replace(report_run(), status="damaged", message="it is cut short", config={}, records=())
    made = content([report_run(seed=1), damaged])
    assert made["damaged"] == [{"name": damaged.name, "message": "it is cut short"}]
    assert len(made["runs"]) == 1


def test_notes_and_machines_come_once():
    runs = [
        dataclasses.replace(report_run(seed=seed), notes=["classes differ"], provenance=[{"torch": "2.13"}])
        for seed in range(3)
    ]
    made = content(runs)
    assert (made["notes"], made["provenance"]) == (["classes differ"], [{"torch": "2.13"}])


# Numbers


def test_series_are_those_of_the_records_to_seven_digits_with_gaps_for_what_is_not_finite():
    run = report_run(epochs=3)
    run.records[1]["train.nc1"] = math.nan
    run.records[2]["train.nc1"] = math.inf
    run.records[0]["train.nc1"] = 1.23456789
    (made,) = content([run])["runs"]
    assert made["series"]["train"]["nc1"][:3] == [1.234568, None, None]
    assert made["series"]["test"]["nc3"] == [float(f"{record['test.nc3']:.7g}") for record in run.records]
    assert made["recorded"] == [record["epoch"] for record in run.records]
    assert "objective" not in made["series"]["train"]  # no record has it
    assert made["norms"] == [[float(f"{r['train.weight_norms'][layer]:.7g}") for r in run.records] for layer in (0, 1)]


@pytest.mark.parametrize(("loss", "panel"), [("square", "loss_data"), ("cross_entropy", "cross_entropy")])
def test_the_first_panel_is_the_runs_own_data_term(loss, panel):
    assert [each["key"] for each in content([report_run(loss=loss)])["panels"]] == [
        panel, "nc1", "nc2_equinorm", "nc2_cosine", "nc3", "nc4",
    ]  # fmt: skip


def test_tables_with_numbers_that_json_lacks_are_told():
    theory = {"run": {"sections": {"a": [{"name": "x", "predicted": math.nan, "residual": math.inf}]}}}
    assert content([report_run()], theory=theory)["theory"]["run"]["sections"]["a"] == [
        {"name": "x", "predicted": None, "residual": None}
    ]


# Motion


def unpacked(moves):
    values = np.frombuffer(base64.b64decode(moves["samples"]), dtype="<i2").astype(float) / 32767
    frames = values.reshape(len(moves["epochs"]), len(moves["labels"]), -1)
    return frames * np.array(moves["scales"])[:, None, None]


def test_samples_come_back_to_four_digits_of_the_largest():
    run = report_run(epochs=4)
    moves = content([run])["motion"][run.name]
    assert moves["epochs"] == sorted(run.snapshots)
    for frame, epoch in zip(unpacked(moves), moves["epochs"], strict=True):
        samples = run.snapshots[epoch]["samples"]
        np.testing.assert_allclose(frame, samples, atol=5e-5 * np.abs(samples).max())
    last = run.snapshots[moves["epochs"][-1]]
    np.testing.assert_allclose(moves["weight_gram"][-1], last["weight_gram"], rtol=1e-4)


def test_no_more_moves_than_a_page_can_hold_and_every_setting_before_a_second_seed():
    runs = [report_run(weight_decay=decay, seed=seed, epochs=60, classes=10) for seed in range(3)
            for decay in (0.0, 5e-4, 1e-3)]  # fmt: skip
    made = content(runs)
    assert [run.name for run in runs[:3]] == list(made["motion"])[:3]
    for moves in made["motion"].values():
        assert moves["epochs"][0] == 0
        assert moves["epochs"][-1] == 60
        assert len(moves["epochs"]) <= 32
    assert len(report_page(report_content(runs, title="nine"))) < 5_000_000


def test_runs_of_before_there_were_snapshots_do_not_move():
    assert content([dataclasses.replace(report_run(), snapshots={})])["motion"] == {}


# The page


def test_the_copy_of_plotly_is_the_published_one_with_its_licence():
    assets = files("neurocollapse.reports.page") / "assets"
    digest, name = (assets / "plotly.sha256").read_text().split()
    assert hashlib.sha256((assets / name).read_bytes()).hexdigest() == digest
    assert "MIT License" in (assets / "plotly-LICENSE").read_text()


def test_a_report_of_three_runs_is_small():
    assert len(report_page(report_content([report_run()] * 3, title="a title"))) < 2.5e6


def test_the_page_needs_no_network_and_holds_its_text_as_text():
    name = '</script><script>alert("{{ plotly }}")</script>'
    run = dataclasses.replace(report_run(), name=name, message="<b>&amp;")
    page = report_page(report_content([run], title=f"<i>{name}</i>"))
    assert of_page(page)["runs"][0]["name"] == name
    assert of_page(page)["title"] == f"<i>{name}</i>"
    own = page.replace(page[page.index("<script>//# allFunctions") : page.index("<script>drawPlots")], "")
    assert "<script>alert" not in page
    assert page.count("<script") == 4
    assert "<title>&lt;i&gt;&lt;/script&gt;" in page
    for way in ("src=", "@import", "url(", "fetch(", "XMLHttpRequest"):
        assert way not in own, way


def test_page_and_figures_are_made_without_pytorch_and_the_page_without_matplotlib():
    script = "import sys, neurocollapse.reports; assert not {'torch', 'matplotlib'} & sys.modules.keys()"
    script += "; import neurocollapse.reports.figures; assert not {'torch', 'matplotlib.pyplot'} & sys.modules.keys()"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_without_runs_or_records_there_is_still_a_page():
    for runs in ([], [dataclasses.replace(report_run(), records=(), snapshots={}, status="unfinished")]):
        assert of_page(report_page(report_content(runs, title="empty")))["motion"] == {}


# The command


def test_the_report_of_runs_on_disk_has_what_they_recorded(tmp_path, run):
    folders = [execute(config, GAUSSIAN, tmp_path) for config in Sweep(SMALL, {"weight_decay": (0.0, 1e-3)})]
    (folders[1].path / "records.jsonl").write_text("{")
    (tmp_path / "claims.json").write_text(
        '[{"claim": "c", "setting": "s", "verdict": "holds", "source": "", "parts": []}]'
    )
    assert run("verify", tmp_path)[0] == 1
    status, printed, said = run("report", tmp_path)
    assert (status, printed) == (1, f"report: {tmp_path / 'report.html'}\n")
    assert said.startswith(f"damaged: {folders[1].path / 'records.jsonl'} is damaged")
    made = of_page((tmp_path / "report.html").read_text())
    (shown,) = made["runs"]
    assert made["title"] == "Neural collapse of the mlp on gaussian"
    assert shown["name"] == folders[0].path.name
    assert shown["series"]["train"]["nc1"][-1] == pytest.approx(folders[0].records()[-1]["train.nc1"], rel=1e-4)
    assert shown["seconds"] > 0
    assert made["provenance"][0]["device"] == "cpu"
    assert [each["name"] for each in made["damaged"]] == [folders[1].path.name]
    assert list(made["theory"]) == [folders[0].path.name]
    assert made["claims"][0]["verdict"] == "holds"
    assert made["reload"] is None
    assert list(made["motion"]) == [folders[0].path.name]


def test_the_report_of_a_single_run_has_the_theory_table_that_was_made_beside_it(tmp_path, run):
    folder = execute(SMALL, GAUSSIAN, tmp_path)
    assert run("verify", tmp_path)[0] == 0
    assert run("report", folder.path)[0] == 0
    assert list(of_page((folder.path / "report.html").read_text())["theory"]) == [folder.path.name]


def test_with_two_classes_what_is_always_zero_is_no_curve():
    series = content([report_run(classes=2)])["runs"][0]["series"]["train"]
    assert "nc1" in series
    assert not [key for key in series if key.startswith("nc2")]


def test_what_cannot_be_reported_is_one_line(tmp_path, run):
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "nowhere", tmp_path / "empty"):
        status, printed, said = run("report", folder)
        assert (status, printed, said.count("\n")) == (2, "", 1)
        assert str(folder) in said
        assert not (folder / "report.html").exists()
    (tmp_path / "file").write_text("")
    told = f"error: {tmp_path / 'file'} is a file, not a folder\n"
    assert run("report", tmp_path / "file", "--follow") == (2, "", told)


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    """A folder of two runs, to copy."""
    out = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        execute(dataclasses.replace(SMALL, seed=seed), GAUSSIAN, out)
    return out


DAMAGED_FILES = [
    ("claims.json", "{", "claims.json cannot be read (line 1 is cut off); run claims again"),
    ("claims.json", '[{"claim": "only"}]', "claims.json cannot be read (it[0] has no 'parts'); run claims again"),
    ("theory.json", "xx", "theory.json cannot be read (line 1 is no JSON from character 1 on"),
    ("theory.json", "[]", "theory.json cannot be read (it must be an object, got []); verify writes it again"),
    ("*/snapshots.safetensors", "xx", "snapshots.safetensors is damaged ("),
]


@pytest.mark.parametrize(("name", "text", "said"), DAMAGED_FILES)
def test_what_is_damaged_beside_the_records_is_left_out_and_named(two_runs, tmp_path, run, name, text, said):
    out = shutil.copytree(two_runs, tmp_path / "out")
    (out / next(out.glob(name), Path(name))).write_text(text)
    status, printed, told = run("report", out)
    assert (status, told.count("\n")) == (1, 1)
    assert told.startswith("damaged: ")
    assert said in told
    assert printed == f"report: {out / 'report.html'}\n"
    made = of_page((out / "report.html").read_text())
    assert len(made["runs"]) == 2
    assert [said in message for message in made["left_out"]] == [True]
    assert made["claims"] == []
    assert made["theory"] == {}


@pytest.mark.parametrize("config", [3, [], {"depth": 2}, None], ids=str)
def test_a_config_that_is_none_is_a_damaged_run(two_runs, tmp_path, run, config):
    out = shutil.copytree(two_runs, tmp_path / "out")
    path = next(out.glob("*/config.json"))
    path.write_text(json.dumps({**json.loads(path.read_text()), "config": config}))
    status, _, told = run("report", out)
    assert (status, told.count("\n")) == (1, 1)
    assert told.startswith(f"damaged: {path.parent}")
    assert len(of_page((out / "report.html").read_text())["runs"]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [0, 2])
def test_a_report_that_follows_is_kept_current_until_ctrl_c(tmp_path, seeds):
    out = tmp_path / "to come"
    page = out / "report.html"
    with start([COMMAND, "report", str(out), "--follow"]) as process:
        assert process.stdout.readline() == f"report: {page}\n"
        assert of_page(page.read_text())["reload"] == 10
        for seed in range(seeds):
            execute(dataclasses.replace(SMALL, seed=seed), GAUSSIAN, out)
        wait_for(lambda: len(of_page(page.read_text())["runs"]) == seeds, 60)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    first, second, *_ = said.splitlines()
    assert first == f"{out} did not exist, and is a new folder now"
    assert second == f"there are no runs in {out} yet: waiting for them, until Ctrl-C"
    assert (f"stopped; {page} shows the runs as they are now" if seeds else "no longer reloads itself") in said
    assert of_page(page.read_text())["reload"] is None


# Layers


def test_layers_are_shown_of_runs_that_recorded_them():
    made = content([report_run(layers=layers, seed=seed) for seed, layers in enumerate(("last", "all"))])
    assert [(panel["key"], panel["name"]) for panel in made["layers"]] == [
        ("nc1", "Variability within classes"),
        ("weight_share_frame", "Weight in C directions"),
    ]
    of_layers, without = (run["layers"] for run in made["runs"])
    assert without == {}
    assert list(of_layers["nc1"]) == ["body.0", "body.1", "head"]
    assert list(of_layers["weight_share_frame"]) == ["body.0", "head"]
    records = report_run(layers="all", seed=1).records
    assert of_layers["nc1"]["body.1"] == pytest.approx([r["train.layers.body.1.nc1"] for r in records], rel=1e-6)


def test_every_measure_of_layers_that_a_run_records_can_be_shown():
    assert set(LAYER_KEYS) == set(LAYER_PANELS)
