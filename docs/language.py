"""Trains a small GPT-2 on Python's own reference manual and measures its collapse: python docs/language.py [--steps N].

The text is `pydoc_data.topics`, which comes with Python; the tokens are those of a byte-pair encoding of it. Writes
docs/language.jsonl, a line for each measurement, and draws docs/language.png and docs/language-histograms.png from it.
"""

import argparse
import json
import math
import pydoc_data.topics
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel

import neurocollapse as nc

HERE = Path(__file__).parent
VOCABULARY, LENGTH, WIDTH, BATCH, RATE = 1000, 128, 128, 16, 1e-3
LEAST = 10  # tokens of a class that is measured
GROUPS = ("rarest quarter", "second", "third", "most frequent quarter")
#: The bins of the histograms over tokens and over pairs of tokens.
BINS = {
    "log₁₀ of variance / ‖μ_c − μ_G‖², tokens": np.linspace(-1.5, 2.5, 41),
    "cosine of W^c and μ_c − μ_G, tokens": np.linspace(-1, 1, 41),
    "log₁₀ CDNV, pairs": np.linspace(-1, 2.5, 41),
    "cosine of μ_c − μ_G and μ_c' − μ_G, pairs": np.linspace(-1, 1, 41),
}


def tokens() -> torch.Tensor:
    """The text as rows of LENGTH tokens."""
    text = "\n".join(topic for _, topic in sorted(pydoc_data.topics.topics.items()))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    tokenizer.train_from_iterator([text], trainers.BpeTrainer(vocab_size=VOCABULARY, show_progress=False))
    read = torch.tensor(tokenizer.encode(text).ids)
    return read[: len(read) // LENGTH * LENGTH].view(-1, LENGTH)


def measured(model: GPT2LMHeadModel, rows: torch.Tensor) -> dict[str, Any]:
    """The collapse of the features before the head, with the vocabulary as classes, on the training text."""
    following = rows.roll(-1, dims=1)
    following[:, -1] = -100
    batches = [{"input_ids": x, "labels": y} for x, y in zip(rows.split(64), following.split(64), strict=True)]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "features.safetensors"
        choice: dict[str, Any] = {"absent": "leave_out", "min_per_class": LEAST}
        m = nc.measure_model(model, batches, save_features=path, vci=False, **choice)
        kept = load_file(path)
        table = nc.class_table(kept["features"], kept["labels"], kept["weight"], **choice)
        pairs = nc.pair_table(kept["features"], kept["labels"], pairs=20_000, **choice)
    order = np.argsort(table["count"].to_numpy(), kind="stable")
    spread = (table["variance"] / table["mean_norm"] ** 2).to_numpy()
    shown = (np.log10(spread), table["alignment"], np.log10(pairs["cdnv"]), pairs["cosine"])
    return {
        **{
            key: m[key]
            for key in ("nc1", "nc1_cdnv", "nc2_uniformity", "nc2_uniformity_spread", "nc3", "nc4", "accuracy")
        },
        "classes": len(table),
        "alignment": table["alignment"].mean(),
        "alignment_spread": table["alignment"].std(ddof=0),
        "cdnv_error": pairs["cdnv"].sem(),
        "spread_by_count": {
            name: float(np.median(spread[part])) for name, part in zip(GROUPS, np.array_split(order, 4), strict=True)
        },
        "histograms": [
            np.histogram(np.clip(values, bins[0], bins[-1]), bins)[0].tolist()
            for values, bins in zip(shown, BINS.values(), strict=True)
        ],
    }


def train(steps: int, width: int, seed: int) -> list[dict[str, Any]]:
    """Trains and measures at the start and at powers of two."""
    rows = tokens()
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=LENGTH, n_embd=width, n_layer=2, n_head=4, tie_word_embeddings=False
    )
    model = GPT2LMHeadModel(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    lines, recent = [], math.nan
    for step in range(steps + 1):
        if step == steps or step & (step - 1) == 0:
            lines.append(
                {
                    "step": step,
                    "width": width,
                    "seed": seed,
                    "loss": None if math.isnan(recent) else recent,
                    **measured(model.eval(), rows),
                }
            )
            print(json.dumps(lines[-1]), flush=True)
        if step == steps:
            return lines
        batch = rows[torch.randint(len(rows), (BATCH,))]
        loss = model.train()(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        recent = loss.item() if math.isnan(recent) else 0.9 * recent + 0.1 * loss.item()
    raise AssertionError


def draw(lines: list[dict[str, Any]]) -> Figure:
    """Five measures over the steps for each width, and NC1 of four groups of tokens by their count."""
    figure = Figure(figsize=(10.5, 5.6), layout="constrained")
    panels = figure.subplots(2, 3).flat
    widths = sorted({line["width"] for line in lines})
    named = {
        "nc1_cdnv": "CDNV (NC1)",
        "nc2_uniformity_spread": "spread of log inverse distances (GNC2)",
        "alignment": "mean cosine of row and mean (NC3)",
        "alignment_spread": "its spread over tokens (UNC3)",
        "nc4": "NC4, nearest mean disagrees",
    }
    for axes, (key, title) in zip(panels, named.items(), strict=False):
        for width in widths:
            told = [line for line in lines if line["width"] == width]
            axes.plot(
                [line["step"] + 1 for line in told], [line[key] for line in told], "o-", ms=3, label=f"width {width}"
            )
        axes.set(title=title, xscale="log", xlabel="step + 1")
        axes.legend(frameon=False, fontsize=8)
    axes = figure.axes[5]
    told = [line for line in lines if line["width"] == widths[-1]]
    for name in GROUPS:
        axes.plot(
            [line["step"] + 1 for line in told],
            [line["spread_by_count"][name] for line in told],
            "o-",
            ms=3,
            label=name,
        )
    axes.set(title=f"variance / ‖μ_c − μ_G‖², width {widths[-1]}", xscale="log", yscale="log", xlabel="step + 1")
    axes.legend(frameon=False, fontsize=8)
    return figure


def draw_histograms(lines: list[dict[str, Any]]) -> Figure:
    """Over tokens and over pairs, at the start, in the middle and at the end, for the widest model."""
    widest = max(line["width"] for line in lines)
    told = [line for line in lines if line["width"] == widest]
    figure = Figure(figsize=(10.5, 5.6), layout="constrained")
    for number, (axes, (title, bins)) in enumerate(zip(figure.subplots(2, 2).flat, BINS.items(), strict=True)):
        for line in (told[0], told[len(told) // 2], told[-1]):
            counts = np.array(line["histograms"][number])
            axes.stairs(counts / counts.sum(), bins, label=f"step {line['step']}")
        axes.set(title=title, ylabel="share")
        axes.legend(frameon=False, fontsize=8)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1024)
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    lines = [line for width in options.widths for line in train(options.steps, width, seed=0)]
    (options.out / "language.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    draw(lines).savefig(options.out / "language.png", dpi=110)
    draw_histograms(lines).savefig(options.out / "language-histograms.png", dpi=110)


if __name__ == "__main__":
    main()
