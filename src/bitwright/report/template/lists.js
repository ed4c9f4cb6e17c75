// What is read rather than looked at: proposed changes, notes, kept tensors and provenance.
function drawChanges() {
  const host = body("changes"),
    label = shortKinds([...new Set(DATA.rows.map(row => row.kind))]);
  if (!DATA.changes.length)
    return void host.append(
      html(
        "p",
        { class: "quiet" },
        "The run did not record losses under other specs, or no change would save anything.",
      ),
    );
  host.append(
    html(
      "ol",
      { class: "cards" },
      DATA.changes.map((proposed, i) => changeCard(proposed, i, label)),
    ),
  );
}

function changeCard(proposed, index, label) {
  const isKind = proposed.weights.length > 1,
    now = storedBytes();
  const kin = DATA.rows.filter(row => row.kind === proposed.pattern).length,
    size = proposed.weights.length;
  const where = isKind
    ? `${label(proposed.pattern)}, ${size < kin ? `${whole(size)} of ${whole(kin)}` : `all ${whole(size)}`} weights`
    : proposed.pattern;
  const bar = html("i", {});
  bar.style.width = `${Math.min(100, proposed.share * 100)}%`;
  const grown = now ? `, ${change(proposed.bytes / now)} of the artifact` : "";
  return html(
    "li",
    { class: "change" },
    html("p", { class: "rank" }, String(index + 1)),
    html("p", { class: "value" }, change(-proposed.share), html("span", {}, "of the total loss")),
    html("div", { class: "track" }, bar),
    html("h3", { class: "name" }, dotted(where)),
    html(
      "p",
      { class: "context" },
      `${proposed.action}: ${proposed.bytes > 0 ? "+" : ""}${signed(bytesText(proposed.bytes))}${grown}`,
    ),
    isKind ? html("code", { class: "pattern name" }, proposed.pattern) : null,
  );
}

function drawNotes() {
  const host = body("notes");
  if (!DATA.notes.length)
    return void host.append(html("p", { class: "quiet" }, "None: every weight was quantized as planned."));
  host.append(
    html(
      "ul",
      { class: "items" },
      DATA.notes.map(note =>
        html(
          "li",
          {},
          html("p", { class: "name" }, note.text),
          note.names.length ? names(note.names, count(note.names.length, "place")) : null,
        ),
      ),
    ),
  );
}

function drawKept() {
  const host = body("kept");
  if (DATA.kind === "network") {
    section("kept-title").textContent = "Operators that stay float";
    section("kept-about").textContent = "Each with its reason; all others run in integers on the target.";
  }
  if (!DATA.kept.length) return void host.append(html("p", { class: "quiet" }, "None: everything was quantized."));
  const hasBytes = DATA.kept.some(group => group.bytes != null);
  const heads = ["What", "Reason", hasBytes ? "Bytes" : "", "Number"].map((name, i) =>
    html("th", { class: i > 1 ? "num" : null }, name),
  );
  const lines = DATA.kept.map(group =>
    html(
      "tr",
      {},
      html("td", {}, group.label),
      html(
        "td",
        {},
        html("span", { class: "name" }, group.reason),
        names(
          group.members.map(kept => (kept.shape.length ? `${kept.name}  ${shape(kept.shape)}` : kept.name)),
          `${whole(group.members.length)} names`,
          2,
        ),
      ),
      html("td", { class: "num" }, hasBytes ? bytesText(group.bytes) : ""),
      html("td", { class: "num" }, whole(group.members.length)),
    ),
  );
  host.append(html("table", {}, html("thead", {}, html("tr", {}, heads)), html("tbody", {}, lines)));
}

function drawOrigin() {
  const { source, calibration, tuned, run, scores } = DATA,
    host = body("origin");
  const facts = [
    ["Source", source.name],
    ["Source digest", source.digest],
    ["Bitwright", DATA.version],
  ];
  if (calibration)
    facts.push(
      [
        "Calibration",
        calibration.preprocessing == null
          ? `${count(calibration.rows ?? 0, "row")} of ${whole(calibration.length)}, ${whole(calibration.held_out)} held out`
          : `${count(calibration.rows ?? 0, "sample")}, ${calibration.preprocessing}`,
      ],
      ["Calibration digest", calibration.digest],
    );
  else facts.push(["Calibration", "none"]);
  if (tuned)
    facts.push([
      "Tuned end to end",
      tuned.kept
        ? `divergence on held-out rows ${figure(tuned.before)} → ${figure(tuned.after)}; losses of single weights are those before`
        : "no gain on held-out rows, so codes stayed as they were",
    ]);
  if (scores)
    facts.push([
      "Evaluated on",
      [scores.text, scores.tokens == null ? "" : count(scores.tokens, "token")].filter(Boolean).join(", "),
    ]);
  if (run)
    facts.push(
      ["Time", duration(run.seconds)],
      ["Peak memory", run.peak_bytes == null ? null : bytesText(run.peak_bytes)],
      ...run.host,
    );
  const list = (pairs, look) =>
    html(
      "dl",
      { class: look },
      pairs
        .filter(([, value]) => value)
        .map(([name, value]) => [html("dt", {}, name), html("dd", { class: "name" }, value)]),
    );
  host.append(list(facts, "facts"));
  if (DATA.recipe.length) host.append(html("h3", {}, "Recipe"), list(DATA.recipe, "facts lines"));
}
