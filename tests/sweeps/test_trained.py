"""`nc.train` and `nc.sweep`: a call that returns finished runs, in memory and on disk, from wherever it is made."""

import dataclasses
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
from neurocollapse.sweeps import ALONG

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


@pytest.mark.parametrize("how", ["script", pytest.param("python -c", marks=pytest.mark.slow)])
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


def test_a_folder_without_a_configuration_is_no_other_version(tmp_path):
    with pytest.raises(nc.RunError, match=r"is not a run: it has no config\.json; name the folder"):
        _ = nc.RunFolder(tmp_path).config


def test_verify_takes_a_run_wherever_it_is(tmp_path):
    kept, run = nc.train(TINY, out=tmp_path), nc.train(TINY)
    table = nc.verify(kept)
    assert str(nc.verify(kept.folder)) == str(nc.verify(kept.folder.path))
    sections = {name: rows for name, rows in nc.verify(kept.folder).sections.items() if name != ALONG}
    assert table.sections == nc.verify(run).sections == sections
    with pytest.raises(nc.RunError, match=f"{tmp_path} holds 1 runs; pass one of them, such as {kept.folder.path}"):
        nc.verify(tmp_path)


def test_verify_says_what_a_run_in_memory_lacks():
    with pytest.warns(UserWarning, match="smaller learning rate"):
        diverged = nc.train(dataclasses.replace(TINY, learning_rate=1e6))
    with pytest.raises(nc.VerificationError, match="no weights to verify: the run is diverged; name another"):
        nc.verify(diverged)
    with pytest.raises(nc.VerificationError, match="the run's loss is cross_entropy"):
        nc.verify(nc.train(dataclasses.replace(TINY, loss="cross_entropy", optimizer="adam")))


def test_a_mistyped_folder_is_no_unfinished_run(tmp_path):
    (tmp_path / "results").mkdir()
    for ask in (lambda folder: folder.status, lambda folder: nc.runs(folder.path), lambda folder: nc.verify(folder)):
        with pytest.raises(nc.RunError, match=r"there is no folder .*/result \(did you mean 'results'\?\)"):
            ask(nc.RunFolder(tmp_path / "result"))
    with pytest.raises(nc.RunError, match=r"there is no run in .*results; name the folder of one"):
        _ = nc.RunFolder(tmp_path / "results").status


def test_what_holds_tensors_prints_as_one_short_line(tmp_path):
    data, state = nc.load_dataset("gaussian"), next(iter(nc.epochs(TINY)))
    assert repr(data.train) == "Split(images=Tensor(400, 16), labels=Tensor(400,))"
    assert repr(data).startswith(f"Dataset(name='gaussian', train={data.train!r}, test=Split(images=Tensor(100, 16), ")
    assert repr(TINY) == (
        "RunConfig(dataset='gaussian', network='mlp', depth=2, width=8, learning_rate=0.01, epochs=3)"
    )
    run = nc.train(TINY)
    assert repr(run).startswith(f"TrainedRun(config={TINY!r}, status='finished', records=RunsFrame(4, ")
    reproduction = nc.reproduce(TINY, weight_decays=[0.0], out=tmp_path, workers=1)
    for value in (state, run, reproduction):
        assert len(repr(value)) < 600
        assert "\n" not in repr(value)


@pytest.mark.parametrize("place", ["memory", "disk"])
def test_ctrl_c_says_how_to_resume_what_is_on_disk(tmp_path, monkeypatch, place):
    states = nc.epochs(TINY)

    def stopped(*_, **__):
        yield next(states)
        raise KeyboardInterrupt

    for module in ("trained", "resuming"):
        monkeypatch.setattr(f"neurocollapse.sweeps.{module}.epochs", stopped)
    with pytest.raises(KeyboardInterrupt) as caught:
        nc.train(TINY, out=tmp_path if place == "disk" else None)
    assert str(caught.value) == (
        f"what was saved stays in {tmp_path}, and the same call resumes it" if place == "disk" else ""
    )


@pytest.mark.parametrize("decay", [-1.0, math.nan, math.inf])
def test_a_weight_decay_that_is_none_is_refused(decay):
    run = nc.train(TINY)
    data = nc.load_dataset("gaussian").train
    with pytest.raises(nc.InputError, match="weight_decay must be at least 0 and finite, got"):
        nc.measure_model(run.model, [(data.images, data.labels)], weight_decay=decay)
