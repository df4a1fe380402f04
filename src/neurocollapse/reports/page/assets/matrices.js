// The Gram matrices of one run, and the norms of its layers.

// Gram matrices, as cosines

function cosines(gram) {
  const lengths = gram.map((row, i) => Math.sqrt(row[i]));
  return gram.map((row, i) =>
    row.map((value, j) => (lengths[i] && lengths[j] ? value / lengths[i] / lengths[j] : null)),
  );
}

function ideal(size) {
  const cosine = -1 / (chosenRun().classes - 1);
  return Array.from({ length: size }, (_, i) => Array.from({ length: size }, (_, j) => (i === j ? 1 : cosine)));
}

const GRAMS = {
  means_gram: "Class means, centred: cosines",
  weight_gram: "Classifier rows: cosines",
  simplex: "The simplex: cosines",
};

function gramOf(name) {
  const moves = moving();
  if (!moves) return null;
  const frame = Math.min(Math.round(motion.frame), moves.epochs.length - 1);
  return name === "simplex" ? ideal(moves.means[0].length) : cosines(moves[name][frame]);
}

function gramFigure(name) {
  const z = gramOf(name);
  const [kept, all] = [z?.length, chosenRun()?.classes];
  const layout = {
    xaxis: axis({
      title: { text: kept < all ? `classes 0 to ${kept - 1} of ${all}` : "class" },
      dtick: 1,
      showgrid: false,
      constrain: "domain",
    }),
    yaxis: axis({ dtick: 1, showgrid: false, autorange: "reversed", scaleanchor: "x", constrain: "domain" }),
    margin: { l: 30, r: 8, t: 8, b: 42 },
  };
  if (!z) {
    const hidden = { visible: false };
    return { data: [], layout: { xaxis: hidden, yaxis: hidden, annotations: [nothing("none were kept for this run")] } };
  }
  return {
    data: [
      {
        type: "heatmap",
        z,
        zmin: -1,
        zmax: 1,
        colorscale: [
          [0, "#0072b2"],
          [0.5, colour("card")],
          [1, "#d55e00"],
        ],
        colorbar: { thickness: 10, len: 0.9 },
        hovertemplate: "classes %{y} and %{x}: %{z:.4f}<extra></extra>",
      },
    ],
    layout,
  };
}

function gramRows(name) {
  return (gramOf(name) || []).flatMap((row, i) =>
    row.map((value, j) => ({ class: i, other: j, cosine: value === null ? "" : number(value, 6) })),
  );
}

// Norms of the layers

function normsFigure() {
  const run = chosenRun();
  const layers = run ? run.norms.length : 0;
  const data = (run ? run.norms : []).map((values, layer) => {
    const share = layers > 1 ? layer / (layers - 1) : 0;
    const shade = `hsl(${Math.round(45 + 190 * share)} 75% ${isDark() ? 62 : 40}%)`;
    return {
      x: run.recorded.map(place),
      y: values,
      customdata: run.recorded,
      mode: "lines+markers",
      line: { color: shade, width: 2 },
      marker: { color: shade, symbol: SYMBOLS[layer % SYMBOLS.length], size: 6 },
      name: `layer ${layer + 1}`,
      hovertemplate: `layer ${layer + 1}, epoch %{customdata}: %{y:.4g}<extra></extra>`,
    };
  });
  return {
    data,
    layout: {
      xaxis: epochAxis(),
      yaxis: logAxis(data, { title: { text: "‖W‖²" } }),
      showlegend: true,
      legend: { orientation: "h", y: 1.02, yanchor: "bottom" },
      margin: { l: 62, r: 12, t: 40, b: 42 },
    },
  };
}

function normsRows() {
  const run = chosenRun();
  return run
    ? run.norms.flatMap((values, layer) =>
        values.map((value, i) => ({
          run: run.name,
          layer: layer + 1,
          epoch: run.recorded[i],
          squared_norm: value ?? "",
        })),
      )
    : [];
}
