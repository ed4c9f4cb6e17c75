// Numbers as people read them. A missing figure is a dash; signs are real minus signs; digits are the same everywhere.
const DASH = "–";
const SUPER = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };
const signed = text => text.replace("-", "−");

function fixed(value, digits) {
  if (value == null) return DASH;
  const text = value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  return /[1-9]/.test(text) ? signed(text) : text.replace("-", "");
}

// Three significant digits by default; powers of ten outside 0.001 .. 100 000.
function figure(value, digits = 3) {
  if (value == null) return DASH;
  if (value === 0) return "0";
  const power = Math.floor(Math.log10(Math.abs(value)));
  if (power >= -3 && power < 5) return fixed(value, Math.max(0, Math.min(6, digits - 1 - power)));
  const [mantissa, exponent] = value.toExponential(digits - 1).split("e");
  return `${signed(mantissa)} × 10${[...String(Number(exponent))].map(c => SUPER[c]).join("")}`;
}

// Tick labels: no zeros that say nothing.
function tickLabel(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 1e-3 || size >= 1e5) return figure(value, 1).replace(/^1 × /, "");
  return signed(String(Number(value.toPrecision(4))));
}

const whole = value => fixed(value, 0);
function percent(value, digits) {
  if (value == null) return DASH;
  const size = Math.abs(value);
  return `${fixed(value * 100, digits ?? (size >= 0.0995 ? 1 : size >= 0.001 || size === 0 ? 2 : 3))}%`;
}
const change = (value, digits) => (value == null ? DASH : (value > 0 ? "+" : "") + percent(value, digits));

function scaled(value, units, step) {
  if (value == null) return [DASH, ""];
  let size = value,
    index = 0;
  while (Math.abs(size) >= step && index < units.length - 1) {
    size /= step;
    index += 1;
  }
  return [index === 0 && Number.isInteger(size) ? whole(size) : figure(size), units[index]];
}
const bytes = value => scaled(value, ["B", "kB", "MB", "GB", "TB"], 1000);
const bytesText = value => bytes(value).join("\u00a0").trim();
const parameters = value =>
  value == null ? null : scaled(value, ["", "thousand", "million", "billion", "trillion"], 1000).join(" ").trim();
const interval = (range, form) =>
  range == null ? "interval not given" : `95% CI ${form(range[0])} – ${form(range[1])}`;

function duration(seconds) {
  if (seconds == null) return null;
  if (seconds < 120) return `${figure(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 120 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

const count = (n, noun) => `${whole(n)} ${noun}${n === 1 ? "" : "s"}`;
// A label that is too long keeps its end, which tells layers apart.
const clipped = (label, most) => (label.length > most ? `…${label.slice(1 - most)}` : label);
const shape = axes => (axes.length ? axes.join(" × ") : DASH);
// What repeats in every name, `model.layers.*.`, is left out where the label stays unique.
function shortKinds(kinds) {
  const short = kind => (kind.includes("*.") ? kind.slice(kind.indexOf("*.") + 2) : kind);
  const seen = new Map();
  for (const kind of kinds) seen.set(short(kind), (seen.get(short(kind)) ?? 0) + 1);
  return kind => (seen.get(short(kind)) > 1 ? kind : short(kind));
}
function median(values) {
  const sorted = values.filter(value => value != null).sort((a, b) => a - b);
  if (!sorted.length) return null;
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}
