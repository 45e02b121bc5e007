// The head of the page, the way through it, and its beginning.

let current = 0, direction = "both", query = "";

function chip(text) { return element("span", { class: "chip" }, text); }
function tile(name, value, detail) {
  return element("div", { class: "tile" }, element("span", {}, name), element("b", {}, value),
    detail ? element("small", {}, detail) : undefined);
}

function showHead() {
  const { model, losses } = trace, forward = instructions.filter((i) => !i.backward);
  const backward = instructions.filter((i) => i.backward);
  const tiles = [tile("Forward", timeText(seconds(forward)), `${forward.length} instructions`)];
  if (hasBackward) tiles.push(tile("Backward", timeText(seconds(backward)), `${backward.length} instructions`));
  tiles.push(tile("Arithmetic", flopsText(sum(instructions, (i) => i.flops)),
    rateText(sum(instructions, (i) => i.flops) / seconds(instructions))));
  tiles.push(tile("Memory traffic", bytesText(sum(instructions, (i) => i.bytes)),
    scaled(sum(instructions, (i) => i.bytes) / seconds(instructions), "B/s")));
  for (const [name, value] of Object.entries(losses))
    if (name === "loss" ? losses.loss !== losses.text_loss : name !== "aux_loss" || value) tiles.push(tile(name.replace("_", " "), valueText(value),
      name === "text_loss" ? `perplexity ${valueText(Math.exp(value))}` : ""));
  document.title = `${model.name} · omni.cu trace`;
  document.getElementById("head").append(
    element("h1", {}, model.name),
    element("p", { class: "chips" }, chip(model.omni ? "omni: Thinker and Talker" : "Thinker"),
      chip(scaled(model.parameters, "") .trim() + " parameters"), chip(model.dtype), chip(model.device),
      chip(`${trace.prompt.batch} × ${trace.prompt.time} positions`)),
    element("div", { class: "tiles" }, ...tiles));
}

function chooseToken(token) {
  selectedToken = token;
  document.querySelectorAll(".token").forEach((button, index) =>
    button.setAttribute("aria-pressed", String(index === token)));
  document.querySelectorAll(".mark").forEach((mark) => { if (mark.parentElement.mark) placeMark(mark); });
  const likely = trace.prompt.predictions?.[token];
  document.getElementById("likely")?.replaceChildren(...(likely || []).map(([id, text, probability]) =>
    element("li", {}, element("code", {}, tokenText([id, text])),
      element("span", { class: "bar" }, element("i", { class: "forward", style: `width:${100 * probability}%` })),
      element("span", { class: "time" }, percentText(probability || 0)))));
  const codes = trace.prompt.codes;
  if (codes) document.getElementById("codes").textContent = codes.map((stream) => stream[token]).join(" · ");
}

function showPrompt() {
  const { tokens, time, codes, predictions } = trace.prompt;
  const chips = tokens.map((token, index) => element("button", { type: "button", class: "token",
    "aria-pressed": "false", title: `position ${index % time}, id ${token[0]}`, onclick: () => chooseToken(index) },
    tokenText(token)));
  const panel = element("div", { class: "panel prompt" }, element("h2", {}, "Prompt"),
    element("p", { class: "hint" }, "Choose a token: its row is marked in every picture that has one row per token."),
    element("p", { class: "tokens" }, ...chips));
  if (codes) panel.append(element("p", { class: "hint" }, "The eight audio codes at this position: ",
    element("code", { id: "codes" })), streamsTable(codes));
  if (predictions) panel.append(element("h2", {}, "Then the model expects"), element("ol", { id: "likely" }));
  return panel;
}

function streamsTable(codes) {
  const rows = codes.map((stream, index) => element("tr", {}, element("th", { scope: "row" }, `codebook ${index}`),
    ...stream.map((code) => element("td", {}, String(code)))));
  rows.push(element("tr", {}, element("th", { scope: "row" }, "text"),
    ...trace.prompt.tokens.map((token) => element("td", {}, tokenText(token)))));
  return element("details", { class: "streams" }, element("summary", {}, "All nine streams"),
    element("div", { class: "scroll" }, element("table", {}, ...rows)));
}

function showTotals() {
  const totals = new Map();
  for (const instruction of instructions) {
    const total = totals.get(instruction.name) || { seconds: 0, calls: 0, flops: 0, least: 0 };
    total.seconds += instruction.seconds;
    total.calls += 1;
    total.flops += instruction.flops;
    total.least += (fractionOfLimit(instruction) || 0) * instruction.seconds;
    totals.set(instruction.name, total);
  }
  const sorted = [...totals].sort((a, b) => b[1].seconds - a[1].seconds), all = seconds(instructions);
  const row = ([name, total]) => element("button", { type: "button", class: `total kind-${kindOf(name)}`,
    title: "Show only this instruction", onclick: () => setQuery(query === name ? "" : name, true) },
    element("span", { class: "name" }, name), element("span", { class: "calls" }, `${total.calls}×`),
    element("span", { class: "bar" }, element("i", { style: `width:${100 * total.seconds / sorted[0][1].seconds}%` })),
    element("span", { class: "time" }, timeText(total.seconds)),
    element("span", { class: "share" }, percentText(total.seconds / all)),
    element("span", { class: "of-limit", title: "Fraction of the machine's limit" },
      total.least ? limitText(total.least / total.seconds) : "–"));
  const labels = element("div", { class: "total labels", "aria-hidden": "true" }, element("span", {}, "instruction"),
    element("span", {}, "calls"), element("span"), element("span", {}, "time"), element("span", {}, "share"),
    element("span", {}, "of limit"));
  return element("div", { class: "panel totals" }, element("h2", {}, "Where the time goes"), labels, ...sorted.slice(0, 12).map(row),
    sorted.length > 12 ? element("details", { class: "rest" }, element("summary", {}, `${sorted.length - 12} more`),
      ...sorted.slice(12).map(row)) : undefined,
    element("p", { class: "hint" }, trace.timing));
}

function showStream() {
  const named = trace.results.filter((result) => trace.pictures[result.picture].rows > 1 &&
    !trace.pictures[result.picture].values);
  return element("div", { class: "panel stream" }, element("h2", {}, "The stream through the model"),
    element("div", { class: "film" }, ...named.map((result) => {
      const picture = trace.pictures[result.picture];
      return element("figure", {}, element("button", { type: "button", class: "face", title: `${result.name}: enlarge`,
        onclick: () => showPicture(result.name, shapeText(result.shape), picture) }, thumbnail(picture, 112)),
        element("figcaption", {}, element("b", {}, result.name), element("span", { class: "type" },
          shapeText(result.shape)), element("span", { class: "range" }, `rms ${valueText(picture.rms)}`),
          result.writer !== undefined ? element("button", { type: "button", class: "link",
            onclick: () => go(result.writer) }, `← #${result.writer} ${instructions[result.writer].name}`) : undefined));
    })));
}

function showNavigation() {
  document.getElementById("nav").append(...modules.map((module) => {
    module.entry = element("a", { href: `#m${modules.indexOf(module)}`, title: captionOf(module), onclick: (event) => {
      event.preventDefault();
      document.body.classList.remove("menu-open");
      module.card.open = true;
      build(module);
      module.card.scrollIntoView({ block: "start" });
    } }, element("span", { class: "name" }, module.name), moduleBar(module));
    return module.entry;
  }));
}

// Filter: the name of an instruction, an op, a module, an operand or a parameter.
function matches(instruction) {
  if (direction !== "both" && instruction.backward !== (direction === "backward")) return false;
  const op = trace.ops[instruction.op];
  return !query || [instruction.name, op.function, op.section, op.module, `#${instruction.index}`,
    ...instruction.operands.flatMap((operand) => [operand.name, operand.parameter || ""])]
    .some((text) => text.toLowerCase().includes(query));
}
function filterModule(module) {
  let any = false;
  for (const op of module.ops) {
    let anyOfOp = false;
    for (const instruction of [...op.forward, ...op.backward]) {
      const shown = matches(instruction);
      anyOfOp ||= shown;
      const card = document.getElementById(`i${instruction.index}`);
      if (card) card.hidden = !shown;
    }
    const card = module.body.querySelector(`[data-op="${op.index}"]`);
    if (card) card.hidden = !anyOfOp;
    any ||= anyOfOp;
  }
  module.card.hidden = module.entry.hidden = !any;
  return any;
}
function filter() {
  document.body.dataset.direction = direction;
  const any = modules.map((module) => {
    if (query && allOf(module).some(matches)) { build(module); module.card.open = true; }
    return filterModule(module);
  }).some(Boolean);
  document.getElementById("nothing").hidden = any;
  drawTimeline();
}
function setQuery(text, scroll = false) {
  query = text.trim().toLowerCase();
  document.getElementById("search").value = text;
  filter();
  if (query && scroll) document.getElementById("modules").scrollIntoView();
}

// The instruction in focus.
function select(index, scroll = false) {
  document.querySelector(".instruction.current")?.classList.remove("current");
  current = index;
  const instruction = instructions[index], module = trace.ops[instruction.op].home;
  if (scroll) {
    if (!matches(instruction)) { direction = "both"; setQuery(""); pressDirection(); }
    module.card.open = true;
    build(module);
  }
  const card = document.getElementById(`i${index}`);
  card?.classList.add("current");
  if (scroll) card.scrollIntoView({ block: "center" });
  document.getElementById("now").replaceChildren(element("b", {}, `#${index} ${instruction.name}`),
    ` ${instruction.backward ? "backward" : "forward"} · ${module.name} · ${timeText(instruction.seconds)}`);
  modules.forEach((other) => other.entry.classList.toggle("current", other === module));
  drawTimeline();
}
const go = (index) => { document.querySelectorAll("dialog[open]").forEach((d) => d.close()); select(index, true); };
function step(by) {
  for (let i = current + by; i >= 0 && i < instructions.length; i += by) if (matches(instructions[i])) return go(i);
}

// The timeline: every instruction as wide as the time it took, the modules below.
const begins = [];
instructions.reduce((begin, instruction) => { begins.push(begin); return begin + instruction.seconds; }, 0);
function drawTimeline() {
  const canvas = document.getElementById("timeline"), ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth, height = canvas.clientHeight, all = seconds(instructions);
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  const context = canvas.getContext("2d"), x = (time) => time / all * width;
  context.scale(ratio, ratio);
  const lane = height - 10;
  let home, shade = false;
  instructions.forEach((instruction, i) => {
    const from = x(begins[i]), to = x(begins[i] + instruction.seconds);
    context.globalAlpha = matches(instruction) ? 1 : 0.15;
    context.fillStyle = style(`--kind-${kindOf(instruction.name)}`);
    context.fillRect(from, 0, Math.max(to - from, 0.6), lane);
    const module = trace.ops[instruction.op].home;
    if (module !== home) { home = module; shade = !shade; }
    context.globalAlpha = 1;
    context.fillStyle = style(instruction.backward ? "--backward" : "--forward");
    context.globalAlpha = shade ? 0.9 : 0.45;
    context.fillRect(from, lane + 3, Math.max(to - from, 0.6), 5);
  });
  context.globalAlpha = 1;
  context.fillStyle = style("--ink");
  const at = x(begins[current]), wide = Math.max(2, x(instructions[current].seconds));
  context.fillRect(at - 1, 0, 1.5, lane);
  context.fillRect(at + wide - 0.5, 0, 1.5, lane);
  context.fillRect(at - 1, lane, wide + 2, 2);
}
function timelineIndex(event) {
  const box = event.target.getBoundingClientRect();
  const time = (event.clientX - box.left) / box.width * seconds(instructions);
  const after = begins.findIndex((begin) => begin > time);
  return (after < 0 ? instructions.length : Math.max(after, 1)) - 1;
}
function showTip(event) {
  const tip = document.getElementById("tip"), instruction = instructions[timelineIndex(event)];
  tip.replaceChildren(element("b", {}, `#${instruction.index} ${instruction.name}`),
    ` ${timeText(instruction.seconds)}`, element("br"), trace.ops[instruction.op].section);
  tip.hidden = false;
  tip.style.left = Math.max(8, Math.min(window.innerWidth - tip.offsetWidth - 8, event.clientX - tip.offsetWidth / 2)) + "px";
}

function pressDirection() {
  for (const button of document.querySelectorAll("[data-direction]"))
    if (button !== document.body) button.setAttribute("aria-pressed", String(button.dataset.direction === direction));
}
function toggleTheme() {
  const root = document.documentElement, dark = getComputedStyle(root).colorScheme === "dark";
  root.dataset.theme = dark ? "light" : "dark";
  repaint();
  drawTimeline();
}
function setAll(open) {
  modules.forEach((module) => { if (open) build(module); module.card.open = open; });
}

const keys = {
  j: () => step(1), ArrowRight: () => step(1), k: () => step(-1), ArrowLeft: () => step(-1), t: toggleTheme,
  e: () => setAll(true), c: () => setAll(false),
  s: () => { const kernel = trace.kernels[instructions[current].name]; if (kernel) showSource(...kernel.kernel); },
  "/": () => { document.body.classList.add("menu-open"); document.getElementById("search").focus(); },
};
function listen() {
  const on = (id, type, act) => document.getElementById(id).addEventListener(type, act);
  on("search", "input", (event) => setQuery(event.target.value, true));
  on("theme", "click", toggleTheme);
  on("menu", "click", () => document.body.classList.toggle("menu-open"));
  on("main", "click", () => document.body.classList.remove("menu-open"));
  on("previous", "click", () => step(-1));
  on("next", "click", () => step(1));
  on("timeline", "pointermove", showTip);
  on("timeline", "pointerleave", () => { document.getElementById("tip").hidden = true; });
  on("timeline", "click", (event) => go(timelineIndex(event)));
  for (const button of document.querySelectorAll(".directions button"))
    button.addEventListener("click", () => { direction = button.dataset.direction; pressDirection(); filter(); });
  for (const dialog of document.querySelectorAll("dialog"))
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  document.addEventListener("keydown", (event) => {
    if (event.target.id === "search") {
      if (event.key === "Escape") { setQuery(""); event.target.blur(); }
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const act = keys[event.key];
    if (act) { event.preventDefault(); act(); }
  });
  window.addEventListener("resize", drawTimeline);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { repaint(); drawTimeline(); });
}

showHead();
document.getElementById("overview").append(showPrompt(), showTotals(), showStream());
document.getElementById("modules").append(...modules.map(moduleCard));
showNavigation();
document.getElementById("legend").append(...kinds.map(([kind, , name]) =>
  element("span", { class: `kind-${kind}` }, element("i"), name)));
if (!hasBackward) document.querySelector(".directions").hidden = true;
listen();
chooseToken(selectedToken);
const first = modules.find((module) => /layers/.test(module.name)) || modules[0];
first.card.open = true;
build(first);
select(0);
