"""The callback of Lightning, in real trainers: the numbers of `measure_model`, in their loggers, and no trace."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, TensorDataset

from neurocollapse import METRICS, Recorder, measure, measure_model, runs
from neurocollapse._errors import CaptureWarning
from neurocollapse.integrations import loops
from neurocollapse.integrations.lightning import NeuralCollapseCallback
from tests.integrations.scripts import run_script

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers which may be a bottleneck"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
]

N, C = 33, 3
GENERATOR = torch.Generator().manual_seed(0)
X, Y = torch.randn(N, 6, generator=GENERATOR), torch.arange(N) % C
DATA, OTHER = TensorDataset(X, Y), TensorDataset(X + 1, Y)


class Module(LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Dropout(0.2), nn.Linear(5, C))

    def forward(self, x):
        return self.network(x)

    def training_step(self, batch, _):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, _):
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(callback, folder, module=None, epochs=3, val=OTHER, **options):
    """Train; returns the module and {epoch: what the logger wrote}."""
    generator = torch.Generator().manual_seed(1)
    loader = DataLoader(DATA, batch_size=4, sampler=RandomSampler(DATA, generator=generator), drop_last=True)
    module = Module() if module is None else module
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=CSVLogger(folder, flush_logs_every_n_steps=1),
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **{"enable_checkpointing": False, "callbacks": callback, **options},
    )
    torch.manual_seed(3)
    trainer.fit(module, loader, None if val is None else DataLoader(val, batch_size=5))
    return module, trainer, trainer.callback_metrics


def rows(folder):
    """{epoch: {name: number}} of what the trainer's logger wrote under nc/."""
    (path,) = Path(folder).rglob("metrics.csv")
    header, *lines = [line.split(",") for line in path.read_text(encoding="utf-8").splitlines()]
    found = {}
    for line in lines:
        cells = dict(zip(header, line, strict=True))
        values = {name: float(cell) for name, cell in cells.items() if name.startswith("nc/") and cell}
        if values:
            found[int(cells["epoch"])] = values
    return found


def expected_of(module, data=DATA, **options):
    measured = measure_model(module, DataLoader(data, batch_size=4), **options)
    return {f"nc/{key}": pytest.approx(value, rel=1e-5, abs=1e-6) for key, value in measured.items()}


@pytest.mark.parametrize(
    ("loader", "data"), [("train", DATA), ("val", OTHER), (DataLoader(OTHER, batch_size=7), OTHER)]
)
def test_the_numbers_of_the_model_in_the_trainers_logger(loader, data, tmp_path):
    callback = NeuralCollapseCallback(loader=loader)
    module, _, logged = fit(callback, tmp_path)
    expected = expected_of(module, data)
    assert rows(tmp_path)[2] == expected
    assert {name: value.item() for name, value in logged.items() if name.startswith("nc/")} == expected
    assert callback.measurement.class_counts == (11, 11, 11)  # drop_last of the loader notwithstanding
    assert rows(tmp_path)[0]["nc/nc1"] != pytest.approx(rows(tmp_path)[2]["nc/nc1"], rel=1e-3)


def test_every_so_many_epochs_chosen_keys_under_a_prefix_of_ones_own(tmp_path):
    options = {"keys": ["weight_norms", "nc1"], "weight_decay": 0.01, "subset": 4}
    callback = NeuralCollapseCallback(2, prefix="nc/collapse.", **options)
    fit(callback, tmp_path, epochs=5)
    names = {"nc/collapse.nc1", "nc/collapse.weight_norms.0", "nc/collapse.weight_norms.1"}
    assert {epoch: set(values) for epoch, values in rows(tmp_path).items()} == {1: names, 3: names}
    assert callback.measurement.class_counts == (4, 4, 4)


def test_a_run_is_recorded(tmp_path, monkeypatch):
    recorder = Recorder(tmp_path / "run", config={"lr": 0.1})
    callback = NeuralCollapseCallback(2, keys=["nc1"], recorder=recorder)
    fit(callback, tmp_path, epochs=4)
    frame = runs(tmp_path / "run")
    assert frame[["epoch", "lr", "status"]].values.tolist() == [[2, 0.1, "finished"], [4, 0.1, "finished"]]
    assert frame["train.nc3"].iloc[-1] == callback.measurement["nc3"]
    with pytest.raises(
        TypeError, match=r"recorder must be a Recorder, got 'run' .* str; pass nc\.Recorder\(folder, con"
    ):
        NeuralCollapseCallback(recorder="run")
    monkeypatch.setattr(Recorder, "add", lambda *_: 1 / 0)
    with pytest.warns(CaptureWarning, match="epoch 1 was not recorded .*ZeroDivisionError.*; the training goes on"):
        fit(NeuralCollapseCallback(recorder=recorder), tmp_path / "again", epochs=1)
    assert "nc/nc1" in rows(tmp_path / "again")[0]


def test_training_is_the_same_with_and_without(tmp_path):
    trained = [fit(callback, tmp_path / str(i))[0] for i, callback in enumerate((None, NeuralCollapseCallback()))]
    for first, second in zip(*(module.parameters() for module in trained), strict=True):
        assert torch.equal(first, second)
    assert all(module.training for module in trained[1].network)


def test_a_part_of_the_module_is_the_model(tmp_path):
    class Whole(Module):
        def forward(self, x):
            raise NotImplementedError

        def training_step(self, batch, _):
            return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    callback = NeuralCollapseCallback(model="network", head="3")
    module, _, _ = fit(callback, tmp_path, module=Whole(), epochs=1, val=None)
    assert rows(tmp_path)[0] == expected_of(module.network)


@pytest.mark.parametrize("at_end_of_training", [True, None])  # None looks at the end of the validation
def test_a_checkpoint_may_go_by_a_number(at_end_of_training, tmp_path):
    checkpoint = ModelCheckpoint(
        tmp_path / "kept", "{epoch}", monitor="nc/nc1", save_top_k=-1, save_on_train_epoch_end=at_end_of_training
    )
    fit([NeuralCollapseCallback(keys=["nc1"]), checkpoint], tmp_path, enable_checkpointing=True)
    kept = {Path(path).stem: score.item() for path, score in checkpoint.best_k_models.items()}
    assert kept == {f"epoch={epoch}": pytest.approx(values["nc/nc1"]) for epoch, values in rows(tmp_path).items()}
    assert len(kept) == 3


@pytest.mark.parametrize("options", [{"val": None}, {"val_check_interval": 0.5}])
def test_early_stopping_finds_a_number_before_and_between_measurements(options, tmp_path):
    callbacks = [EarlyStopping("nc/nc1", patience=20), NeuralCollapseCallback(2, keys=["nc1"])]
    _, trainer, logged = fit(callbacks, tmp_path, epochs=5, **options)
    assert trainer.current_epoch == 5
    assert list(rows(tmp_path)) == [1, 3]
    assert logged["nc/nc1"].item() == pytest.approx(rows(tmp_path)[3]["nc/nc1"])


def failing(monkeypatch, calls):
    """Let these calls of measure_model fail, the first being 1."""
    count = iter(range(1, 99))

    def measured(*args, **options):
        if next(count) in calls:
            raise RuntimeError("no room\nhere")
        return measure_model(*args, **options)

    monkeypatch.setattr(loops, "measure_model", measured)


def test_a_failure_is_a_warning_and_a_missing_number_or_strict_an_error(tmp_path, monkeypatch):
    failing(monkeypatch, {3, 6})
    callbacks = [
        EarlyStopping("nc/nc1", patience=20),
        NeuralCollapseCallback(keys=["nc1"]),
    ]  # measured at the start too
    with pytest.warns(CaptureWarning, match=r"not measured, .* \(RuntimeError: no room here\).* pass strict=True"):
        _, trainer, _ = fit(callbacks, tmp_path, epochs=4)
    assert trainer.current_epoch == 4
    assert list(rows(tmp_path)) == [0, 2, 3]
    with pytest.raises(RuntimeError, match="no room"):
        fit(NeuralCollapseCallback(strict=True), tmp_path / "strict")


def test_the_data_of_a_validation_that_comes_later(tmp_path):
    callback = NeuralCollapseCallback(loader="val")
    module, _, _ = fit(callback, tmp_path, epochs=2, num_sanity_val_steps=0, check_val_every_n_epoch=2)
    assert list(rows(tmp_path)) == [0, 1]
    assert rows(tmp_path)[1] == expected_of(module, OTHER)


@pytest.mark.parametrize(("precision", "dtype"), [("bf16-true", torch.bfloat16), ("64-true", torch.float64)])
def test_inputs_take_the_precision_of_the_module(precision, dtype, tmp_path):
    module, _, _ = fit(NeuralCollapseCallback(keys=["nc1"]), tmp_path, epochs=1, precision=precision)
    with torch.no_grad():
        features = module.network[:-1].eval()(X.to(dtype))
    expected = measure(features, Y, module.network[3].weight)["nc1"]
    assert rows(tmp_path)[0]["nc/nc1"] == pytest.approx(expected, rel=1e-3)


class Stream(IterableDataset):
    """The samples again and again, without an end."""

    def __iter__(self):
        while True:
            yield from DATA


@pytest.mark.parametrize("options", [{"max_steps": 9}, {"max_epochs": 1, "limit_train_batches": 9}])
def test_data_without_an_end_are_measured_as_far_as_they_are_trained_on(options, tmp_path):
    callback, quiet = NeuralCollapseCallback(), dict.fromkeys(("enable_progress_bar", "enable_model_summary"), False)
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=callback, **quiet, **options
    )
    trainer.fit(Module(), DataLoader(Stream(), batch_size=4))
    assert callback.measurement.class_counts == (12, 12, 12)  # 33 samples, and 3 of the second round


BROKEN = {
    "a monitor": ({"monitor": "nc/nc_1"}, "a monitor goes by 'nc/nc_1', which is not measured .did you mean 'nc1'"),
    "a monitor of what is not measured": ({"monitor": "nc/loss"}, "a monitor goes by 'nc/loss', which is not measured"),
    "a part": ({"model": "nework"}, "the module has no part 'nework' .did you mean 'network'"),
    "a head": ({"head": "classifier"}, "classifier"),
    "what can be read once": ({"loader": iter([(X, Y)])}, r"an iterator \(list_iterator\) that can be read once"),
    "a key": ({"keys": ["loss"]}, "key 'loss' is not measured with these options; pass weight_decay="),
    "weights": ({"weighting": "sample"}, "weighting must be one of classes, samples, got 'sample'"),
    "samples of no class": (
        {"ood": [(X[:, :5], Y)]},
        "ood: the model does not take these inputs .mat1 and mat2 shapes",
    ),
    "a file": ({"save_features": "no/such.safetensors"}, "no/such.safetensors, and there is no such folder"),
    "a subset": ({"subset": 2, "loader": DataLoader(Stream())}, "does not have its labels at hand"),
    "a class": ({"loader": [(X, Y + 1)]}, "label 3 of sample 2 is out of range"),
}


@pytest.mark.parametrize(("options", "message"), BROKEN.values(), ids=BROKEN)
def test_what_one_batch_shows_is_an_error_before_the_training(options, message, tmp_path):
    module = Module()
    before = module.network[0].weight.clone()
    monitor = options.get("monitor", "val_loss")
    callbacks = [NeuralCollapseCallback(**{k: v for k, v in options.items() if k != "monitor"}), EarlyStopping(monitor)]
    with pytest.raises((ValueError, RuntimeError), match=message):
        fit(callbacks, tmp_path, module=module)
    assert torch.equal(module.network[0].weight, before)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"loader": "test"}, ValueError, "loader must be 'train', 'val' or a loader, got 'test'"),
        ({"every_k_epochs": 0}, ValueError, "measure every 1 or more epochs, got 0"),
        ({"keys": ["nc1", "nc9"]}, ValueError, "there is no key 'nc9' .did you mean 'nc"),
        ({"keys": "nc1"}, TypeError, r"keys must be a sequence of keys, got 'nc1'; write \['nc1'\]"),
        ({"every_k_epochs": 2.5}, TypeError, "every_k_epochs must be an integer, got 2.5 of type float"),
        ({"prefix": None}, TypeError, "prefix must be a string, got None"),
        ({"token": "first"}, TypeError, "there is no option 'token' .did you mean 'tokens'.*see measure_model"),
    ],
)
def test_bad_arguments_are_named_before_training(options, error, message):
    with pytest.raises(error, match=message):
        NeuralCollapseCallback(**options)


def test_a_loader_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="the trainer has no loader under 'val'; pass loader= the one to measure"):
        fit(NeuralCollapseCallback(loader="val"), tmp_path, val=None)


def test_options_are_those_of_measure_model_and_keys_those_of_the_table():
    options = {"strategy": "stream", "tokens": "first", "autocast_dtype": torch.bfloat16}
    assert NeuralCollapseCallback(keys=list(METRICS), **options).measurement is None


@pytest.mark.slow
def test_two_processes_measure_as_one(tmp_path):
    """Real DistributedDataParallel over gloo, 33 samples that two do not divide."""
    script = """
        import sys
        import warnings
        from tests.integrations.test_lightning import *

        def run():
            warnings.simplefilter("ignore")
            callback = NeuralCollapseCallback(vci=True)
            module, trainer, _ = fit(callback, sys.argv[1], strategy="ddp", devices=2, epochs=2)
            alone = measure_model(module, DataLoader(DATA, batch_size=4), together=False, vci=True)
            assert dict(callback.measurement) == pytest.approx(dict(alone), rel=1e-5, abs=1e-6)
            assert callback.measurement.class_counts == (11, 11, 11)
            assert trainer.callback_metrics["nc/nc1"].item() == pytest.approx(alone["nc1"], rel=1e-5)
            assert trainer.world_size == 2
            print("process", trainer.global_rank, "ended well", flush=True)

        if __name__ == "__main__":
            run()
        """
    assert run_script(script, tmp_path).count("ended well") == 2
    assert list(rows(tmp_path)) == [0, 1]
