"""Mistaken calls of the public functions: one sentence, decided in one place."""

import inspect
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import neurocollapse as nc
from neurocollapse.measuring import as_loader, find_checkpoints, load_weights, read_features
from neurocollapse.sweeps import Machines, plan_sweep
from neurocollapse.sweeps.files import read_arrays

CONFIG = nc.RunConfig(dataset="gaussian", network="mlp", depth=2, width=8, epochs=1)
MODEL = torch.nn.Linear(16, 4)
DATA = nc.load_dataset("gaussian")
LOADER = [(DATA.train.images, DATA.train.labels)]

CALLS = {
    "None for a folder": (lambda: nc.runs(None), "runs: path must be a path, got None of type NoneType"),
    "a number for a folder": (lambda: nc.report(3), "report: folder must be a path, got 3 of type int"),
    "a run of no folder": (lambda: nc.RunFolder(None), "RunFolder: path must be a path, got None"),
    "fields in a dict": (
        lambda: nc.train({"epochs": 3}),
        "train: config must be a RunConfig, got {'epochs': 3} of type",
    ),
    "a generator's argument": (lambda: nc.epochs(3), "epochs: config must be a RunConfig, got 3 of type int"),
    "no folder": (
        lambda: nc.sweep([CONFIG]),
        "sweep: missing a required argument: 'out'; it takes configs, out, engine",
    ),
    "True for a number": (
        lambda: nc.reproduce(seeds=True),
        "reproduce: seeds must be an integer, got True of type bool",
    ),
    "a number for a sequence": (lambda: nc.reproduce(weight_decays=3), "reproduce: weight_decays must be a sequence"),
    "something to verify": (
        lambda: nc.verify(3),
        "subject must be a path, a RunFolder, a TrainedRun or a torch.nn.Module",
    ),
    "no array": (
        lambda: nc.check_homogeneous(MODEL, 3),
        "check_homogeneous: inputs must be a tensor, got 3 of type int",
    ),
    "a size of a problem": (
        lambda: nc.UnconstrainedModel(num_classes="x", per_class=1, num_features=1, weight_decay=1, feature_decay=1),
        "UnconstrainedModel: num_classes must be an integer, got 'x' of type str",
    ),
    "a mistyped argument": (
        lambda: nc.measure_model(MODEL, DATA.train, wieght_decay=3),
        "measure_model has no argument 'wieght_decay' (did you mean 'weight_decay'?); there are model, loader, head",
    ),
    "a mistyped option": (lambda: nc.measure_layers(MODEL, DATA.train, token=0), "(did you mean 'tokens'?)"),
    "a mistyped field": (
        lambda: nc.RunConfig(epoch=3),
        "a run has no field 'epoch' (did you mean 'epochs'?); there are",
    ),
}


#: Beartype would refuse these before the package does.
UNCHECKED = {
    "a name for a sweep": (lambda: plan("x"), "sweep takes a Sweep or RunConfigs, got 'x'"),
    "a number for a sweep": (lambda: plan(3), "sweep takes a Sweep or RunConfigs, got 3"),
    "one run for a sweep": (lambda: plan(CONFIG), "sweep takes several configurations, got one; train it with train"),
    "a data set for a loader": (
        lambda: as_loader(DATA),
        "and Dataset yields none; pass a split of it, such as dataset",
    ),
    "a number for a loader": (lambda: as_loader(3), "yields batches of (inputs, labels), and int yields none; pass a"),
}


def plan(configs):
    return inspect.unwrap(plan_sweep)(configs, "out", Machines())


@pytest.mark.parametrize(("call", "message"), (CALLS | UNCHECKED).values(), ids=CALLS | UNCHECKED)
def test_a_mistaken_call_is_answered_in_a_sentence(call, message):
    with pytest.raises(nc.InputTypeError) as caught:
        call()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


#: A number as NumPy and PyTorch have it, given where the functions take one.
NUMBERS = {
    "verify": lambda n: nc.verify(nc.build_network("mlp", (16,), 4, depth=2, width=n(8)), LOADER, weight_decay=n(0.5))
    .to_frame().residual.sum(),
    "a model": lambda n: nc.measure_model(MODEL, DATA.train, weight_decay=n(0.5), min_per_class=n(2))["loss"],
    "an option": lambda n: nc.measure_model(MODEL, DATA.train, max_per_class=n(3)).class_counts,
    "by position": lambda n: nc.simplex_etf(n(3)).tolist(),
    "a problem": lambda n: nc.UnconstrainedModel(
        num_classes=n(2), per_class=(n(3), n(4)), num_features=n(2), weight_decay=n(0.5), feature_decay=n(0.25)),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["scalar", "array", "tensor"])
@pytest.mark.parametrize("call", NUMBERS.values(), ids=NUMBERS)
def test_a_number_of_numpy_or_pytorch_is_a_number(call, kind):
    number = {
        "scalar": lambda n: (np.float32 if isinstance(n, float) else np.int32)(n),
        "array": np.array,
        "tensor": lambda n: torch.tensor(n, requires_grad=isinstance(n, float)),
    }[kind]
    torch.manual_seed(0)
    expected = call(lambda n: n)
    torch.manual_seed(0)
    assert call(number) == expected


@pytest.mark.parametrize("wrong", [np.bool_(1), torch.tensor(True), torch.ones(2), torch.empty((), device="meta")])
def test_what_holds_no_number_or_several_is_none(wrong):
    with pytest.raises(nc.InputTypeError, match="simplex_etf: num_classes must be an integer, got "):
        nc.simplex_etf(wrong)


PUBLIC = [name for name in nc.__all__ if inspect.isfunction(getattr(nc, name))]


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_function_checks_its_arguments(name):
    assert len(PUBLIC) > 15
    with pytest.raises(nc.InputTypeError, match=f"{name} has no argument 'no_such_thing'; there are "):
        getattr(nc, name)(no_such_thing=1)


@pytest.mark.parametrize("read", [read_features, partial(load_weights, MODEL), read_arrays])
def test_a_file_that_may_not_be_opened_is_not_called_absent_or_damaged(tmp_path, monkeypatch, read):
    def refuse(path, *_):
        raise PermissionError(13, "Permission denied", str(path))

    path = tmp_path / "x.safetensors"
    path.write_bytes(b"whole, for all we know")
    monkeypatch.setattr(Path, "open", refuse)  # the superuser may open everything
    with pytest.raises(nc.NeurocollapseError, match=r"cannot be read \(Permission denied\); check .*permissions"):
        read(path)


PATHS = {
    "runs": (nc.runs, nc.RunError),
    "report": (nc.report, nc.RunError),
    "plot": (nc.plot, nc.RunError),
    "RunFolder": (nc.RunFolder, nc.RunError),
    "Recorder": (nc.Recorder, nc.RunError),
    "verify": (nc.verify, nc.RunError),
    "read_features": (read_features, nc.FeatureFileError),
    "find_checkpoints": (find_checkpoints, nc.CheckpointError),
    "load_dataset": (nc.load_dataset, nc.DatasetError),
    "data_dir": (lambda path: nc.load_dataset("gaussian", data_dir=path), nc.DatasetError),
    "out": (lambda path: nc.sweep([CONFIG], path), nc.InputError),
    "out of one": (lambda path: nc.train(CONFIG, out=path), nc.InputError),
    "tensorboard": (lambda path: nc.sweep([CONFIG], "x", tensorboard=path), nc.InputError),
    "save_features": (lambda path: nc.measure_model(MODEL, DATA.train, save_features=path), nc.InputError),
}  # fmt: skip


@pytest.mark.parametrize(("call", "kind"), PATHS.values(), ids=PATHS)
def test_a_name_that_no_file_can_have_is_refused_wherever_it_is_given(tmp_path, monkeypatch, call, kind):
    monkeypatch.chdir(tmp_path)
    for name, fault in (("", "is empty; use"), ("x" * 300, r"File name too long"), ("a\0", "null")):
        with pytest.raises(kind, match=fault):
            call(name)
    assert not list(tmp_path.iterdir())
