// Numbers as people read them. PURE.

const integer = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export function count(value) {
  return integer.format(value);
}

export function rate(value) {
  return value < 10 && value % 1 ? value.toFixed(1) : integer.format(value);
}

export function ms(value) {
  if (value === null || value === undefined) return "–";
  if (value >= 10_000) return seconds(value / 1000);
  return `${value < 10 ? value.toFixed(1) : integer.format(value)} ms`;
}

export function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value < 10) return `${Math.max(0, value).toFixed(1)} s`;
  if (value < 100) return `${Math.round(value)} s`;
  const whole = Math.round(value);
  return `${Math.floor(whole / 60)} min ${String(whole % 60).padStart(2, "0")} s`;
}

export function ago(value) {
  if (value < 1.5) return "now";
  if (value < 100) return `${Math.round(value)} s ago`;
  if (value < 5400) return `${Math.round(value / 60)} min ago`;
  return `${Math.round(value / 3600)} h ago`;
}

export function percent(share) {
  return share === null || share === undefined ? "–" : `${Math.round(share * 100)} %`;
}

export function megabytes(bytes) {
  return `${integer.format(bytes / 1e6)} MB`;
}

export function plural(number, noun) {
  return `${integer.format(number)} ${noun}${number === 1 ? "" : "s"}`;
}
