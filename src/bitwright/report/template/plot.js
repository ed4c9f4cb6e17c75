// What all plots share: scales, ticks, drawing at the width of the page, and finding the mark under the pointer.
function linear(low, high, from, to) {
  const span = high - low || 1;
  return value => from + ((value - low) / span) * (to - from);
}
function logarithmic(low, high, from, to) {
  const scale = linear(Math.log10(low), Math.log10(high), from, to);
  return value => scale(Math.log10(Math.max(value, low)));
}

// Round numbers between low and high, about `goal` of them.
function ticks(low, high, goal = 5) {
  const rough = (high - low || 1) / goal,
    power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(n => n * power).find(n => n >= rough * 0.7);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++)
    found.push(Number((i * step).toPrecision(12)));
  return found;
}
function logTicks(low, high) {
  const decades = Math.log10(high / low),
    found = [];
  const steps = decades > 2.5 ? [1] : decades > 1.2 ? [1, 3] : [1, 2, 5];
  const stride = Math.max(1, Math.ceil(decades / 7));
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += stride)
    for (const step of steps) {
      const value = step * 10 ** power;
      if (value >= low * 0.999 && value <= high * 1.001) found.push(value);
    }
  return found;
}

const path = points => points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
// Round dots as one path of empty strokes: thousands cost one element.
const dots = points => points.map(([x, y]) => `M${x.toFixed(1)} ${y.toFixed(1)}h0`).join("");
const text = (x, y, content, attributes = {}) =>
  svg("text", { x: x.toFixed(1), y: y.toFixed(1), ...attributes }, content);
const rule = (x1, y1, x2, y2, name) =>
  svg("line", { x1: x1.toFixed(1), y1: y1.toFixed(1), x2: x2.toFixed(1), y2: y2.toFixed(1), class: name });

// Runs of points without gaps, so that a missing figure breaks the line.
function runs(points) {
  const found = [[]];
  for (const point of points) point == null ? found.push([]) : found.at(-1).push(point);
  return found.filter(run => run.length);
}

// Draws at the width of the host, and again whenever that changes; `draw(width)` returns { height, nodes, hover }.
function plot(host, label, draw) {
  let drawn = 0;
  const redraw = () => {
    const width = Math.max(260, Math.round(host.clientWidth || 900));
    if (width === drawn) return;
    drawn = width;
    const { height, nodes, hover } = draw(width);
    const frame = svg(
      "svg",
      {
        viewBox: `0 0 ${width} ${height}`,
        role: "img",
        "aria-label": label,
        class: "plot",
        tabindex: hover ? 0 : null,
      },
      nodes,
    );
    if (hover) track(frame, width, hover);
    host.replaceChildren(frame);
  };
  redraw();
  new ResizeObserver(redraw).observe(host);
}

// `hover.marks`: { x, y, name, lines, over } to point at; `over` draws what the pointed mark adds to the plot.
function track(frame, width, hover) {
  const layer = svg("g", {});
  let current = -1;
  frame.append(layer);
  const point = index => {
    const mark = hover.marks[index],
      box = frame.getBoundingClientRect(),
      zoom = box.width / width;
    if (index !== current) layer.replaceChildren(...mark.over());
    current = index;
    tip.show(box.left + mark.x * zoom, box.top + mark.y * zoom, mark.name, mark.lines);
  };
  const leave = () => {
    current = -1;
    layer.replaceChildren();
    tip.hide();
  };
  frame.addEventListener("pointermove", event => {
    const box = frame.getBoundingClientRect(),
      zoom = width / box.width;
    const index = nearest(hover, (event.clientX - box.left) * zoom, (event.clientY - box.top) * zoom);
    index < 0 ? leave() : point(index);
  });
  frame.addEventListener("pointerleave", leave);
  frame.addEventListener("blur", leave);
  frame.addEventListener("keydown", event => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step || !hover.marks.length) return;
    event.preventDefault();
    point((current + step + hover.marks.length) % hover.marks.length);
  });
}

// The mark closest to the pointer; distance across counts alone where a mark owns its whole column.
function nearest(hover, x, y) {
  let best = -1,
    least = Infinity;
  hover.marks.forEach((mark, index) => {
    const across = mark.left == null ? Math.abs(mark.x - x) : x >= mark.left && x < mark.right ? 0 : Infinity;
    const distance = across + (hover.columns ? 0 : Math.abs(mark.y - y) * 0.7);
    if (distance < least) {
      least = distance;
      best = index;
    }
  });
  return least < 60 ? best : -1;
}
