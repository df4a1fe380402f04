"""The commands, snippets and links of the README work."""

import re
from pathlib import Path

import pytest

from neurocollapse.cli import COMMANDS, main

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_the_python_runs(capsys):
    names: dict[str, object] = {}
    for snippet in SNIPPETS:
        exec(snippet, names)
    assert "Tr(Σ_W Σ_B⁺)" in capsys.readouterr().out
    assert {"nc1", "nc3", "nc4"} <= set(names["m"])


@pytest.mark.parametrize("line", re.findall(r"^(?:\.venv/bin/)?neurocollapse .*", README, flags=re.MULTILINE))
def test_the_commands_and_their_options_exist(line, capsys):
    command, *arguments = line.split("#")[0].split()[1:]
    assert command in COMMANDS
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert all(option in printed for option in arguments if option.startswith("--"))


def test_the_files_it_links_to_are_there():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (Path(__file__).parents[1] / target).exists(), target
