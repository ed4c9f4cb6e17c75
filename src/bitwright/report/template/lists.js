// What is read rather than looked at: proposed changes, notes, kept tensors, the table of weights, and provenance.
function drawChanges() {
  const host = body("changes"), label = shortKinds([...new Set(DATA.rows.map(row => row.kind))]);
  if (!DATA.changes.length) return void host.append(html("p", { class: "quiet" }, "The run did not record losses under other specs, or no change would save anything."));
  host.append(html("ol", { class: "cards" }, DATA.changes.map((proposed, i) => changeCard(proposed, i, label))));
}

function changeCard(proposed, index, label) {
  const isKind = proposed.weights.length > 1, now = storedBytes();
  const kin = DATA.rows.filter(row => row.kind === proposed.pattern).length, size = proposed.weights.length;
  const where = isKind ? `${label(proposed.pattern)}, ${size < kin ? `${whole(size)} of ${whole(kin)}` : `all ${whole(size)}`} weights` : proposed.pattern;
  const bar = html("i", {});
  bar.style.width = `${Math.min(100, proposed.share * 100)}%`;
  const grown = now ? `, ${change(proposed.bytes / now)} of the artifact` : "";
  return html("li", { class: "change" }, html("p", { class: "rank" }, String(index + 1)),
    html("p", { class: "value" }, change(-proposed.share), html("span", {}, "of the total loss")),
    html("div", { class: "track" }, bar), html("h3", { class: "name" }, dotted(where)),
    html("p", { class: "context" }, `${proposed.action}: ${proposed.bytes > 0 ? "+" : ""}${signed(bytesText(proposed.bytes))}${grown}`),
    isKind ? html("code", { class: "pattern name" }, proposed.pattern) : null);
}

function drawNotes() {
  const host = body("notes");
  if (!DATA.notes.length) return void host.append(html("p", { class: "quiet" }, "None: every weight was quantized as planned."));
  host.append(html("ul", { class: "items" }, DATA.notes.map(note => html("li", {}, html("p", { class: "name" }, note.text),
    names(note.names, count(note.names.length, "place"))))));
}

function drawKept() {
  const host = body("kept");
  if (!DATA.kept.length) return void host.append(html("p", { class: "quiet" }, "None: every tensor was quantized."));
  const heads = ["What", "Reason", "Bytes", "Tensors"].map((name, i) => html("th", { class: i > 1 ? "num" : null }, name));
  const lines = DATA.kept.map(group => html("tr", {}, html("td", {}, group.label),
    html("td", {}, html("span", { class: "name" }, group.reason), names(group.members.map(tensor => `${tensor.name}  ${shape(tensor.shape)}`), `${whole(group.members.length)} names`, 2)),
    html("td", { class: "num" }, bytesText(group.bytes)), html("td", { class: "num" }, whole(group.members.length))));
  host.append(html("table", {}, html("thead", {}, html("tr", {}, heads)), html("tbody", {}, lines)));
}

const COLUMNS = [
  { name: "Weight", key: row => row.name, cell: row => dotted(row.name), look: "name" },
  { name: "Shape", key: row => row.shape.reduce((product, axis) => product * axis, 1), cell: row => shape(row.shape), look: "num" },
  { name: "Bits", key: row => row.bits, cell: row => fixed(row.bits, 2), look: "num" },
  { name: "SQNR, dB", key: row => row.sqnr_db, cell: row => fixed(row.sqnr_db, 1), look: "num" },
  { name: "Loss share", key: row => row.share, cell: row => percent(row.share, 2), look: "num" },
  { name: "Vs nearest", key: row => row.gain == null ? null : -row.gain, cell: row => change(row.gain == null ? null : -row.gain, 1), look: "num" },
  { name: "Spec", key: row => row.spec, look: "quiet" },
  { name: "Solver", key: row => row.chosen || row.solver, look: "quiet" },
  { name: "Notes", key: row => row.notes.join("; "), look: "warn small" },
];
const FIRST_ROWS = 50;
const isMissing = value => value == null || value === "";

function drawTable() {
  const host = body("table"), state = { column: null, isUp: true, filter: "", isAll: DATA.rows.length <= FIRST_ROWS };
  if (!DATA.rows.length) return void host.append(html("p", { class: "quiet" }, "No quantized weights."));
  const rowsHost = html("tbody", {}), shown = html("span", {}), more = html("button", { class: "more", type: "button" });
  const filter = html("input", { type: "search", placeholder: "Filter by name, spec, note", "aria-label": "Filter the weights" });
  const shared = COLUMNS.filter(column => column.look === "quiet" && new Set(DATA.rows.map(column.key)).size === 1 && !isMissing(column.key(DATA.rows[0])));
  const columns = COLUMNS.filter(column => !shared.includes(column) && DATA.rows.some(row => !isMissing(column.key(row))));
  const heads = columns.map(column => {
    const button = html("button", { type: "button" }, column.name), head = html("th", { class: column.look === "num" ? "num" : null, scope: "col" }, button);
    button.addEventListener("click", () => {
      state.isUp = state.column === column ? !state.isUp : column.look !== "num";
      state.column = column;
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", state.isUp ? "ascending" : "descending");
      refresh();
    });
    return head;
  });
  const refresh = () => {
    const found = select(state), some = state.isAll ? found : found.slice(0, FIRST_ROWS);
    rowsHost.replaceChildren(...some.map(row => weightLine(columns, row)));
    shown.textContent = found.length === some.length ? count(found.length, "weight") : `${whole(some.length)} of ${count(found.length, "weight")}`;
    more.textContent = `Show all ${whole(found.length)}`;
    more.hidden = found.length === some.length;
  };
  filter.addEventListener("input", () => { state.filter = filter.value.toLowerCase(); refresh(); });
  more.addEventListener("click", () => { state.isAll = true; refresh(); });
  if (shared.length) host.append(html("p", { class: "common name" }, `All weights: ${shared.map(column => column.key(DATA.rows[0])).join("; ")}.`));
  host.append(html("div", { class: "tools" }, filter, shown), html("table", { class: shared.length ? "weights roomy" : "weights" }, html("thead", {}, html("tr", {}, heads)), rowsHost), more);
  refresh();
}

// Rows that match the filter, in the chosen order; rows without the figure come last either way.
function select({ column, isUp, filter }) {
  const found = DATA.rows.filter(row => !filter || [row.name, row.spec, row.solver, row.chosen, ...row.notes].some(text => text.toLowerCase().includes(filter)));
  if (!column) return found;
  const compare = (a, b) => typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true });
  return found.map(row => [column.key(row), row]).sort(([a], [b]) => {
    if (isMissing(a) || isMissing(b)) return isMissing(a) - isMissing(b);
    return isUp ? compare(a, b) : compare(b, a);
  }).map(([, row]) => row);
}

const weightLine = (columns, row) => html("tr", {}, columns.map(column => html("td", { class: column.look }, (column.cell ?? column.key)(row))));

function drawOrigin() {
  const { source, calibration, run, scores } = DATA, host = body("origin");
  const facts = [["Source", source.name], ["Source digest", source.digest], ["Bitwright", DATA.version]];
  if (calibration) facts.push(["Calibration", `${count(calibration.rows ?? 0, "row")} of ${whole(calibration.length)}, ${whole(calibration.held_out)} held out`], ["Calibration digest", calibration.digest]);
  else facts.push(["Calibration", "none"]);
  if (scores) facts.push(["Evaluated on", [scores.text, scores.tokens == null ? "" : count(scores.tokens, "token")].filter(Boolean).join(", ")]);
  if (run) facts.push(["Time", duration(run.seconds)], ["Peak memory", run.peak_bytes == null ? null : bytesText(run.peak_bytes)], ...run.host);
  const list = (pairs, look) => html("dl", { class: look }, pairs.filter(([, value]) => value).map(([name, value]) => [html("dt", {}, name), html("dd", { class: "name" }, value)]));
  host.append(list(facts, "facts"));
  if (DATA.recipe.length) host.append(html("h3", {}, "Recipe"), list(DATA.recipe, "facts lines"));
}
