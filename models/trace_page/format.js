// The trace, and numbers as people read them.

const trace = JSON.parse(document.getElementById("trace").textContent);
const instructions = trace.instructions;
instructions.forEach((instruction, index) => { instruction.index = index; });

// An element with attributes ("class", "onclick", ...) and children (elements or text, never HTML).
function element(tag, attributes = {}, ...children) {
  const out = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === false) continue;
    if (typeof value === "function") out.addEventListener(name.slice(2), value);
    else out.setAttribute(name, value === true ? "" : value);
  }
  out.append(...children.filter((child) => child !== undefined && child !== null));
  return out;
}

function scaled(value, unit, step = 1000) {
  const prefixes = ["", "k", "M", "G", "T", "P"];
  let power = 0;
  while (Math.abs(value) >= 999.5 && power + 1 < prefixes.length) { value /= step; ++power; }
  const digits = power === 0 && Number.isInteger(value) ? 0 : Math.abs(value) < 9.995 ? 2 : Math.abs(value) < 99.95 ? 1 : 0;
  return value.toFixed(digits) + "\u202f" + prefixes[power] + unit;
}
const bytesText = (bytes) => scaled(bytes, "B");
const flopsText = (flops) => scaled(flops, "FLOP");
const rateText = (perSecond) => scaled(perSecond, "FLOP/s");
function timeText(seconds) {
  if (seconds >= 1) return seconds.toFixed(2) + "\u202fs";
  if (seconds >= 1e-3) return (seconds * 1e3).toFixed(seconds < 9.995e-3 ? 2 : 1) + "\u202fms";
  return (seconds * 1e6).toFixed(seconds < 9.95e-6 ? 1 : 0) + "\u202fµs";
}
function valueText(value) {
  if (value === null || value === undefined) return "not finite";
  if (value === 0 || Number.isInteger(value) && Math.abs(value) < 1e7) return String(value).replace("-", "−");
  const size = Math.abs(value);
  const text = size >= 1e5 || size < 1e-3 ? value.toExponential(2) : value.toPrecision(4);
  return text.replace("-", "−").replace("e-", "e−").replace("e+", "e");
}
const percentText = (part) => (100 * part).toFixed(part < 0.000995 ? 2 : part < 0.0995 ? 1 : 0) + "\u202f%";
// The limit counts main memory: what lies in a cache may be faster.
const limitText = (part) => part > 1.2 ? "cached" : percentText(part);
const breakable = (name) => name.replace(/[._,]/g, "$&\u200b");  // a name may be broken after these
const shapeText = (shape) => shape.length ? shape.join("\u2009×\u2009") : "1";
const count = (shape) => shape.reduce((product, size) => product * size, 1);
const sum = (items, of) => items.reduce((total, item) => total + of(item), 0);

// A token as text that shows its spaces; a number where there is no tokenizer.
function tokenText([id, text]) {
  if (!text) return "#" + id;
  return text.replace(/ /g, "␣").replace(/\n/g, "⏎").replace(/\t/g, "⇥");
}

// The least time that the machine's limits allow, as a part of the time taken; undefined if unknown.
function fractionOfLimit(instruction) {
  const { memory } = trace.limits, rate = trace.limits[instruction.unit === "bf16" ? "bf16" : "f32"];
  if (!memory || !rate || !instruction.seconds) return undefined;
  return Math.max(instruction.flops / rate, instruction.bytes / memory) / instruction.seconds;
}

const kinds = [
  ["matmul", /matmul/, "matrix product"],
  ["attention", /attention/, "attention"],
  ["norm", /norm|rope/, "norm, rotation"],
  ["rows", /embedding|gather|select|groups|moe/, "rows: look-up, routing"],
  ["loss", /entropy|sampl/, "loss"],
  ["element", /./, "element by element"],
];
const kindOf = (name) => kinds.find(([, pattern]) => pattern.test(name))[0];

// The comment above an instruction's struct: what it computes, its shapes.
function commentOf(name) {
  const kernel = trace.kernels[name];
  if (!kernel || !trace.sources[kernel.header[0]]) return "";
  const lines = trace.sources[kernel.header[0]].split("\n");
  let begin = kernel.header[1] - 1;
  while (begin > 0 && lines[begin - 1].startsWith("//")) --begin;
  return lines.slice(begin, kernel.header[1] - 1).map((line) => line.replace(/^\/\/ ?/, "")).join("\n");
}

const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
