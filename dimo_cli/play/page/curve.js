// The curve of an optimization as it grows: every start thin, the best so far thick.
const HEIGHT = 260, LEFT = 52, RIGHT = 12, TOP = 12, BOTTOM = 34;

function element(name, attributes, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

/** Draw `trace` (scores of each start, iterate by iterate) and return the best score so far. */
export function drawCurve(figure, trace, iterations) {
  const svg = figure.querySelector("svg"), width = svg.clientWidth; // so letters keep their size
  svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  let top = -Infinity;
  const best = trace.map((scores) => (top = Math.max(top, ...scores)));
  const low = Math.min(...trace.flat()), span = top - low || 1;
  const x = (iterate) => LEFT + (width - LEFT - RIGHT) * iterate / Math.max(1, iterations);
  const y = (score) => TOP + (HEIGHT - TOP - BOTTOM) * (top - score) / span;
  const path = (scores) => scores.map((score, k) => `${x(k).toFixed(1)},${y(score).toFixed(1)}`).join(" ");
  const parts = [top, low + span / 2, low].flatMap((score) => [
    element("line", { x1: LEFT, x2: width - RIGHT, y1: y(score), y2: y(score) }),
    element("text", { x: LEFT - 8, y: y(score) + 4, "text-anchor": "end" }, score.toFixed(1)),
  ]);
  for (const [iterate, anchor] of [[0, "start"], [iterations, "end"]]) {
    parts.push(element("text", { x: x(iterate), y: HEIGHT - 14, "text-anchor": anchor }, iterate));
  }
  const middle = (LEFT + width - RIGHT) / 2;
  parts.push(element("text", { x: middle, y: HEIGHT - 14, "text-anchor": "middle" }, "iteration"));
  trace[0].forEach((_, start) => {
    parts.push(element("polyline", { points: path(trace.map((scores) => scores[start])) }));
  });
  parts.push(element("polyline", { class: "best", points: path(best) }));
  const last = best.length - 1;
  parts.push(element("circle", { cx: x(last), cy: y(best[last]), r: 4 }));
  svg.replaceChildren(...parts);
  figure.querySelector("figcaption").textContent =
    `Reward: best of ${trace[0].length} starts so far, ${best[0].toFixed(2)} at first and ` +
    `${top.toFixed(2)} after ${last} iterations. Thin lines: each start by itself.`;
  return top;
}
