// Pictures of tensors: small ones beside operands, a large one with its tokens and numbers.

const cellsOf = new Map();  // decoded, by picture
function cells(picture) {
  if (!cellsOf.has(picture)) cellsOf.set(picture, Uint8Array.from(atob(picture.cells), (byte) => byte.charCodeAt(0)));
  return cellsOf.get(picture);
}

let palette;
function colours() {
  if (palette) return palette;
  const parse = (name) => style(name).split(" ").map(Number);
  const ends = { negative: parse("--negative"), zero: parse("--zero"), positive: parse("--positive") };
  const broken = parse("--broken");
  palette = Array.from({ length: 256 }, (_, cell) => {
    if (cell === 0) return broken;
    const part = (cell - 128) / 127, end = part < 0 ? ends.negative : ends.positive;
    const strength = Math.pow(Math.abs(part), 0.75);  // so that small values are not lost
    return ends.zero.map((zero, i) => Math.round(zero + (end[i] - zero) * strength));
  });
  return palette;
}

const positions = trace.prompt.batch * trace.prompt.time;
const isByToken = (picture) => positions > 1 && picture.rows === positions;
let selectedToken = positions - 1;

// The part of a picture's height, in cells, that belongs to a token.
const rowOfToken = (picture, token) => Math.floor(token * picture.height / picture.rows);

function paint(canvas, picture) {
  const map = colours(), values = cells(picture);
  canvas.width = picture.width;
  canvas.height = picture.height;
  const context = canvas.getContext("2d"), image = context.createImageData(picture.width, picture.height);
  values.forEach((cell, i) => { image.data.set([...map[cell], 255], 4 * i); });
  context.putImageData(image, 0, 0);
}

const painted = new Set();  // canvases that are to be painted again in another theme
const lazily = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    paint(entry.target, entry.target.picture);
    painted.add(entry.target);
    lazily.unobserve(entry.target);
  }
}, { rootMargin: "400px" });
function repaint() {
  palette = undefined;
  for (const canvas of painted) if (canvas.isConnected) paint(canvas, canvas.picture); else painted.delete(canvas);
}

// A picture of at most `width` pixels, two per cell; the selected token has a mark at its row.
function thumbnail(picture, width = 128) {
  const pixels = { x: Math.max(10, Math.round(picture.width * width / 64)), y: Math.max(10, picture.height * 2) };
  const canvas = element("canvas", { style: `width:${pixels.x}px;height:${pixels.y}px`, width: 1, height: 1 });
  canvas.picture = picture;
  lazily.observe(canvas);
  const frame = element("span", { class: "frame" }, canvas);
  if (isByToken(picture)) {
    frame.classList.add("by-token");
    frame.style.setProperty("--rows", picture.height);
    frame.mark = element("i", { class: "mark" });
    frame.mark.picture = picture;
    frame.append(frame.mark);
    placeMark(frame.mark);
  }
  return frame;
}
function placeMark(mark) { mark.style.setProperty("--row", rowOfToken(mark.picture, selectedToken)); }

function statistics(picture) {
  const rows = [["smallest", picture.min], ["largest", picture.max], ["mean", picture.mean], ["rms", picture.rms]];
  if (picture.not_finite) rows.push(["not finite", picture.not_finite]);
  return element("dl", { class: "statistics" },
    ...rows.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, valueText(value))]));
}

function scaleBar(picture) {
  const canvas = element("canvas", { width: 255, height: 1, "aria-hidden": "true" });
  const context = canvas.getContext("2d"), image = context.createImageData(255, 1);
  for (let i = 0; i < 255; ++i) image.data.set([...colours()[i + 1], 255], 4 * i);
  context.putImageData(image, 0, 0);
  return element("div", { class: "scale" }, valueText(-picture.scale), canvas, valueText(picture.scale));
}

// The first and last row (column) of the tensor that a row (column) of cells stands for.
function span(cell, cellCount, size) {
  const first = Math.ceil(cell * size / cellCount), last = Math.ceil((cell + 1) * size / cellCount) - 1;
  return first >= last ? String(first) : `${first}–${last}`;
}

function showPicture(title, detail, picture) {
  const dialog = document.getElementById("viewer");
  const room = Math.min(window.innerWidth - 150, 860), high = window.innerHeight - 330;
  const named = isByToken(picture) && picture.height === picture.rows;
  const cell = Math.max(3, Math.min(18, Math.floor(room / picture.width), Math.max(8, Math.floor(high / picture.height))));
  const row = named ? Math.max(cell, 11) : cell;  // a row with a name is as high as the name
  const canvas = element("canvas", { style: `width:${cell * picture.width}px;height:${row * picture.height}px` });
  paint(canvas, picture);
  const reading = element("p", { class: "reading" }, "Point at a cell to read it.");
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    const at = (part, size) => Math.max(0, Math.min(size - 1, Math.floor(part * size)));
    const line = at((event.clientY - box.top) / box.height, picture.height);
    const column = at((event.clientX - box.left) / box.width, picture.width);
    const value = cells(picture)[line * picture.width + column];
    const rowName = span(line, picture.height, picture.rows);
    const token = named ? ` “${tokenText(trace.prompt.tokens[line])}”` : "";
    const mean = picture.height < picture.rows || picture.width < picture.columns ? "mean ≈ " : "≈ ";
    reading.textContent = `row ${rowName}${token}, column ${span(column, picture.width, picture.columns)}: ` +
      (value === 0 ? "not finite" : mean + valueText((value - 128) / 127 * picture.scale));
  });
  const labels = element("ol", { class: "row-names", style: `--cell:${row}px` });
  if (named) trace.prompt.tokens.forEach((token) => labels.append(element("li", {}, tokenText(token))));
  const listed = picture.values && element("p", { class: "listed" }, picture.values.map(valueText).join("  "));
  dialog.replaceChildren(
    element("div", { class: "dialog-head" }, element("h2", {}, title),
      element("button", { type: "button", onclick: () => dialog.close(), "aria-label": "Close" }, "✕")),
    element("p", { class: "detail" }, detail),
    element("div", { class: "large" }, labels, canvas), reading, ...(listed ? [listed] : []), scaleBar(picture),
    statistics(picture),
    element("p", { class: "detail" }, `${picture.rows} rows of ${picture.columns} values, shown as ` +
      `${picture.height} × ${picture.width} cells; a cell is the mean of what it stands for.`));
  dialog.showModal();
}
