"""The callback of Lightning, in real trainers: the numbers of `measure_model`, in their loggers, and no trace."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from neurocollapse import METRICS, measure_model
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


def test_a_checkpoint_may_go_by_a_number(tmp_path):
    checkpoint = ModelCheckpoint(tmp_path / "best", monitor="nc/nc1", save_on_train_epoch_end=True)
    callbacks = [NeuralCollapseCallback(keys=["nc1"]), checkpoint]
    fit(callbacks, tmp_path, enable_checkpointing=True)
    assert checkpoint.best_model_score.item() == pytest.approx(min(v["nc/nc1"] for v in rows(tmp_path).values()))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"loader": "test"}, ValueError, "loader must be 'train', 'val' or a loader, got 'test'"),
        ({"every_k_epochs": 0}, ValueError, "measure every 1 or more epochs, got 0"),
        ({"keys": ["nc1", "nc9"]}, ValueError, "there is no key 'nc9' .did you mean 'nc"),
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
