// Lines over time, from the samples that the broker keeps.

import { h, svg, fill } from "./dom.js";

const WIDTH = 600, HEIGHT = 150, LEFT = 58, BOTTOM = 20, TOP = 8;

/** Samples of an answer, oldest first: `[[milliseconds, value], …]`. A growing count becomes its rate. */
export function points(details, isRate) {
  const samples = (details?.samples || []).slice().reverse();
  if (!isRate) return samples.map((s) => [s.timestamp, s.sample]);
  const out = [];
  for (let i = 1; i < samples.length; i++) {
    const seconds = (samples[i].timestamp - samples[i - 1].timestamp) / 1000;
    if (seconds > 0) out.push([samples[i].timestamp, Math.max(0, samples[i].sample - samples[i - 1].sample) / seconds]);
  }
  return out;
}

/** The next "round" number at or above a value; bytes are round in powers of two. */
function ceiling(value, inBytes) {
  if (value <= 0) return 1;
  if (inBytes) return 2 ** Math.ceil(Math.log2(value));
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((m) => m * power).find((c) => c >= value);
}

/** A chart whose lines are set by `update([{name, points}])`; `show` writes a value. */
export function chart(title, show, inBytes = false) {
  const drawing = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
  const legend = h("ul.legend");
  const element = h("section.chart", {}, h("h2", {}, title), drawing, legend);
  function update(series) {
    const all = series.flatMap((s) => s.points);
    const high = ceiling(Math.max(0, ...all.map((p) => p[1])), inBytes);
    const times = all.map((p) => p[0]);
    const from = Math.min(...times), to = Math.max(...times);
    const x = (t) => LEFT + (to > from ? (t - from) / (to - from) : 1) * (WIDTH - LEFT - 6);
    const y = (v) => TOP + (1 - v / high) * (HEIGHT - TOP - BOTTOM);
    const parts = [];
    for (const share of [0, 0.5, 1]) {
      const at = y(high * share);
      parts.push(svg("line", { class: "grid", x1: LEFT, x2: WIDTH - 6, y1: at, y2: at }));
      parts.push(svg("text", { x: LEFT - 6, y: at + 4, "text-anchor": "end" }, show(high * share)));
    }
    if (to > from) {
      parts.push(svg("text", { x: LEFT, y: HEIGHT - 5 }, new Date(from).toLocaleTimeString()));
      parts.push(svg("text", { x: WIDTH - 6, y: HEIGHT - 5, "text-anchor": "end" }, new Date(to).toLocaleTimeString()));
    }
    series.forEach((line, i) => {
      if (!line.points.length) return;
      const d = line.points.map((p, n) => `${n ? "L" : "M"}${x(p[0]).toFixed(1)} ${y(p[1]).toFixed(1)}`).join("");
      const path = svg("path", { d });
      path.style.stroke = `var(--s${(i % 6) + 1})`;
      parts.push(path);
    });
    drawing.replaceChildren(...parts);
    const last = (line) => line.points.length ? show(line.points[line.points.length - 1][1]) : "–";
    drawing.setAttribute("aria-label", `${title}: ${series.map((s) => `${s.name} ${last(s)}`).join(", ")}`);
    fill(legend, series.map((line, i) => {
      const dot = h("i", { "aria-hidden": "true" });
      dot.style.background = `var(--s${(i % 6) + 1})`;
      return h("li", {}, dot, `${line.name} `, h("b", {}, last(line)));
    }));
  }
  update([]);
  return { element, update };
}
