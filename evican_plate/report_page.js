const SVG = "http://www.w3.org/2000/svg";
const COLORS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
const byId = (id) => document.getElementById(id);

function make(parent, name, attributes = {}, text = null) {
  const svg = ["svg", "rect", "text", "title", "path", "line", "g"].includes(name);
  const element = svg ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== null) element.textContent = text;
  parent.appendChild(element);
  return element;
}

function show(value) {
  if (value === null || value === undefined) return "-";
  return Math.abs(value) >= 1e5 || (value !== 0 && Math.abs(value) < 1e-3) ? value.toExponential(2) : String(+value.toPrecision(4));
}

function color(share) {
  const place = Math.min(Math.max(share, 0), 1) * (COLORS.length - 1);
  const i = Math.min(Math.floor(place), COLORS.length - 2);
  return "rgb(" + COLORS[i].map((v, k) => Math.round(v + (COLORS[i + 1][k] - v) * (place - i))).join(",") + ")";
}

function fill(select, values, texts = values) {
  select.replaceChildren();
  values.forEach((value, i) => make(select, "option", { value }, texts[i]));
}

function rowOf(well) {
  return [...well.replace(/\d+$/, "")].reduce((n, letter) => 26 * n + letter.charCodeAt(0) - 64, 0);
}

function columnOf(well) {
  return parseInt(well.replace(/^[A-Z]+/, ""), 10);
}

function letters(row) {
  return row <= 26 ? String.fromCharCode(64 + row) : "A" + String.fromCharCode(38 + row);
}

function range(values) {
  const known = values.filter((value) => value !== null).sort((a, b) => a - b);
  if (!known.length) return [0, 1];
  // a single far well must not hide the differences of all others
  const cut = known.length >= 24 ? Math.floor(known.length * 0.01) : 0;
  return [known[cut], known[known.length - 1 - cut]];
}

function chosenWells() {
  return DATA.wells.map((well, index) => ({ ...well, index }))
    .filter((well) => well.plate === byId("plate").value && well.time === byId("time").value);
}

function drawMap() {
  const wells = chosenWells();
  const values = DATA.features[byId("feature").value];
  const size = [[4, 6], [8, 12], [16, 24], [32, 48]]
    .find(([r, c]) => wells.every((w) => rowOf(w.well) <= r && columnOf(w.well) <= c));
  const [rows, columns] = size;
  const step = Math.max(14, Math.min(52, Math.floor(760 / columns)));
  const [low, high] = range(wells.map((well) => values[well.index]));
  byId("map").replaceChildren();
  const svg = make(byId("map"), "svg", { width: columns * step + 130, height: rows * step + 30, role: "img", "aria-label": "plate heat map" });
  for (let c = 1; c <= columns; c++) make(svg, "text", { x: 26 + (c - 0.5) * step, y: 14, "text-anchor": "middle" }, c);
  for (let r = 1; r <= rows; r++) make(svg, "text", { x: 20, y: 20 + (r - 0.4) * step, "text-anchor": "end" }, letters(r));
  for (let r = 1; r <= rows; r++) for (let c = 1; c <= columns; c++) {
    make(svg, "rect", { x: 26 + (c - 1) * step, y: 20 + (r - 1) * step, width: step, height: step, fill: "#f0f2f4", stroke: "#fff" });
  }
  for (const well of wells) {
    const value = values[well.index];
    const share = high > low ? (value - low) / (high - low) : 0.5;
    const rect = make(svg, "rect", {
      class: "well", x: 26 + (columnOf(well.well) - 1) * step, y: 20 + (rowOf(well.well) - 1) * step, width: step, height: step,
      rx: 3, fill: value === null ? "#c9ced4" : color(share), "data-well": well.well, tabindex: 0,
    });
    make(rect, "title", {}, well.well + ": " + show(value));
    if (step > 30) {
      make(svg, "text", {
        x: 26 + (columnOf(well.well) - 0.5) * step, y: 24 + (rowOf(well.well) - 0.5) * step, "text-anchor": "middle",
        "pointer-events": "none", style: "fill:" + (share > 0.55 || value === null ? "#111" : "#fff"),
      }, show(value));
    }
    const choose = () => {
      svg.querySelectorAll(".chosen").forEach((other) => other.remove());
      const frame = make(svg, "rect", { class: "chosen", width: step, height: step, rx: 3 });  // above its neighbours
      for (const side of ["x", "y"]) frame.setAttribute(side, rect.getAttribute(side));
      drawDetail(well);
    };
    rect.addEventListener("click", choose);
    rect.addEventListener("keydown", (event) => { if (event.key === "Enter") choose(); });
  }
  for (let i = 0; i < 60; i++) {
    make(svg, "rect", { x: columns * step + 46, y: 22 + i * 2, width: 14, height: 2, fill: color(1 - i / 59) });
  }
  make(svg, "text", { x: columns * step + 66, y: 30, id: "high" }, show(high));
  make(svg, "text", { x: columns * step + 66, y: 142, id: "low" }, show(low));
}

function drawDetail(well) {
  const box = byId("detail");
  box.replaceChildren();
  if (!well) {
    make(box, "p", { class: "soft" }, "Choose a well to see its overlay and figures. Gray: nothing measured.");
    return;
  }
  make(box, "h2", {}, well.well);
  const picture = DATA.pictures[well.index];
  if (picture && picture.picture) {
    const link = picture.links.length ? make(box, "a", { href: picture.links[Math.floor(picture.links.length / 2)][1] }) : box;
    make(link, "img", { src: picture.picture, alt: "overlay of " + well.well });
  }
  if (picture) {
    const line = make(box, "p", {});
    for (const [text, href] of picture.links) { make(line, "a", { href }, text); line.append(" "); }
  }
  const table = make(box, "table");
  const rows = [...Object.entries(well.about), ["images", well.images], ["failed images", well.failed]];
  for (const name of Object.keys(DATA.features).filter((n) => /^(Count_|Confluency)/.test(n) && !/RobustZ$/.test(n))) {
    rows.push([name, show(DATA.features[name][well.index])]);
  }
  const name = byId("feature").value;
  rows.push([name, show(DATA.features[name][well.index])]);
  for (const [key, value] of rows) {
    const row = make(table, "tr");
    make(row, "th", {}, key);
    make(row, "td", {}, value);
  }
}

function drawGallery() {
  const box = byId("gallery");
  box.replaceChildren();
  for (const well of chosenWells()) {
    const picture = DATA.pictures[well.index];
    if (!picture || !picture.picture) continue;
    const link = picture.links.length ? picture.links[Math.floor(picture.links.length / 2)][1] : null;
    const item = link ? make(box, "a", { href: link }) : make(box, "span");
    make(item, "img", { src: picture.picture, alt: "overlay of " + well.well, loading: "lazy" });
    make(item, "span", {}, well.well);
  }
}

function drawQuality() {
  for (const name of DATA.flagNames) make(byId("flagcounts"), "span", { class: "flag" }, name + ": " + DATA.flagCounts[name]);
  if (!DATA.flags.length) make(byId("flagcounts"), "span", { class: "soft" }, "no image is flagged");
  const table = byId("flags");
  for (const image of DATA.flags) {
    const row = make(table, "tr");
    for (const text of [image.plate, image.well, "site " + image.site, "time " + image.time]) make(row, "td", {}, text);
    const cell = make(row, "td");
    for (const flag of image.flags) make(cell, "span", { class: "flag" }, flag);
    const last = make(row, "td");
    if (image.link) make(last, "a", { href: image.link }, "image");
  }
}

function drawHistograms() {
  const box = byId("histograms");
  box.replaceChildren();
  const found = DATA.distributions.features[byId("distribution").value];
  if (!found) return;
  const [width, height, left] = [760, 46, 170];
  const names = DATA.distributions.order;
  const svg = make(box, "svg", { width: width + left + 20, height: names.length * height + 26, role: "img", "aria-label": "distributions" });
  names.map((name, i) => [name, i]).sort((a, b) => a[0].localeCompare(b[0], "en", { numeric: true })).forEach(([name, i], place) => {
    const counts = found.counts[i];
    const most = Math.max(...counts, 1);
    const step = width / counts.length;
    const base = (place + 1) * height;
    const points = counts.map((n, k) => `L${left + k * step},${base - (n / most) * (height - 8)} L${left + (k + 1) * step},${base - (n / most) * (height - 8)}`);
    make(svg, "path", { d: `M${left},${base} ${points.join(" ")} L${left + width},${base} Z`, fill: "#3b8eb5", "fill-opacity": 0.75 });
    make(svg, "line", { x1: left, x2: left + width, y1: base, y2: base, stroke: "#aab2ba" });
    make(svg, "text", { x: left - 8, y: base - 8, "text-anchor": "end" }, (name || "(none)").slice(0, 26));
  });
  const bottom = names.length * height + 16;
  make(svg, "text", { x: left, y: bottom }, show(found.low));
  make(svg, "text", { x: left + width, y: bottom, "text-anchor": "end" }, show(found.high));
}

function drawTables() {
  const table = byId("failures");
  if (!DATA.failures.length) make(table, "tr").append("none");
  for (const failure of DATA.failures) {
    const row = make(table, "tr");
    for (const key of ["plate", "well", "site", "time", "stage", "file", "message"]) make(row, "td", {}, failure[key]);
  }
  if (DATA.failureCount > DATA.failures.length) make(make(table, "tr"), "td", {}, "and more: failures.csv has all " + DATA.failureCount);
  for (const [key, value] of DATA.facts) {
    const row = make(byId("facts"), "tr");
    make(row, "th", {}, key);
    make(row, "td", {}, value);
  }
}

function start() {
  const plates = [...new Set(DATA.wells.map((well) => well.plate))];
  const names = Object.keys(DATA.features);
  fill(byId("plate"), plates);
  fill(byId("feature"), names);
  fill(byId("distribution"), Object.keys(DATA.distributions.features));
  const preferred = Object.keys(DATA.distributions.features).find((name) => /_AreaShape_Area$/.test(name));
  if (preferred) byId("distribution").value = preferred;
  byId("by").textContent = (DATA.distributions.by ? "by " + DATA.distributions.by : "of all wells") + ", up to 100 objects of each well" +
    (DATA.distributions.all > DATA.distributions.order.length ? "; the most frequent " + DATA.distributions.order.length + " of " + DATA.distributions.all : "");
  const counted = Object.entries(DATA.rows).map(([name, count]) => count.toLocaleString("en") + " " + name.toLowerCase());
  byId("counts").textContent = counted.join(", ") + (DATA.failureCount ? ", " + DATA.failureCount + " failed" : "");
  const redraw = () => { drawMap(); drawDetail(null); };
  const times = () => {
    fill(byId("time"), [...new Set(DATA.wells.filter((well) => well.plate === byId("plate").value).map((well) => well.time))]);
    redraw();
    drawGallery();
  };
  byId("plate").addEventListener("change", times);
  byId("time").addEventListener("change", () => { redraw(); drawGallery(); });
  byId("feature").addEventListener("change", redraw);
  byId("distribution").addEventListener("change", drawHistograms);
  times();
  drawQuality();
  drawHistograms();
  drawTables();
}

start();
