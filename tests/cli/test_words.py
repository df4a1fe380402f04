"""What is typed: help that wraps by itself, one line for each mistake, and no import that the words do not need."""

import dataclasses
import re
import signal
import subprocess
import sys
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

import neurocollapse as nc
from neurocollapse import InputError, cli
from neurocollapse.cli.parsing import call_of, read
from neurocollapse.datasets import load_dataset
from neurocollapse.sweeps.resuming import execute
from neurocollapse.training import GROUPS, RECIPES, RunConfig
from neurocollapse.training.losses import square_loss
from tests.commands import start

# Help


def test_the_version(run):
    assert run("--version") == (0, f"neurocollapse {nc.__version__}\n", "")
    assert "--version" in run("--help")[1]


def test_the_help_lists_every_command_with_the_first_line_of_its_docstring(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    status, printed, _ = run()
    assert printed == run("--help")[1]
    assert status == 0
    for name, (module, summary) in cli.COMMANDS.items():
        command = getattr(import_module(f"neurocollapse.cli.{module}"), name)
        assert command.__doc__.splitlines()[0] == summary
        assert f"  {name:<11}{summary}\n" in printed


def test_the_list_of_commands_fits_into_the_terminal(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = run("--help")[1].splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[8].startswith("  train      ")


@pytest.mark.parametrize("command", sorted(cli.COMMANDS))
def test_the_help_fits_into_the_terminal_and_no_sentence_of_it_is_broken(run, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "70")
    assert max(map(len, run(command, "--help")[1].splitlines())) <= 70
    monkeypatch.setenv("COLUMNS", "129")  # a wider one shows groups side by side
    printed = run(command, "--help")[1]
    assert not re.search(r"\{None|default: (None|False|)\)", printed)
    lines = [line.rstrip("│ ") for line in printed.partition("--help")[2].splitlines()]
    assert sum(line.lstrip("│ ").startswith("--") for line in lines) > 0
    for before, line in pairwise(lines):
        first, *_ = line.lstrip("│ ").split() or ["-"]
        has_help = re.search(r"\S   +\S|^[│ ]{9}", before)  # beside its name, or of the line before
        if has_help and not first.startswith(("-", "─", "╭", "╰")) and not line.endswith("options"):
            assert len(before) + len(f" {first}") > 126, f"{before}\n{line}"


def test_a_sentence_goes_on_after_a_line_that_begins_with_a_bracket(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")

    def command(number: int = 1) -> int:
        """Do nothing.

        Args:
            number: How many, of all that
                (where there are any) were asked for.
        """

    call_of("command", command, ["--help"])()
    assert "of all that (where there" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["reproduce", "train"])
def test_the_help_says_what_a_data_file_holds(run, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    text = " ".join(run(command, "--help")[1].replace("│", " ").split())
    assert "gaussian, or a .npz file with images, labels (N,) from 0 to C-1 and, optionally, test_images and" in text
    assert "(N, height, width, channels), (N, channels, height, width), or vectors (N, features)" in text


def test_the_options_of_a_run_are_in_groups_and_each_in_one(run):
    grouped = [name for names in GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(field.name for field in dataclasses.fields(RunConfig))
    printed = run("train", "--help")[1]
    titles = re.findall(r"([\w-]+) options [ ─]", printed)
    assert titles == ["data", "network", "objective", "optimiser", "length", "seldom-changed", "machine"]
    assert printed.index("--epochs") < printed.index("--imbalance-ratio")


def test_the_words_become_a_run():
    command = import_module("neurocollapse.cli.running").train
    call = call_of("train", command, ["--depth", "3", "--per_class", "9", "--device", "cuda", "--weight-decay=0"])
    assert call.keywords["config"] == RunConfig(depth=3, per_class=9, weight_decay=0.0)
    assert call.keywords["machines"].device == "cuda"


def test_a_recipe_gives_the_defaults_and_words_come_before_it():
    command = import_module("neurocollapse.cli.running").reproduce
    paper = call_of("reproduce", command, ["--recipe", "paper"]).keywords
    assert paper["config"] == RECIPES["paper"].config
    assert paper["weight_decay"] == (0.0, 5e-4, 2.5e-3)
    own = call_of("reproduce", command, ["--batch-size", "32", "--recipe=paper", "--weight-decay", "0"]).keywords
    assert own["config"] == dataclasses.replace(RECIPES["paper"].config, batch_size=32)  # RunConfig's own default
    assert own["weight_decay"] == (0.0,)
    assert call_of("reproduce", command, []).keywords["config"] == RunConfig()
    with pytest.raises(InputError, match="--recipe cannot be 'papr': there are default, paper"):
        call_of("reproduce", command, ["--recipe", "papr"])


def test_the_paper_recipe_is_the_published_one_in_the_units_of_equation_one():
    """nn.MSELoss averages over the C = 10 outputs too: its gradient is 2/C of ours, and its decay w enters as w C/2."""
    config, weight_decays = RECIPES["paper"].config, RECIPES["paper"].weight_decays
    outputs = torch.randn(7, 10, dtype=torch.float64)
    labels = torch.arange(7)
    theirs = torch.nn.functional.mse_loss(outputs, torch.nn.functional.one_hot(labels, 10).double())
    ratio = (theirs / square_loss(outputs, labels).mul(1 / 7)).item()
    assert config.learning_rate == pytest.approx(0.067 * ratio)
    assert weight_decays == pytest.approx((0.0, 1e-4 / ratio, 5e-4 / ratio))


# Mistakes

MISTAKES = {
    "another command": (["reproduse"],
        "no command 'reproduse' (did you mean reproduce?); choose from reproduce, train"),
    "another option": (["train", "--epoch", "3"], "there is no option --epoch (did you mean --epochs?)"),
    "an option of another command": (["reproduce", "--seed", "3"], "there is no option --seed (did you mean --seeds?)"),
    "a short option": (["train", "-x"], "there is no option -x; see neurocollapse train --help"),
    "no number": (["train", "--epochs", "many"], "--epochs cannot be 'many': it takes whole numbers"),
    "no number after =": (["train", "--epochs=1.5"], "--epochs cannot be '1.5': it takes whole numbers"),
    "a number or None": (["train", "--per-class", "x"], "--per-class cannot be 'x': it takes whole numbers"),
    "one of several": (["reproduce", "--weight-decay", "0", "x"], "--weight-decay cannot be 'x': it takes numbers"),
    "no choice": (["train", "--schedule", "cosin"], "cannot be 'cosin': there are constant, steps, cosine, linear"),
    "no value": (["train", "--epochs"], "--epochs needs a value; see neurocollapse train --help"),
    "two values": (["train", "--seed", "1", "2"], "'2' belongs to no option"),
    "a value of a flag": (["train", "--json", "yes"], "'yes' belongs to no option"),
    "a stray word": (["runs", "a", "b"], "'b' belongs to no option; see neurocollapse runs --help"),
    "nothing to list": (["runs"], "the folder is missing; see neurocollapse runs --help"),
    "a folder without a name": (["train", "--out", ""], "--out cannot be '': the name of a file or folder is empty"),
    "a file without a name": (["measure", ""], "the file cannot be '': the name of a file or folder is empty"),
    "a name that is too long": (["runs", "x" * 300], "cannot be opened (File name too long); check the path"),
    "nothing to measure": (["measure"], "measure takes either a file of features, or --model with --dataset"),
    "no extent of claims": (["claims"],
        "either --quick or --full: all claims on the 5,000 bundled digits, or these and"),
    "an impossible run": (["train", "--depth", "1"], "depth must be at least 2, got 1"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_in_our_words(run, arguments, message):
    status, printed, said = run(*arguments)
    assert (status, printed) == (2, "")
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert message in said


@pytest.mark.parametrize(
    ("hint", "word", "value"),
    [(int, "3", 3), (float, "5e-4", 5e-4), (int | None, "None", None), (int | None, "3", 3), (Path, "x", Path("x"))],
)
def test_a_word_is_read_as_its_type(hint, word, value):
    assert read(hint, word) == value


# The start


def loaded(heavy, *words, cwd):
    """Those of the packages that the command loads."""
    program = f"import atexit, sys; atexit.register(lambda: print(*sorted({set(heavy)} & set(sys.modules))))"
    program += f"; from neurocollapse.cli import main; main({list(words)})"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=cwd)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.splitlines()[-1].split()


@pytest.mark.parametrize("words", [["--version"], ["--help"]], ids=str)
def test_the_help_loads_nothing_heavy(tmp_path, words):
    assert loaded(["torch", "numpy", "pandas", "rich", "tyro"], *words, cwd=tmp_path) == []


@pytest.mark.parametrize("command", sorted(cli.COMMANDS))
def test_the_help_of_a_command_loads_no_torch(tmp_path, command):
    assert (
        loaded(["torch", "pandas", "matplotlib", "plotly", "scipy", "tensorboard"], command, "--help", cwd=tmp_path)
        == []
    )


def test_runs_loads_no_torch(tmp_path):
    config = RunConfig(dataset="gaussian", network="mlp", depth=2, width=8, epochs=1)
    execute(config, load_dataset("gaussian"), tmp_path)
    assert loaded(["torch", "matplotlib", "plotly", "scipy"], "runs", ".", cwd=tmp_path) == []


def test_measure_loads_no_library_for_figures(tmp_path):
    labels = np.arange(60) % 3
    np.savez(tmp_path / "f.npz", features=np.random.default_rng(0).normal(size=(60, 5)), labels=labels)
    assert loaded(["matplotlib", "plotly", "scipy"], "measure", "f.npz", cwd=tmp_path) == []


def test_ctrl_c_while_something_is_imported_is_one_line(tmp_path):
    (tmp_path / "pandas.py").write_text("print('importing', flush=True)\nimport time\ntime.sleep(60)\n")
    words = [sys.executable, "-c", "from neurocollapse.cli import main; main(['runs', '.'])"]
    process = start(words, cwd=tmp_path)
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60) == ("", "stopped\n")
    assert process.returncode == 130
