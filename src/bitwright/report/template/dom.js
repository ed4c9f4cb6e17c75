// Elements from plain values. A text from the data becomes a text node and nothing else; no markup is ever parsed.
const DATA = JSON.parse(document.getElementById("data").textContent);
const SVG = document.querySelector("svg").namespaceURI;

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) if (value != null) node.setAttribute(name, value);
  node.append(...children.flat(Infinity).filter(child => child != null && child !== ""));
  return node;
}

const html = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
const section = id => document.getElementById(id);
const body = id => section(id).querySelector(".body");
const finding = (id, ...parts) =>
  section(id)
    .querySelector(".finding")
    .append(...parts);
const isolated = name => html("span", { class: "name" }, name);

// A dotted name that prefers to break before a dot.
const dotted = name => name.split(/(?=\.)/).map((part, i) => (i ? [html("wbr"), part] : part));

// One tip for the page: a name in bold and a line of text for each fact.
const tip = {
  node: document.getElementById("tip"),
  show(x, y, name, lines) {
    this.node.replaceChildren(html("div", { class: "mono name" }, name), lines.filter(Boolean).join("\n"));
    this.node.hidden = false;
    const { width, height } = this.node.getBoundingClientRect();
    const left = x + 16 + width > innerWidth ? x - 16 - width : x + 16;
    this.node.style.left = `${Math.max(4, left)}px`;
    this.node.style.top = `${Math.max(4, Math.min(y - height / 2, innerHeight - height - 4))}px`;
  },
  hide() {
    this.node.hidden = true;
  },
};

// A folded list of names; few names are shown open.
function names(list, label, open = 6) {
  const lines = html(
    "div",
    { class: "names" },
    list.map(name => html("div", { class: "name" }, name)),
  );
  return list.length <= open ? lines : html("details", {}, html("summary", {}, label), lines);
}
