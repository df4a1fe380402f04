"""The command `measure`: measures features in a file, or a model at one checkpoint or many."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from .._errors import InputError
from .._files import to_json
from ..training import RunConfig
from .parsing import form, given, refuse
from .printing import messages, print_frame, rows, shown

if TYPE_CHECKING:
    from ..measuring import Subject
    from ..metrics import Measurement

#: The file of a trajectory, unless another is named.
TRAJECTORY = Path("results/trajectory.jsonl")

#: The keys that the table of a trajectory shows.
TRAJECTORY_KEYS = ("accuracy", "loss_data", "nc1", "nc1_trace_ratio", "nc2_equinorm", "nc2_cosine", "nc3", "nc4")

#: The parts of the package's own network that --model names.
PARTS = ("depth", "width", "bias", "normalization")
_PARTS = form(RunConfig, {"network": PARTS})


def measure(
    parts: Annotated[RunConfig, _PARTS],
    file: tyro.conf.Positional[tuple[Path, ...]] = (),
    model: str | None = None,
    checkpoint: tuple[str, ...] = (),
    dataset: str | None = None,
    head: str | None = None,
    data_dir: Path | None = None,
    split: Literal["train", "test"] = "train",
    per_class: int | None = None,
    out: Path = TRAJECTORY,
    num_classes: int | None = None,
    vci: bool | None = None,
    absent: Literal["error", "leave_out"] = "error",
    min_per_class: int = 1,
    max_per_class: int | None = None,
    explain: bool = False,
    json: bool = False,
) -> int:
    """Measure the collapse of features in a file, or of a model at one checkpoint or many.

    Example: neurocollapse measure features.npz

    Example: neurocollapse measure 'features-*.safetensors'

    Example: neurocollapse measure --model models:resnet --checkpoint 'epoch_*.safetensors' --dataset cifar10

    Args:
        parts: The parts of the package's own network that --model names.
        file: A file with features (samples, features), labels (samples,) and, optionally, weight (classes, features)
            and bias (classes,), and ood (others, features), samples of no class: .npz, .safetensors, .pt, .npy with
            labels.npy beside it, .parquet, .arrow, a .zarr folder, or one that Hugging Face's save_to_disk wrote.
            Several files, or a pattern such as features-*.safetensors, are measured as one, read block by block.
        model: A model instead of a file: convnet, mlp, resnet18, vgg11, timm:NAME[,pretrained],
            torchvision:NAME[,pretrained], hf:ID of Hugging Face, or module:function, which is called as
            function(input_shape, num_classes) or without arguments.
        checkpoint: The weights to load into the model: a .safetensors file, a state_dict that torch.save wrote, a .ckpt
            of Lightning or a folder of Hugging Face; several, or a pattern such as epoch_*.safetensors, for a
            trajectory. Without it the model is measured as it is built.
        head: The name of the layer that is the classifier head, where a model has several.
        dataset: The data on which the model is measured: mnist5k, mnist, fashion_mnist, kmnist, emnist (or
            emnist_balanced, emnist_byclass, emnist_bymerge, emnist_letters, emnist_digits, emnist_mnist), cifar10,
            cifar100, svhn, gaussian, an .npz file, a folder of images, hf:ID of Hugging Face, or module:function.
        data_dir: The folder that holds the published files, or that they are downloaded to.
        split: The split to measure, train or test; test is measured with its own class means.
        per_class: Use only this many training samples of each class.
        out: The file for a trajectory, with a line per checkpoint; checkpoints in it are not measured again.
        num_classes: The number of classes in a file; by default the rows of weight, or the largest label plus one.
        vci: Whether to measure nc1_vci too, which takes N p² operations; by default if one core needs about a second.
        absent: What to do with classes that have fewer samples than --min-per-class: an error, or leave them out.
        min_per_class: How many samples a class has at least.
        max_per_class: Measure only the first so many samples of each class.
        explain: Show beside each number what it would be without structure, and at collapse.
        json: Print JSON, with NaN and infinity as the strings "nan", "inf", "-inf", and null where there is no value.
    """
    if bool(file) == (model is not None):
        raise InputError("measure takes either a file of features, or --model with --dataset")
    chosen = {"absent": absent, "min_per_class": min_per_class, "max_per_class": max_per_class}
    usual = {"absent": "error", "min_per_class": 1, "max_per_class": None}
    classes = {name: value for name, value in chosen.items() if value != usual[name]}
    if model is None:
        if given("checkpoint", "dataset", *PARTS):
            raise InputError(
                "--checkpoint, --dataset and a network's parts go with --model, not with a file of features"
            )
        refuse("a file of features is measured as it is", "head", "data_dir", "split", "per_class", "out")
        return _print_measurement(
            _measured_files(file, num_classes=num_classes, vci=vci, **classes), None, explain, json
        )
    from ..measuring import find_checkpoints, load_weights, subject
    from ..training import builder_of

    refuse("the model and the data say how many classes there are", "num_classes")
    if split == "test":
        refuse("the test split is measured whole", "per_class")
    if dataset is None:
        raise InputError("--model needs --dataset, the data to measure it on")
    if ":" in model and (of_a_network := given(*PARTS)):
        raise InputError(f"{of_a_network[0]} is for the package's own networks; build {model} with what it needs")
    who = subject(
        model,
        dataset,
        build=builder_of(parts),
        data_dir=data_dir,
        split=split,
        per_class=per_class,
        classes=classes,
        head=head,
    )
    checkpoints = find_checkpoints(*checkpoint)
    if len(checkpoints) == 1 and (explain or vci is not None):
        refuse("--explain and --vci print a table, and no trajectory", "out")
    if len(checkpoints) > 1 or (checkpoints and given("out")):
        if explain or vci is not None:
            raise InputError(
                f"--explain and --vci go with one checkpoint, and {' '.join(checkpoint)!r} names {len(checkpoints)}"
            )
        return _print_trajectory(who, checkpoints, out, json)
    if not checkpoints:
        refuse("without --checkpoint there is no trajectory", "out")
    initial = who.measure(vci) if explain or not checkpoints else None
    for path in checkpoints:
        load_weights(who.model, path)
    measured = who.measure(vci) if checkpoints else initial
    assert measured is not None
    return _print_measurement(measured, initial if checkpoints else None, explain, json)


def _measured_files(files: tuple[Path, ...], **options: Any) -> "Measurement":
    from ..measuring import measure as measure_features
    from ..measuring import read_features

    arrays = read_features(*files)
    try:
        return measure_features(**arrays, **options)
    except InputError as error:
        raise InputError(f"{files[0]}{' ...' if files[1:] else ''}: {error}") from error


def _print_measurement(measured: "Measurement", initial: "Measurement | None", explain: bool, json: bool) -> int:
    if explain:
        from ..metrics import reference_values

        table = reference_values(measured, initial).reset_index()
        if json:
            print(to_json(rows(table), indent=2))
        else:
            print_frame(table.map(shown), "each number, and what it would be")
        return 0
    if json:
        print(to_json(measured.to_dict(), indent=2))
        return 0
    print(measured)
    by_need: dict[str, list[str]] = {}
    for key, need in measured.missing.items():
        by_need.setdefault(need, []).append(key)
    for need, keys in by_need.items():
        messages.print(f"not measured: {', '.join(keys)} (it needs {need})")
    return 0


def _print_trajectory(who: "Subject", checkpoints: list[Path], out: Path, json: bool) -> int:
    import pandas as pd
    from rich.progress import track

    from ..measuring import Trajectory, replay

    out.parent.mkdir(parents=True, exist_ok=True)
    trajectory = Trajectory(out, who.conditions)
    todo = list(trajectory.missing(checkpoints))
    if len(todo) < len(checkpoints):
        messages.print(f"{len(checkpoints) - len(todo)} checkpoint(s) were measured before, in {out}")
    failures = list(track(replay(who, trajectory, todo), "measuring", len(todo), console=messages, disable=not todo))
    failed = [failure for failure in failures if failure is not None]
    for failure in failed:
        messages.print(f"not measured: {' '.join(failure.split())}")
    lines = trajectory.of(checkpoints)
    if json:
        print(to_json(lines, indent=2))
        return 2 if failed else 0
    frame = pd.DataFrame([{key: line.get(key) for key in ("checkpoint", *TRAJECTORY_KEYS)} for line in lines])
    print_frame(frame.map(shown), f"{len(lines)} checkpoints; every key is in {out}")
    return 2 if failed else 0
