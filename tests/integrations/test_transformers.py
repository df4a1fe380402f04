"""The callback of Transformers, in real trainers: the numbers of `measure_model`, in their log, and no trace."""

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from neurocollapse import Recorder, measure_model, runs
from neurocollapse._errors import CaptureWarning
from neurocollapse.integrations import loops
from neurocollapse.integrations.transformers import NeuralCollapseCallback
from tests.integrations.scripts import run_script

pytestmark = [pytest.mark.filterwarnings("ignore:.*pin_memory.* argument is set as true but no accelerator is found")]

N, C = 26, 2
IDS = torch.randint(1, 20, (N, 6), generator=torch.Generator().manual_seed(0))


class Sentences(Dataset):
    def __init__(self, ids):
        self.ids, self.labels = ids, torch.arange(len(ids)) % C

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, i):
        return {"input_ids": self.ids[i], "attention_mask": torch.ones(6).long(), "labels": self.labels[i]}


TRAIN, EVAL = Sentences(IDS), Sentences(IDS.flip(1))


def bert():
    set_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return BertForSequenceClassification(BertConfig(vocab_size=20, num_labels=C, max_position_embeddings=8, **sizes))


def trainer_in(folder, epochs=3, train=TRAIN, evaluate=EVAL, **options):
    arguments = TrainingArguments(
        str(folder),
        num_train_epochs=epochs,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        seed=3,
        **{"save_strategy": "no", **options},
    )
    return Trainer(bert(), arguments, train_dataset=train, eval_dataset=evaluate)


def logged(trainer):
    """{epoch: {name: number}} of what was logged under nc/."""
    found = {}
    for entry in trainer.state.log_history:
        values = {name: value for name, value in entry.items() if name.startswith("nc/")}
        if values:
            found[round(entry["epoch"])] = values
    return found


def expected_of(trainer, data, **options):
    measured = measure_model(trainer.model, DataLoader(data, batch_size=4), **options)
    return {f"nc/{key}": pytest.approx(value, rel=1e-5, abs=1e-6) for key, value in measured.items()}


@pytest.mark.parametrize(("loader", "data"), [("train", TRAIN), ("eval", EVAL), (DataLoader(EVAL, batch_size=7), EVAL)])
def test_the_numbers_of_the_model_in_the_trainers_log(loader, data, tmp_path):
    trainer = trainer_in(tmp_path)
    callback = NeuralCollapseCallback(loader=loader).attach(trainer)
    trainer.train()
    assert logged(trainer)[3] == expected_of(trainer, data)
    assert callback.measurement.class_counts == (13, 13)
    assert callback.measurement.num_features == 8
    assert list(logged(trainer)) == [1, 2, 3]
    assert logged(trainer)[1]["nc/nc1"] != pytest.approx(logged(trainer)[3]["nc/nc1"], rel=1e-3)


def test_every_so_many_epochs_chosen_keys(tmp_path):
    trainer = trainer_in(tmp_path, epochs=5)
    NeuralCollapseCallback(2, keys=["nc1", "weight_norms"], weight_decay=0.1, subset=5).attach(trainer)
    trainer.train()
    assert list(logged(trainer)) == [2, 4]
    names = set(logged(trainer)[2])
    assert {"nc/nc1", "nc/weight_norms.0"} < names
    assert all(name == "nc/nc1" or name.startswith("nc/weight_norms.") for name in names)


def test_at_evaluation(tmp_path):
    trainer = trainer_in(tmp_path, eval_strategy="steps", eval_steps=7)
    NeuralCollapseCallback(None, "eval", keys=["nc1"]).attach(trainer)
    trainer.train()
    steps = [entry["step"] for entry in trainer.state.log_history if "nc/nc1" in entry]
    assert steps == [entry["step"] for entry in trainer.state.log_history if "eval_loss" in entry] == [7, 14, 21]
    trainer.evaluate()
    assert trainer.state.log_history[-1]["nc/nc1"] == expected_of(trainer, EVAL)["nc/nc1"]


@pytest.mark.parametrize(
    ("callback", "options", "epochs"),
    [
        ({}, {}, [1, 2, 3]),
        ({"every_k_epochs": None, "loader": "eval"}, {"eval_strategy": "steps", "eval_steps": 4}, [1, 2, 3]),
    ],
)
def test_a_run_is_recorded(tmp_path, callback, options, epochs):
    trainer = trainer_in(tmp_path, **options)
    callback = NeuralCollapseCallback(**callback, recorder=Recorder(tmp_path / "run")).attach(trainer)
    trainer.train()
    last = callback.measurement["nc3"]
    trainer.evaluate()
    frame = runs(tmp_path / "run")
    assert (frame["epoch"].tolist(), set(frame["status"])) == (epochs, {"finished"})
    assert frame["train.nc3"].iloc[-1] == last


class Stream(IterableDataset):
    def __init__(self, rounds):
        self.rounds = rounds

    def __iter__(self):
        for _ in range(self.rounds):
            yield from (TRAIN[i] for i in range(N))


class Columns(Sentences):
    def __getitem__(self, i):
        return self.labels.tolist() if i == "labels" else super().__getitem__(i)


@pytest.mark.parametrize(("rounds", "steps", "measured"), [(1, 14, [7, 14]), (10**9, 13, [13])])
def test_data_without_a_length_or_an_end(rounds, steps, measured, tmp_path):
    trainer = trainer_in(tmp_path, train=Stream(rounds), max_steps=steps)
    callback = NeuralCollapseCallback(keys=["nc1"]).attach(trainer)
    trainer.train()
    assert [entry["step"] for entry in trainer.state.log_history if "nc/nc1" in entry] == measured
    assert callback.measurement.class_counts == (26, 26) if rounds > 1 else (13, 13)


def test_a_subset_of_a_stream_is_refused_by_the_name_of_the_data(tmp_path):
    trainer = trainer_in(tmp_path, train=Stream(1), max_steps=14)
    NeuralCollapseCallback(subset=2).attach(trainer)
    with pytest.raises(ValueError, match=r"Stream does not have its labels at hand, .* pass max_per_class= in place"):
        trainer.train()


def test_every_second_epoch_of_data_without_a_length(tmp_path):
    trainer = trainer_in(tmp_path, train=Stream(1), max_steps=21)
    NeuralCollapseCallback(2, keys=["nc1"]).attach(trainer)
    trainer.train()
    assert [entry["step"] for entry in trainer.state.log_history if "nc/nc1" in entry] == [14]


def test_a_subset_of_data_with_columns(tmp_path):
    trainer = trainer_in(tmp_path, epochs=1, train=Columns(IDS))
    callback = NeuralCollapseCallback(subset=4, keys=["nc1"]).attach(trainer)
    trainer.train()
    assert callback.measurement.class_counts == (4, 4)


BEST = {"save_strategy": "steps", "load_best_model_at_end": True, "metric_for_best_model": "nc/nc1"}
BEST |= {"greater_is_better": False, "eval_strategy": "steps", "eval_steps": 7, "save_steps": 7}


@pytest.mark.parametrize("every", [None, 1, 2])
def test_the_best_model_may_be_that_of_a_number(every, tmp_path):
    trainer = trainer_in(tmp_path, **BEST)
    trainer.add_callback(EarlyStoppingCallback(1))
    NeuralCollapseCallback(every, "eval", keys=["nc1"]).attach(trainer)
    trainer.train()
    numbers = {entry["step"]: entry["nc/nc1"] for entry in trainer.state.log_history if "nc/nc1" in entry}
    assert trainer.state.best_global_step == min(numbers, key=numbers.get)
    assert trainer.state.best_metric == min(numbers.values())
    assert trainer.state.global_step == 14  # where the number is worse for the first time


def test_a_failure_is_a_warning_and_a_missing_number_or_strict_an_error(tmp_path, monkeypatch):
    calls = iter(range(99))

    def measured(*args, **options):
        if next(calls) != 1:
            raise RuntimeError("no room\nhere")
        return measure_model(*args, **options)

    monkeypatch.setattr(loops, "measure_model", measured)
    trainer = trainer_in(tmp_path, **BEST)
    NeuralCollapseCallback(None, "eval", keys=["nc1"]).attach(trainer)
    with pytest.warns(CaptureWarning, match=r"not measured, .* \(RuntimeError: no room here\).* pass strict=True"):
        trainer.train()
    assert trainer.state.global_step == 21
    assert trainer.state.best_global_step == 14
    trainer = trainer_in(tmp_path)
    NeuralCollapseCallback(strict=True).attach(trainer)
    with pytest.raises(RuntimeError, match="no room"):
        trainer.train()


def test_an_evaluation_of_other_data_has_their_numbers(tmp_path):
    trainer = trainer_in(tmp_path)
    NeuralCollapseCallback(None, "eval", keys=["nc1"]).attach(trainer)
    for given, prefix in (({"a": TRAIN, "b": EVAL}, "eval"), ({"a": EVAL, "b": TRAIN}, "test")):
        values = trainer.evaluate(given, metric_key_prefix=prefix)
        for name, data in given.items():
            assert values[f"{prefix}_{name}_nc/nc1"] == expected_of(trainer, data)["nc/nc1"]


def test_the_losses_are_logged_as_without(tmp_path):
    """Not even where a batch is read within an epoch, or where the trainer logs at the end of one."""
    options = {"train": Stream(1), "max_steps": 9, "gradient_accumulation_steps": 2, "eval_steps": 2}
    losses = []
    for measures in (False, True):
        trainer = trainer_in(tmp_path, eval_strategy="steps", logging_strategy="epoch", **options)
        if measures:
            NeuralCollapseCallback(None, keys=["nc1"]).attach(trainer)
            NeuralCollapseCallback(keys=["nc1"]).attach(trainer)
        trainer.train()
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert losses[0] == losses[1]
    assert len(losses[0]) == 3


def test_a_resumed_training_counts_its_epochs_on(tmp_path):
    for epochs, resumed in ((1, False), (4, True)):
        trainer = trainer_in(tmp_path, epochs=epochs, save_strategy="epoch")
        NeuralCollapseCallback(2, keys=["nc1"]).attach(trainer)
        trainer.train(resume_from_checkpoint=resumed)
    assert list(logged(trainer)) == [2, 4]


def test_other_callbacks_see_the_numbers(tmp_path):
    class Reporter(TrainerCallback):
        seen = 0

        def on_log(self, args, state, control, logs=None, **kwargs):
            self.seen += "nc/nc1" in logs

    trainer, reporter = trainer_in(tmp_path, epochs=2), Reporter()
    trainer.add_callback(reporter)
    NeuralCollapseCallback().attach(trainer)
    trainer.train()
    assert reporter.seen == 2


def test_training_is_the_same_with_and_without(tmp_path):
    models = []
    for callbacks in ([], [NeuralCollapseCallback(), NeuralCollapseCallback(loader="eval")]):
        trainer = trainer_in(tmp_path, epochs=2)
        for callback in callbacks:
            callback.attach(trainer)
        trainer.train()
        models.append(trainer.model)
    for first, second in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(first, second)


def test_a_callback_is_attached_once_or_says_that_it_is_not(tmp_path):
    trainer, callback = trainer_in(tmp_path, epochs=1), NeuralCollapseCallback()
    trainer.add_callback(callback)
    with pytest.raises(ValueError, match=r"does not know its trainer; call NeuralCollapseCallback\(...\).attach"):
        trainer.train()
    callback.attach(trainer).attach(trainer)
    trainer.train()
    assert sum("nc/nc1" in entry for entry in trainer.state.log_history) == 1


def test_bad_arguments_are_named_before_training(tmp_path):
    with pytest.raises(ValueError, match="loader must be 'train', 'eval' or a loader, got 'val'"):
        NeuralCollapseCallback(loader="val")
    trainer = trainer_in(tmp_path, **{**BEST, "metric_for_best_model": "nc/nc_1"})
    NeuralCollapseCallback().attach(trainer)
    with pytest.raises(ValueError, match=r"a monitor goes by 'nc/nc_1', which is not measured .did you mean 'nc1'"):
        trainer.train()
    trainer = trainer_in(tmp_path)
    trainer.eval_dataset = {"one": EVAL, "two": EVAL}
    NeuralCollapseCallback(loader="eval").attach(trainer)
    with pytest.raises(ValueError, match="has 2 data sets for evaluation; pass loader= one of them"):
        trainer.train()


@pytest.mark.slow
def test_two_processes_measure_as_one(tmp_path):
    """Real processes over gloo, as torchrun starts them."""
    script = """
        import sys
        from tests.integrations.test_transformers import *

        trainer = trainer_in(sys.argv[1], epochs=2)
        callbacks = [NeuralCollapseCallback(loader=loader).attach(trainer) for loader in ("train", "eval")]
        trainer.train()
        assert torch.distributed.get_world_size() == 2
        for callback, data in zip(callbacks, (TRAIN, EVAL)):
            alone = measure_model(trainer.model, DataLoader(data, batch_size=4), together=False)
            assert dict(callback.measurement) == pytest.approx(dict(alone), rel=1e-5, abs=1e-6)
            assert callback.measurement.class_counts == (13, 13)
        assert list(logged(trainer)) == [1, 2]
        print("process", torch.distributed.get_rank(), "ended well", flush=True)
        torch.distributed.destroy_process_group()
        """
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    assert run_script(script, tmp_path, *launcher).count("ended well") == 2
