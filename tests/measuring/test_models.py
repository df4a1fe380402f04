"""`measure_model` and `measure_layers`: what `measure` gives of features taken by hand, in every way to get them."""

import inspect
import json
import math
from itertools import pairwise

import pytest
import torch
from safetensors import SafetensorError
from torch import nn
from torch.utils.data import DataLoader, SubsetRandomSampler, TensorDataset

from neurocollapse import CaptureWarning, InputError, load_dataset, measure, measure_layers, measure_model
from neurocollapse.cli import main
from neurocollapse.measuring import read_features
from neurocollapse.measuring.process_group import Processes
from tests.modules import Model, found
from tests.problems import random_problem

C, COUNTS = 3, [14, 9, 8]
N = sum(COUNTS)
PROBLEM = random_problem(0, COUNTS, 12, offset=1.0)
X, Y = PROBLEM.features.view(N, 3, 2, 2), PROBLEM.labels
STRATEGIES = ["keep", "stream", "twice"]


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(16, 7), nn.Tanh(), nn.Linear(7, C)
    ).double()


MODEL = network()


@torch.no_grad()
def features_of(inputs, model=MODEL):
    return model[:-1](inputs)


def loader(inputs=X, labels=Y, batch_size=6, **options):
    return DataLoader(TensorDataset(inputs, labels), batch_size=batch_size, **options)


def by_hand(inputs=X, labels=Y, model=MODEL, **options):
    return measure(features_of(inputs, model), labels, model[-1].weight, model[-1].bias, **options)


def close(expected, leaving_out=()):
    return pytest.approx({k: v for k, v in expected.items() if k not in leaving_out}, rel=1e-10, abs=1e-12)


def missed(strategy):
    return {"nc4"} if strategy == "stream" else set()


def without_weight(measured):
    """A layer's measurement without the keys of layers alone, for which see `test_layer_weights.py`."""
    return {key: value for key, value in measured.items() if not key.startswith(("weight_", "nearest_mean"))}


# ---- one model, by every strategy


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("options", [{}, {"weighting": "samples"}, {"vci": True}], ids=str)
def test_every_strategy_gives_what_features_taken_by_hand_give(strategy, options):
    measured = measure_model(MODEL, loader(), strategy=strategy, **options)
    assert dict(measured) == close(by_hand(**options), missed(strategy))
    assert measured.class_counts == tuple(COUNTS)
    assert dict(measured) != close(by_hand(model=network(1), **options), missed(strategy))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_one_pass_cannot_give_is_named(strategy):
    measured = measure_model(MODEL, loader(), strategy=strategy)
    assert "second sweep" in measured.missing.get("nc4", "second sweep")
    assert ("nc4" in measured.missing) == (strategy == "stream")


@pytest.mark.parametrize("strategy", ["keep", "twice"])
def test_held_out_samples_against_the_means_of_the_training_set(strategy):
    means = measure_model(MODEL, loader()).means
    measured = measure_model(MODEL, loader(X + 0.3), means=means, strategy=strategy)
    assert dict(measured) == close(by_hand(X + 0.3, means=means))
    assert measured["nc1"] != pytest.approx(by_hand(X + 0.3)["nc1"], rel=1e-3)
    assert measured.means is means


OTHERS = torch.randn(11, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
#: of samples of no class: with labels that no class has, with labels that are no integers, and without labels
OTHER_LOADERS = {
    "tuples, labels out of range": lambda: loader(OTHERS, torch.full((11,), 99)),
    "tuples, labels negative": lambda: [(OTHERS[:8], torch.full((8,), -1)), (OTHERS[8:], torch.full((3,), -100))],
    "tuples, labels of floats": lambda: [(OTHERS, torch.rand(11))],
    "tuples of one": lambda: DataLoader(TensorDataset(OTHERS), batch_size=4),
    "tensors": lambda: DataLoader(OTHERS, batch_size=4),
    "dictionaries without labels": lambda: [{"input": OTHERS[:5]}, {"input": OTHERS[5:]}],
    "dictionaries with labels": lambda: [{"input": OTHERS, "labels": torch.full((11,), -7)}],
    "a generator": lambda: (part for part in OTHERS.split(3)),
}


@pytest.mark.parametrize("name", OTHER_LOADERS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_samples_of_no_class(name, strategy):
    expected = by_hand(ood=features_of(OTHERS))["nc5"]
    assert measure_model(MODEL, loader(), ood=OTHER_LOADERS[name](), strategy=strategy)["nc5"] == pytest.approx(
        expected
    )
    assert by_hand(ood=features_of(OTHERS + 0.5))["nc5"] != pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("label_key", "data", "others"),
    [
        (2, [(X, torch.zeros(N), Y)], [(OTHERS,)]),
        ("class", [{"input": X, "class": Y}], [{"input": OTHERS, "class": torch.rand(11)}]),
    ],
)
def test_labels_elsewhere_and_samples_of_no_class(label_key, data, others):
    measured = measure_model(MODEL, data, ood=others, label_key=label_key)
    assert dict(measured) == close(by_hand(ood=features_of(OTHERS)))


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ([torch.full_like(OTHERS, math.nan)], r"ood: feature 0 of sample 0 is nan; .* \(11 of 11 samples are not"),
        ([OTHERS.flatten(1)[:, 1:]], r"ood: the model does not take these inputs \(.*\); pass a loader of inputs like"),
        ([], "ood: the loader yields nothing"),
    ],
)
def test_a_fault_of_samples_of_no_class_is_said_to_be_theirs(others, message):
    with pytest.raises(ValueError, match=message) as caught:
        measure_model(MODEL, loader(), ood=others)
    assert "\n" not in str(caught.value)


def test_labels_of_samples_of_no_class_are_not_handed_to_the_model():
    class Model(nn.Sequential):
        def forward(self, input, **others):
            assert not others
            return super().forward(input)

    data = [{"input": X, "class": Y, "labels": Y}]
    with pytest.raises(AssertionError):
        measure_model(Model(*MODEL), data, label_key="class")  # who names one key leaves the other to the model
    measured = measure_model(Model(*MODEL), [{"input": X, "class": Y}], ood=data, label_key="class")
    assert dict(measured) == close(by_hand(ood=features_of(X)))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_weight_decay_gives_the_objective_and_the_norms(strategy):
    """Eq. 1: ½ mean ‖f − y‖² + (λ/2) Σ ‖·‖² over all that trains; the norms are those of matrices and kernels."""
    model = network()
    model[3].weight.requires_grad_(False)
    measured = measure_model(model, loader(), weight_decay=0.01, strategy=strategy)
    with torch.no_grad():
        squares = sum(p.square().sum() for p in model.parameters() if p.requires_grad)
        data_term = (model(X) - nn.functional.one_hot(Y, C)).square().sum() / (2 * N)
    assert measured["loss"] == pytest.approx((data_term + 0.005 * squares).item())
    assert measured["weight_norms"] == pytest.approx([model[i].weight.square().sum().item() for i in (0, 5)])
    assert "loss" not in measure_model(model, loader(), strategy=strategy)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_subset_has_so_many_of_every_class(strategy):
    measured = measure_model(MODEL, loader(), subset=5, strategy=strategy)
    assert measured.class_counts == (5, 5, 5)
    everything = measure_model(MODEL, loader(shuffle=True), subset=100, strategy=strategy)
    assert dict(everything) == close(by_hand(), missed(strategy))


def test_a_subset_of_every_layer():
    assert {m.class_counts for m in measure_layers(MODEL, loader(), subset=4).values()} == {(4, 4, 4)}


def test_a_loader_that_shows_a_part_is_measured_on_that_part():
    part = torch.arange(0, N, 2)
    measured = measure_model(MODEL, loader(sampler=SubsetRandomSampler(part.tolist())))
    assert dict(measured) == close(by_hand(X[part], Y[part]))


# ---- what was captured, in a file


def test_saved_features_are_read_back_and_measured_by_the_command_line(tmp_path, capsys):
    path = tmp_path / "features.safetensors"
    measured = measure_model(MODEL, loader(), save_features=path)
    arrays = read_features(path)
    assert torch.equal(arrays["labels"], Y)
    torch.testing.assert_close(arrays["features"], features_of(X))
    assert torch.equal(arrays["weight"], MODEL[-1].weight)
    assert torch.equal(arrays["bias"], MODEL[-1].bias)
    with pytest.raises(SystemExit, match="0"):
        main(["measure", str(path), "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert {key: printed[key] for key in measured} == dict(measured)


def test_saved_features_of_a_head_without_a_bias(tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, C, bias=False)).double()
    measure_model(model, loader(), save_features=str(tmp_path / "features.safetensors"))
    assert set(read_features(tmp_path / "features.safetensors")) == {"features", "labels", "weight"}


def test_features_in_a_file_give_identical_numbers(tmp_path):
    in_file = {"memory_budget": 0, "folder": tmp_path}
    assert dict(measure_model(MODEL, loader(), **in_file)) == dict(measure_model(MODEL, loader()))
    layers, others = measure_layers(MODEL, loader(), **in_file), measure_layers(MODEL, loader())
    assert {name: dict(m) for name, m in layers.items()} == {name: dict(m) for name, m in others.items()}
    assert not list(tmp_path.iterdir())


# ---- layers


def test_every_layer_side_by_side():
    measured = measure_layers(MODEL, loader())
    assert list(measured) == ["0", "1", "3", "4", "5"]  # what computes, then the head's input
    for name in ("0", "1", "3", "4"):
        with torch.no_grad():
            outputs = MODEL[: int(name) + 1](X).flatten(1)
        assert without_weight(measured[name]) == close(measure(outputs, Y)), name
    assert without_weight(measured["5"]) == close(by_hand())
    assert all(a != b for a, b in pairwise(m["nc1"] for m in measured.values() if m is not measured["5"]))
    assert {m.class_counts for m in measured.values()} == {tuple(COUNTS)}


def test_layers_by_name_and_maps_averaged():
    measured = measure_layers(MODEL, loader(), layers=["1", "0"], spatial="mean", weighting="samples")
    assert list(measured) == ["1", "0", "5"]
    with torch.no_grad():
        averaged = MODEL[:2](X).mean(dim=(2, 3))
    assert without_weight(measured["1"]) == close(measure(averaged, Y, weighting="samples"))
    assert without_weight(measured["0"]) != dict(measured["0"])


def test_layers_from_one_forward_pass():
    calls = []
    handle = MODEL.register_forward_hook(lambda *_: calls.append(1))
    measure_layers(MODEL, loader(batch_size=N))
    handle.remove()
    assert len(calls) == 1


# ---- tokens


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("ignored", [-100, 2])
def test_a_label_for_every_token_leaves_out_what_is_ignored(strategy, ignored):
    torch.manual_seed(0)
    body, head = nn.Sequential(nn.Embedding(20, 6), nn.Linear(6, 5), nn.Tanh()), nn.Linear(5, C)
    model = Model(lambda self, input_ids: {"logits": self.head(self.body(input_ids))}, body=body, head=head).double()
    ids = torch.randint(20, (8, 5))
    # with 2 ignored, no token of class 2 counts: then 2 stands for other tokens
    labels = torch.where(torch.rand(8, 5) < 0.3, ignored, ids % C)
    data = [{"input_ids": ids[i : i + 3], "labels": labels[i : i + 3]} for i in range(0, 8, 3)]
    if ignored == 2:
        with pytest.raises(ValueError, match="class 2 has no samples"):
            measure_model(model, data, ignore_index=ignored, strategy=strategy)
        return
    hidden, kept = body(ids).detach(), labels != ignored
    expected = measure(hidden[kept], labels[kept], head.weight, head.bias)
    measured = measure_model(model, data, ignore_index=ignored, strategy=strategy)
    assert dict(measured) == close(expected, missed(strategy))
    assert sum(measured.class_counts) == int(kept.sum()) < labels.numel()


# ---- loaders that can be read once


@pytest.mark.parametrize("strategy", ["keep", "stream"])
def test_a_generator_is_enough_for_one_pass(strategy):
    measured = measure_model(MODEL, (batch for batch in loader()), strategy=strategy)
    assert dict(measured) == close(by_hand(), missed(strategy))


def test_a_generator_is_not_enough_for_two_passes():
    with pytest.raises(
        InputError, match="'twice' reads the data several times, and generator is empty once it was read"
    ):
        measure_model(MODEL, (batch for batch in loader()), strategy="twice")


# ---- errors, progress, and what is left behind


def test_bad_options_are_named(tmp_path):
    nothing = [()]  # an error must come before the loader is read
    means = measure_model(MODEL, loader()).means
    for options, message in (
        ({"strategy": "kept"}, "strategy must be one of keep, stream, twice, got 'kept'"),
        ({"strategy": "stream", "save_features": tmp_path / "f.safetensors"}, "save_features needs .* strategy='keep'"),
        ({"strategy": "twice", "save_features": tmp_path / "f.safetensors"}, "save_features needs .* strategy='keep'"),
        ({"save_features": tmp_path / "f.npz"}, "save_features must end in .safetensors, got .*f.npz"),
        ({"strategy": "stream", "means": means}, "not on given ones; use strategy='keep'"),
        ({"together": True}, "there is no process group; call torch.distributed.init_process_group first"),
        ({"subset": 3}, "from the data set of a DataLoader, got list"),
    ):
        with pytest.raises(ValueError, match=message):
            inspect.unwrap(measure_model)(MODEL, nothing, **options)  # as it is without the tests' check of types
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_bad_data_and_weightings_are_named(strategy):
    spoilt = X.clone()
    spoilt[7, 0] = math.nan
    with pytest.raises(ValueError, match="weighting must be one of classes, samples, got 'sample'"):
        measure_model(MODEL, loader(), weighting="sample", strategy=strategy)
    for data, message in (
        (loader(spoilt), "is nan; every feature must be finite"),
        (loader(labels=Y + 1), "label 3 of sample .* is out of range: .* end at 2, by the head '5'"),
        (loader(X[Y < 2], Y[Y < 2]), "class 2 has no samples"),
        ([], "the loader yields nothing"),
    ):
        with pytest.raises(ValueError, match=message):
            measure_model(MODEL, data, strategy=strategy)


def test_errors_name_the_layer():
    overflowing = Model(lambda _, x: x / 0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.Sequential(overflowing), nn.Sigmoid(), nn.Linear(4, C))
    last = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), overflowing, nn.Linear(4, C))
    for network, data, layers, message in (
        (model.double(), loader(), ["1", "2"], r"^layer '2': feature 0 of sample 0 is -?inf"),
        (MODEL, loader(X[Y < 2], Y[Y < 2]), "all", "^layer '0': class 2 has no samples"),
        (last.double(), loader(), ["1"], r"^layer '3': feature 0 of sample 0 is -?inf"),
    ):
        with pytest.raises(ValueError, match=message):
            measure_layers(network, data, layers=layers)


@pytest.mark.parametrize(("strategy", "passes"), [("keep", 1), ("stream", 1), ("twice", 2)])
def test_progress_is_told_of_every_batch(strategy, passes):
    told = []
    measure_model(MODEL, loader(batch_size=10), strategy=strategy, progress=lambda *done: told.append(done))
    batches = [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [done for done in told if done[1] is not None] == batches * passes


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_model_is_left_as_it_was_found(strategy):
    model = network().train()
    model[4].eval()
    before = found(model)
    measure_model(model, loader(shuffle=True), strategy=strategy)
    assert found(model) == before


def test_what_makes_a_number_wrong_is_warned_of():
    with pytest.warns(CaptureWarning, match="drop_last=True leaves out 1 of 31 samples"):
        measure_model(MODEL, loader(drop_last=True))


FEW = [(torch.randn(9, 4), torch.arange(9) % 3)]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_diverged_classifier_is_refused(strategy, value):
    """It would choose class 0 always, or be right always: nothing compares with nan."""
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    with torch.no_grad():
        model[2].weight[1, 2] = value
    with pytest.raises(ValueError, match=rf"weight\[1, 2\] is {value}; every entry must be finite"):
        measure_model(model, FEW, head="2", strategy=strategy)


def test_what_is_no_model_and_no_means():
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, got function"):
        measure_model(lambda x: x, FEW)
    with pytest.raises(TypeError, match=r"means must be a ClassMeans, got Tensor"):
        measure_model(nn.Linear(4, 3), FEW, means=torch.ones(3, 4))


def test_features_that_cannot_be_saved(tmp_path, monkeypatch):
    def full(*_):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match=r"features.safetensors cannot be written .*No space left.*make room"):
        measure_model(nn.Linear(4, 3), FEW, save_features=tmp_path / "features.safetensors")
    assert not list(tmp_path.iterdir())


def second_of_two() -> Processes:
    processes = Processes(together=None)
    processes.rank, processes.size = 1, 2
    return processes


def test_a_list_of_batches_is_split_among_processes():
    assert second_of_two().share(["a", "b", "c", "d", "e"]) == ["b", "d"]
    assert second_of_two().share(["a"]) is None
    assert Processes(together=None).share(["a", "b"]) == ["a", "b"]


def test_what_cannot_be_split_among_processes_is_warned_of():
    batches = iter([1, 2, 3])
    with pytest.warns(CaptureWarning, match="a list_iterator without an index cannot be split among processes"):
        assert second_of_two().share(batches) is batches


# The head, named or given, and a split in place of a loader


def two_layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))


def test_a_split_and_the_head_itself_are_taken():
    model, data = two_layers(), load_dataset("gaussian").train
    batches = [(data.images, data.labels)]
    assert measure_model(model, data, head=model[2], ood=data) == measure_model(model, batches, head="2", ood=batches)
    assert list(measure_layers(model, data, head=model[2])) == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("22", r"Sequential has no head '22': it is not there \(did you mean '2'\?\); pass head= one of: 0, 2"),
        (nn.Linear(8, 4), "Sequential has no such module as the given Linear.*; pass head= one of: 0, 2"),
        ("0", "the head '0' has 8 outputs; pass head= one of 0, 2, or mend this: .*classes 4, 5, 6, 7 have no samples"),
    ],
)
@pytest.mark.parametrize("measure", [measure_model, measure_layers])
@pytest.mark.filterwarnings("ignore::neurocollapse.CaptureWarning")
def test_a_wrong_head_is_blamed_by_name(measure, head, message):
    with pytest.raises(InputError, match=message):
        measure(two_layers(), load_dataset("gaussian").train, head=head)


def test_a_subset_of_none_and_single_samples_are_named():
    data = load_dataset("gaussian").train
    with pytest.raises(InputError, match="subset must be at least 1, got 0"):
        measure_model(two_layers(), data, subset=0)
    with pytest.raises(InputError, match=r"single samples, let torch\.utils\.data\.DataLoader make batches"):
        measure_model(two_layers(), list(zip(data.images, data.labels, strict=True)))


@pytest.mark.parametrize("strategy", ["keep", "stream", "twice"])
@pytest.mark.parametrize("how", ["autocast", "autocast_dtype", "bfloat16 within", "float32"])
def test_the_tolerance_of_the_rank_follows_what_the_model_computed_in(strategy, how):
    """The head's input is float32 in all of them."""

    class Widened(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(3, 4, dtype=torch.bfloat16 if how == "bfloat16 within" else torch.float32)
            self.norm, self.head = nn.LayerNorm(4), nn.Linear(4, 2)

        def forward(self, inputs):
            return self.head(self.norm(self.body(inputs.to(self.body.weight.dtype)).float()))

    data = [(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 2)]
    options = {"autocast_dtype": torch.bfloat16} if how == "autocast_dtype" else {}
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        measured = measure_model(Widened(), data, strategy=strategy, **options)
        layers = measure_layers(Widened(), data, layers=["norm"], **options)
    expected = torch.finfo(torch.float32 if how == "float32" else torch.bfloat16).eps
    assert measured.means.precision == layers["norm"].means.precision == expected
    assert (measured.rank_tolerance > 1e-4) is (how != "float32")
