"""`nc.train` and `nc.sweep`: a call that returns finished runs, in memory and on disk, from wherever it is made."""

import dataclasses
import inspect
import math
import subprocess
import sys

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from nbclient import NotebookClient

import neurocollapse as nc
from neurocollapse.sweeps import planning

TINY = nc.RunConfig(dataset="gaussian", network="mlp", depth=2, width=8, epochs=3, learning_rate=0.01)


def test_a_run_in_memory_has_its_records_and_its_trained_model():
    run = nc.train(TINY)
    *_, last = nc.epochs(TINY)
    assert (run.status, run.config, run.folder) == ("finished", TINY, None)
    assert run.records["epoch"].tolist() == [0, 1, 2, 3]
    assert run.records["train.nc1"].iloc[-1] == last.record["train.nc1"]
    for name, weight in run.model.state_dict().items():
        assert torch.equal(weight, last.tensors[f"model.{name}"])
    assert not run.model.training


def test_a_run_on_disk_is_the_one_in_memory_and_is_not_trained_twice(tmp_path, monkeypatch):
    run, kept = nc.train(TINY), nc.train(TINY, out=tmp_path)
    pd.testing.assert_frame_equal(run.records, kept.records)
    pd.testing.assert_frame_equal(kept.records, nc.runs(tmp_path))
    monkeypatch.setattr("neurocollapse.sweeps.resuming.epochs", lambda *_, **__: pytest.fail("it trains"))
    again = nc.train(TINY, out=tmp_path)
    assert again.folder.path == kept.folder.path
    for name, weight in again.model.state_dict().items():
        assert torch.equal(weight, run.model.state_dict()[name])


@pytest.mark.parametrize("place", ["memory", "disk"])
def test_a_run_that_diverges_says_so(tmp_path, place):
    config = dataclasses.replace(TINY, learning_rate=1e6)
    with pytest.warns(UserWarning, match="the objective became .* try a smaller learning rate"):
        run = nc.train(config, out=tmp_path if place == "disk" else None)
    assert (run.status, run.model) == ("diverged", None)
    assert "smaller learning rate" in run.message
    assert run.records["epoch"].tolist() == [0]


def test_progress_is_shown_where_it_is_wanted(capsys):
    nc.train(TINY, progress=True)
    assert "epoch 3/3" in capsys.readouterr().err
    nc.train(TINY)  # where there is no terminal
    assert capsys.readouterr() == ("", "")


def test_a_folder_without_runs_is_an_empty_frame_with_its_columns(tmp_path):
    frame = nc.runs(tmp_path)
    assert frame.empty
    assert {"run_id", "status", "weight_decay", "seed", "epoch"} <= set(frame.columns)


SWEEP = """
import neurocollapse as nc
from neurocollapse.sweeps import planning
base = nc.RunConfig(dataset="gaussian", network="mlp", epochs=3)
run = nc.train(base)
runs = nc.sweep(nc.Sweep(base, {"seed": range(2)}), out="x")
assert len(runs) == 2 and not runs.failures
assert run.status == "finished" and len(nc.runs("x")) == 8
print(nc.report("x"))
"""


@pytest.mark.parametrize("how", ["script", "python -c"])
def test_it_works_without_a_guard_for_the_main_module(tmp_path, how):
    (tmp_path / "script.py").write_text("print('once')\n" + SWEEP)
    arguments = ["script.py"] if how == "script" else ["-c", "print('once')\n" + SWEEP]
    done = subprocess.run([sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["once", "x/report.html"]


@pytest.mark.slow
def test_it_works_in_a_notebook(tmp_path):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(SWEEP)])
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert (tmp_path / "x" / "report.html").exists()


def test_the_runs_of_a_sweep_are_a_sequence_with_the_failures_beside_it(tmp_path):
    runs = nc.sweep(nc.Sweep(TINY, {"learning_rate": (0.01, 1e6)}), tmp_path, workers=1)
    assert [run.status for run in runs] == ["finished", "diverged"]
    (failure,) = runs.failures
    assert failure["run"] == "λ=0.0005 seed 0 learning_rate=1000000.0"
    assert "smaller learning rate" in failure["message"]
    assert np.isfinite(runs[0].records()[-1]["train.nc1"])


def test_what_is_no_list_of_configurations_is_refused_by_name(tmp_path):
    sweep = inspect.unwrap(planning.plan_sweep)  # without the tests' own checking of types
    with pytest.raises(nc.InputTypeError, match="sweep takes several configurations, got one; train it with train"):
        sweep(TINY, tmp_path)
    with pytest.raises(nc.InputTypeError, match="sweep takes a Sweep or RunConfigs, got 'seed'"):
        sweep({"seed": [0]}, tmp_path)


def test_a_folder_without_a_configuration_is_no_other_version(tmp_path):
    with pytest.raises(nc.RunError, match=r"is not a run: it has no config\.json; name the folder"):
        _ = nc.RunFolder(tmp_path).config


def test_verify_takes_the_folder_of_a_run(tmp_path):
    run = nc.train(TINY, out=tmp_path)
    assert str(nc.verify(run.folder)) == str(nc.verify(run.folder.path))


@pytest.mark.parametrize("decay", [-1.0, math.nan, math.inf])
def test_a_weight_decay_that_is_none_is_refused(decay):
    run = nc.train(TINY)
    data = nc.load_dataset("gaussian").train
    with pytest.raises(nc.InputError, match="weight_decay must be at least 0 and finite, got"):
        nc.measure_model(run.model, [(data.images, data.labels)], weight_decay=decay)
