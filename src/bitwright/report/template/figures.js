// The head of the page: what was made, and what it costs and loses against the original.
function drawTitle() {
  const { source, scores } = DATA;
  section("over").append(`${["Bitwright", DATA.version].join(" ").trim()} · quantization report`);
  section("title").append(source.name || "Quantized model");
  const now = storedBytes(),
    before = originalBytes(),
    sentences = [];
  const size = parameters(source.parameters);
  sentences.push(
    `${size ? `${size} parameters` : "A model"}${source.dtype ? ` in ${source.dtype}` : ""}, ` +
      `${count(DATA.rows.length, "layer")} quantized${DATA.quantized_bits ? ` to ${fixed(DATA.quantized_bits, 2)} bits per weight` : ""}.`,
  );
  if (now && before) sentences.push(`${bytesText(before)} became ${bytesText(now)}.`);
  const rise = perplexityChange();
  if (rise != null)
    sentences.push(
      `Perplexity ${rise >= 0 ? "rose" : "fell"} by ${percent(Math.abs(rise))}` +
        (scores.top1_agreement
          ? `, and ${percent(scores.top1_agreement.value)} of the most likely next tokens are the same.`
          : "."),
    );
  section("lede").append(sentences.join(" "));
}

const partBytes = () => DATA.parts.reduce((sum, part) => sum + part.bytes, 0);
const storedBytes = () => DATA.scores?.bytes ?? (partBytes() || null);
const originalBytes = () => DATA.scores?.bytes_original ?? DATA.source.bytes;
function perplexityChange() {
  const now = DATA.scores?.perplexity?.value,
    before = DATA.scores?.perplexity_original?.value;
  return now != null && before > 0 ? now / before - 1 : null;
}

function headline(name, value, unit, ...lines) {
  return html(
    "div",
    { class: "figure" },
    html("h3", {}, name),
    html("p", { class: "value" }, value, unit ? html("span", { class: "unit" }, unit) : null),
    lines.filter(Boolean).map((line, i) => html("p", { class: i ? "context faint" : "context" }, line)),
  );
}
function score(name, measured, form, unit, context) {
  return headline(
    name,
    measured ? form(measured.value) : DASH,
    measured ? unit : null,
    measured ? interval(measured.interval, form) : "not measured",
    context,
  );
}

function drawHeadline() {
  const { scores, source } = DATA,
    host = section("headline"),
    now = storedBytes(),
    before = originalBytes(),
    stored = bytes(now);
  const bits =
    scores?.bits_per_weight ??
    (source.parameters > 0 && partBytes() ? (partBytes() * 8) / source.parameters : DATA.quantized_bits);
  host.append(
    headline(
      "Size",
      stored[0],
      stored[1],
      now && before ? `${percent(now / before)} of ${bytesText(before)}` : null,
      "exact, as stored",
    ),
    headline(
      "Bits per weight",
      fixed(bits, 2),
      null,
      DATA.quantized_bits ? `${fixed(DATA.quantized_bits, 2)} where quantized` : null,
      "exact, as stored",
    ),
    ...(scores ? scoreFigures(scores) : [howToScore()]),
  );
}

const howToScore = () =>
  html(
    "div",
    { class: "missing" },
    "Not yet measured against the original. To add perplexity, divergence and agreement, with their intervals, run",
    html("code", {}, "bitwright evaluate OUT --against MODEL --text FILE"),
    "and write the report again.",
  );

function scoreFigures(scores) {
  const precise = value => fixed(value, 3),
    rise = perplexityChange(),
    original = scores.perplexity_original;
  const perplexity = score("Perplexity", scores.perplexity, precise, null, null);
  if (original)
    perplexity.append(
      html("p", { class: "context" }, `original ${precise(original.value)}${rise == null ? "" : `, ${change(rise)}`}`),
      html("p", { class: "context faint" }, interval(original.interval, precise)),
    );
  const agreement = score(
    "Same top token",
    scores.top1_agreement,
    value => percent(value, 2),
    null,
    scores.tokens == null ? null : count(scores.tokens, "token"),
  );
  if (scores.text) agreement.append(html("p", { class: "context faint name" }, scores.text));
  return [
    perplexity,
    score("KL divergence, mean", scores.kl_mean, value => figure(value), "nats", "0 is identical"),
    score("KL divergence, 99.9%", scores.kl_p999, value => figure(value), "nats", "1 token in 1000 is above"),
    agreement,
  ];
}

function drawSize() {
  const host = body("size"),
    total = partBytes();
  if (!total) return void host.append(html("p", { class: "quiet" }, "No sizes recorded."));
  let step = 0;
  const parts = DATA.parts.map(part => ({
    ...part,
    look: `tone-${part.tone}${part.tone === "kept" ? ` step-${step++ % 6}` : ""}`,
  }));
  const bar = html("div", { class: "bar" });
  host.append(bar, sizeTable(parts, total));
  plot(bar, "Stored bytes by kind", width => sizeBar(width, parts, total));
}

function sizeBar(width, parts, total) {
  let at = 0;
  const marks = [],
    nodes = parts.map(part => {
      const wide = (part.bytes / total) * width,
        x = at;
      at += wide;
      marks.push({
        x: x + wide / 2,
        y: 17,
        left: x,
        right: at,
        name: part.label,
        lines: [`${bytesText(part.bytes)}, ${percent(part.bytes / total)}`],
        over: () => [],
      });
      return svg("rect", {
        x: x.toFixed(2),
        y: 0,
        width: Math.max(0.75, wide - 1.5).toFixed(2),
        height: 34,
        class: part.look,
      });
    });
  return { height: 34, nodes, hover: { marks, columns: true } };
}

function sizeTable(parts, total) {
  const heads = ["Part", "Bytes", "Share", "Bits per parameter"].map((name, i) =>
    html("th", { class: i ? "num" : null }, name),
  );
  const lines = parts.map(part =>
    html(
      "tr",
      {},
      html("td", { class: "name" }, html("i", { class: `swatch ${part.look}` }), part.label),
      sizeCells(part.bytes, total),
    ),
  );
  const sum = html("tr", { class: "total" }, html("td", {}, "Together"), sizeCells(total, total));
  return html("table", { class: "sizes" }, html("thead", {}, html("tr", {}, heads)), html("tbody", {}, lines, sum));
}

function sizeCells(size, total) {
  const all = DATA.source.parameters;
  return [bytesText(size), percent(size / total), all > 0 ? fixed((size * 8) / all, 3) : DASH].map(cell =>
    html("td", { class: "num" }, cell),
  );
}
