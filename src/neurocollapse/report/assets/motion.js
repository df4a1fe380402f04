// One run: its samples on the span of some classifier rows, epoch after epoch, Gram matrices, and the layers' norms.

const motion = { frame: 0, playing: false };

function moving() {
  return content.motion[chosenRun()?.name];
}

// Samples as they were packed: 16-bit integers, and for every frame what the largest stands for.
function unpacked(moves) {
  if (!moves.values) {
    const bytes = Uint8Array.from(atob(moves.samples), (letter) => letter.charCodeAt(0));
    moves.values = new Int16Array(bytes.buffer);
    moves.width = moves.means[0].length;
  }
  return moves;
}

// Eigenvalues and eigenvectors of a small symmetric matrix, by Jacobi's rotations.
function eigen(matrix) {
  const size = matrix.length;
  const A = matrix.map((row) => [...row]);
  const V = A.map((_, i) => A.map((_, j) => (i === j ? 1 : 0)));
  for (let sweep = 0; sweep < 30; sweep += 1) {
    for (let p = 0; p < size; p += 1) {
      for (let q = p + 1; q < size; q += 1) {
        if (A[p][q] === 0) continue;
        const angle = (A[q][q] - A[p][p]) / (2 * A[p][q]);
        const t = (angle < 0 ? -1 : 1) / (Math.abs(angle) + Math.hypot(angle, 1));
        const c = 1 / Math.hypot(t, 1);
        const s = t * c;
        for (let k = 0; k < size; k += 1) {
          [A[k][p], A[k][q]] = [c * A[k][p] - s * A[k][q], s * A[k][p] + c * A[k][q]];
        }
        for (let k = 0; k < size; k += 1) {
          [A[p][k], A[q][k]] = [c * A[p][k] - s * A[q][k], s * A[p][k] + c * A[q][k]];
          [V[k][p], V[k][q]] = [c * V[k][p] - s * V[k][q], s * V[k][p] + c * V[k][q]];
        }
      }
    }
  }
  return { values: A.map((row, i) => row[i]), vectors: V };
}

// G^{power} of a Gram matrix; directions that it lacks, to rounding, are left out.
function power(gram, exponent) {
  const { values, vectors } = eigen(gram);
  const largest = Math.max(...values);
  const raised = values.map((value) => (value > 1e-9 * largest ? value ** exponent : 0));
  return gram.map((_, i) => gram.map((_, j) => raised.reduce((sum, r, k) => sum + vectors[i][k] * r * vectors[j][k], 0)));
}

// Vertices of the regular simplex with as many vertices as classes, at distance one from its centre.
const VERTICES = {
  3: [[0, 1], [-Math.sqrt(3) / 2, -0.5], [Math.sqrt(3) / 2, -0.5]],
  4: [[1, 1, 1], [-1, -1, 1], [-1, 1, -1], [1, -1, -1]].map((vertex) => vertex.map((x) => x / Math.sqrt(3))),
};

const product = (A, v) => A.map((row) => row.reduce((sum, a, k) => sum + a * v[k], 0));

// Coordinates of a frame. With G the Gram matrix of the chosen rows, G^{-1/2} times a vector's products with them are its
// coordinates in the orthonormal basis of their span that lies closest to the rows (Löwdin's); the simplex is what is
// left of that basis without its all-ones direction. Lengths and angles are true, and lengths are in units of the mean
// length of the class means, and for the rows of the rows.
function coordinates(moves, frame, classes) {
  const k = classes.length;
  const gram = classes.map((c) => classes.map((d) => moves.weight_gram[frame][c][d]));
  const inverseRoot = power(gram, -0.5);
  const root = power(gram, 0.5);
  const flat = (v) => VERTICES[k][0].map((_, axis) => {
    const scale = Math.sqrt((k - 1) / k);
    return scale * VERTICES[k].reduce((sum, vertex, c) => sum + vertex[axis] * v[c], 0);
  });
  const seen = (products) => flat(product(inverseRoot, classes.map((c) => products[c])));
  const length = (points) => points.reduce((sum, point) => sum + Math.hypot(...point), 0) / points.length || 1;
  const over = (points, unit) => points.map((point) => point.map((x) => x / unit));
  const means = classes.map((c) => seen(moves.means[frame][c]));
  const rows = classes.map((_, i) => flat(root[i]));
  const unit = length(means);
  const samples = classes.map((c) => {
    const points = [];
    moves.labels.forEach((label, i) => {
      if (label !== c) return;
      const start = (frame * moves.labels.length + i) * moves.width;
      const products = Array.from(moves.values.subarray(start, start + moves.width), (x) => (x * moves.scales[frame]) / 32767);
      points.push(seen(products));
    });
    return over(points, unit);
  });
  return { samples, means: over(means, unit), rows: over(rows, length(rows)) };
}

// Between two records, a straight line.
function between(moves, moment, classes) {
  const before = Math.floor(moment);
  const share = moment - before;
  const first = coordinates(moves, before, classes);
  if (!share) return first;
  const second = coordinates(moves, before + 1, classes);
  const mixed = (a, b) => (typeof a === "number" ? a + share * (b - a) : a.map((x, i) => mixed(x, b[i])));
  return { samples: mixed(first.samples, second.samples), means: mixed(first.means, second.means), rows: mixed(first.rows, second.rows) };
}

const CLASS_COLOURS = ["#e69f00", "#0072b2", "#009e73", "#cc79a7"];
const CLASS_SYMBOLS = { 3: ["circle", "square", "diamond"], 4: ["circle", "square", "diamond", "cross"] };

function motionFigure() {
  const moves = moving();
  const classes = state.classes;
  if (!moves || classes.length < 3) {
    const why = moves ? "two classes lie on a line" : "of this run no samples were kept";
    return { data: [], layout: { xaxis: { visible: false }, yaxis: { visible: false }, annotations: [nothing(why)] } };
  }
  const solid = classes.length === 4;
  const points = between(unpacked(moves), Math.min(motion.frame, moves.epochs.length - 1), classes);
  const trace = (coordinates, more) => ({
    type: solid ? "scatter3d" : "scatter",
    x: coordinates.map((p) => p && p[0]),
    y: coordinates.map((p) => p && p[1]),
    ...(solid ? { z: coordinates.map((p) => p && p[2]) } : {}),
    hoverinfo: "skip",
    ...more,
  });
  const data = [trace(edges(classes.length), {
    mode: "lines", line: { color: colour("soft"), width: solid ? 3 : 1.2, dash: "dash" }, name: "simplex", connectgaps: false,
  })];
  classes.forEach((c, i) => {
    const shade = CLASS_COLOURS[i];
    const symbol = CLASS_SYMBOLS[classes.length][i];
    data.push(trace(points.samples[i], { mode: "markers", marker: { color: shade, symbol, size: solid ? 2.5 : 5, opacity: 0.55 }, name: `samples of ${c}` }));
    data.push(trace([points.rows[i].map(() => 0), points.rows[i]], { mode: "lines", line: { color: shade, width: solid ? 5 : 2 }, name: `row of ${c}` }));
    data.push(trace([points.means[i]], {
      mode: "markers+text", text: [String(c)], textposition: "top center", textfont: { size: 15, color: colour("text") },
      marker: { color: shade, symbol, size: solid ? 8 : 14, line: { color: colour("text"), width: 1.5 } }, name: `mean of ${c}`,
      hoverinfo: "text", hovertext: `mean of class ${c}`,
    }));
  });
  const side = axis({ range: [-1.5, 1.5], showgrid: false, zeroline: false, showline: false, showticklabels: false, ticks: "", title: { text: "" } });
  const layout = { margin: { l: 4, r: 4, t: 4, b: 4 }, uirevision: `view ${classes.length}` };
  if (solid) layout.scene = { xaxis: side, yaxis: side, zaxis: side, aspectmode: "cube", camera: { eye: { x: 0.7, y: 0.86, z: 0.5 } } };
  else Object.assign(layout, { xaxis: side, yaxis: { ...side, scaleanchor: "x" } });
  return { data, layout };
}

// All edges of the simplex as one broken line.
function edges(count) {
  const vertices = VERTICES[count];
  return vertices.flatMap((a, i) => vertices.slice(i + 1).flatMap((b) => [a, b, null]));
}

function motionRows() {
  const moves = moving();
  if (!moves || state.classes.length < 3) return [];
  const frame = Math.round(motion.frame);
  const points = coordinates(unpacked(moves), frame, state.classes);
  const named = (what, c, p) => ({ run: chosenRun().name, epoch: moves.epochs[frame], what, class: c, x: number(p[0], 6), y: number(p[1], 6), z: p.length > 2 ? number(p[2], 6) : "" });
  return state.classes.flatMap((c, i) => [
    ...points.samples[i].map((p) => named("sample", c, p)),
    named("mean", c, points.means[i]),
    named("classifier row", c, points.rows[i]),
  ]);
}

// Gram matrices, as cosines

function cosines(gram) {
  const lengths = gram.map((row, i) => Math.sqrt(row[i]));
  return gram.map((row, i) => row.map((value, j) => (lengths[i] && lengths[j] ? value / lengths[i] / lengths[j] : null)));
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
  const layout = {
    xaxis: axis({ dtick: 1, showgrid: false, constrain: "domain" }),
    yaxis: axis({ dtick: 1, showgrid: false, autorange: "reversed", scaleanchor: "x", constrain: "domain" }),
    margin: { l: 30, r: 8, t: 8, b: 30 },
  };
  if (!z) return { data: [], layout: { ...layout, annotations: [nothing("of this run none were kept")] } };
  return {
    data: [{
      type: "heatmap", z, zmin: -1, zmax: 1, colorscale: [[0, "#0072b2"], [0.5, colour("card")], [1, "#d55e00"]], colorbar: { thickness: 10, len: 0.9 },
      hovertemplate: "classes %{y} and %{x}: %{z:.4f}<extra></extra>",
    }],
    layout,
  };
}

function gramRows(name) {
  return (gramOf(name) || []).flatMap((row, i) => row.map((value, j) => ({ class: i, other: j, cosine: value === null ? "" : number(value, 6) })));
}

// Norms of the layers

function normsFigure() {
  const run = chosenRun();
  const layers = run ? run.norms.length : 0;
  const data = (run ? run.norms : []).map((values, layer) => {
    const share = layers > 1 ? layer / (layers - 1) : 0;
    const shade = `hsl(${Math.round(45 + 190 * share)} 75% ${isDark() ? 62 : 40}%)`;
    return {
      x: run.recorded.map(place), y: values, customdata: run.recorded, mode: "lines+markers",
      line: { color: shade, width: 2 }, marker: { color: shade, symbol: SYMBOLS[layer % SYMBOLS.length], size: 6 }, name: `layer ${layer + 1}`,
      hovertemplate: `layer ${layer + 1}, epoch %{customdata}: %{y:.4g}<extra></extra>`,
    };
  });
  return {
    data,
    layout: {
      xaxis: epochAxis(), yaxis: axis({ type: "log", title: { text: "‖W‖²" }, exponentformat: "power", nticks: 6 }),
      showlegend: true, legend: { orientation: "h", y: 1.02, yanchor: "bottom" }, margin: { l: 62, r: 12, t: 40, b: 42 },
    },
  };
}

function normsRows() {
  const run = chosenRun();
  return run ? run.norms.flatMap((values, layer) => values.map((value, i) => ({ run: run.name, layer: layer + 1, epoch: run.recorded[i], squared_norm: value ?? "" }))) : [];
}

// What is chosen

function makeMotion() {
  const form = document.getElementById("chosen");
  form.addEventListener("submit", (event) => event.preventDefault());
  const select = element("select", { id: "run", title: "The run shown below" });
  for (const run of runs) select.append(element("option", { value: run.name, textContent: labelOf(run) + (content.motion[run.name] ? "" : " (no samples)") }));
  const classes = element("fieldset", { id: "classes" });
  const play = element("button", { type: "button", id: "play", textContent: "▶ play" });
  const slider = element("input", { type: "range", id: "epoch", min: 0, value: 0, step: 1, title: "Epoch" });
  const told = element("output", { id: "epoch-told", htmlFor: "epoch" });
  form.append(
    element("label", {}, "run ", select), classes,
    element("fieldset", {}, element("legend", { textContent: "epoch" }), play, slider, told),
  );

  new Plot(document.getElementById("motion"), {
    name: "motion", kind: "tall", figure: motionFigure, table: motionRows,
    title: "Features on the span of the classifier rows",
    formula: "Small: samples. Large: class means. Lines: classifier rows. Dashed: the simplex. All seen from μ_G, in units of the means’ mean length.",
  });
  new Plot(document.getElementById("norms"), {
    name: "norms", kind: "tall", figure: normsFigure, table: normsRows, title: "Norms of the layers", formula: "‖W_l‖²: equal for all layers at a critical point with λ > 0",
  });
  for (const [name, title] of Object.entries(GRAMS)) {
    new Plot(document.getElementById("grams"), { name, title, kind: "square", figure: () => gramFigure(name), table: () => gramRows(name) });
  }
  const drawn = plots.filter((plot) => ["motion", ...Object.keys(GRAMS)].includes(plot.name));

  const tell = () => {
    const moves = moving();
    const [before, after] = moves ? [Math.floor(motion.frame), Math.ceil(motion.frame)].map((f) => moves.epochs[f]) : [];
    told.textContent = moves ? (before === after ? `${before} of ${chosenRun().epochs}` : `between ${before} and ${after}`) : "";
  };
  const show = (frame) => {
    motion.frame = frame;
    slider.value = frame;
    tell();
    for (const plot of drawn) plot.draw();
  };
  const begin = () => {
    const moves = moving();
    state.run = chosenRun()?.name ?? null;
    select.value = state.run ?? "";
    const kept = moves ? moves.means[0].length : 0;
    state.classes = state.classes.filter((c) => c < kept);
    for (let c = 0; state.classes.length < Math.min(3, kept); c += 1) if (!state.classes.includes(c)) state.classes.push(c);
    classes.replaceChildren(element("legend", { textContent: kept ? "three or four classes" : "" }));
    for (let c = 0; c < kept; c += 1) {
      const box = element("input", { type: "checkbox", name: "class", value: c, checked: state.classes.includes(c) });
      box.addEventListener("change", () => choose(c, box.checked));
      classes.append(element("label", {}, box, String(c)));
    }
    slider.max = moves ? moves.epochs.length - 1 : 0;
    slider.disabled = play.disabled = !moves || kept < 3;
    const frame = moves ? moves.epochs.indexOf(state.epoch) : 0;
    for (const plot of plots) if (plot.name === "norms") plot.draw();
    show(frame < 0 ? moves.epochs.length - 1 : frame);
  };
  // Always three or four: of five the first goes, and of two the one that was to go stays.
  const choose = (c, on) => {
    if (on) state.classes = [...state.classes, c].slice(-4);
    else if (state.classes.length > 3) state.classes = state.classes.filter((other) => other !== c);
    state.classes.sort((a, b) => a - b);
    keep();
    begin();
  };
  const stop = () => {
    motion.playing = false;
    play.textContent = "▶ play";
  };
  let last = 0;
  const step = (now) => {
    if (!motion.playing) return;
    const end = moving().epochs.length - 1;
    const pace = matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : 1 / 700;
    if (pace) show(Math.min(end, motion.frame + (now - last) * pace));
    else if (now - last > 1500) show(Math.min(end, Math.floor(motion.frame) + 1));
    if (pace || now - last > 1500) last = now;
    if (motion.frame >= end) {
      stop();
      return;
    }
    requestAnimationFrame(step);
  };
  play.addEventListener("click", () => {
    if (motion.playing) {
      stop();
      show(Math.round(motion.frame));
      return;
    }
    motion.playing = true;
    play.textContent = "❚❚ pause";
    if (motion.frame >= moving().epochs.length - 1) show(0);
    requestAnimationFrame((now) => {
      last = now;
      step(now);
    });
  });
  slider.addEventListener("input", () => {
    stop();
    show(Number(slider.value));
    state.epoch = moving().epochs[motion.frame];
    keep();
  });
  select.addEventListener("change", () => {
    stop();
    state.run = select.value;
    keep();
    begin();
    showTheory();
  });
  begin();
}
