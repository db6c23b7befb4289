// How the best file came about.

/** Return the corners of the running minimum of bytes, over the number of the evaluation. */
export function bestSoFar({points, item}) {
  if (!points) return [];
  const floor = item.max_drop === null || item.max_drop === undefined ? -Infinity : item.baseline - item.max_drop - 1e-12;
  const order = points.numbers.map((number, i) => [number, i]).sort((a, b) => a[0] - b[0]);
  const corners = [];
  let least = Infinity;
  for (const [number, i] of order) {
    if (points.status[i] !== 'complete' || points.metric[i] < floor || points.size_bytes[i] >= least) continue;
    least = points.size_bytes[i];
    corners.push([number, least / 1000]);
  }
  if (corners.length) corners.push([order.at(-1)[0], least / 1000]);
  return corners;
}
