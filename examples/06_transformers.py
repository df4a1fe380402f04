"""Neural collapse in the log of a Trainer of Transformers, by one callback, for a small BERT that starts at random.

The task is made up, so nothing is downloaded: which of the class's words does a sentence have the most of?
"""

import argparse
import tempfile

import torch
from torch.utils.data import Dataset
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments, set_seed

from neurocollapse.integrations.transformers import NeuralCollapseCallback

C, words_per_class, length = 3, 5, 8


class Sentences(Dataset):
    def __init__(self, samples: int):
        self.labels = torch.arange(samples) % C
        own = self.labels[:, None] * words_per_class + torch.randint(words_per_class, (samples, length))
        anything = torch.randint(C * words_per_class, (samples, length))
        self.ids = torch.where(torch.rand(samples, length) < 0.6, own, anything)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.ids[i], "attention_mask": torch.ones(length).long(), "labels": self.labels[i]}


def main(samples: int, epochs: int, every: int) -> None:
    set_seed(0)
    config = BertConfig(
        vocab_size=C * words_per_class,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=length,
        num_labels=C,
    )
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            num_train_epochs=epochs,
            per_device_train_batch_size=16,
            learning_rate=1e-3,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            dataloader_pin_memory=False,
            disable_tqdm=True,
        )
        trainer = Trainer(BertForSequenceClassification(config), arguments, train_dataset=Sentences(samples))
        callback = NeuralCollapseCallback(every, keys=["nc1", "nc2_etf", "nc3", "nc4", "accuracy"]).attach(trainer)
        trainer.train()

    print("\nFrom the trainer's own history:")
    for entry in trainer.state.log_history:
        if "nc/nc1" in entry:
            numbers = "  ".join(f"{key} {value:8.4f}" for key, value in entry.items() if key.startswith("nc/"))
            print(f"epoch {entry['epoch']:3.0f}  {numbers}")
    print(f"The head's input has {callback.measurement.num_features} features.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=240)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--every", type=int, default=3, help="measure after so many epochs")
    options = parser.parse_args()
    main(options.samples, options.epochs, options.every)
