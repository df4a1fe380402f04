// The samples of one run on the span of some classifier rows, at a recorded epoch or between two.

function moving() {
  return content.motion[chosenRun()?.name];
}

const CLASS_COLOURS = ["#e69f00", "#0072b2", "#009e73", "#cc79a7"];
const CLASS_SYMBOLS = { 3: ["circle", "square", "diamond"], 4: ["circle", "square", "diamond", "cross"] };

// Four classes have three dimensions. They are seen in parallel from this direction, in radians; dragging turns it.
const view = { turn: 0.89, tilt: 0.42 };

// Returns where a point is on the plane of the screen, and how much nearer than the centre.
function seen(point) {
  if (point.length === 2) return [...point, 0];
  const [a, t] = [view.turn, view.tilt];
  const flat = Math.cos(a) * point[0] + Math.sin(a) * point[1];
  return [
    Math.cos(a) * point[1] - Math.sin(a) * point[0],
    Math.cos(t) * point[2] - Math.sin(t) * flat,
    Math.cos(t) * flat + Math.sin(t) * point[2],
  ];
}

// Turns four classes by dragging, or by the arrow keys; on a phone a vertical stroke scrolls the page.
function turnable(plot) {
  const { target } = plot;
  target.tabIndex = 0;
  const turn = (right, up) => {
    view.turn -= right;
    view.tilt = Math.max(-Math.PI / 2, Math.min(Math.PI / 2, view.tilt + up));
    plot.draw();
  };
  target.addEventListener("pointerdown", (event) => {
    if (state.classes.length < 4) return;
    target.setPointerCapture(event.pointerId);
    event.preventDefault();
  });
  target.addEventListener("pointermove", (event) => {
    if (target.hasPointerCapture(event.pointerId)) turn(event.movementX / 150, event.movementY / 150);
  });
  target.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] }[event.key];
    if (!step || state.classes.length < 4) return;
    turn(...step);
    event.preventDefault();
  });
}

function motionFigure() {
  const moves = moving();
  const classes = state.classes;
  if (!moves || classes.length < 3) {
    const why = moves ? "two classes lie on a line" : "no samples were kept for this run";
    return { data: [], layout: { xaxis: { visible: false }, yaxis: { visible: false }, annotations: [nothing(why)] } };
  }
  const solid = classes.length === 4;
  const points = between(unpacked(moves), Math.min(motion.frame, moves.epochs.length - 1), classes);
  const trace = (coordinates, more) => {
    const places = coordinates.map((p) => p && seen(p));
    return { x: places.map((p) => p && p[0]), y: places.map((p) => p && p[1]), hoverinfo: "skip", ...more };
  };
  const data = [
    trace(edges(classes.length), {
      mode: "lines",
      line: { color: colour("soft"), width: 1.2, dash: "dash" },
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
        marker: { color: shade, symbol, size: 5, opacity: 0.55 },
        name: `samples of ${c}`,
      }),
    );
    data.push(
      trace([points.rows[i].map(() => 0), points.rows[i]], {
        mode: "lines",
        line: { color: shade, width: 2 },
        name: `row of ${c}`,
      }),
    );
    data.push(
      trace([points.means[i]], {
        mode: "markers+text",
        text: [String(c)],
        textposition: "top center",
        textfont: { size: 15, color: colour("text") },
        marker: { color: shade, symbol, size: 14 + 3 * seen(points.means[i])[2], line: { color: colour("text"), width: 1.5 } },
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
  Object.assign(layout, { xaxis: side, yaxis: { ...side, scaleanchor: "x" }, dragmode: solid ? false : "zoom" });
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
