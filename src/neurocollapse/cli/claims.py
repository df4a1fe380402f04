"""The command `claims`: judges every claim of the paper."""

from pathlib import Path

from .._errors import InputError
from .._files import to_json
from .options import MachineOptions
from .parsing import refuse
from .printing import out_console, print_frame


def claims(
    machines: MachineOptions,
    quick: bool = False,
    full: bool = False,
    out: Path = Path("results/claims"),
    read: bool = False,
    dry_run: bool = False,
    json: bool = False,
) -> int:
    """Judge each claim of the paper, and its open questions: verdicts with seeds and intervals.

    This trains the runs that each claim needs. It writes claims.md and claims.json into the folder, and each finished
    run's numbers into results.jsonl. The same command resumes it if it was stopped: a run that is in results.jsonl,
    perhaps from another machine or from this project, needs no folder and is not run again.

    Example: neurocollapse claims --quick

    Args:
        machines: Where the runs are trained, and how.
        quick: Judge all claims on the 5,000 bundled digits.
        full: Judge these, the claims about weight decay on all of MNIST and CIFAR-10, and those about the optimizer:
            this takes hours, or a GPU.
        out: The folder for the runs, the page and the verdicts.
        read: Train nothing, and judge by the runs that have finished.
        dry_run: Print how long it would take, or with --read which runs would be read, and stop; missing data are
            downloaded for it.
        json: Print the verdicts as JSON, with NaN and infinity as the strings "nan", "inf", "-inf", and null where
            there is no value.
    """
    import pandas as pd

    from ..claims import FULL, QUICK, claims_values, judge_all, plan_claims

    if quick == full:
        raise InputError(
            "claims takes either --quick or --full: all claims on the 5,000 bundled digits, or these and those about "
            "weight decay on all of MNIST and CIFAR-10, which takes hours, or a GPU"
        )
    settings = FULL if full else QUICK
    if read:
        refuse("--read trains nothing", "workers", "engine", "address")
    if dry_run:
        refuse("--dry-run judges nothing", "json")
        plan_claims(settings, out, machines, read=read)
        return 0
    command = f"neurocollapse claims --{'full' if full else 'quick'}"
    judged, failures = judge_all(settings, out, machines, read=read, command=command)
    if json:
        print(to_json(claims_values(judged), indent=2))
    else:
        rows = [{"claim": one.claim.statement, "on": one.setting.name, "verdict": str(one.verdict)} for one in judged]
        print_frame(pd.DataFrame(rows), "claims")
        out_console.print(f"every number is in {out / 'claims.md'}")
    return 1 if failures else 0
