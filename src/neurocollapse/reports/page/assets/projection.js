// Projects samples of some classes on the span of those classes' classifier rows.

// Unpacks samples: 16-bit integers, and for every frame the value of the largest integer.
function unpacked(moves) {
  if (!moves.values) {
    const bytes = Uint8Array.from(atob(moves.samples), (letter) => letter.charCodeAt(0));
    moves.values = new Int16Array(bytes.buffer);
    moves.width = moves.means[0].length;
  }
  return moves;
}

// Computes the eigenvalues and eigenvectors of a small symmetric matrix by Jacobi's rotations.
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

// Computes G^{power} of a Gram matrix; directions that it lacks, to rounding, are left out.
function power(gram, exponent) {
  const { values, vectors } = eigen(gram);
  const largest = Math.max(...values);
  const raised = values.map((value) => (value > 1e-9 * largest ? value ** exponent : 0));
  return gram.map((_, i) =>
    gram.map((_, j) => raised.reduce((sum, r, k) => sum + vectors[i][k] * r * vectors[j][k], 0)),
  );
}

// Returns the vertices of the regular simplex with one vertex for each class, at distance one from its centre.
const VERTICES = {
  3: [
    [0, 1],
    [-Math.sqrt(3) / 2, -0.5],
    [Math.sqrt(3) / 2, -0.5],
  ],
  4: [
    [1, 1, 1],
    [-1, -1, 1],
    [-1, 1, -1],
    [1, -1, -1],
  ].map((vertex) => vertex.map((x) => x / Math.sqrt(3))),
};

const product = (A, v) => A.map((row) => row.reduce((sum, a, k) => sum + a * v[k], 0));

// Computes the coordinates of a frame. With G the Gram matrix of the chosen rows, G^{-1/2} times a vector's products
// with them are its coordinates in the orthonormal basis of their span that is closest to the rows (Löwdin's). The
// simplex is that basis without its all-ones direction. Lengths and angles are true; lengths are in units of the mean
// length of the class means, and for the rows in units of their own mean length.
function coordinates(moves, frame, classes) {
  const k = classes.length;
  const gram = classes.map((c) => classes.map((d) => moves.weight_gram[frame][c][d]));
  const inverseRoot = power(gram, -0.5);
  const root = power(gram, 0.5);
  const flat = (v) =>
    VERTICES[k][0].map((_, axis) => {
      const scale = Math.sqrt((k - 1) / k);
      return scale * VERTICES[k].reduce((sum, vertex, c) => sum + vertex[axis] * v[c], 0);
    });
  const seen = (products) =>
    flat(
      product(
        inverseRoot,
        classes.map((c) => products[c]),
      ),
    );
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
      const products = Array.from(
        moves.values.subarray(start, start + moves.width),
        (x) => (x * moves.scales[frame]) / 32767,
      );
      points.push(seen(products));
    });
    return over(points, unit);
  });
  return { samples, means: over(means, unit), rows: over(rows, length(rows)) };
}

// Interpolates linearly between two records.
function between(moves, moment, classes) {
  const before = Math.floor(moment);
  const share = moment - before;
  const first = coordinates(moves, before, classes);
  if (!share) return first;
  const second = coordinates(moves, before + 1, classes);
  const mixed = (a, b) => (typeof a === "number" ? a + share * (b - a) : a.map((x, i) => mixed(x, b[i])));
  return {
    samples: mixed(first.samples, second.samples),
    means: mixed(first.means, second.means),
    rows: mixed(first.rows, second.rows),
  };
}
