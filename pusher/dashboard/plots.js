// Three small plots of the last five minutes, drawn by uPlot in the page's colors.

import uPlot from "./vendor/uplot.js";

import { withHoles } from "./store.js";

const HEIGHT = 120;
const SPAN_S = 300;

const SERIES = {
  "plot-pairs": [["pairs_per_s", "--accent"]],
  "plot-latency": [["p99", "--p99"], ["p95", "--p95"], ["p50", "--accent"]],
  "plot-queue": [["queue_pairs", "--accent"]],
};

export function drawPlots() {
  const plots = Object.entries(SERIES).map(([id, series]) => new Plot(document.getElementById(id), series));
  const everyone = (act) => plots.forEach(act);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => everyone((plot) => plot.rebuild()));
  new ResizeObserver(() => everyone((plot) => plot.fit())).observe(document.querySelector(".plots"));
  return { show: (points) => everyone((plot) => plot.show(points)) };
}

class Plot {
  constructor(parent, series) {
    this.parent = parent;
    this.series = series;
    this.points = [];
    this.rebuild();
  }

  rebuild() {
    this.plot?.destroy();
    const style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue(name).trim();
    const axis = { stroke: color("--muted"), font: "11px system-ui, sans-serif", ticks: { show: false } };
    const grid = { stroke: color("--line"), width: 1 };
    this.plot = new uPlot(
      {
        width: this.width(),
        height: HEIGHT,
        legend: { show: false },
        cursor: { show: false },
        padding: [8, 18, 0, 0],
        scales: {
          x: { time: true, range: (_plot, _low, high) => [high - SPAN_S, high] },
          y: { range: (_plot, _low, high) => [0, Math.max(1, high * 1.15)] },
        },
        axes: [
          { ...axis, grid: { show: false }, size: 22, space: 70, values: (_plot, ticks) => ticks.map(clock) },
          { ...axis, grid, size: 44, space: 32, values: (_plot, ticks) => ticks.map(short) },
        ],
        series: [
          {},
          ...this.series.map(([, name]) => ({
            stroke: color(name),
            width: 1.5,
            fill: this.series.length === 1 ? `${color(name)}22` : undefined,
            points: { show: false },
            spanGaps: false,
          })),
        ],
      },
      this.data(),
      this.parent,
    );
  }

  show(points) {
    this.points = points;
    this.plot.setData(this.data());
  }

  data() {
    const points = withHoles(this.points);
    return [points.map((point) => point.t), ...this.series.map(([name]) => points.map((point) => point[name] ?? null))];
  }

  fit() {
    const width = this.width();
    if (width && width !== this.plot.width) this.plot.setSize({ width, height: HEIGHT });
  }

  width() {
    return this.parent.clientWidth;
  }
}

function clock(unixSeconds) {
  return new Date(unixSeconds * 1000).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
}

function short(value) {
  return value >= 10_000 ? `${value / 1000}k` : String(value);
}
