"""The metric of TorchMetrics: what `measure` gives, batch by batch, and all that a metric must be able to do."""

import copy
import math
import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn
from torchmetrics import MetricCollection

from neurocollapse import METRICS, measure
from neurocollapse.integrations.torchmetrics import NeuralCollapse
from tests.problems import random_problem

PROBLEM = random_problem(0, [9, 7, 8], 5, offset=2.0)
H, Y, W, B = PROBLEM.features, PROBLEM.labels, PROBLEM.weight, PROBLEM.bias
WHOLE = measure(H, Y, W, B)
ONE_PASS = set(WHOLE) - {"nc4"}


def head_of():
    head = nn.Linear(5, 3, dtype=W.dtype)
    head.load_state_dict({"weight": W, "bias": B})
    return head


def updated(metric, features=H, labels=Y, size=7):
    for batch in zip(features.split(size), labels.split(size), strict=True):
        metric.update(*batch)
    return metric


def numbers(values):
    return {key: value.item() for key, value in values.items()}


def close(expected, keys=None):
    return pytest.approx({key: expected[key] for key in keys or expected}, rel=1e-11, abs=1e-12)


def one(key):
    return pytest.approx(WHOLE[key], rel=1e-11)


@pytest.mark.parametrize("size", [1, 7, 24])
def test_batches_equal_the_whole(size):
    kept = updated(NeuralCollapse(3, head=head_of()), size=size)
    assert numbers(kept.compute()) == close(WHOLE)
    moments = updated(NeuralCollapse(3, head=head_of(), keep_features=False), size=size)
    assert numbers(moments.compute()) == close(WHOLE, ONE_PASS)


@pytest.mark.parametrize("keep", [True, False])
def test_without_a_head_and_with_weights_by_samples(keep):
    without = updated(NeuralCollapse(3, keep_features=keep))
    assert numbers(without.compute()) == close(measure(H, Y))
    weighted = updated(NeuralCollapse(3, keep_features=keep, weighting="samples"))
    assert numbers(weighted.compute()) == close(measure(H, Y, weighting="samples"))
    assert weighted.compute()["nc1"] != without.compute()["nc1"]


def test_a_value_is_a_scalar_in_float64_by_its_key():
    values = updated(NeuralCollapse(3, head=head_of())).compute()
    assert set(values) <= set(METRICS)
    for value in values.values():
        assert (value.dtype, value.shape) == (torch.float64, ())


def test_the_index_of_variability_on_demand():
    assert "nc1_vci" not in updated(NeuralCollapse(3, vci=False)).compute()
    assert updated(NeuralCollapse(3, vci=True)).compute()["nc1_vci"].item() == one("nc1_vci")


@pytest.mark.parametrize("keep", [True, False])
def test_the_head_is_read_as_it_is_at_compute(keep):
    head = head_of()
    metric = updated(NeuralCollapse(3, head=head, keep_features=keep))
    before = metric.compute()["nc3"].item()
    with torch.no_grad():
        head.weight.add_(1.0)
    metric.update(H[:0], Y[:0])  # a metric remembers what it computed until it is updated
    assert metric.compute()["nc3"].item() == pytest.approx(measure(H, Y, W + 1.0, B)["nc3"])
    assert metric.compute()["nc3"].item() != pytest.approx(before, rel=1e-3)


def test_the_head_is_no_part_of_the_metric_and_copies_share_it():
    head = head_of()
    metric = NeuralCollapse(3, head=head)
    assert not list(metric.parameters())
    assert not metric.state_dict()
    clones = metric.clone(), MetricCollection({"nc": metric}).clone()["nc"]
    with torch.no_grad():
        head.weight.add_(1.0)
    for clone in clones:
        assert updated(clone).compute()["nc3"].item() == pytest.approx(measure(H, Y, W + 1.0, B)["nc3"])


def test_a_model_copied_with_its_metric_has_a_metric_of_its_own_head():
    model = nn.ModuleDict({"head": head_of()})
    model["metric"] = NeuralCollapse(3, head=model["head"])
    twin = copy.deepcopy(model)
    with torch.no_grad():
        model["head"].weight.add_(1.0)
    assert updated(twin["metric"]).compute()["nc3"].item() == pytest.approx(WHOLE["nc3"])


@pytest.mark.parametrize("keep", [True, False])
def test_forward_gives_the_batch_and_keeps_gathering(keep):
    metric = NeuralCollapse(3, head=head_of(), keep_features=keep)
    keys = set(WHOLE) if keep else ONE_PASS
    for part in (slice(0, 12), slice(12, 24)):
        assert numbers(metric(H[part], Y[part])) == close(measure(H[part], Y[part], W, B), keys)
    assert numbers(metric.compute()) == close(WHOLE, keys)


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("head", [True, False])
def test_forward_of_a_batch_without_a_class_is_nan_in_every_key(keep, head):
    metric = NeuralCollapse(3, head=head_of() if head else None, keep_features=keep)
    values = numbers(metric(H[Y < 2], Y[Y < 2]))
    assert all(math.isnan(value) for value in values.values())
    metric.update(H[Y == 2], Y[Y == 2])
    assert set(values) == set(metric.compute())
    assert metric.compute()["nc1"].item() == one("nc1")


@pytest.mark.parametrize("keep", [True, False])
def test_reset_clone_pickle_move_and_merge(keep):
    metric = updated(NeuralCollapse(3, head=head_of(), keep_features=keep), H[:11], Y[:11])
    for twin in (metric.clone(), pickle.loads(pickle.dumps(metric)), metric.clone().to("cpu").half()):
        assert numbers(updated(twin, H[11:], Y[11:]).compute()) == close(WHOLE, None if keep else ONE_PASS)
    other = updated(NeuralCollapse(3, head=head_of(), keep_features=keep), H[11:], Y[11:])
    other.merge_state(metric)
    assert numbers(other.compute()) == close(WHOLE, None if keep else ONE_PASS)
    metric.reset()
    assert numbers(updated(metric).compute()) == close(WHOLE, None if keep else ONE_PASS)


def test_moments_are_as_exact_in_a_model_of_half_precision():
    model = nn.ModuleDict({"metric": NeuralCollapse(3, keep_features=False)}).to(torch.bfloat16)
    assert numbers(updated(model["metric"]).compute()) == close(measure(H, Y))


def test_a_collection_with_prefixes():
    metrics = MetricCollection({"kept": NeuralCollapse(3), "moments": NeuralCollapse(3, keep_features=False)})
    validation = metrics.clone(prefix="val/")
    validation.update(H, Y)
    values = numbers(validation.compute())
    assert values["val/kept_nc1"] == one("nc1")
    assert values["val/moments_nc1"] == one("nc1")


def test_what_is_kept_is_a_copy():
    metric, features = NeuralCollapse(3), H.clone().requires_grad_()
    metric.update(features[:, :], Y)
    with torch.no_grad():
        features.zero_()
    assert not metric.features[0].requires_grad
    assert metric.compute()["nc1"].item() == one("nc1")


@pytest.mark.parametrize("keep", [True, False])
def test_bad_input_is_named(keep):
    with pytest.raises(ValueError, match=r"head has a weight of shape \(3, 5\), .* 3 classes, but num_classes is 4"):
        NeuralCollapse(4, head=head_of(), keep_features=keep)
    with pytest.raises(ValueError, match="at least two classes, got num_classes=1"):
        NeuralCollapse(1, keep_features=keep)
    with pytest.raises(ValueError, match="weighting must be one of classes, samples, got 'sample'"):
        NeuralCollapse(3, keep_features=keep, weighting="sample")
    with pytest.raises(TypeError, match="num_classes must be an integer, got 'x' of type str"):
        NeuralCollapse("x", keep_features=keep)
    metric = NeuralCollapse(3, keep_features=keep)
    metric.update(H[:10].numpy(), Y[:10].tolist())
    for features, labels, message in (
        (H, Y.float(), "labels must be integers, got torch.float32"),
        (H[:2], torch.tensor([0, 3]), "label 3 of sample 11 is out of range"),
        ("ab", Y, "features must be numbers, got an array of <U2"),
        (H[:, :4], Y, "earlier batches had 5 features, this one has 4"),
        (H, Y[:5], r"the same length, got \(24, 5\) and \(5,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            metric.update(features, labels)
    assert numbers(updated(metric, H[10:], Y[10:]).compute()) == close(measure(H, Y)), "a refused batch left a trace"


@pytest.mark.filterwarnings("ignore:The ``compute`` method .* was called before:UserWarning")
@pytest.mark.parametrize("keep", [True, False])
def test_too_little_to_compute_is_named(keep):
    metric = NeuralCollapse(3, keep_features=keep)
    with pytest.raises(ValueError, match="nothing to measure: the metric was not updated"):
        metric.compute()
    with pytest.raises(ValueError, match=r"class 2 has no samples, .*\); pass more data$"):
        updated(metric, H[Y < 2], Y[Y < 2]).compute()


def test_a_library_that_is_not_installed_says_how_to_install_it():
    code = """if True:
        import sys
        for module in ("torchmetrics", "lightning", "pytorch_lightning", "transformers"):
            sys.modules[module] = None
        from importlib import import_module
        for module in ("torchmetrics", "lightning", "transformers"):
            try:
                import_module(f"neurocollapse.integrations.{module}")
            except ImportError as error:
                print(error)
        """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    messages = done.stdout.splitlines()
    for message, extra in zip(messages, ("metrics", "lightning", "transformers"), strict=True):
        assert f"pip install 'neurocollapse[{extra}]'" in message
