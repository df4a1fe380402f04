"""`claims`: every claim of the paper with its verdict."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .._errors import InputError
from .._files import atomic_path, to_json
from ..training import RunConfig
from .options import Folder, MachineOptions, Machines
from .printing import messages, out_console, print_frame

if TYPE_CHECKING:
    from ..claims import Judged, Result, Setting
    from ..sweeps import Planned


def claims(
    machines: MachineOptions,
    quick: bool = False,
    full: bool = False,
    out: Folder = Path("results/claims"),
    read: bool = False,
    dry_run: bool = False,
    json: bool = False,
) -> int:
    """Judge each claim of the paper, and its open questions: verdicts with seeds and intervals.

    Runs what each needs, and writes claims.md and claims.json into the folder, and each finished run's numbers into
    results.jsonl. Run it again to go on where it was stopped: a run that is in results.jsonl, brought from another
    machine or with this project, needs neither its folder nor to be run again.

    Example: neurocollapse claims --quick

    Args:
        machines: Where the runs are trained, and how.
        quick: All claims on the 5,000 bundled digits.
        full: These, and those about weight decay on all of MNIST and CIFAR-10: hours, or a GPU.
        out: Folder for the runs, the page and the verdicts.
        read: Train nothing: judge by the runs that have finished.
        dry_run: Print how long it would take, and stop; data that are not there yet are downloaded for it.
        json: Print the verdicts as JSON, where NaN and infinity are the strings "nan", "inf", "-inf", and null is what
            there is none of.
    """
    import pandas as pd

    from ..claims import FULL, QUICK, RESULTS, claims_values, read_results, write_results
    from ..sweeps import check_device
    from .planning import carry_out, prepare

    if quick == full:
        raise InputError(
            "claims takes either --quick or --full: all claims on the 5,000 bundled digits, or these and those about "
            "weight decay on all of MNIST and CIFAR-10, which takes hours, or a GPU"
        )
    if read and not out.is_dir():
        raise InputError(f"there are no runs to read in {out}: name their folder with --out, or leave out --read")
    settings = FULL if full else QUICK
    runs: list[Planned]
    kept = read_results(out / RESULTS)
    configs = [config for setting in settings for config in setting]
    unknown = [config for config in configs if config not in kept]
    if len(unknown) < len(configs):
        messages.print(f"{len(configs) - len(unknown)} of {len(configs)} runs are known from {out / RESULTS}")
    if not unknown:
        if dry_run:
            return 0
        runs, failed = [], False
    elif read:
        check_device(machines.device_here)
        runs, failed = _read(unknown, out, machines.data_dir)
    else:
        plan = prepare(unknown, out, machines, messages)
        if dry_run:
            return 0
        runs, failed = plan.runs, bool(carry_out(plan, messages).failures)
    kept |= _found(runs, settings, out, machines)
    write_results(out / RESULTS, kept.values())
    judged = _write_page(settings, kept, out, f"neurocollapse claims --{'full' if full else 'quick'}")
    if json:
        print(to_json(claims_values(judged), indent=2))
    else:
        rows = [{"claim": one.claim.statement, "on": one.setting.name, "verdict": str(one.verdict)} for one in judged]
        print_frame(pd.DataFrame(rows), "claims")
        out_console.print(f"every number is in {out / 'claims.md'}")
    return 1 if failed else 0


def _read(configs: Sequence[RunConfig], out: Path, data_dir: Path | None) -> "tuple[list[Planned], bool]":
    """What is there of these runs, and whether any of it is damaged."""
    from ..sweeps import check_runs
    from .planning import print_notes

    runs = check_runs(configs, out, data_dir, timed=False)
    print_notes(runs, messages)
    damages = [run.damage for run in runs if run.damage]
    messages.print(f"reading the {sum(run.ended for run in runs)} of {len(runs)} runs that have ended, in {out}")
    for damage in damages:
        messages.print(f"left out: {damage}")
    return runs, bool(damages)


def _found(
    runs: "Sequence[Planned]", settings: "Sequence[Setting]", out: Path, machines: Machines
) -> "dict[RunConfig, Result]":
    """Those of the runs that have finished, with the theory tables of those that claims about the theory need."""
    from ..claims import results_of
    from .theory import keep_tables

    finished = {run.config: run.folder for run in runs if run.folder.damage is None and run.folder.status == "finished"}
    asked = {
        config for setting in settings for name in ("decay", "bias") for config in setting.experiments.get(name, ())
    }
    theory = [
        folder
        for config, folder in finished.items()
        if config in asked and config.weight_decay and config.bias in ("none", "free")
    ]
    tables = keep_tables(theory, out / "theory.json", data_dir=machines.data_dir, device=machines.device_here)
    return {result.config: result for result in results_of(finished.values(), tables)}


def _write_page(
    settings: "Sequence[Setting]", kept: "Mapping[RunConfig, Result]", out: Path, command: str
) -> "list[Judged]":
    """Every claim judged by the results, as claims.md and claims.json."""
    from ..claims import claims_page, claims_values, judge_claims, notes_on

    judged = [each for setting in settings for each in judge_claims(setting, kept.values())]
    page = claims_page(judged, command, {setting.name: notes_on(setting, kept) for setting in settings})
    for name, text in (("claims.md", page), ("claims.json", to_json(claims_values(judged), indent=1) + "\n")):
        with atomic_path(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return judged
