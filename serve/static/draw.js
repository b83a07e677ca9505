// Pictures of inputs and answers; each can be read without seeing it.

const SVG = "http://www.w3.org/2000/svg";
const ROW = 100; // height of one lead, in units of the drawing
const WIDTH = 800;
const LABEL = 60; // the leads' names stand left of their curves
const DICOM = "data:application/dicom";

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function shape(name, attributes, text = "") {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

/** Draw everything that an input holds into `place`. */
export function drawInput(place, input, taskInputs) {
  const drawn = [];
  if (input.text) drawn.push(element("p", {}, `Text: ${input.text}`));
  if (input.image?.startsWith(DICOM)) drawn.push(undrawn("A DICOM image"));
  else if (input.image) drawn.push(image(input.image));
  if (input.ecg?.data) drawn.push(ecg(input.ecg));
  else if (input.ecg) drawn.push(undrawn("A recording in a file"));
  for (const [modality, table] of Object.entries(input.series ?? {})) {
    drawn.push(series(modality, table, taskInputs[modality]));
  }
  if (!drawn.length) drawn.push(element("p", { class: "hint" }, "Nothing chosen yet."));
  place.replaceChildren(...drawn);
}

function undrawn(what) {
  return element("p", {}, `${what}: the server reads it, this page does not draw it.`);
}

function image(url) {
  const picture = element("img", { src: url, alt: "The image that the model reads" });
  const told = "The image as sent; the model reads it grey, scaled to its own size.";
  return element("figure", {}, picture, element("figcaption", {}, told));
}

function ecg(recording) {
  const { leads, data, sampling_rate_hz: rate } = recording;
  const seconds = data[0].length / rate;
  const height = ROW * leads.length;
  const told = `${leads.length} leads, ${seconds.toFixed(1)} s at ${rate} Hz`;
  const strip = shape("svg", { class: "ecg", viewBox: `0 0 ${WIDTH} ${height}`, role: "img" });
  strip.setAttribute("aria-label", `Electrocardiogram: ${told}`);
  for (let second = 0; second <= seconds; second += 1) {
    const x = LABEL + (second / seconds) * (WIDTH - LABEL);
    strip.append(shape("line", { x1: x, y1: 0, x2: x, y2: height }));
  }
  let peak = 0.5; // a call takes fewer arguments than a long lead has samples
  for (const row of data) for (const value of row) peak = Math.max(peak, Math.abs(value));
  leads.forEach((lead, row) => {
    const middle = ROW * (row + 0.5);
    const points = data[row].map((value, i) => {
      const x = LABEL + (i / (data[row].length - 1)) * (WIDTH - LABEL);
      return `${x.toFixed(1)},${(middle - (value / peak) * ROW * 0.45).toFixed(1)}`;
    });
    strip.append(shape("path", { d: `M${points.join("L")}` }));
    strip.append(shape("text", { x: 4, y: middle + 9 }, lead));
  });
  return element("figure", {}, strip, element("figcaption", {}, told));
}

function series(modality, table, facts) {
  const units = new Map((facts?.features ?? []).map((f) => [f.name, f.unit]));
  const columns = Object.entries(table).map(([name, v]) => [name, Array.isArray(v) ? v : [v]]);
  const hours = Math.max(...columns.map(([, values]) => values.length));
  const head = element("tr", {}, element("th", { scope: "col" }, "Feature"));
  for (let hour = 1; hour <= hours; hour += 1) {
    head.append(element("th", { scope: "col", class: "number" }, hours > 1 ? `hour ${hour}` : "value"));
  }
  const body = columns.map(([name, values]) => {
    const unit = units.get(name);
    const title = unit && unit !== "1" ? `${name} (${unit})` : name;
    const row = element("tr", {}, element("th", { scope: "row" }, title));
    for (let hour = 0; hour < hours; hour += 1) {
      const value = values[hour];
      const missing = value == null;
      const cell = element("td", { class: "number" }, missing ? "–" : `${value}`);
      if (missing) cell.setAttribute("aria-label", "not measured");
      row.append(cell);
    }
    return row;
  });
  const drawn = element("table", {}, element("caption", {}, modality), head, ...body);
  const frame = { class: "scroll", tabindex: "0", role: "group", "aria-label": modality };
  return element("div", frame, drawn);
}

/** Draw shares of a whole as a table of bars with their numbers; a full bar is `full`. */
export function drawBars(place, caption, shares, full = 1) {
  const rows = Object.entries(shares).map(([name, share]) => {
    const percent = `${(100 * share).toFixed(1)} %`;
    const bar = element("meter", { min: 0, max: full, value: share, "aria-label": name }, percent);
    return element(
      "tr",
      {},
      element("th", { scope: "row" }, name),
      element("td", { class: "bar" }, bar),
      element("td", { class: "number" }, percent),
    );
  });
  place.replaceChildren(element("table", {}, element("caption", {}, caption), ...rows));
}
