"""The snippets for trackers on the page of one's own loop, offline; a tracker that is not installed is passed over."""

from pathlib import Path

import pytest
import torch

import neurocollapse as nc
from tests.test_pages import PAGES, blocks

SNIPPETS = {block.title: block.text for block in blocks(PAGES["own-loop"]) if block.comment.endswith("trackers.py")}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder with a recorded run, and everything that a tracker keeps in the user's home."""
    monkeypatch.chdir(tmp_path)
    for name in ("HOME", "TRACKIO_DIR", "WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    labels = torch.arange(12) % 3
    measured = nc.measure(torch.eye(3, 4)[labels] + torch.randn(12, 4), labels, torch.eye(3, 4))
    nc.Recorder("results/own/first").add(7, measured, test=measured)
    return {"measured": measured, "epoch": 7}


def run(title, given):
    exec(compile(SNIPPETS[title], title, "exec"), given)


def test_tensorboard(place):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run("TensorBoard", place)
    shown = events.EventAccumulator("tensorboard/first").Reload().Scalars("train.nc1")
    assert [(event.step, event.value) for event in shown] == [(7, pytest.approx(place["measured"]["nc1"]))]


@pytest.mark.filterwarnings("ignore")
def test_mlflow(place):
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    run("MLflow", place)
    (found,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert found.data.metrics["nc/nc1"] == place["measured"]["nc1"]


@pytest.mark.filterwarnings("ignore")
def test_weights_and_biases(place):
    pytest.importorskip("wandb")
    run("Weights & Biases", place)
    assert list(Path("wandb").glob("offline-run-*/run-*.wandb"))


@pytest.mark.filterwarnings("ignore")
def test_trackio(place):
    pytest.importorskip("trackio")
    run("trackio", place)
    assert list(Path.cwd().rglob("collapse*.db"))
