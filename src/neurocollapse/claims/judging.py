"""The claims, from their runs to their verdicts: trains what is missing, judges, and writes the page."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from .._errors import InputError
from .._files import check_replaceable, path_of, to_json, write_text
from .._progress import Progress
from ..sweeps import Machines, Plan, Planned, check_device, check_runs, keep_tables, plan_sweep, say_notes
from ..training import RunConfig
from .experiments import Setting
from .kept import RESULTS, read_results, write_results
from .page import claims_page, claims_values
from .results import Result, notes_on, results_of
from .statements import Judged, corrected, judge_claims

#: What is written for people and programs to read, and what is in every such file.
_MARKS = {"claims.md": b"# The paper's claims, judged\n", "claims.json": b'"claim": '}


def plan_claims(settings: Sequence[Setting], out: Path | str, machines: Machines, *, read: bool = False) -> Plan | None:
    """Check the runs that the claims need and that results.jsonl lacks, as `plan_sweep` does; None if it has all.

    With `read`, say which runs would be read: there is nothing to plan, and nothing is written.
    """
    out, shown = path_of(out), Progress(machines.progress)
    if read:
        _check_readable(out)
    unknown = _unknown(settings, read_results(out / RESULTS), out, shown)
    if read and unknown:
        _read(unknown, out, machines.data_dir, shown)
    if read or not unknown:
        return None
    return plan_sweep(unknown, out, machines)


def _unknown(
    settings: Sequence[Setting], kept: Mapping[RunConfig, Result], out: Path, shown: Progress
) -> list[RunConfig]:
    configs = [config for setting in settings for config in setting]
    unknown = [config for config in configs if config not in kept]
    if len(unknown) < len(configs):
        shown.say(f"{len(configs) - len(unknown)} of {len(configs)} runs are known from {out / RESULTS}")
    return unknown


def judge_all(
    settings: Sequence[Setting],
    out: Path | str,
    machines: Machines,
    *,
    read: bool = False,
    command: str = "",
) -> tuple[list[Judged], list[str]]:
    """Train the runs that the claims need, judge every claim, and write claims.md and claims.json into `out`.

    Each finished run's numbers go into results.jsonl; a run that is there is not trained again.

    Args:
        settings: `QUICK` or `FULL`.
        out: the folder for the runs, the page and the verdicts.
        machines: where the runs are trained, and how.
        read: train nothing, and judge by the runs that have finished.
        command: the command that the page names as its source.

    Returns:
        The judged claims, and a message for each run that failed or is damaged.
    """
    out = path_of(out)
    for name, mark in _MARKS.items():  # now, and not after the runs
        check_replaceable(out / name, mark)
    if read:
        _check_readable(out)
    kept = read_results(out / RESULTS)
    runs: list[Planned] = []
    failures: list[str] = []
    if read:
        check_device(machines.device_here)
        shown = Progress(machines.progress)
        if unknown := _unknown(settings, kept, out, shown):
            runs, failures = _read(unknown, out, machines.data_dir, shown)
    elif plan := plan_claims(settings, out, machines):
        runs = plan.runs
        failures = [failure["message"] for failure in plan.carry_out().failures]
    kept |= _found(runs, settings, out, machines)
    write_results(out / RESULTS, kept.values())
    return _write_page(settings, kept, out, command), failures


def _check_readable(out: Path) -> None:
    if not out.is_dir():
        raise InputError(f"there are no runs to read in {out}: name their folder, or have them trained")


def _read(
    configs: Sequence[RunConfig], out: Path, data_dir: Path | None, shown: Progress
) -> tuple[list[Planned], list[str]]:
    """The runs that are on disk, and the damage of those that are damaged."""
    runs = check_runs(configs, out, data_dir, timed=False)
    say_notes(runs, shown)
    damages = [run.damage for run in runs if run.damage]
    shown.say(f"reading the {sum(run.ended for run in runs)} of {len(runs)} runs that have ended, in {out}")
    for damage in damages:
        shown.say(f"left out: {damage}")
    return runs, damages


def _found(
    runs: Sequence[Planned], settings: Sequence[Setting], out: Path, machines: Machines
) -> dict[RunConfig, Result]:
    """The results of the finished runs, with a theory table for each run that a claim about the theory needs."""
    whole = {run.config: run.folder for run in runs if run.folder.started and run.folder.damage is None}
    finished = {config: folder for config, folder in whole.items() if folder.status == "finished"}
    asked = {
        config for setting in settings for name in ("decay", "bias") for config in setting.experiments.get(name, ())
    }
    theory = [
        folder
        for config, folder in finished.items()
        if config in asked and config.weight_decay and config.bias in ("none", "free")
    ]
    tables = keep_tables(
        theory,
        out / "theory.json",
        data_dir=machines.data_dir,
        device=machines.device_here,
        progress=machines.progress,
    )
    return {result.config: result for result in results_of(finished.values(), tables)}


def _write_page(settings: Sequence[Setting], kept: Mapping[RunConfig, Result], out: Path, command: str) -> list[Judged]:
    """Every claim judged by the results, as claims.md and claims.json."""
    judged = corrected([each for setting in settings for each in judge_claims(setting, kept.values())])
    page = claims_page(judged, command, {setting.name: notes_on(setting, kept) for setting in settings})
    for name, text in (("claims.md", page), ("claims.json", to_json(claims_values(judged), indent=1) + "\n")):
        write_text(out / name, text, _MARKS[name])
    return judged
