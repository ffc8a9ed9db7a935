"use strict";
document.body.classList.add("scripted");

// -- sorting: each column by its numbers, or by its words ------------------------------------------------------------
for (const table of document.querySelectorAll(".board")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const sort = () => {
      const falling = head.getAttribute("aria-sort") === "ascending" ||
        (!head.hasAttribute("aria-sort") && head.classList.contains("n") && column > 1);
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      const key = row => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
      const rows = [...body.rows].sort((a, b) => {
        const [x, y] = [key(a), key(b)];
        if (x === "" || y === "") return (x === "") - (y === "");  // what is not known stays below
        const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
        return falling ? -order : order;
      });
      body.append(...rows);
    };
    head.tabIndex = 0;
    head.addEventListener("click", sort);
    head.addEventListener("keydown", event => { if (event.key === "Enter") sort(); });
  });
}

// -- two labellers: the same matrices and photos that the page has of the first two ----------------------------------
const SVG = "http://www.w3.org/2000/svg";
const make = (name, attributes, text) => {
  const found = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) found.setAttribute(key, value);
  if (text !== undefined) found.textContent = text;
  return found;
};
const element = (name, text) => {
  const found = document.createElement(name);
  if (text !== undefined) found.textContent = text;
  return found;
};

function matrix(counts, task, title) {
  const size = task.kept.length, cell = Math.max(5, Math.min(26, Math.floor(380 / Math.max(size, 1)))), side = size * cell;
  const name = k => task.classes[task.kept[k]], margin = cell >= 13 ? 110 : 0, width = margin + side;
  const svg = make("svg", {width, height: side, viewBox: `0 0 ${width} ${side}`, role: "img", "aria-label": title});
  svg.append(make("rect", {x: margin, width: side, height: side, class: "ground"}));
  for (let row = 0; margin && row < size; row++) {
    const shown = [...name(row)].length <= 18 ? name(row) : [...name(row)].slice(0, 17).join("") + "\u2026";
    svg.append(make("text", {x: margin - 5, y: (row + 0.5) * cell + 4, class: "end"}, shown));
  }
  const most = Math.max(1, ...[...counts.values()].map(Math.abs));
  for (const [place, value] of counts) {
    if (!value) continue;
    const row = Math.floor(place / size), column = place % size, isRight = row === column;
    const rect = make("rect", {
      x: margin + column * cell, y: row * cell, width: cell, height: cell,
      fill: isRight === (value > 0) ? "#2f6db5" : "#b5495b", "fill-opacity": 0.15 + 0.85 * Math.sqrt(Math.abs(value) / most),
    });
    rect.append(make("title", {}, `${name(row)} as ${name(column)}: ${value}`));
    svg.append(rect);
  }
  const figure = element("figure");
  figure.className = "matrix";
  figure.append(element("figcaption", title), svg);
  return figure;
}

function confusion(task, which) {
  const place = new Map(task.kept.map((k, n) => [k, n])), counts = new Map();
  task.targets.forEach((target, n) => {
    const row = place.get(target), column = place.get(task.answers[which][n]);
    if (row === undefined || column === undefined) return;
    const at = row * task.kept.length + column;
    counts.set(at, (counts.get(at) ?? 0) + 1);
  });
  return counts;
}

function show(section, data, one, two) {
  for (const [number, task] of data.tasks.entries()) {
    if (!task.kept) continue;
    const first = confusion(task, one), second = confusion(task, two), difference = new Map(second);
    for (const [at, value] of first) difference.set(at, (difference.get(at) ?? 0) - value);
    const holder = section.querySelector(`.matrices[data-number="${number}"]`);
    holder.replaceChildren(
      matrix(first, task, data.names[one]), matrix(second, task, data.names[two]),
      matrix(difference, task, "second less first"));
  }
  const differs = n => data.tasks.filter(task => task.answers[one][n] !== task.answers[two][n]);
  const total = data.tasks[0].targets.length;
  const different = [...Array(total).keys()].filter(n => differs(n).length).length;
  const words = section.querySelector(".pair-words");
  words.replaceChildren(element("b", data.names[one]), " and ", element("b", data.names[two]),
    ` differ on ${different} of ${total} test photos.`);
  const holder = section.querySelector(".pair-photos");
  if (!holder) return;
  const text = (task, code) => code < 0 ? "?" : task.classes[code];
  const shown = data.photos.filter(([n]) => differs(n).length).slice(0, data.most);
  holder.replaceChildren(...shown.map(([n, src, path]) => {
    const card = element("div"), image = element("img");
    card.className = "card";
    image.src = src;
    image.alt = path;
    card.append(image);
    for (const task of differs(n))
      card.append(element("b", task.name), `: ${text(task, task.answers[one][n])} / ${text(task, task.answers[two][n])}; ` +
        `is ${text(task, task.targets[n])}`, element("br"));
    card.append(element("small", path));
    return card;
  }));
}

for (const section of document.querySelectorAll("section")) {
  const holder = section.querySelector(".pair-data");
  if (!holder) continue;
  const data = JSON.parse(holder.textContent), one = section.querySelector(".one"), two = section.querySelector(".two");
  const update = () => show(section, data, one.selectedIndex, two.selectedIndex);
  one.addEventListener("change", update);
  two.addEventListener("change", update);
  if (one.selectedIndex !== 0 || two.selectedIndex !== 1) update();  // a reloaded page keeps what was chosen
}
