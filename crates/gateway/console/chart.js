// Charts of the last minutes, drawn by uPlot (vendor/).

import { grouped } from "./shown.js";

const HEIGHT = 180;
/** Distances of the lines: whole numbers, because everything here is counted. */
const STEPS = Array.from({ length: 13 }, (_, power) => [1, 2, 5].map((digit) => digit * 10 ** power)).flat();

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** A chart of named series over time. Its size does not depend on its data. */
export class Chart {
  #target;
  #names;
  #plot = null;
  #data;

  constructor(target, names) {
    this.#target = target;
    this.#names = names;
    this.#data = [[], ...names.map(() => [])];
    target.setAttribute("role", "img");
    target.setAttribute("aria-label", names.join(", "));
    new ResizeObserver(() => this.#resize()).observe(target);
    // The colours of a canvas do not follow those of the page.
    document.addEventListener("theme", () => this.#make());
  }

  /** Shows series of equal length: times in seconds, then values. */
  show(data) {
    this.#data = data;
    if (this.#plot) this.#plot.setData(data);
    else this.#make();
    const last = data.slice(1).map((values, at) => `${this.#names[at]} ${grouped(values.at(-1) ?? 0)}`);
    this.#target.setAttribute("aria-label", last.join(", "));
  }

  #make() {
    this.#plot?.destroy();
    this.#plot = null;
    const width = this.#target.clientWidth;
    // A view that is not shown has no size. It gets its chart when it has one.
    if (width === 0) return;
    const strokes = ["--accent", "--good", "--warn", "--bad"].map(colour);
    const axis = { stroke: colour("--faint"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false } };
    const values = (_plot, ticks) => ticks.map(grouped);
    const series = this.#names.map((label, at) => ({
      label,
      stroke: strokes[at],
      width: 2,
      value: (_plot, value) => (value === null ? "–" : grouped(value)),
      points: { show: false },
    }));
    const options = {
      width,
      height: HEIGHT,
      series: [{ value: (_plot, at) => (at === null ? "–" : new Date(at * 1000).toLocaleTimeString()) }, ...series],
      axes: [axis, { ...axis, size: 64, values, incrs: STEPS }],
      scales: { y: { range: (_plot, _min, max) => [0, Math.max(1, (max ?? 0) * 1.1)] } },
      cursor: { y: false },
    };
    this.#plot = new globalThis.uPlot(options, this.#data, this.#target);
  }

  #resize() {
    const width = this.#target.clientWidth;
    if (width === 0) return;
    if (!this.#plot) this.#make();
    else if (this.#plot.width !== width) this.#plot.setSize({ width, height: HEIGHT });
  }
}
