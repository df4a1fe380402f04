"""Real processes over gloo: what they measure together is what one process measures alone, and none waits in vain."""

import json
import multiprocessing
import os
import time
import warnings
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, SubsetRandomSampler, TensorDataset

from neurocollapse import measure_layers, measure_model
from neurocollapse.integrations.torchmetrics import NeuralCollapse
from tests.modules import Model
from tests.problems import random_problem

C, COUNTS = 3, [14, 9, 8]
N = sum(COUNTS)  # 31, which neither 2 nor 4 divides
PROBLEM = random_problem(0, COUNTS, 6, offset=1.0)
X, Y = PROBLEM.features, PROBLEM.labels
STRATEGIES = ("keep", "stream", "twice")


def rank():
    return dist.get_rank() if dist.is_initialized() else 0


def size():
    return dist.get_world_size() if dist.is_initialized() else 1


def network(*first):
    torch.manual_seed(2)
    return nn.Sequential(*first, nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, C)).double()


def loader(inputs=X, labels=Y, **options):
    return DataLoader(TensorDataset(inputs, labels), batch_size=4, **options)


def sharing_sampler():
    """As one makes it for training: it repeats samples so that every process has as many."""
    return DistributedSampler(TensorDataset(X, Y), num_replicas=size(), rank=rank()) if dist.is_initialized() else None


class Part(IterableDataset):
    """This process's part of the data, where parts differ much in length and the last process has the most."""

    def __iter__(self):
        edges = [N * i**2 // size() ** 2 for i in range(size() + 1)]
        part = slice(edges[rank()], edges[rank() + 1])
        return zip(X[part], Y[part], strict=True)


def parallel(model):
    return nn.parallel.DistributedDataParallel(model) if dist.is_initialized() else model


def of_held_out(strategy):
    return measure_model(network(), loader(X + 0.3), means=measure_model(network(), loader()).means, strategy=strategy)


def first(most, data=None, **options):
    return measure_model(network(), data or loader(), max_per_class=most, **options)


def by_layer(data=None, **options):
    measured = measure_layers(network(), data or loader(), **options)
    return {f"{layer}.{key}": value for layer, m in measured.items() for key, value in m.items()}


def metric(keep, shard, dtype=torch.float64):
    """The metric, with the samples dealt out by `shard(i) -> rank`, and read twice while it gathers."""
    head = nn.Linear(6, C).double()
    with torch.no_grad():
        head.weight.copy_(PROBLEM.weight)
        head.bias.copy_(torch.linspace(-1, 1, C))  # its own would depend on what ran before
    gathered = NeuralCollapse(C, head=head, keep_features=keep)
    features = X.to(dtype)
    mine = torch.tensor([i for i in range(N) if shard(i) % size() == rank()], dtype=torch.int64)
    for part in mine.split(5):
        gathered.update(features[part], Y[part])
    first = gathered.compute()
    gathered.update(features[:1], Y[:1]) if rank() == 0 else gathered.update(features[:0], Y[:0])
    assert gathered.compute()["nc1"] != first["nc1"], "what was gathered later must count too"
    return {key: value.item() for key, value in first.items()}


SHARDS = {
    "evenly": lambda i: i,
    "unevenly": lambda i: 0 if i < 20 else i,
    "all to the first": lambda i: 0,
    "all to the last": lambda i: size() - 1,
}

#: Every process calls these with each strategy, and so does one alone: the numbers must agree.
BY_STRATEGY = {
    "whole": lambda s: measure_model(network(), loader(), strategy=s),
    "single precision": lambda s: measure_model(network().float(), loader(X.float()), strategy=s),
    # of three samples one of four processes has none
    "few samples": lambda s: measure_model(network(), loader(X[:3], torch.arange(3)), strategy=s),
    "padding sampler": lambda s: measure_model(network(), loader(sampler=sharing_sampler()), strategy=s),
    "parts of their own": lambda s: measure_model(network(), DataLoader(Part(), batch_size=4), strategy=s),
    "one sample of no class": lambda s: measure_model(network(), loader(), ood=[X[:1]], strategy=s),
}
CASES = {
    **{f"{s}, {name}": lambda s=s, case=case: case(s) for name, case in BY_STRATEGY.items() for s in STRATEGIES},
    **{f"first {most}": lambda most=most: first(most) for most in (1, 3, 8, 20)},
    "first, stream": lambda: first(3, strategy="stream"),
    "first, in files": lambda: first(3, memory_budget=0),
    "first of batches": lambda: first(6, list(zip(X.split(5), Y.split(5), strict=True))),
    "keep, held out": lambda: of_held_out("keep"),
    "twice, held out": lambda: of_held_out("twice"),
    "shuffled": lambda: measure_model(network(), loader(shuffle=True)),
    "a part": lambda: measure_model(network(), loader(sampler=SubsetRandomSampler(range(0, N, 2)))),
    "a subset": lambda: measure_model(network(), loader(), subset=5),
    "options": lambda: measure_model(network(), loader(), weighting="samples", vci=True, weight_decay=0.1),
    "layers": by_layer,
    "layers, first": lambda: by_layer(max_per_class=4),
    "layers of few samples": lambda: by_layer(loader(X[:3], torch.arange(3))),
    "in files": lambda: measure_model(network(), loader(), memory_budget=0),
    "data parallel": lambda: measure_model(parallel(network()), loader(), weight_decay=0.1),
    "others with an index": lambda: measure_model(network(), loader(), ood=DataLoader(X[:1])),
    **{
        f"metric, {name}, {'kept' if keep else 'moments'}": lambda k=keep, s=shard: metric(k, s)
        for name, shard in SHARDS.items()
        for keep in (True, False)
    },
    "metric, half precision, kept": lambda: metric(True, SHARDS["all to the last"], torch.float16),
    "metric, half precision, moments": lambda: metric(False, SHARDS["all to the last"], torch.float16),
}

SLOW = {"data parallel"}  # its wrapper imports PyTorch's compiler, which takes seconds in each process


def fail_in_the_second(_, x):
    if rank() == 1:
        raise OSError("the disk is gone")
    return x


def spoilt():
    inputs = X.clone()
    inputs[1, 0] = torch.nan  # of the second process, which gets samples 1, 3, 5, ... of two
    return inputs


def metric_of_unlike_widths():
    metric = NeuralCollapse(C)
    metric.update(X[:, : 5 + (rank() == 0)], Y)
    metric.compute()


NOTHING = ("the loader yields nothing", "process 0 failed: InputError: the loader yields nothing")
FAILURES_BY_STRATEGY = {
    "nan": (
        lambda s: measure_model(network(), loader(spoilt()), strategy=s),
        ("feature 0 of sample 1 is nan", "process 1 failed: SampleError: feature 0 of sample 1 is nan"),
    ),
    "model": (
        lambda s: measure_model(network(Model(fail_in_the_second)), loader(), strategy=s),
        ("the disk is gone", "process 1 failed: OSError: the disk is gone"),
    ),
    "no data": (lambda s: measure_model(network(), loader(X[:0], Y[:0]), strategy=s), NOTHING),
}  # fmt: skip
#: Every process must raise: the first with the message where the fault is one's own, the second where it is another's.
FAILURES = {
    **{
        f"{name}, {s}": (lambda s=s, case=case: case(s), messages)
        for name, (case, messages) in FAILURES_BY_STRATEGY.items()
        for s in STRATEGIES
    },
    "a class without samples": (lambda: measure_model(network(), loader(X[Y < 2], Y[Y < 2])),
        ("class 2 has no samples",) * 2),
    "nan in a list of batches": (
        lambda: measure_model(network(), list(zip(spoilt().split(1), Y.split(1), strict=True))),
        ("feature 0 of sample 0 of batch 1 is nan", "process 1 failed: SampleError: feature 0 of sample 0 of batch 1"),
    ),
    "features to be saved": (lambda: measure_model(network(), loader(), save_features="features.safetensors"),
        ("save_features needs all features in one process",) * 2),
    "others of nothing": (lambda: measure_model(network(), loader(), ood=DataLoader(TensorDataset(X[:0]))),
        tuple(said.replace("the loader", "ood: the loader") for said in NOTHING)),
    "metric without samples": (lambda: NeuralCollapse(C).compute(),
        ("nothing to measure: the metric was not updated",) * 2),
    "metric of unlike widths": (metric_of_unlike_widths, ("do not fit together (5 of torch.float64, 6 of",) * 2),
}  # fmt: skip


def outcome(case):
    start = time.monotonic()
    try:
        values = {"values": dict(case() or {})}
    except Exception as error:
        values = {"error": f"{type(error).__name__}: {error}"}
    return {**values, "seconds": time.monotonic() - start}


def alone_on_the_first():
    return measure_model(network(), loader(), together=False) if rank() == 0 else {}


def work(this, processes, folder):
    """All cases, one after the other: the start of a process takes longer than they do."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    dist.init_process_group(
        "gloo", f"file://{folder}/store", rank=this, world_size=processes, timeout=timedelta(seconds=60)
    )
    cases = CASES | {name: case for name, (case, _) in FAILURES.items()} | {"alone": alone_on_the_first}
    results = {name: outcome(case) for name, case in cases.items() if processes > 2 or name not in SLOW}
    with open(f"{folder}/{this}.json", "w", encoding="utf-8") as file:
        json.dump(results, file)
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # at an ordinary end threads of PyTorch's that are still there abort it now and then


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)], ids="{} processes".format)
def results(request, tmp_path_factory):
    """What every process had to say, by rank."""
    folder = tmp_path_factory.mktemp("processes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "OMP_NUM_THREADS", "1")
        multiprocessing.set_forkserver_preload([__name__])  # the server imports for seconds, and they do not again
        torch.multiprocessing.start_processes(
            work, (request.param, str(folder)), nprocs=request.param, start_method="forkserver"
        )
    return [json.loads((folder / f"{this}.json").read_text(encoding="utf-8")) for this in range(request.param)]


def flat(values):
    norms = values.get("weight_norms", ())
    numbers = {key: value for key, value in values.items() if key != "weight_norms"}
    return numbers | {f"weight_norms.{layer}": norm for layer, norm in enumerate(norms)}


@pytest.mark.parametrize("name", CASES)
def test_together_they_measure_what_one_measures_alone(results, name):
    assert not dist.is_initialized()
    if name not in results[0]:
        pytest.skip("in the slow test with more processes")
    alone = flat(CASES[name]())
    tolerance = 1e-6 if "single precision" in name else 1e-12
    for result in results:
        assert "values" in result[name], result[name]
        assert flat(result[name]["values"]) == pytest.approx(alone, rel=tolerance, abs=tolerance)
        assert result[name]["values"] == results[0][name]["values"], "every process must have the same bits"


@pytest.mark.parametrize("name", FAILURES)
def test_what_fails_in_one_fails_in_all_at_once(results, name):
    _, (own, others) = FAILURES[name]
    for result in results:
        error = result[name]["error"]
        assert own in error or others in error
        assert result[name]["seconds"] < 20
    errors = [result[name]["error"] for result in results]
    assert any(
        error.startswith(
            ("InputError: ", "SampleError: ", "ValueError: ", "OSError: ", "FeatureStoreError: ", "WriteError: ")
        )
        and own in error
        for error in errors
    )
    assert own == others or any(error.startswith("RuntimeError: ") and others in error for error in errors)


def test_one_process_may_measure_by_itself(results):
    assert results[0]["alone"]["values"] == pytest.approx(dict(measure_model(network(), loader())), rel=1e-12)
    assert all(result["alone"]["values"] == {} for result in results[1:])
