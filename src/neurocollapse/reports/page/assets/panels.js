// The paper's panels: a line for each run that is switched on.

function shownSplits() {
  return state.split === "both" ? ["train", "test"] : [state.split];
}

function panelTraces(panel) {
  const shown = runs.filter(isShown);
  const many = shown.length > 12;
  const traces = [];
  for (const run of shown) {
    const look = lookOf(run);
    for (const split of shownSplits()) {
      const values = run.series[split][panel.key];
      if (!values) continue;
      traces.push({
        x: run.recorded.map(place),
        y: values,
        customdata: run.recorded,
        mode: many && run.recorded.length > 1 ? "lines" : "lines+markers",
        opacity: many ? 0.6 : 1,
        line: { color: look.colour, width: many ? 1.2 : 2, dash: split === "test" ? "dot" : "solid" },
        marker: { color: look.colour, symbol: look.symbol, size: run.recorded.length > 1 ? 5 : 9, maxdisplayed: 20 },
        hovertemplate: `${plain(labelOf(run))}, ${split}<br>epoch %{customdata}: %{y:.4g}<extra></extra>`,
      });
      const start = run.recorded.indexOf(run.terminal);
      if (start >= 0 && split === "train" && !many) {
        traces.push({
          x: [place(run.terminal)],
          y: [values[start]],
          mode: "markers",
          marker: { color: colour("card"), size: 9, line: { color: look.colour, width: 2 } },
          hovertemplate: `${plain(labelOf(run))}<br>training error is 0 from epoch ${run.terminal}<extra></extra>`,
        });
      }
    }
  }
  return traces;
}

function panelFigure(panel) {
  const data = panelTraces(panel);
  const linear = isLinear(panel);
  const layout = {
    xaxis: epochAxis(),
    yaxis: linear ? axis({ rangemode: "tozero" }) : logAxis(data),
  };
  if (panel.key === "nc3" && ownReference() !== null) {
    layout.shapes = [
      {
        type: "line",
        xref: "paper",
        x0: 0,
        x1: 1,
        y0: ownReference(),
        y1: ownReference(),
        line: { color: colour("soft"), width: 1, dash: "dash" },
      },
    ];
    layout.annotations = [
      {
        xref: "paper",
        x: 0, // where the runs start, far above
        y: linear ? ownReference() : Math.log10(ownReference()),
        xanchor: "left",
        yanchor: "bottom",
        text: "bias-free unconstrained features model",
        showarrow: false,
        font: { size: 10, color: colour("soft") },
      },
    ];
  }
  if (!data.length) {
    const always = panel.key.startsWith("nc2") && runs.every((run) => run.classes === 2);
    const why = always ? "with two classes it is 0 for any features" : "no run with such values is switched on";
    const hidden = { visible: false };
    return { data, layout: { xaxis: hidden, yaxis: hidden, annotations: [nothing(why)] } };
  }
  return { data, layout };
}

// A share of samples reaches zero, which a logarithmic axis cannot show.
function isLinear(panel) {
  return state.linear[panel.key] ?? panel.key === "nc4";
}

// The optimum √(2 − 2√(1 − 1/C)) for the square loss without a bias.
function ownReference() {
  const classes = new Set(runs.map((run) => run.classes));
  const common = content.common;
  const speaks = (name, value) => common[name] && common[name].value === value;
  if (classes.size !== 1 || !speaks("loss", "square") || !speaks("bias", "none")) return null;
  return Math.sqrt(2 - 2 * Math.sqrt(1 - 1 / [...classes][0]));
}

function nothing(text) {
  return { xref: "paper", yref: "paper", x: 0.5, y: 0.5, text, showarrow: false, font: { color: colour("soft") } };
}

function panelRows(panel) {
  const rows = [];
  for (const run of runs.filter(isShown)) {
    for (const split of shownSplits()) {
      (run.series[split][panel.key] || []).forEach((value, index) => {
        rows.push({ run: run.name, ...run.values, split, epoch: run.recorded[index], [panel.key]: value ?? "" });
      });
    }
  }
  return rows;
}

function makePanels() {
  for (const panel of content.panels) {
    const log = element("input", { type: "checkbox", checked: !isLinear(panel) });
    const plot = new Plot(document.getElementById("panels"), {
      name: panel.key,
      title: panel.name,
      hint: panel.formula,
      figure: () => panelFigure(panel),
      table: () => panelRows(panel),
      tools: [element("label", {}, log, "log")],
    });
    log.addEventListener("change", () => {
      state.linear[panel.key] = !log.checked;
      keep();
      plot.draw();
    });
  }
}
