// A plot in its card. It is drawn when it first comes near the screen, and redrawn when its values change.

const plots = [];

// Plotly reads names and hover texts as a small markup of its own.
function plain(text) {
  return String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

class Plot {
  // `figure()` gives {data, layout}, `table()` rows of {column: value}.
  constructor(parent, { name, title, hint = "", kind = "", figure, table, tools = [] }) {
    Object.assign(this, { name, figure, table, seen: false });
    this.target = element("div", { className: `plot ${kind}`, role: "img", "aria-label": title });
    const svg = element("button", { type: "button", textContent: "SVG", title: "Download this plot as SVG" });
    const csv = element("button", { type: "button", textContent: "CSV", title: "Download its values as CSV" });
    svg.addEventListener("click", () => this.saveImage());
    csv.addEventListener("click", () => this.saveTable());
    this.heading = element("h3", { textContent: title });
    const header = element(
      "header",
      {},
      this.heading,
      element("span", { className: "formula" }, ...formula(hint)),
      element("span", { className: "tools" }, ...tools, svg, csv),
    );
    this.card = element("article", { className: "card", id: `plot-${name}` }, header, this.target);
    parent.append(this.card);
    plots.push(this);
  }

  draw() {
    if (!this.seen) return;
    const { data, layout } = this.figure();
    Plotly.react(this.target, data, { ...base(), ...layout }, CONFIG);
  }

  async saveImage() {
    this.seen = true;
    this.draw();
    const { width, height } = this.target.getBoundingClientRect();
    save(`${this.name}.svg`, await Plotly.toImage(this.target, { format: "svg", width, height }));
  }

  saveTable() {
    const rows = this.table();
    const columns = [...new Set(rows.flatMap(Object.keys))];
    const quoted = (value) => (/[",\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
    const lines = [columns, ...rows.map((row) => columns.map((column) => row[column] ?? ""))];
    const text = lines.map((line) => line.map((value) => quoted(String(value))).join(",")).join("\n");
    save(`${this.name}.csv`, URL.createObjectURL(new Blob([`${text}\n`], { type: "text/csv" })));
  }
}

const CONFIG = { responsive: true, displaylogo: false, displayModeBar: false };

const watcher = new IntersectionObserver(
  (entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      watcher.unobserve(target);
      const plot = plots.find((each) => each.card === target);
      // Each plot is drawn in a turn of its own, so that the first are visible while the others are drawn.
      setTimeout(() => {
        plot.seen = true;
        plot.draw();
      });
    }
  },
  { rootMargin: "300px" },
);

// It is called when Plotly has loaded, which takes most of the time of opening; the text can be read before.
function drawPlots() {
  for (const plot of plots) watcher.observe(plot.card);
  document.documentElement.dataset.ready = "yes";
}

// On paper everything is visible.
addEventListener("beforeprint", () => {
  for (const plot of plots) plot.seen = true;
  redraw();
});

function redraw() {
  for (const plot of plots) plot.draw();
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function base() {
  return {
    font: { family: "system-ui, sans-serif", size: 12, color: colour("text") },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: 56, r: 12, t: 8, b: 42 },
    hovermode: "closest",
    showlegend: false,
    uirevision: "kept",
  };
}

function axis(more = {}) {
  return {
    gridcolor: colour("line"),
    zerolinecolor: colour("line"),
    linecolor: colour("soft"),
    ticks: "outside",
    ...more,
  };
}

// Returns a logarithmic axis with plain numbers at its ticks. If values are nearly equal, it shows a wider range.
function logAxis(data, more = {}) {
  const values = data.flatMap((trace) => trace.y).filter((value) => value > 0);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const narrow = high < 1.1 * low ? { range: [Math.log10(low / 1.2), Math.log10(high * 1.2)] } : {};
  const decades = Math.log10(high / low);
  const some = decades > 0.8 && decades < 3 ? { dtick: "D2" } : {}; // otherwise the ticks of all digits overlap
  return axis({ type: "log", tickformat: "~g", nticks: 6, ...narrow, ...some, ...more });
}

// Epoch 0 is before training; on a logarithmic axis it stands left of the first epoch.
const START = 0.5;

function place(epoch) {
  return state.logEpochs && epoch === 0 ? START : epoch;
}

function epochAxis() {
  if (!state.logEpochs) return axis({ title: { text: "epoch" }, rangemode: "tozero" });
  const last = Math.max(1, ...runs.flatMap((run) => run.recorded.slice(-1)));
  const ticks = [];
  for (let decade = 1; decade <= last; decade *= 10) ticks.push(...[1, 2, 5].map((m) => m * decade));
  const kept = ticks.filter((tick) => tick <= last && (last < 100 || /^1/.test(String(tick))));
  return axis({
    type: "log",
    title: { text: "epoch" },
    range: [Math.log10(START * 0.85), Math.log10(last * 1.15)],
    tickvals: [START, ...kept],
    ticktext: ["0", ...kept.map(String)],
  });
}

function save(name, address) {
  const link = element("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
}
