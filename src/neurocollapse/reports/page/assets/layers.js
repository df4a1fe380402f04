// The layers of a run against its records, with a measure as colour; one run of each setting beside another.

const MOST_RUNS = 4;

function layeredRuns() {
  const shown = runs.filter((run) => isShown(run) && Object.keys(run.layers).length);
  const first = settings.map((setting) => shown.find((run) => settingOf(run) === setting));
  return first.filter((run) => run).slice(0, MOST_RUNS);
}

function chosenMeasure() {
  return content.layers.find((measure) => measure.key === state.layers) || content.layers[0];
}

function layersFigure() {
  const { key } = chosenMeasure();
  const shown = layeredRuns().filter((run) => run.layers[key]);
  const values = shown.flatMap((run) => Object.values(run.layers[key]).flat()).filter((value) => value !== null);
  if (!values.length) {
    const hidden = { visible: false };
    const text = "no run with such values is switched on";
    return { data: [], layout: { xaxis: hidden, yaxis: hidden, annotations: [nothing(text)] } };
  }
  const log = key.startsWith("nc1"); // the others are shares, or ranks
  const shade = (value) => (log && value !== null ? (value > 0 ? Math.log10(value) : null) : value);
  const shades = values.map(shade).filter((value) => value !== null);
  const bounded = !log && key !== "weight_stable_rank";
  const data = shown.map((run, place) => {
    const layers = Object.keys(run.layers[key]);
    return {
      type: "heatmap",
      x: run.recorded.map(String),
      y: layers.map(plain),
      z: layers.map((layer) => run.layers[key][layer].map(shade)),
      customdata: layers.map((layer) => run.layers[key][layer]),
      xaxis: place ? `x${place + 1}` : "x",
      yaxis: place ? `y${place + 1}` : "y",
      zmin: bounded ? 0 : Math.min(...shades),
      zmax: bounded ? 1 : Math.max(...shades),
      colorscale: "Viridis",
      showscale: place === 0,
      colorbar: { thickness: 10, ...(log ? { tickprefix: "10<sup>", ticksuffix: "</sup>" } : {}) },
      hovertemplate: `${plain(labelOf(run))}<br>layer %{y}, epoch %{x}: %{customdata:.4g}<extra></extra>`,
    };
  });
  const layout = { margin: { l: 8, r: 12, t: 30, b: 42 }, annotations: [] };
  const width = 1 / shown.length;
  shown.forEach((run, place) => {
    const number = place ? place + 1 : "";
    const domain = [place * width, (place + 0.92) * width];
    const anchor = { xanchor: "left", yanchor: "bottom", xref: "paper", yref: "paper" };
    const title = { text: "epoch" };
    layout[`xaxis${number}`] = axis({ type: "category", title, domain, anchor: `y${number}`, nticks: 8, showgrid: false });
    layout[`yaxis${number}`] = axis({
      type: "category",
      anchor: `x${number}`,
      automargin: true,
      showgrid: false,
      autorange: "reversed",
      showticklabels: place === 0,
    });
    layout.annotations.push({ ...anchor, x: domain[0], y: 1.02, text: plain(labelOf(run)), showarrow: false });
  });
  return { data, layout };
}

function layersRows() {
  return layeredRuns().flatMap((run) =>
    Object.entries(run.layers).flatMap(([measure, layers]) =>
      Object.entries(layers).flatMap(([layer, values]) =>
        values.map((value, i) => ({
          run: run.name,
          ...run.values,
          layer,
          epoch: run.recorded[i],
          measure,
          value: value ?? "",
        })),
      ),
    ),
  );
}

function makeLayers() {
  if (!content.layers.length) return;
  const select = element("select", { id: "layers-measure", title: "What the colour is" });
  for (const { key, name, formula } of content.layers) {
    select.append(element("option", { value: key, textContent: `${name}: ${formula}` }));
  }
  select.value = chosenMeasure().key;
  const plot = new Plot(document.getElementById("layers"), {
    name: "layers",
    title: "Layers",
    hint: "The input is above, the classifier below. A run of each setting.",
    figure: layersFigure,
    table: layersRows,
    tools: [element("label", {}, "colour ", select)],
  });
  select.addEventListener("change", () => {
    state.layers = select.value;
    keep();
    plot.draw();
  });
}
