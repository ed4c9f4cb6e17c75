// Error along the depth of the model: per block as two curves, per layer as one row of dots for each kind of layer.
function drawBlocks() {
  const blocks = DATA.blocks,
    host = body("blocks");
  const values = blocks.flatMap(block => [block.error, block.error_nearest]).filter(value => value > 0);
  if (!values.length) return void host.append(html("p", { class: "quiet" }, "No block errors recorded."));
  const gains = blocks
    .filter(block => block.error != null && block.error_nearest > 0)
    .map(block => 1 - block.error / block.error_nearest);
  if (gains.length) {
    const gain = median(gains);
    finding(
      "blocks",
      `In the median block the error is ${percent(Math.abs(gain))} ${gain >= 0 ? "below" : "above"} that of rounding to nearest.`,
    );
  }
  const low = Math.min(...values),
    high = Math.max(...values),
    isLog = high / low > 12;
  plot(host, "Error of each block's output, this run and rounding to nearest", width =>
    blockFrame(width, low, high, isLog),
  );
}

function blockFrame(width, low, high, isLog) {
  const blocks = DATA.blocks,
    left = 52,
    right = width - 136,
    top = 26,
    base = 290;
  const x = linear(0, Math.max(1, blocks.length - 1), left, right);
  const y = isLog ? logarithmic(low / 1.25, high * 1.15, base, top) : linear(0, high * 1.08, base, top);
  const marks = isLog ? logTicks(low / 1.25, high * 1.15) : ticks(0, high * 1.08);
  const nodes = [text(0, 10, isLog ? "Relative squared error, log scale" : "Relative squared error")];
  for (const value of marks)
    nodes.push(
      rule(left, y(value), right, y(value), "grid"),
      text(left - 10, y(value) + 4, tickLabel(value), { "text-anchor": "end" }),
    );
  nodes.push(rule(left, base, right, base, "axis"), text(right, base + 36, "Block", { "text-anchor": "end" }));
  for (const index of ticks(0, blocks.length - 1, Math.min(10, blocks.length)).filter(Number.isInteger))
    nodes.push(text(x(index), base + 18, String(index), { "text-anchor": "middle" }));
  const ends = [];
  for (const [key, look, name, ink] of [
    ["error_nearest", "nearest", "rounding to nearest", "soft"],
    ["error", "this", "this run", "accent"],
  ]) {
    const points = blocks.map((block, i) => (block[key] == null ? null : [x(i), y(block[key])]));
    for (const run of runs(points))
      nodes.push(
        run.length > 1
          ? svg("path", { d: path(run), class: `line ${look}` })
          : svg("path", { d: dots(run), class: `dots ${look}` }),
      );
    const last = points.findLast(point => point != null);
    if (last) ends.push({ y: last[1] + 4, name, ink });
  }
  if (ends.length === 2 && Math.abs(ends[0].y - ends[1].y) < 15) {
    const [upper, lower] = ends[0].y <= ends[1].y ? ends : [ends[1], ends[0]],
      middle = (upper.y + lower.y) / 2;
    upper.y = middle - 8;
    lower.y = middle + 8;
  }
  for (const end of ends) nodes.push(text(right + 10, end.y, end.name, { class: end.ink }));
  const noted = blocks.flatMap((block, i) => (block.notes.length ? [[x(i), base]] : []));
  if (noted.length) nodes.push(svg("path", { d: dots(noted), class: "dots warn" }));
  return {
    height: base + 42,
    nodes,
    hover: { columns: true, marks: blocks.map((block, i) => blockMark(block, i, x, y, base, top)) },
  };
}

function blockMark(block, index, x, y, base, top) {
  const seconds = DATA.run?.block_seconds[index],
    at = x(index);
  const lines = [
    `this run  ${figure(block.error)}`,
    `rounding to nearest  ${figure(block.error_nearest)}`,
    seconds == null ? null : `quantized in ${duration(seconds)}`,
    ...block.notes,
  ];
  const ring = (value, look) =>
    value == null ? [] : [svg("circle", { cx: at, cy: y(value), r: 4, class: `ring ${look}` })];
  return {
    x: at,
    y: block.error == null ? (base + top) / 2 : y(block.error),
    name: block.name,
    lines,
    over: () => [rule(at, top, at, base, "cursor"), ...ring(block.error_nearest, "nearest"), ...ring(block.error, "")],
  };
}

// Sixteen rows fit a page; a model with more kinds of layers, or without repeats, gets a single row.
const MOST_ROWS = 16;

function drawLayers() {
  const host = body("layers"),
    known = DATA.rows.filter(row => row.sqnr_db != null);
  if (!known.length) return void host.append(html("p", { class: "quiet" }, "No layer errors recorded."));
  const kinds = [...new Set(known.map(row => row.kind))],
    label = shortKinds(kinds),
    isSingle = kinds.length > MOST_ROWS || DATA.kind === "network";
  const groups = isSingle
    ? [{ label: "all layers", rows: known }]
    : kinds.map(kind => ({ label: label(kind), rows: known.filter(row => row.kind === kind) }));
  for (const group of groups) group.middle = median(group.rows.map(row => row.sqnr_db));
  const [best, worst] = [...groups]
    .sort((a, b) => b.middle - a.middle)
    .filter((_, i, all) => i === 0 || i === all.length - 1);
  if (worst)
    finding(
      "layers",
      `Median ${fixed(best.middle, 1)} dB in `,
      isolated(best.label),
      `, ${fixed(worst.middle, 1)} dB in `,
      isolated(worst.label),
      ".",
    );
  const noted = known.filter(row => row.notes.length).length;
  if (noted) finding("layers", ` Orange: ${count(noted, "layer")} with a note.`);
  plot(host, "Signal to quantization noise of every layer", width => layerFrame(width, groups, isSingle));
}

function layerFrame(width, groups, isSingle) {
  const most = Math.min(Math.max(...groups.map(group => group.label.length)), Math.floor((width * 0.4 - 56) / 7.3));
  const left = most * 7.3 + 56,
    right = width - 62,
    tall = isSingle ? 260 : Math.max(38, Math.min(64, 460 / groups.length)),
    gap = 12;
  const all = groups.flatMap(group => group.rows),
    low = Math.min(...all.map(row => row.sqnr_db)),
    high = Math.max(...all.map(row => row.sqnr_db));
  const last = isSingle
    ? all.length - 1
    : Math.max(...all.map(row => row.block ?? 0), ...groups.map(group => (group.rows.length === 1 ? 0 : 1)));
  const hasBlocks = !isSingle && all.every(row => row.block != null),
    x = linear(0, Math.max(1, hasBlocks ? last : Math.max(...groups.map(g => g.rows.length)) - 1), left, right);
  const marks = [],
    nodes = [text(right + 62, 10, "median dB", { "text-anchor": "end" })],
    lines = ticks(low, high, isSingle ? 6 : 2);
  groups.forEach((group, index) => {
    const top = 22 + index * (tall + gap),
      y = linear(low, high, top + tall, top);
    for (const value of lines)
      nodes.push(
        rule(left, y(value), right, y(value), "grid"),
        isSingle || index === 0 || index === groups.length - 1
          ? text(left - 9, y(value) + 4, tickLabel(value), { "text-anchor": "end" })
          : "",
      );
    const spots = group.rows.map((row, i) => [x(hasBlocks ? row.block : i), y(row.sqnr_db), row]);
    if (spots.every(([at], i) => !i || at > spots[i - 1][0]))
      nodes.push(svg("path", { d: path(spots), class: "thread" }));
    const size = all.length > 700 || spots.length > 90 ? "dots thin" : "dots";
    nodes.push(
      svg("path", { d: dots(spots.filter(spot => !spot[2].notes.length)), class: size }),
      svg("path", { d: dots(spots.filter(spot => spot[2].notes.length)), class: `${size} warn` }),
      text(0, top + tall / 2 + 4, clipped(group.label, most), { class: "row" }),
      text(right + 62, top + tall / 2 + 4, fixed(group.middle, 1), { class: "strong", "text-anchor": "end" }),
    );
    for (const [at, height, row] of spots) marks.push(layerMark(at, height, row));
  });
  const base = 22 + groups.length * (tall + gap);
  if (hasBlocks)
    for (const block of ticks(0, last, Math.min(10, last + 1)).filter(Number.isInteger))
      nodes.push(text(x(block), base + 12, String(block), { "text-anchor": "middle" }));
  nodes.push(text(right + 62, base + 12, hasBlocks ? "block" : "", { "text-anchor": "end" }));
  return { height: base + 18, nodes, hover: { marks } };
}

function layerMark(x, y, row) {
  const lines = [
    `${fixed(row.sqnr_db, 2)} dB, ${fixed(row.bits, 2)} bits per weight`,
    row.share == null ? null : `${percent(row.share)} of the total loss`,
    row.chosen,
    ...row.notes,
  ];
  return {
    x,
    y,
    name: row.name,
    lines,
    over: () => [svg("circle", { cx: x, cy: y, r: 4.5, class: row.notes.length ? "ring warn" : "ring" })],
  };
}
