"""What every test runs under: checked shapes, one thread, and in CI the same examples each time."""

import gc
import os
import sys
import warnings

import pytest
import torch
from hypothesis import settings

from tests import checking, operators

operators.stand_in()  # before anything imports torchvision

# Before any test module imports the package.
checking.install("neurocollapse")

# The tests' tensors are small: more threads only wait for one another, and sums could differ between machines. Of the
# commands that tests run, too: several tests run side by side.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# No deadline: the first call of a kind pays for caches and lazy imports, and would fail at random on a busy machine.
settings.register_profile("local", deadline=None, max_examples=25)
settings.register_profile("ci", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


class Seeded:
    """Each test and each example in a docstring begins at one seed, whatever ran before it in its process."""

    @pytest.fixture(autouse=True)
    def seeded(self):
        torch.manual_seed(0)


def pytest_configure(config):
    config.pluginmanager.register(Seeded())  # a fixture of this file alone would not reach the examples in src


def pytest_collection_finish():
    """What all tests import stays, so that the collector need not go over it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def run(capsys, monkeypatch):
    """The command in this process: a function of its words; its exit status, what it printed and what it said."""
    from neurocollapse import cli  # not above: the hook must have been put in place, and this module have been loaded

    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # the command puts its own in place
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr("neurocollapse.sweeps.engines.batched.default_workers", lambda: 1)  # threads, which would wait

    def run(*words):
        with pytest.raises(SystemExit) as caught:
            cli.main([str(word) for word in words])
        captured = capsys.readouterr()
        return caught.value.code, captured.out, captured.err

    return run


@pytest.fixture
def figures_unsaved(monkeypatch):
    """The figure of `reproduce` is drawn but not saved, which takes seconds and is tested by itself."""
    paths = lambda _, out: [out / f"figure.{suffix}" for suffix in ("png", "pdf", "svg")]  # noqa: E731
    monkeypatch.setattr("neurocollapse.reports.reproduction.save_figure", paths)


@pytest.fixture
def no_processes(monkeypatch):
    """Nothing may be trained in processes of their own."""
    monkeypatch.setattr("multiprocessing.process.BaseProcess.start", lambda self: pytest.fail("it trains"))


@pytest.fixture
def no_estimates(monkeypatch):
    """The checks of what was asked for may not come as far as the estimate of its time."""
    monkeypatch.setattr("neurocollapse.sweeps.checks.estimate_seconds", lambda *_: pytest.fail("it goes on"))
