// The samples of one run on the span of some classifier rows, at a recorded epoch or between two.

function moving() {
  return content.motion[chosenRun()?.name];
}

const CLASS_COLOURS = ["#e69f00", "#0072b2", "#009e73", "#cc79a7"];
const CLASS_SYMBOLS = { 3: ["circle", "square", "diamond"], 4: ["circle", "square", "diamond", "cross"] };

function motionFigure() {
  const moves = moving();
  const classes = state.classes;
  if (!moves || classes.length < 3) {
    const why = moves ? "two classes lie on a line" : "no samples were kept for this run";
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
  const data = [
    trace(edges(classes.length), {
      mode: "lines",
      line: { color: colour("soft"), width: solid ? 3 : 1.2, dash: "dash" },
      name: "simplex",
      connectgaps: false,
    }),
  ];
  classes.forEach((c, i) => {
    const shade = CLASS_COLOURS[i];
    const symbol = CLASS_SYMBOLS[classes.length][i];
    data.push(
      trace(points.samples[i], {
        mode: "markers",
        marker: { color: shade, symbol, size: solid ? 2.5 : 5, opacity: 0.55 },
        name: `samples of ${c}`,
      }),
    );
    data.push(
      trace([points.rows[i].map(() => 0), points.rows[i]], {
        mode: "lines",
        line: { color: shade, width: solid ? 5 : 2 },
        name: `row of ${c}`,
      }),
    );
    data.push(
      trace([points.means[i]], {
        mode: "markers+text",
        text: [String(c)],
        textposition: "top center",
        textfont: { size: 15, color: colour("text") },
        marker: { color: shade, symbol, size: solid ? 8 : 14, line: { color: colour("text"), width: 1.5 } },
        name: `mean of ${c}`,
        hoverinfo: "text",
        hovertext: `mean of class ${c}`,
      }),
    );
  });
  // The means and the rows are always visible; a stray sample does not shrink the picture.
  const reach = Math.max(1.5, 1.15 * Math.max(...[...points.means, ...points.rows].flat().map(Math.abs)));
  const side = axis({
    range: [-reach, reach],
    showgrid: false,
    zeroline: false,
    showline: false,
    showticklabels: false,
    ticks: "",
    title: { text: "" },
  });
  const layout = { margin: { l: 4, r: 4, t: 4, b: 4 }, uirevision: `view ${classes.length}` };
  if (solid)
    layout.scene = {
      xaxis: side,
      yaxis: side,
      zaxis: side,
      aspectmode: "cube",
      camera: { eye: { x: 0.7, y: 0.86, z: 0.5 } },
    };
  else Object.assign(layout, { xaxis: side, yaxis: { ...side, scaleanchor: "x" } });
  return { data, layout };
}

// Returns all edges of the simplex as one broken line.
function edges(count) {
  const vertices = VERTICES[count];
  return vertices.flatMap((a, i) => vertices.slice(i + 1).flatMap((b) => [a, b, null]));
}

function motionRows() {
  const moves = moving();
  if (!moves || state.classes.length < 3) return [];
  const frame = Math.round(motion.frame);
  const points = coordinates(unpacked(moves), frame, state.classes);
  const named = (what, c, p) => ({
    run: chosenRun().name,
    epoch: moves.epochs[frame],
    what,
    class: c,
    x: number(p[0], 6),
    y: number(p[1], 6),
    z: p.length > 2 ? number(p[2], 6) : "",
  });
  return state.classes.flatMap((c, i) => [
    ...points.samples[i].map((p) => named("sample", c, p)),
    named("mean", c, points.means[i]),
    named("classifier row", c, points.rows[i]),
  ]);
}
