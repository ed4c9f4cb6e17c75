// The worst layers: what their weights look like against the values that can be stored, and what flows into them.
function drawWorst() {
  const host = body("worst");
  if (!DATA.worst.length) return void host.append(html("p", { class: "quiet" }, "No layer losses recorded."));
  host.append(html("div", { class: "cards" }, DATA.worst.map(worstCard)));
  for (const draw of pending.splice(0)) draw();
}
const pending = [];

function worstCard(worst) {
  const row = DATA.rows[worst.row],
    facts = [`${fixed(row.sqnr_db, 1)} dB`, `${fixed(row.bits, 2)} bits`];
  if (row.gain != null) facts.push(`${change(-row.gain, 0)} vs nearest`);
  const card = html(
    "div",
    { class: "card" },
    html("h3", { class: "name" }, row.name),
    html("p", { class: "context" }, html("b", {}, `${percent(row.share)} of the loss`), ` · ${facts.join(" · ")}`),
  );
  histogramInto(card, worst.histogram, "Weights", "weights", 96, false);
  histogramInto(card, worst.inputs, "Inputs, log count", "input activations", 60, true);
  return card;
}

function histogramInto(card, histogram, caption, label, height, isLog) {
  card.append(html("p", { class: "caption" }, histogram ? caption : `${caption.split(",")[0]}: no histogram recorded`));
  if (!histogram) return;
  const host = html("div", {});
  card.append(host);
  pending.push(() => plot(host, `Histogram of ${label}`, width => histogramFrame(width, height, histogram, isLog)));
}

function histogramFrame(width, tall, histogram, isLog) {
  const { low, high, counts, grid } = histogram,
    x = linear(low, high, 0, width),
    step = width / counts.length;
  const scale = isLog ? count => Math.log1p(count) : count => count,
    most = scale(Math.max(...counts));
  const y = count => tall - (scale(count) / most) * tall,
    levels = grid.filter(value => value >= low && value <= high);
  const outline = counts
    .map(
      (count, i) =>
        `L${(i * step).toFixed(1)} ${y(count).toFixed(1)}L${((i + 1) * step).toFixed(1)} ${y(count).toFixed(1)}`,
    )
    .join("");
  const nodes = [svg("path", { d: `M0 ${tall}${outline}L${width} ${tall}Z`, class: isLog ? "bins input" : "bins" })];
  const foot = levels.length ? tall + 9 : tall;
  if (levels.length <= 64) for (const value of levels) nodes.push(rule(x(value), 0, x(value), tall, "level"));
  for (const value of levels) nodes.push(rule(x(value), tall + 2, x(value), foot, "tick"));
  nodes.push(rule(0, tall, width, tall, "axis"));
  nodes.push(...histogramLabels(low, high, width, x, foot + 16));
  const total = counts.reduce((sum, count) => sum + count, 0),
    wide = (high - low) / counts.length;
  const marks = counts.map((count, i) => ({
    x: (i + 0.5) * step,
    y: y(count),
    name: `${figure(low + i * wide)} to ${figure(low + (i + 1) * wide)}`,
    lines: [`${whole(count)}, ${percent(count / total)}`],
    over: () => [svg("rect", { x: i * step, y: y(count), width: step, height: tall - y(count), class: "bin" })],
  }));
  return { height: foot + 20, nodes, hover: { marks, columns: true } };
}

function histogramLabels(low, high, width, x, y) {
  const labels = [text(0, y, figure(low, 2)), text(width, y, figure(high, 2), { "text-anchor": "end" })];
  if (low < 0 && high > 0 && x(0) > 60 && x(0) < width - 60)
    labels.push(text(x(0), y, "0", { "text-anchor": "middle" }));
  return labels;
}
