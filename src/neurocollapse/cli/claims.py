"""`claims`: every claim of the paper with its verdict."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ..atomic import atomic_path
from ..claims import FULL, QUICK, Judged, Setting, claims_page, claims_values, judge_claims, results_of
from ..config import RunConfig
from ..experiment import Planned, carry_out, check_runs, prepare, print_notes
from ..options import EngineName, Folder
from ..store import RunFolder, to_json
from .printing import messages, out_console, print_frame
from .theory import keep_tables


def claims(
    quick: bool = False,
    full: bool = False,
    data_dir: Path | None = None,
    out: Folder = Path("results/claims"),
    workers: int | None = None,
    device: str = "cpu",
    engine: EngineName = "processes",
    address: str | None = None,
    read: bool = False,
    dry_run: bool = False,
    json: bool = False,
) -> int:
    """Judge the paper's claims and open questions: run what each needs, and give a verdict with seeds and intervals.

    Writes claims.md and claims.json into the folder. Run it again to go on where it was stopped; finished runs are not
    run again.

    Example: neurocollapse claims --quick

    Args:
        quick: All claims on the 5,000 bundled digits.
        full: These, and those about weight decay on all of MNIST and CIFAR-10: hours, or a GPU.
        data_dir: Where mnist and cifar10 lie, or are downloaded to.
        out: Folder for the runs, the page and the verdicts.
        workers: Runs at a time; by default one per core, and on a cluster all that it has room for.
        device: cpu, or cuda for an NVIDIA GPU.
        engine: How the runs are trained: see train.
        address: Of the Ray cluster to join, auto for this machine's; without one Ray uses this machine alone.
        read: Train nothing: judge by the runs that have finished in the folder.
        dry_run: Print how long it would take, and stop; data that are not there yet are downloaded for it.
        json: Print the verdicts as JSON, where NaN and infinity are the strings "nan", "inf", "-inf", and null is what
            there is none of.
    """
    if quick == full:
        raise ValueError("claims takes either --quick or --full")
    if read and not out.is_dir():
        raise ValueError(f"there are no runs to read in {out}: name their folder with --out, or leave out --read")
    settings = FULL if full else QUICK
    configs = [config for setting in settings for config in setting]
    if read:
        runs, failed = _read(configs, out, data_dir)
    else:
        plan = prepare(
            configs,
            out,
            data_dir=data_dir,
            workers=workers,
            device=device,
            console=messages,
            engine=engine,
            address=address,
        )
        if dry_run:
            return 0
        runs, failed = plan.runs, bool(carry_out(plan, messages).failures)
    finished = {run.config: run.folder for run in runs if run.folder.damage is None and run.folder.status == "finished"}
    judged = [each for setting in settings for each in _judge(setting, finished, out, data_dir)]
    page = claims_page(judged, f"neurocollapse claims --{'full' if full else 'quick'}")
    for name, text in (("claims.md", page), ("claims.json", to_json(claims_values(judged), indent=1) + "\n")):
        with atomic_path(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    if json:
        print(to_json(claims_values(judged), indent=2))
    else:
        rows = [{"claim": one.claim.statement, "on": one.setting.name, "verdict": str(one.verdict)} for one in judged]
        print_frame(pd.DataFrame(rows), "claims")
        out_console.print(f"every number is in {out / 'claims.md'}")
    return 1 if failed else 0


def _read(configs: Sequence[RunConfig], out: Path, data_dir: Path | None) -> tuple[list[Planned], bool]:
    """What is there of these runs, and whether any of it is damaged."""
    runs = check_runs(configs, out, data_dir, timed=False)
    print_notes(runs, messages)
    damages = [run.damage for run in runs if run.damage]
    messages.print(f"reading the {sum(run.ended for run in runs)} of {len(runs)} runs that have ended, in {out}")
    for damage in damages:
        messages.print(f"left out: {damage}")
    return runs, bool(damages)


def _judge(setting: Setting, finished: dict[RunConfig, RunFolder], out: Path, data_dir: Path | None) -> list[Judged]:
    """By the runs that have finished, with the theory tables of those that claims about the theory need."""
    theory = [
        finished[config]
        for name in ("decay", "bias")
        for config in setting.experiments.get(name, ())
        if config.weight_decay and config.bias in ("none", "free") and config in finished
    ]
    tables = keep_tables(theory, out / "theory.json", data_dir=data_dir)
    return judge_claims(setting, results_of([finished[config] for config in setting if config in finished], tables))
