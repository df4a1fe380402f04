import runpy
from itertools import combinations
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.text import Text

from neurocollapse.reports import PANELS, collapse_figure, layers_figure, save_figure

#: Those of the pages alone, which are drawn from a script beside them.
DOCS = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "figures.py"))
trade_off_figure, theory_figure, minority_figure, starts_figure, finding_figure = (
    DOCS[f"{name}_figure"] for name in ("trade_off", "theory", "minority", "starts", "finding")
)


def records(weight_decays=(0.0, 5e-4, 1e-3), seeds=3, last_epoch=200, network="convnet", per_decade=8):
    """A frame that behaves as real runs do: decay brings collapse, the loss stops at a level set by λ, NC4 hits 0."""
    epochs = np.unique(np.geomspace(1, last_epoch + 1, 2 + int(per_decade * np.log10(last_epoch + 1))).astype(int)) - 1
    return pd.concat(
        [run(weight_decay, seed, epochs, network) for weight_decay in weight_decays for seed in range(seeds)],
        ignore_index=True,
    )


def run(weight_decay, seed, epochs, network="convnet"):
    rng = np.random.default_rng([seed, round(weight_decay * 1e7)])
    speed = 1 + 0.15 * rng.standard_normal()
    fall = 1 / (1 + (speed * epochs / 6) ** 1.5)
    wobble = np.exp(0.05 * rng.standard_normal(len(epochs)))
    level = 0.03 * (weight_decay / 5e-4) ** 0.5 if weight_decay else 0
    collapsed = 0.004 * (2e-4 / weight_decay) if weight_decay else 0.08
    nc4 = np.round(0.7 * fall**2 * wobble, 3)
    accuracy = 1 - np.where(epochs > 25 / speed, 0, np.round(0.9 * fall, 3))
    perfect = np.cumsum(accuracy[::-1] < 1)[::-1] == 0
    start = float(epochs[perfect][0]) if perfect.any() else np.nan
    metrics = {
        "loss_data": (0.5 * fall**1.5 + 0.5 * level**2 + 1e-4) * wobble,
        "nc1": (25 * fall + 10 * collapsed) * wobble,
        "nc2_norm_variance": (8 * fall**1.3 * np.exp(-2000 * weight_decay) + collapsed**2) * wobble,
        "nc2_equinorm": (0.3 * fall**0.5 + collapsed) * wobble,
        "nc2_cosine": (0.25 * fall**0.6 + collapsed) * wobble,
        "nc3": 1.41 * fall**0.5 + (0.33 if weight_decay else 0.6) * (1 - fall) * wobble,
        "nc4": nc4,
        "accuracy": accuracy,
    }
    columns = {f"train.{key}": values for key, values in metrics.items()}
    columns |= {f"test.{key}": 1.3 * values for key, values in metrics.items()}
    terminal = np.where(epochs >= (start if np.isfinite(start) else np.inf), start, np.nan)
    run_id = f"{network}-{weight_decay:g}-{seed}"
    settings = {"run_id": run_id, "dataset": "mnist5k", "network": network, "weight_decay": weight_decay, "seed": seed}
    return pd.DataFrame(settings | {"num_classes": 10, "epoch": epochs, "terminal_phase_start": terminal} | columns)


def panel(figure, name):
    return next(axes for axes in figure.axes if axes.get_title(loc="left").startswith(name))


def line(axes, weight_decay_label):
    return next(line for line in axes.lines if line.get_label() == weight_decay_label)


def legend_texts(figure):
    legends = [legend for axes in figure.axes for legend in axes.findobj(Legend)] + figure.legends
    return [text.get_text() for legend in legends for text in legend.get_texts()]


def draw(figure):
    """Drawing is where text that cannot be set, or a scale that cannot hold a value, comes to light."""
    figure.canvas.draw()


def with_values(frame, column, run_id, values):
    frame = frame.copy()
    frame.loc[frame["run_id"] == run_id, column] = values
    return frame


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_panel_shows_the_medians_of_its_column(split):
    frame = records()
    figure = collapse_figure(frame, split=split)
    assert len(figure.axes) == 8
    for axes, key in zip(figure.axes, [key for key in PANELS if key != "cross_entropy"], strict=False):
        assert axes.get_title(loc="left") == PANELS[key][0]
        for weight_decay, label in ((0.0, "0"), (5e-4, r"$5\cdot10^{-4}$"), (1e-3, "$10^{-3}$")):
            expected = frame[frame["weight_decay"] == weight_decay].groupby("epoch")[f"{split}.{key}"]
            np.testing.assert_array_equal(line(axes, label).get_xdata(), sorted(set(frame["epoch"])))
            np.testing.assert_allclose(line(axes, label).get_ydata(), expected.median())


def test_the_band_goes_from_the_least_to_the_greatest_seed():
    frame = records(weight_decays=[1e-3])
    (band,) = panel(collapse_figure(frame), "NC1").collections
    seeds = frame.groupby("epoch")["train.nc1"]
    corners = band.get_paths()[0].vertices
    for epoch, least, greatest in zip(sorted(set(frame["epoch"])), seeds.min(), seeds.max(), strict=True):
        at_epoch = corners[corners[:, 0] == epoch, 1]
        np.testing.assert_allclose([at_epoch.min(), at_epoch.max()], [least, greatest])


def test_one_seed_is_a_plain_line_of_its_records():
    frame = records(weight_decays=[1e-3], seeds=1)
    figure = collapse_figure(frame)
    assert not panel(figure, "NC1").collections
    np.testing.assert_array_equal(line(panel(figure, "NC1"), "$10^{-3}$").get_ydata(), frame["train.nc1"])
    assert not any("seeds" in text for text in legend_texts(figure))
    assert line(panel(collapse_figure(records(last_epoch=0)), "NC1"), "0").get_marker() == "o"  # a single record


@pytest.mark.parametrize(
    ("drawn", "asked", "colours"),
    [
        ((0.0, 5e-4, 1e-3), (), {"0": "#009E73", r"$5\cdot10^{-4}$": "#E69F00", "$10^{-3}$": "#0072B2"}),
        ((1e-3,), (), {"$10^{-3}$": "#E69F00"}),
        ((0.0, 1e-3), (0.0, 5e-4, 1e-3), {"0": "#009E73", "$10^{-3}$": "#0072B2"}),  # though another's runs are missing
    ],
)
def test_zero_is_green_and_every_other_weight_decay_keeps_its_colour(drawn, asked, colours):
    figure = collapse_figure(records(drawn, seeds=1), weight_decays=asked)
    assert {label: line(panel(figure, "NC1"), label).get_color() for label in colours} == colours
    assert (r"$5\cdot10^{-4}$" in legend_texts(figure)) == (5e-4 in drawn)


def test_no_two_of_many_weight_decays_look_alike():
    weight_decays = [0, *np.geomspace(1e-6, 1, 11)]
    axes = panel(collapse_figure(records(weight_decays, seeds=1, last_epoch=2)), "NC1")
    trajectories = [line for line in axes.lines if len(line.get_xdata()) > 1]
    looks = {(line.get_color(), str(line._unscaled_dash_pattern)) for line in trajectories}
    assert len(looks) == len(trajectories) == 12


def test_runs_recorded_at_different_epochs_are_interpolated_before_the_median():
    one, other = (run(1e-3, seed, np.array(epochs)) for seed, epochs in ((0, [0, 2, 4]), (1, [0, 4])))
    one["train.nc1"], other["train.nc1"] = [8.0, 6.0, 1.0], [6.0, 2.0]
    drawn = line(panel(collapse_figure(pd.concat([one, other])), "NC1"), "$10^{-3}$")
    np.testing.assert_array_equal(drawn.get_xdata(), [0, 2, 4])
    np.testing.assert_array_equal(drawn.get_ydata(), [7.0, 5.0, 1.5])


def test_points_that_are_not_finite_are_skipped():
    frame = records(weight_decays=[1e-3], seeds=1, last_epoch=4)
    values = frame["train.nc1"].to_numpy(copy=True)
    values[0], values[2] = np.inf, np.nan
    figure = collapse_figure(frame.assign(**{"train.nc1": values, "train.nc3": np.nan}))
    drawn = line(panel(figure, "NC1"), "$10^{-3}$")
    np.testing.assert_array_equal(drawn.get_ydata(), values[np.isfinite(values)])
    assert np.isfinite(panel(figure, "NC1").get_ylim()).all()
    assert "no finite value" in [text.get_text() for text in panel(figure, "NC3").texts]
    draw(figure)


def test_zeros_stay_in_sight_on_a_logarithmic_axis():
    frame = records(weight_decays=[0.0], seeds=1)
    assert (frame["train.nc4"] == 0).any()
    axes = panel(collapse_figure(frame), "NC4")
    assert axes.get_yscale() == "symlog"
    assert axes.get_ylim()[0] < 0
    labels = {tick: label.get_text() for tick, label in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)}
    assert labels[0.0] == "0"
    all_zero = collapse_figure(frame.iloc[:2].assign(**{"train.nc4": 0.0}))
    assert panel(all_zero, "NC4").get_ylim()[0] < 0


@pytest.mark.parametrize(("values", "scale"), [((2, 1), "linear"), ((1, 1e-4), "log"), ((1, 1e-4, 0), "symlog")])
def test_the_axis_follows_the_range_of_the_values(values, scale):
    frame = records(weight_decays=[1e-3], seeds=1, last_epoch=2)
    values = np.resize(np.array(values, dtype=float), len(frame))
    assert panel(collapse_figure(frame.assign(**{"train.nc1": values})), "NC1").get_yscale() == scale


def test_a_run_that_ends_early_is_marked_and_leaves_the_others_their_line():
    frame = records([0.0, 1e-3], seeds=2, last_epoch=30)
    assert "a run’s last finite record" not in legend_texts(collapse_figure(frame))
    frame = frame[(frame["run_id"] != "convnet-0.001-1") | (frame["epoch"] < 20)]
    figure = collapse_figure(frame)
    assert "a run’s last finite record" in legend_texts(figure)
    (cross,) = [line for line in panel(figure, "NC1").lines if line.get_marker() == "x"]
    ended = frame[frame["run_id"] == "convnet-0.001-1"].iloc[-1]
    assert (cross.get_xdata()[0], cross.get_ydata()[0]) == (ended["epoch"], ended["train.nc1"])
    other = frame[frame["run_id"] == "convnet-0.001-0"].iloc[-1]
    assert line(panel(figure, "NC1"), "$10^{-3}$").get_ydata()[-1] == other["train.nc1"]


def test_the_terminal_phase_is_marked_once_more_than_half_of_the_seeds_have_reached_it():
    def marks(starts):
        runs = [run(1e-3, seed, np.arange(10)).assign(terminal_phase_start=s) for seed, s in enumerate(starts)]
        figure = collapse_figure(pd.concat(runs).sample(frac=1, random_state=0))
        axes = panel(figure, "NC1")
        points = [line for line in axes.lines if line.get_label() == "training error is 0 from here"]
        assert ("training error is 0 from here" in legend_texts(figure)) == bool(points)
        medians = dict(zip(*line(axes, "$10^{-3}$").get_data(), strict=True))
        assert all(point.get_ydata()[0] == medians[point.get_xdata()[0]] for point in points)
        return [point.get_xdata()[0] for point in points]

    assert marks([3.0, 7.0, 5.0]) == [5.0]
    assert marks([3.0, np.nan, 5.0]) == [5.0]
    assert marks([np.nan, np.nan, 5.0]) == []


def test_nc3_has_its_reference_where_the_number_of_classes_is_known():
    def heights(frame):
        return [line.get_ydata()[0] for line in panel(collapse_figure(frame), "NC3").lines if line.get_linewidth() < 1]

    frame = records(seeds=1, last_epoch=2)
    assert heights(frame) == pytest.approx([0.3203645], abs=1e-7)
    assert heights(frame.assign(num_classes=4)) == pytest.approx([0.5176381], abs=1e-7)
    assert heights(frame.drop(columns="num_classes")) == []


@pytest.mark.parametrize("of_another_model", [{"loss": "cross_entropy"}, {"bias": "free"}], ids=str)
def test_nc3_has_no_reference_that_is_of_another_model(of_another_model):
    frame = records(seeds=1, last_epoch=2)
    same = collapse_figure(frame.assign(loss="square", bias="none"))
    other = collapse_figure(frame.assign(**{"train.cross_entropy": frame["train.loss_data"]} | of_another_model))
    for figure, lines in ((same, 1), (other, 0)):
        assert sum(line.get_linewidth() < 1 for line in panel(figure, "NC3").lines) == lines
        assert sum("bias-free" in text for text in legend_texts(figure)) == lines


def test_runs_on_the_cross_entropy_show_it_in_place_of_the_square_loss():
    frame = records().assign(loss="cross_entropy")
    frame["train.cross_entropy"] = 3 * frame["train.loss_data"]
    shown = panel(collapse_figure(frame), "Cross-entropy")
    expected = frame[frame["weight_decay"] == 0].groupby("epoch")["train.cross_entropy"].median()
    np.testing.assert_allclose(line(shown, "0").get_ydata(), expected)
    figure = trade_off_figure(frame)
    draw(figure)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert "Cross-entropy" in titles
    assert "Square loss" not in titles


@pytest.mark.parametrize("weight_decays", [[5e-4], [0, 1e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3]])
def test_no_text_is_cut_off_or_printed_over_another(weight_decays):
    frame = records(weight_decays, seeds=2)
    frame = frame[(frame["run_id"] != frame["run_id"].iloc[-1]) | (frame["epoch"] < 20)]
    figure = collapse_figure(frame, title=r"A $\title_of$ a file", note="A long note. " * 20)
    draw(figure)
    renderer = figure.canvas.get_renderer()
    hidden = {text for axis in (figure.axes[7].xaxis, figure.axes[7].yaxis) for text in axis.findobj(Text)}
    texts = [text for text in set(figure.findobj(Text)) - hidden if text.get_text() and text.get_visible()]
    assert len(texts) > 60
    # A hair's breadth less: the boxes of two lines of text touch.
    boxes = [(text.get_text(), text.get_window_extent(renderer).padded(-1)) for text in texts]
    overlaps = [(one[0], other[0]) for one, other in combinations(boxes, 2) if one[1].overlaps(other[1])]
    assert overlaps == []
    cut_off = [name for name, box in boxes if not (figure.bbox.contains(*box.min) and figure.bbox.contains(*box.max))]
    assert cut_off == []


def test_trade_off_shows_mean_and_deviation_of_the_last_records():
    frame = pd.concat([records(last_epoch=9), records(last_epoch=5, network="_my:mlp")], ignore_index=True)
    figure = trade_off_figure(frame.sample(frac=1, random_state=0))
    assert len(figure.axes) == 6
    last = frame[frame["epoch"] == frame.groupby("run_id")["epoch"].transform("max")]
    for network in ("convnet", "_my:mlp"):
        seeds = last[last["network"] == network].groupby("weight_decay")["train.nc1"]
        at_zero, above = (bars for bars in panel(figure, "NC1").containers if bars.get_label() == network)
        np.testing.assert_allclose(at_zero.lines[0].get_ydata().astype(float), seeds.mean()[[0.0]])
        np.testing.assert_allclose(above.lines[0].get_xdata().astype(float), [5e-4, 1e-3])
        np.testing.assert_allclose(above.lines[0].get_ydata().astype(float), seeds.mean()[[5e-4, 1e-3]])
        bars = above.lines[2][0].get_segments()
        np.testing.assert_allclose([bar[1, 1] - bar[0, 1] for bar in bars], 2 * seeds.std()[[5e-4, 1e-3]])
    assert {"convnet", "_my:mlp"} <= set(legend_texts(figure))
    draw(figure)


def test_trade_off_leaves_out_last_values_that_are_not_finite_and_says_so():
    frame = with_values(records(last_epoch=9), "train.nc1", "convnet-0.001-0", np.nan)
    figure = trade_off_figure(frame)
    above = panel(figure, "NC1").containers[1].lines[0]
    others = frame[frame["run_id"].isin(["convnet-0.001-1", "convnet-0.001-2"]) & (frame["epoch"] == 9)]
    np.testing.assert_allclose(above.get_ydata()[-1], others["train.nc1"].mean())
    assert "1 of 9 runs end with values that are not finite." in figure.get_supxlabel()
    assert "not finite" not in trade_off_figure(records(last_epoch=0)).get_supxlabel()


@pytest.mark.parametrize("weight_decays", [[0.0], [5e-4], [2e-4, 5e-4], [0.0, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3]])
def test_trade_off_places_every_weight_decay_and_zero_left_of_them(weight_decays):
    figure = trade_off_figure(records(weight_decays, seeds=1, last_epoch=2))
    axes = figure.axes[0]
    places = axes.transData.transform([(value, 1) for value in weight_decays])[:, 0]
    inside = (axes.bbox.x0 < places) & (places < axes.bbox.x1)
    assert inside.all()
    assert (np.diff(places) > 0).all()
    np.testing.assert_array_equal(axes.get_xticks(), weight_decays)
    assert axes.get_xticklabels()[0].get_text()


@pytest.mark.parametrize("figure_of", [collapse_figure, trade_off_figure])
def test_frames_that_cannot_be_drawn_are_refused_by_name(figure_of):
    frame = records(seeds=1, last_epoch=2)
    with pytest.raises(ValueError, match="the frame has no rows"):
        figure_of(frame.iloc[:0])
    for column in ("run_id", "epoch", "weight_decay", "seed", "train.nc3"):
        with pytest.raises(ValueError, match=f"no column {column};"):
            figure_of(frame.drop(columns=column))
    with pytest.raises(ValueError, match="run convnet-0-0 has more than one record of epoch 0"):
        figure_of(pd.concat([frame, frame]))
    other = frame.assign(run_id=frame["run_id"] + "-again", learning_rate=0.1)
    with pytest.raises(ValueError, match=r"convnet-0-0-again .*differ in learning_rate \(nan, 0.1\)"):
        figure_of(pd.concat([frame, other]))
    if figure_of is collapse_figure:  # two networks are no seeds of one
        with pytest.raises(ValueError, match=r"differ in network \(convnet, _my:mlp\)"):
            figure_of(pd.concat([frame, records(network="_my:mlp", last_epoch=2)]))


@pytest.mark.parametrize("figure_of", [collapse_figure, trade_off_figure])
def test_the_callers_frame_and_settings_are_left_alone(figure_of):
    frame = records(seeds=1, last_epoch=2).sample(frac=1, random_state=0)
    before, settings = frame.copy(), dict(matplotlib.rcParams)
    figure_of(frame)
    pd.testing.assert_frame_equal(frame, before)
    assert dict(matplotlib.rcParams) == settings


def test_saving_writes_three_files_and_equal_figures_give_equal_bytes(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    written = []
    for folder in (first, second):
        folder.mkdir()
        with matplotlib.rc_context({"text.color": "red", "font.size": 30} if folder is second else {}):
            written.append(save_figure(trade_off_figure(records([1e-3], seeds=2, last_epoch=5)), folder))
    assert written[0] == [first / f"figure.{suffix}" for suffix in ("png", "pdf", "svg")]
    for folder in (first, second):
        assert sorted(path.name for path in folder.iterdir()) == ["figure.pdf", "figure.png", "figure.svg"]
    for one, other in zip(*written, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert b"CreationDate" not in written[0][1].read_bytes()
    signatures = [path.read_bytes()[:5] for path in written[0]]
    assert signatures == [b"\x89PNG\r", b"%PDF-", b"<?xml"]


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    figure = Figure()
    save_figure(figure, tmp_path, "old")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    figure.text(0.5, 0.5, "new")

    def fail(*paths):
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="no space left"):
        save_figure(figure, tmp_path, "old")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


# Theory beside measurement


def test_the_theory_figure_shows_every_row_and_every_pair_of_layers():
    rows = pd.DataFrame(
        {"network": ["plain"] * 3 + ["free bias"] * 3, "predicted": [0.8] * 3 + [0.9] * 3, "measured": np.arange(6) / 6}
    )
    times = np.array([0.0, 1.0, 3.0])
    flow = pd.DataFrame({"time": times, "W_1": 5 + 0 * times, "W_2": 5 + 2 * np.exp(-times), "W_3": 5 + 0 * times})
    left, right = theory_figure(rows, flow, 0.5).axes
    points = {line.get_label(): line.get_xydata() for line in left.lines}
    np.testing.assert_allclose(points["plain"], rows[["predicted", "measured"]][:3])
    np.testing.assert_allclose(points["free bias"], rows[["predicted", "measured"]][3:])
    merging = {line.get_label(): line.get_ydata() for line in right.lines}
    np.testing.assert_allclose(merging["layers 2 and 1"], 2 * np.exp(-times))
    predictions = [line for line in right.lines if line.get_marker() == "None" and len(line.get_xdata())]
    np.testing.assert_allclose(predictions[0].get_ydata(), 2 * np.exp(-2 * 0.5 * times))
    assert right.get_yscale() == "log"


def test_the_minority_figure_shows_both_and_the_threshold(tmp_path):
    frame = pd.DataFrame({"size": [1, 5, 9], "found": [0.0, 0.3, 0.5], "closed_form": [0.0, 0.31, 0.5]})
    figure = minority_figure(frame, 2.5)
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert list(lines["closed form"].get_ydata()) == [0.0, 0.31, 0.5]
    assert list(lines["found from random starts"].get_ydata()) == [0.0, 0.3, 0.5]
    assert set(lines["$n_k=N^2\\lambda_W\\lambda_H$"].get_xdata()) == {2.5}
    assert [path.suffix for path in save_figure(figure, tmp_path, "minority")] == [".png", ".pdf", ".svg"]


# ---- layers


def layered(decays=(0.0, 1e-3), seeds=3, epochs=(0, 1, 4)):
    """The values of a layer with a weight, and of a ReLU after it, as known functions of λ, seed and epoch."""
    rows = [
        {
            "run_id": f"{decay}-{seed}", "weight_decay": decay, "seed": seed, "epoch": epoch,
            "train.layers.0.nc1": 10.0**-epoch * (1 + seed), "train.layers.1.nc1": 0.0 if decay else 1.0,
            "train.layers.0.weight_share_frame": 0.1 * (seed + epoch),
        }
        for decay in decays for seed in range(seeds) for epoch in epochs
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_layers_are_rows_and_records_columns_with_the_median_over_seeds_as_colour():
    figure = layers_figure(layered(), ["nc1", "weight_share_frame"], title="t_1", note="n")
    draw(figure)
    undecayed, decayed, share, _ = figure.axes[:4]
    assert undecayed.collections[0].get_array().tolist() == [[2.0, 0.2, 2e-4], [1.0, 1.0, 1.0]]
    assert decayed.collections[0].get_array()[1].tolist() == [0.0, 0.0, 0.0]
    assert share.collections[0].get_array().tolist() == [[pytest.approx(v) for v in (0.1, 0.2, 0.5)]]
    assert [text.get_text() for text in undecayed.get_yticklabels()] == ["0", "1"]
    assert [text.get_text() for text in share.get_xticklabels()] == ["0", "1", "4"]
    assert undecayed.collections[0].norm.vmin == decayed.collections[0].norm.vmin == 2e-4
    assert (share.collections[0].norm.vmin, share.collections[0].norm.vmax) == (0.0, 1.0)
    assert undecayed.yaxis_inverted()


@pytest.mark.parametrize(
    ("frame", "measures", "message"),
    [
        (records(), ["nc1"], 'the frame has no layers; pass records of runs that were trained with layers="all"'),
        (layered(), [], "measures names none, so there is nothing to draw; choose among nc1, "),
        (layered(), ["nc9"], "there is no measure 'nc9' of layers; choose among nc1, "),
        (layered(), ["nc1_cdnv"], "no layer of the frame has nc1_cdnv; it has nc1, weight_share_frame"),
    ],
)
def test_what_has_no_layers_to_draw_is_named(frame, measures, message):
    with pytest.raises(ValueError, match=message):
        layers_figure(frame, measures)


def test_what_was_recorded_is_no_setting_in_which_runs_differ():
    numbers = {"gradient_norm": 0.1, "norm_spread": 0.1, "current_learning_rate": 0.1, "train.nc1": 0.1}
    runs = [layered(seeds=1).assign(linear_tail=tail, seconds=lambda f: f["epoch"]) for tail in (0, 1)]
    runs[1] = runs[1].assign(run_id=runs[1]["run_id"] + "-tail", seconds=lambda f: 2 * f["epoch"], **numbers)
    with pytest.raises(
        ValueError, match=r"0\.0-0 and 0\.0-0-tail .* differ in linear_tail \(0, 1\); a line over seeds"
    ):
        layers_figure(pd.concat([runs[0].assign(**dict.fromkeys(numbers, 8.0)), runs[1]]), ["nc1"])


# Starts, and the finding


def test_each_start_has_a_row_of_panels_with_the_same_axes():
    frames = {"small": records(seeds=2), "large": records(seeds=2)}
    frames["large"] = frames["large"].assign(**{"train.nc1": 100 * frames["large"]["train.nc1"]})
    figure = starts_figure(frames)
    cells = figure.axes
    assert len(cells) == 10
    assert [cells[place].get_ylabel() for place in (0, 5)] == ["small", "large"]
    for above, below in zip(cells[:5], cells[5:], strict=True):
        assert above.get_ylim() == below.get_ylim()
        assert len([line for line in above.lines if len(line.get_xdata()) > 2]) >= 3


def test_the_finding_shows_every_run_and_both_problems():
    problem = pd.DataFrame({"label": [0, 0, 1, 1], "seen": [0.4, 0.4, -0.4, -0.4], "unseen": [0.4, -0.4, 0.4, -0.4]})
    runs = pd.DataFrame(
        [(tail, decay, 0.1 * tail + decay) for tail in (0, 1) for decay in (0.0, 2e-3, 2e-3)],
        columns=["linear_tail", "weight_decay", "unseen"],
    )
    left, middle, right = finding_figure(problem, problem.assign(unseen=0.0), runs).axes
    drawn = [[*zip(*map(list, line.get_data()), strict=True)] for line in left.lines[1:]]
    assert drawn == [[(0.4, 0.4), (0.4, -0.4)], [(-0.4, 0.4), (-0.4, -0.4)]]
    assert all(list(line.get_ydata()) == [0, 0] for line in middle.lines[1:])
    points = sorted((x, y) for line in right.lines[1::2] for x, y in zip(*line.get_data(), strict=True))
    assert points == sorted(zip(runs["linear_tail"], runs["unseen"], strict=True))
