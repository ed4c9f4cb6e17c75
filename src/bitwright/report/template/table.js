// The table of all weights: sorted, filtered, and short until asked for more, since a model may have thousands.
const COLUMNS = [
  { name: "Weight", key: row => row.name, cell: row => dotted(row.name), look: "name" },
  {
    name: "Shape",
    key: row => row.shape.reduce((product, axis) => product * axis, 1),
    cell: row => shape(row.shape),
    look: "num",
  },
  { name: "Bits", key: row => row.bits, cell: row => fixed(row.bits, 2), look: "num" },
  { name: "SQNR, dB", key: row => row.sqnr_db, cell: row => fixed(row.sqnr_db, 1), look: "num" },
  { name: "Loss share", key: row => row.share, cell: row => percent(row.share, 2), look: "num" },
  {
    name: "Vs nearest",
    key: row => (row.gain == null ? null : -row.gain),
    cell: row => change(row.gain == null ? null : -row.gain, 1),
    look: "num",
  },
  { name: "Spec", key: row => row.spec, look: "quiet" },
  { name: "Solver", key: row => row.chosen || row.solver, look: "quiet" },
  { name: "Notes", key: row => row.notes.join("; "), look: "warn small" },
];
const FIRST_ROWS = 50;
const isMissing = value => value == null || value === "";

function drawTable() {
  const host = body("table");
  if (!DATA.rows.length) return void host.append(html("p", { class: "quiet" }, "No quantized weights."));
  const first = DATA.rows[0],
    shared = COLUMNS.filter(isShared);
  const columns = COLUMNS.filter(
    column => !shared.includes(column) && DATA.rows.some(row => !isMissing(column.key(row))),
  );
  const state = { column: null, isUp: true, filter: "", isAll: DATA.rows.length <= FIRST_ROWS };
  const shown = html("span", {}),
    lines = html("tbody", {}),
    more = html("button", { class: "more", type: "button" });
  const refresh = () => {
    const found = select(state),
      some = state.isAll ? found : found.slice(0, FIRST_ROWS),
      isAll = some.length === found.length;
    lines.replaceChildren(...some.map(row => weightLine(columns, row)));
    shown.textContent = isAll
      ? count(found.length, "weight")
      : `${whole(some.length)} of ${count(found.length, "weight")}`;
    more.textContent = `Show all ${whole(found.length)}`;
    more.hidden = isAll;
  };
  more.addEventListener("click", () => {
    state.isAll = true;
    refresh();
  });
  if (shared.length)
    host.append(
      html("p", { class: "common name" }, `All weights: ${shared.map(column => column.key(first)).join("; ")}.`),
    );
  const heads = html("thead", {}, html("tr", {}, headings(columns, state, refresh)));
  host.append(
    html("div", { class: "tools" }, filterInput(state, refresh), shown),
    html("table", { class: shared.length ? "weights roomy" : "weights" }, heads, lines),
    more,
  );
  refresh();
}

// A long text that all rows have in common is said once, above the table.
const isShared = column =>
  column.look === "quiet" && new Set(DATA.rows.map(column.key)).size === 1 && !isMissing(column.key(DATA.rows[0]));

function filterInput(state, refresh) {
  const input = html("input", {
    type: "search",
    placeholder: "Filter by name, spec, note",
    "aria-label": "Filter the weights",
  });
  input.addEventListener("input", () => {
    state.filter = input.value.toLowerCase();
    refresh();
  });
  return input;
}

// Headings sort: texts upwards first, figures downwards first, and the other way on the second click.
function headings(columns, state, refresh) {
  const heads = columns.map(column => {
    const button = html("button", { type: "button" }, column.name),
      head = html("th", { class: column.look === "num" ? "num" : null, scope: "col" }, button);
    button.addEventListener("click", () => {
      state.isUp = state.column === column ? !state.isUp : column.look !== "num";
      state.column = column;
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", state.isUp ? "ascending" : "descending");
      refresh();
    });
    return head;
  });
  return heads;
}

// Rows that match the filter, in the chosen order; rows without the figure come last either way.
function select({ column, isUp, filter }) {
  const found = DATA.rows.filter(
    row =>
      !filter ||
      [row.name, row.spec, row.solver, row.chosen, ...row.notes].some(text => text.toLowerCase().includes(filter)),
  );
  if (!column) return found;
  const compare = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true }));
  return found
    .map(row => [column.key(row), row])
    .sort(([a], [b]) => {
      if (isMissing(a) || isMissing(b)) return isMissing(a) - isMissing(b);
      return isUp ? compare(a, b) : compare(b, a);
    })
    .map(([, row]) => row);
}

const weightLine = (columns, row) =>
  html(
    "tr",
    {},
    columns.map(column => html("td", { class: column.look }, (column.cell ?? column.key)(row))),
  );
