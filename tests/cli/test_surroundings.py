"""What surrounds the command: streams that are closed, readers that leave, signals, homes, names, folders to read."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import neurocollapse as nc
from neurocollapse._errors import InputError, WriteError, printable
from neurocollapse._files import path_of
from neurocollapse.cli import entry
from neurocollapse.cli.parsing import call_of
from neurocollapse.datasets import load_dataset
from neurocollapse.sweeps.resuming import execute
from neurocollapse.training import RunConfig
from tests.commands import COMMAND

TINY = RunConfig(dataset="gaussian", network="mlp", depth=2, width=8, learning_rate=0.01, epochs=2)
RUN = ["--dataset", "gaussian", "--network", "mlp"]


@pytest.fixture(autouse=True)
def handlers():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


# Streams


@pytest.mark.parametrize("words", [["--version"], ["nothing"]])
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_streams(words, closed):
    done = subprocess.run(f"{COMMAND} {' '.join(words)} {closed}", shell=True, capture_output=True, text=True)
    assert done.returncode == (0 if words == ["--version"] else 2)
    assert done.stdout == (
        "" if ">&-" in closed.replace("2>&-", "") or words == ["nothing"] else f"neurocollapse {nc.__version__}\n"
    )
    assert done.stderr.count("\n") == (words == ["nothing"] and "2>&-" not in closed)


def test_where_a_stream_is_closed_no_file_gets_its_number(tmp_path):
    program = "from neurocollapse.cli import entry; entry._open_closed_streams(); "
    program += f"print(open({str(tmp_path / 'f')!r}, 'w').fileno())"
    done = subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, preexec_fn=lambda: os.closerange(2, 3)
    )
    assert int(done.stdout) > 2


@pytest.mark.parametrize("words", [["nothing"], ["--help"], ["runs", "."], ["train", "--dry-run", *RUN]])
def test_a_reader_that_leaves_ends_the_command_without_a_word(words):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([COMMAND, *words], stdout=writing, stderr=writing)
    os.close(writing)
    assert done.returncode == 141


# Signals


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("instead", [KeyboardInterrupt("kept"), AttributeError("numpy has no ma"), ValueError("wrong")])
def test_a_signal_decides_the_status_whatever_a_library_makes_of_its_exception(
    run, monkeypatch, number, status, instead
):
    def swallows(_):
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt:
            raise instead from None

    signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(entry, "_run", swallows)
    assert run() == (status, "", "stopped; kept\n" if str(instead) == "kept" else "stopped\n")


# Options given twice, or without an effect

LOST = {
    "axes": (
        ["train", "--vary", "weight_decay=0,1e-3", "--vary", "seed=0,1"],
        "only the last would count; give its values at once: --vary weight_decay=0,1e-3 seed=0,1\n",
    ),
    "values": (
        ["reproduce", "--weight-decay", "0", "1", "--weight_decay", "2"],
        "; give its values at once: --weight-decay 0 1 2\n",
    ),
    "a field and its axis": (
        ["train", "--seed", "3", "--vary", "seed=0,1"],
        "--vary seed replaces the seed 3; give the one or the other, or vary it too",
    ),
    "classes of a model": (
        ["measure", "--model", "mlp", "--dataset", "gaussian", "--num-classes", "7"],
        "--num-classes would",
    ),
    "a split of a file": (
        ["measure", "x", "--split", "test", "--per-class", "3"],
        "--split and --per-class would have",
    ),
    "no samples of a file": (["measure", "x", "--per-class", "0"], "so --per-class would have"),
    "what a file has anyway": (["measure", "x", "--split", "train"], "so --split would have"),
    "parts of a file's network": (["measure", "x", "--width", "512"], "a network's parts go with --model"),
    "no classes of a model": (
        ["measure", "--model", "mlp", "--dataset", "gaussian", "--num-classes", "0"],
        "so --num-classes would have",
    ),
    "samples of the test split": (
        ["measure", "--model", "mlp", "--dataset", "gaussian", "--split", "test", "--per-class", "3"],
        "so --per-class would have",
    ),
    "the default and its axis": (["train", "--seed", "0", "--vary", "seed=1,2"], "--vary seed replaces the seed 0"),
    "the usual seed of a convex form": (["solve", "--convex", "--seed=0"], "so --seed would have no effect"),
    "signs of a convex form": (["solve", "--convex", "--features", "relu"], "features of either sign"),
    "the usual device": (["verify", "--exact", "--device", "cpu"], "so --device would have no effect"),
    "who trains nothing": (["claims", "--quick", "--read", "--workers", "1"], "so --workers would have no effect"),
    "what judges nothing": (["claims", "--quick", "--dry-run", "--json"], "so --json would have no effect"),
    "a file for one": (
        ["measure", "--model", "mlp", "--dataset", "gaussian", "--out", "x"],
        "so --out would have no effect",
    ),
    "a run of exact problems": (["verify", "--exact", "--refine", "3"], "so --refine would have no effect"),
    "starts of a convex form": (["solve", "--convex", "--starts", "3"], "so --starts would have no effect"),
}


@pytest.mark.parametrize(("words", "message"), LOST.values(), ids=LOST)
def test_what_would_be_lost_is_refused(run, words, message):
    status, printed, said = run(*words)
    assert (status, printed, said.count("\n")) == (2, "", 1)
    assert message in said


def test_what_is_not_lost_may_be_given_twice(run, tmp_path):
    assert run("runs", tmp_path, "--json", "--json")[:2] == (0, "[]\n")
    words = ["--seed", "1", "--vary", "seed=0,1", "--epochs", "3", "--epochs", "4"]  # of one value the last counts
    assert run("train", *RUN, "--width", "8", *words, "--dry-run", "--out", tmp_path)[0] == 0


# Home


def test_a_tilde_is_the_home_folder(run, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert path_of("~/x") == path_of(Path("~") / "x") == tmp_path / "x"
    assert path_of("~nobody-of-this-name/x") == Path("~nobody-of-this-name/x")
    from neurocollapse.cli.running import train

    words = ["--out", "~/out", "--tensorboard", "~/board", "--data-dir=~/data", *RUN]
    values = call_of("train", train, words).keywords
    assert values["out"] == tmp_path / "out"
    machines = values["machines"]
    assert (machines.data_dir, machines.tensorboard) == (tmp_path / "data", tmp_path / "board")
    finished = nc.train(TINY, out="~/runs")
    assert finished.folder.path.parent == tmp_path / "runs"
    assert len(nc.runs("~/runs")) == len(nc.RunFolder(f"~/runs/{finished.folder.path.name}").records())
    assert [nc.report("~/runs"), nc.sweep([TINY], "~/runs")[0].path.parent] == [
        tmp_path / "runs/report.html",
        tmp_path / "runs",
    ]
    assert not Path("~").exists()


# Names


def test_escapes_in_text_from_outside_are_visible(run, tmp_path):
    assert printable("a\x1b[2J\x9b\u202eb\udcff λ\n\tc") == "a\\x1b[2J\\x9b\\u202eb\\udcff λ\n\tc"
    assert "\x1b" not in str(InputError("\x1b[2J")) + str(WriteError(Path("\x1b[2J"), OSError(28, "No space")))
    folder = tmp_path / "\x1b[31mred"
    assert "\\x1b[31mred" in run("runs", folder)[2]
    (folder / "\x1b[2Jrun").mkdir(parents=True)
    (folder / "\x1b[2Jrun" / "config.json").write_text("{")
    np.savez(folder / "\x1b[2J.npz", x=[1])
    for words in (["runs", folder], ["measure", folder / "\x1b[2J.npz"], ["report", folder]):
        _, printed, said = run(*words)
        assert "\x1b" not in printed + said
        assert "\\x1b[2J" in said


# Folders that one may only read


def test_runs_that_one_may_only_read_are_verified(run, tmp_path, monkeypatch):
    for seed in range(2):
        execute(RunConfig(**{**vars(TINY), "seed": seed}), load_dataset("gaussian"), tmp_path)

    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    before = sorted((path, path.stat().st_mtime_ns) for path in [tmp_path, *tmp_path.rglob("*")])
    monkeypatch.setattr("os.open", refuse)
    assert run("runs", tmp_path)[0] == 0
    status, printed, said = run("verify", tmp_path)
    assert status == 0
    assert "residuals identities" in printed
    assert "every number is in" not in printed
    assert f"the tables are not kept: {tmp_path / 'theory.json'} cannot be written (Read-only file system)" in said
    status, printed, said = run("report", tmp_path)
    assert (status, printed, said.count("\n")) == (2, "", 1)
    assert "report.html cannot be written (Read-only file system)" in said
    assert sorted((path, path.stat().st_mtime_ns) for path in [tmp_path, *tmp_path.rglob("*")]) == before


def test_claims_that_would_be_read_write_nothing(run, tmp_path, monkeypatch):
    monkeypatch.setattr("neurocollapse.claims.QUICK", [])
    monkeypatch.setattr("neurocollapse.claims.judging.plan_sweep", lambda *_, **__: pytest.fail("it plans"))
    before = tmp_path.stat().st_mtime_ns
    assert run("claims", "--quick", "--read", "--dry-run", "--out", tmp_path)[0] == 0
    assert tmp_path.stat().st_mtime_ns == before
    status, _, said = run("claims", "--quick", "--read", "--dry-run", "--out", tmp_path / "none")
    assert (status, "there are no runs to read in" in said) == (2, True)
