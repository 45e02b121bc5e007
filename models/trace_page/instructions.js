// Modules, ops and instructions.

// Consecutive ops of one section, in forward order.
const modules = [];
trace.ops.forEach((op, index) => {
  op.index = index;
  op.forward = [];
  op.backward = [];
  if (!modules.length || modules.at(-1).name !== op.section) modules.push({ name: op.section, ops: [] });
  op.home = modules.at(-1);
  op.home.ops.push(op);
});
instructions.forEach((instruction) => {
  const op = trace.ops[instruction.op];
  (instruction.backward ? op.backward : op.forward).push(instruction);
});
const hasBackward = instructions.some((instruction) => instruction.backward);
const seconds = (list) => sum(list, (instruction) => instruction.seconds);
const allOf = (module) => module.ops.flatMap((op) => [...op.forward, ...op.backward]);

const captions = [
  [/\.layers\.(\d+)$/, (match) => `Block ${match[1]}: attention and feed-forward`],
  [/codec_proj$/, () => "From codes to the Talker's width"],
  [/embed_proj$/, () => "From the Thinker's bridge to the Talker's width"],
  [/^talker\.embed_tokens/, () => "Embedding of spoken codes"],
  [/^talker\.lm_head/, () => "Logits of the eight codebooks"],
  [/^talker$/, () => "What was heard and what was spoken, weighed"],
  [/^talker\.norm/, () => "Final norm of the Talker"],
  [/embed_tokens/, (match, module) => module === modules[0] || module.ops[0].function === "embedding"
    ? "Token embedding" : "Logits, by the matrix of the embedding"],
  [/lm_head/, () => "Logits"],
  [/norm$/, () => "Final norm"],
  [/audio_proj/, () => "Features of sounds to the Thinker's width"],
  [/vision_proj/, () => "Features of pictures to the Thinker's width"],
  [/^spk_proj|speaker/, () => "The speaker's voice"],
  [/^loss$/, () => "Cross-entropy"],
  [/^input$/, () => "What the host brings"],
];
function captionOf(module) {
  for (const [pattern, caption] of captions) {
    const match = module.name.match(pattern);
    if (match) return caption(match, module);
  }
  return "";
}

function sourceLink([path, line], label) {
  return element("button", { type: "button", class: "link", title: "Show the source",
    onclick: () => showSource(path, line) }, label || `${path}:${line}`);
}

function operandCard(operand, instruction) {
  const picture = trace.pictures[operand.picture];
  const title = `${operand.name}, ${instruction.name} #${instruction.index}`;
  const detail = `${operand.dtype} ${shapeText(operand.shape)}` + (operand.parameter
    ? ` · ${operand.gradient ? "gradient of " : ""}${operand.parameter}` : "");
  const single = picture.values && picture.values.length === 1;
  const face = single ? element("span", { class: "single" }, valueText(picture.values[0])) : thumbnail(picture);
  const open = element("button", { type: "button", class: "face", title: `${title}: enlarge`,
    onclick: () => showPicture(title, detail, picture) }, face);
  const origin = operand.writer !== undefined
    ? element("button", { type: "button", class: "link origin", title: "Go to the instruction that made it",
      onclick: () => go(operand.writer) }, breakable(`← #${operand.writer} ${instructions[operand.writer].name}`))
    : operand.parameter ? element("span", { class: "parameter", title: operand.parameter },
      breakable((operand.gradient ? "∂ " : "") + shortParameter(operand, instruction))) : undefined;
  return element("figure", { class: "operand" + (operand.written ? " written" : "") }, open,
    element("figcaption", {}, element("b", {}, operand.name),
      element("span", { class: "type" }, `${operand.dtype} ${shapeText(operand.shape)}`),
      single ? undefined : element("span", { class: "range" }, `${valueText(picture.min)} … ${valueText(picture.max)}`),
      picture.not_finite ? element("span", { class: "alarm" }, `${picture.not_finite} not finite`) : undefined,
      origin));
}

// A parameter's name below the module that the card stands in.
function shortParameter(operand, instruction) {
  const section = trace.ops[instruction.op].section + ".";
  return operand.parameter.startsWith(section) ? operand.parameter.slice(section.length) : operand.parameter;
}

function instructionCard(instruction) {
  const kernel = trace.kernels[instruction.name], comment = commentOf(instruction.name);
  const part = fractionOfLimit(instruction);
  const reads = instruction.operands.filter((operand) => !operand.written);
  const writes = instruction.operands.filter((operand) => operand.written);
  const facts = [bytesText(instruction.bytes), flopsText(instruction.flops)];
  if (instruction.flops) facts.push(rateText(instruction.flops / instruction.seconds));
  const meter = part !== undefined && element("span", { class: "meter",
    title: "The least time that the machine allows for this work, as a part of the time it took; it may be less where " +
      "operands lie in a cache" },
    element("i", { style: `width:${Math.min(100, 100 * part)}%` }));
  const card = element("article", { class: `instruction kind-${kindOf(instruction.name)}`,
    id: `i${instruction.index}`, onclick: () => select(instruction.index) },
    element("h4", {}, element("span", { class: "number" }, `#${instruction.index}`), instruction.name,
      element("span", { class: "time" }, timeText(instruction.seconds))),
    element("p", { class: "facts" }, facts.join(" · "),
      ...(meter ? [element("span", { class: "limit" }, meter, limitText(part) + (part > 1.2 ? "" : " of the limit"))] : [])),
    comment ? formula(comment) : undefined,
    kernel ? element("p", { class: "where" }, sourceLink(kernel.kernel)) : undefined,
    element("div", { class: "operands" }, ...[...reads, ...writes].map((operand) => operandCard(operand, instruction))));
  return card;
}

// The first paragraph of a comment, up to its list of formulas or operands; all of it when it is opened.
function formula(comment) {
  const lines = comment.split("\n");
  const end = lines.findIndex((line, index) => index > 0 && /^( |$)/.test(line));
  const first = lines.slice(0, end < 0 ? lines.length : end).join(" "), rest = end < 0 ? [] : lines.slice(end);
  if (!rest.length && first.length < 90) return element("p", { class: "formula" }, first);
  return element("details", { class: "formula" }, element("summary", {}, element("span", {}, first)),
    rest.length ? element("pre", {}, rest.join("\n")) : undefined);
}

function column(title, list, name) {
  return element("div", { class: `column ${name}` },
    element("h5", {}, title, list.length ? element("span", { class: "time" }, timeText(seconds(list))) : undefined),
    ...(list.length ? list.map(instructionCard) : [element("p", { class: "none" }, "nothing to do")]));
}

function opCard(op) {
  const below = op.module.startsWith(op.section + ".") ? op.module.slice(op.section.length + 1) : "";
  return element("section", { class: "op", "data-op": op.index },
    element("header", {}, element("h3", {}, op.function || "outside of any op"),
      below ? element("span", { class: "below" }, below) : undefined,
      op.source ? sourceLink(op.source) : undefined),
    element("div", { class: "columns" + (hasBackward ? "" : " single-column") }, column("Forward", op.forward, "forward"),
      hasBackward ? column("Backward", op.backward, "backward") : undefined));
}

// What a module takes, forward and backward, beside the most expensive one.
function moduleBar(module) {
  const most = Math.max(...modules.map((other) => seconds(allOf(other))));
  const part = (list) => `width:${(100 * seconds(list) / most).toFixed(2)}%`;
  return element("span", { class: "bar", "aria-hidden": "true" },
    element("i", { class: "forward", style: part(module.ops.flatMap((op) => op.forward)) }),
    element("i", { class: "backward", style: part(module.ops.flatMap((op) => op.backward)) }));
}

function moduleCard(module, index) {
  const forward = seconds(module.ops.flatMap((op) => op.forward));
  const backward = seconds(module.ops.flatMap((op) => op.backward));
  module.body = element("div", { class: "body" });
  module.card = element("details", { class: "module", id: `m${index}` },
    element("summary", {}, element("span", { class: "name" }, module.name),
      element("span", { class: "caption" }, captionOf(module)), moduleBar(module),
      element("span", { class: "time" }, timeText(forward) + (hasBackward ? ` + ${timeText(backward)}` : ""))),
    module.body);
  module.card.addEventListener("toggle", () => { if (module.card.open) build(module); });
  return module.card;
}

// The content of a module is made when it is first wanted.
function build(module) {
  if (module.built) return;
  module.built = true;
  module.body.append(...module.ops.map(opCard));
  filterModule(module);
}

// Sources: the file of a kernel, with its line in view.
function showSource(path, line) {
  const dialog = document.getElementById("source"), text = trace.sources[path];
  if (text === undefined) return;
  const lines = element("ol", { class: "code" });
  text.replace(/\n$/, "").split("\n").forEach((content, index) => {
    lines.append(element("li", { class: index + 1 === line ? "here" : undefined }, ...highlighted(content)));
  });
  dialog.replaceChildren(element("div", { class: "dialog-head" }, element("h2", {}, `${path}:${line}`),
    element("button", { type: "button", onclick: () => dialog.close(), "aria-label": "Close" }, "✕")), lines);
  if (!dialog.open) dialog.showModal();
  lines.querySelector(".here")?.scrollIntoView({ block: "center" });
}

const words = "(?:auto|bool|break|case|class|const|constexpr|continue|default|double|else|enum|false|float|for|if|" +
  "inline|int|int64_t|namespace|nullptr|operator|private|public|return|sizeof|static|static_cast|struct|switch|" +
  "template|this|true|typename|using|void|while|__global__|__shared__|__restrict__|__device__)";
const syntax = new RegExp(`(\\/\\/.*)|("(?:[^"\\\\]|\\\\.)*")|(^\\s*#.*)|\\b(${words})\\b`, "g");
function highlighted(line) {
  const out = [];
  let end = 0;
  for (const match of line.matchAll(syntax)) {
    out.push(line.slice(end, match.index));
    const name = match[1] ? "comment" : match[2] ? "text" : match[3] ? "directive" : "word";
    out.push(element("span", { class: name }, match[0]));
    end = match.index + match[0].length;
  }
  out.push(line.slice(end));
  return out;
}
