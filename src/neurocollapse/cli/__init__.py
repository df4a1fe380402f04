"""The command line: a function for each command, its arguments the options, its docstring the help."""

try:
    from .entry import COMMANDS, main
except KeyboardInterrupt:  # Ctrl-C before `main` can answer it
    raise SystemExit(130) from None

__all__ = ["COMMANDS", "main"]
