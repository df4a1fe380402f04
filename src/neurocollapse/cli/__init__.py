"""The command line: a function for each command, its arguments the options, its docstring the help."""

from .entry import COMMANDS, main

__all__ = ["COMMANDS", "main"]
