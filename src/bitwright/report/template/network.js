// What is drawn of whole networks alone: headline, delivery, ranges, and what was tried on the way.
const decibels = value => (value == null ? DASH : `${fixed(value, 1)} dB`);
const worstOutput = (outputs, key) => {
  const found = outputs.map(output => output[key]).filter(value => value != null);
  return found.length ? Math.min(...found) : null;
};
const ratio = value => (value == null ? DASH : `${fixed(value, 2)}×`);

function drawNetworkTitle() {
  const { source, target, integer, kept, scores } = DATA,
    floats = kept.reduce((sum, group) => sum + group.members.length, 0);
  section("over").append(`${["Bitwright", DATA.version].join(" ").trim()} · quantization report`);
  section("title").append(source.name || "Quantized network");
  const sentences = [
    `A network with ${count(integer, "operator")} in integers and ${whole(floats)} in float` +
      `${target ? `, for ${target}` : ""}; ${count(DATA.rows.length, "weight")} quantized` +
      `${DATA.quantized_bits ? ` to ${fixed(DATA.quantized_bits, 2)} bits each` : ""}, ` +
      `${count(DATA.points.length, "value")} in codes.`,
  ];
  if (scores?.bytes && scores.bytes_original)
    sentences.push(`${bytesText(scores.bytes_original)} became ${bytesText(scores.bytes)}.`);
  section("lede").append(sentences.join(" "));
}

function drawNetworkHeadline() {
  const { scores, delivery } = DATA,
    host = section("headline"),
    now = storedBytes(),
    before = originalBytes(),
    stored = bytes(now);
  const engine = delivery?.engines[0],
    fastest = engine?.speeds[0],
    outputs = scores?.outputs ?? engine?.outputs ?? [];
  const known = worstOutput(outputs, "original_db");
  host.append(
    headline(
      "Size",
      stored[0],
      stored[1],
      now && before ? `${percent(now / before)} of ${bytesText(before)}` : null,
      scores ? "the delivered file" : "the artifact",
    ),
    headline(
      "Outputs, signal to noise",
      fixed(known, 1),
      known == null ? null : "dB",
      outputs.length > 1 ? "the worst output" : null,
      scores ? scores.text : engine ? `in ${engine.name}, on calibration samples` : "not measured",
    ),
  );
  if (scores?.metric) host.append(...metricFigures(scores.metric));
  if (fastest)
    host.append(
      headline(
        `Speed in ${engine.name}`,
        ratio(fastest.speedup),
        null,
        interval(fastest.interval, ratio),
        `of ${fastest.against}, batch ${fastest.batch}`,
      ),
    );
  if (!scores?.metric) host.append(howToMeasure());
}

function metricFigures(metric) {
  const change = metric.delivered == null || metric.original == null ? null : metric.delivered - metric.original,
    plain = value => figure(value, 4);
  return [
    headline(
      metric.name,
      plain(metric.delivered),
      null,
      `original ${plain(metric.original)}`,
      metric.samples ? `mean of ${count(metric.samples, "score")}` : null,
    ),
    headline(
      "Change",
      `${change > 0 ? "+" : ""}${plain(change)}`,
      null,
      interval(metric.interval, plain),
      metric.higher_is_better ? "higher is better" : "lower is better",
    ),
  ];
}

const howToMeasure = () =>
  html(
    "div",
    { class: "missing" },
    "Not scored by a measure of yours. To add it, with its interval, run",
    html("code", {}, "bitwright evaluate OUT --against MODEL --metric pkg.mod:function"),
    "and write the report again.",
  );

// A table of plain cells: `heads` as [name, isNumber].
function plainTable(heads, lines) {
  const look = place => (heads[place][1] ? "num" : "name");
  return html(
    "table",
    {},
    html("thead", {}, html("tr", {}, heads.map(([name, isNumber]) => html("th", { class: isNumber ? "num" : null }, name)))),
    html(
      "tbody",
      {},
      lines.map(cells => html("tr", {}, cells.map((cell, place) => html("td", { class: look(place) }, cell)))),
    ),
  );
}

function drawDelivery() {
  const { delivery } = DATA,
    host = body("delivery");
  if (!delivery) return void host.append(html("p", { class: "quiet" }, "Not verified: quantize ran with --no-verify."));
  if (delivery.machine) finding("delivery", isolated(delivery.machine));
  if (delivery.foretold.length)
    host.append(
      html(
        "p",
        { class: "quiet" },
        `The target’s own arithmetic (${delivery.target}${delivery.is_here ? "" : ", simulated"}): ` +
          `${decibels(worstOutput(delivery.foretold, "original_db"))} against the original.`,
      ),
    );
  for (const engine of delivery.engines) host.append(...engineParts(engine));
  const told = [...delivery.problems.map(text => ["warn", text]), ...delivery.warnings.map(text => ["name", text])];
  if (told.length)
    host.append(
      html("h3", {}, "Warnings"),
      html(
        "ul",
        { class: "items" },
        told.map(([look, text]) => html("li", {}, html("p", { class: look }, text))),
      ),
    );
}

function engineParts(engine) {
  const floats = engine.floats.map(([name, number]) => `${name} ${whole(number)}`).join(", ");
  const facts =
    `${decibels(worstOutput(engine.outputs, "original_db"))} against the original, ` +
    `${decibels(worstOutput(engine.outputs, "simulation_db"))} against the simulation; ` +
    `${count(engine.integer, "operator")} in integers${floats ? `, in float ${floats}` : ", none in float"}.`;
  const speeds = engine.speeds.map(speed => [
    speed.batch,
    speed.against,
    ratio(speed.speedup),
    speed.interval ? `${fixed(speed.interval[0], 2)} – ${fixed(speed.interval[1], 2)}` : DASH,
    `${figure(speed.milliseconds)} ms`,
    `${figure(speed.milliseconds_against)} ms`,
  ]);
  const heads = [["Batch"], ["Against"], ["Speed", true], ["95% CI", true], ["This", true], ["That", true]];
  return [
    html("h3", { class: "name" }, [engine.name, engine.version].join(" ").trim()),
    html("p", { class: "quiet name" }, facts),
    speeds.length ? plainTable(heads, speeds) : "",
  ];
}

function drawSearch() {
  const { edits, rules, goal } = DATA,
    host = body("search");
  if (goal)
    host.append(
      html("h3", {}, `Goal: ${goal.is_met ? "met" : "not met; this comes nearest"}`),
      plainTable(
        [["Stay float for it", true], ...goal.asked.map(asked => [asked, true]), ["Output noise", true]],
        goal.rounds.map(round => [String(round.floats), ...round.found.map(one => figure(one)), figure(round.noise)]),
      ),
    );
  if (!edits.length && !rules.length)
    return void host.append(html("p", { class: "quiet" }, "Nothing was tried: the recipe has one range rule and no edits."));
  for (const edit of edits) {
    host.append(
      html("h3", { class: "name" }, `${edit.name}: ${edit.is_kept ? "kept" : "not kept"}`),
      plainTable(
        [["Tried"], ["Output noise", true]],
        [["as it was", figure(edit.before)], ...edit.tried.map(one => [one.name || "as planned", figure(one.noise)])],
      ),
    );
    if (edit.refused.length) host.append(html("p", { class: "quiet" }, `Left as it is: ${edit.refused.join("; ")}`));
  }
  if (rules.length)
    host.append(
      html("h3", {}, "Range rules"),
      plainTable(
        [["Rule"], ["Output noise", true]],
        rules.map(rule => [rule.name, figure(rule.noise)]),
      ),
    );
}

function drawFindings() {
  const host = body("findings");
  if (!DATA.findings.length) return void host.append(html("p", { class: "quiet" }, "Nothing was found wrong with it."));
  host.append(
    html(
      "ul",
      { class: "items" },
      DATA.findings.map(found => html("li", {}, html("p", { class: "name" }, found))),
    ),
  );
}

function drawRanges() {
  const host = body("ranges"),
    { points } = DATA;
  if (!points.length)
    return void host.append(html("p", { class: "quiet" }, "None: weights alone are quantized, or ranges are measured."));
  const heads = [["Value"], ["Group"], ["Codes"], ["Rule"], ["Low", true], ["High", true], ["Clipped", true], ["SQNR", true]];
  const line = one => [
    one.value,
    one.group === one.value ? "" : one.group,
    one.spec,
    one.rule,
    figure(one.low),
    figure(one.high),
    percent(one.clipped, 3),
    decibels(one.sqnr_db),
  ];
  host.append(plainTable(heads, points.slice(0, FIRST_ROWS).map(line)));
  if (points.length > FIRST_ROWS)
    host.append(
      html(
        "details",
        {},
        html("summary", {}, `${whole(points.length - FIRST_ROWS)} more`),
        plainTable(heads, points.slice(FIRST_ROWS).map(line)),
      ),
    );
}
