"use strict";

const { features, losses, targets, cases: CASES } = JSON.parse(document.querySelector("#results").textContent);
// What belongs to a case is there once, and beside it in each library what came of it.
for (const target of targets) target.failing = target.failing.map((found) => ({ ...CASES[found.id], ...found }));
const SEVERITY = ["wrong", "differs", "equal", "not offered"];
const WORDS = { wrong: "wrong", differs: "different by a convention", equal: "equal", "not offered": "not offered" };
const MOST_CASES = 20;

const $ = (selector, parent = document) => parent.querySelector(selector);
const $$ = (selector, parent = document) => [...parent.querySelectorAll(selector)];

/** The name of a feature, loss or library in an address, as page.py makes it. */
function anchor(name) {
  return name.toLowerCase().replace(/[^a-z0-9_.-]+/g, "-").replace(/^-+|-+$/g, "");
}

const TARGETS = Object.fromEntries(targets.map((target) => [anchor(target.target), target]));
const NAMES = Object.fromEntries([...features, ...losses].map((name) => [anchor(name), name]));

/** An element with attributes and children. */
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function sign(outcome) {
  const svg = `<svg class="${anchor(outcome)}" aria-hidden="true"><use href="#${anchor(outcome)}"/></svg>`;
  return document.createRange().createContextualFragment(svg);
}

// ---- The address: filters, and the cell or case that is open.

/** The parts of the address by their names. */
function read() {
  const pairs = location.hash.slice(1).split("&").filter(Boolean).map((part) => {
    const [name, ...rest] = part.split("=");
    return [name, decodeURIComponent(rest.join("="))];
  });
  return Object.fromEntries(pairs);
}

/** Put parts into the address: those that are empty are left out. */
function write(parts) {
  const given = Object.entries(parts).filter(([, value]) => value);
  const text = given.map(([name, value]) => `${name}=${encodeURIComponent(value).replaceAll("%2C", ",").replaceAll("%2F", "/")}`);
  history.replaceState(null, "", `#${text.join("&")}`);
}

/** The filters that are set. */
function filters() {
  return { feature: $("#feature").value.trim(), library: $("#library").value, off: $("#off").checked ? "1" : "" };
}

// ---- The matrix.

const table = $("#matrix");
const heads = $$("thead th", table);
const rows = $$("tbody tr[data-name]", table);

/** Whether a library is shown. */
function isShown(target, library) {
  if (library === "ours" || library === "others") return target.own === (library === "ours");
  return library === "" || anchor(target.target) === library;
}

function outcomeOf(link) {
  return $("i", link).textContent;
}

/** Show the rows and columns that the filters leave. */
function filter() {
  const { feature, library, off } = filters();
  const words = feature.toLowerCase().replace(/[-_\s]+/g, "");
  const columns = heads.map((head) => isShown(TARGETS[head.dataset.name], library));
  heads.forEach((head, index) => (head.hidden = !columns[index]));
  for (const row of rows) {
    const cells = $$("td", row);
    cells.forEach((each, index) => (each.hidden = !columns[index]));
    const isNamed = row.dataset.name.replace(/[-_]+/g, "").includes(words);
    const isOff = cells.some((each) => !each.hidden && ["wrong", "differs"].includes(outcomeOf(each.firstChild)));
    row.hidden = !isNamed || (off && !isOff);
  }
  for (const body of $$("tbody", table)) body.hidden = !$("tr[data-name]:not([hidden])", body);
  const [shownRows, shownColumns] = [rows.filter((row) => !row.hidden).length, columns.filter(Boolean).length];
  const isWhole = shownRows === rows.length && shownColumns === columns.length;
  $("#count").textContent = isWhole ? "" : `${shownRows} of ${rows.length} rows, ${shownColumns} of ${columns.length} libraries`;
  $("#none").hidden = Boolean(shownRows && shownColumns);
  $(".matrix").hidden = !(shownRows && shownColumns);
  rove();
}

/** The links of the cells that are shown, row by row. */
function grid() {
  return rows.filter((row) => !row.hidden).map((row) => $$("td:not([hidden]) > a", row));
}

/** Leave one cell in the order of the Tab key: the arrow keys reach the others. */
function rove(chosen = $("a[tabindex='0']", table)) {
  const links = grid();
  const isThere = chosen && links.some((line) => line.includes(chosen));
  for (const link of $$("td > a", table)) link.tabIndex = -1;
  const stop = isThere ? chosen : links[0]?.[0];
  if (stop) stop.tabIndex = 0;
}

function move(event) {
  const link = event.target.closest("td > a");
  if (!link || event.altKey || event.ctrlKey || event.metaKey) return;
  const links = grid();
  const row = links.findIndex((line) => line.includes(link));
  const column = links[row].indexOf(link);
  const last = links[row].length - 1;
  const places = {
    ArrowRight: [row, Math.min(column + 1, last)],
    ArrowLeft: [row, Math.max(column - 1, 0)],
    ArrowDown: [Math.min(row + 1, links.length - 1), column],
    ArrowUp: [Math.max(row - 1, 0), column],
    Home: [row, 0],
    End: [row, last],
  };
  if (!(event.key in places)) return;
  event.preventDefault();
  const [toRow, toColumn] = places[event.key];
  rove(links[toRow][toColumn]);
  links[toRow][toColumn].focus();
}

// ---- What a cell opens.

const dialog = $("#cell");

/** How many, and of what. */
function counted(number, one, many = `${one}s`) {
  return `${number} ${number === 1 ? one : many}`;
}

/** An error, in words. */
function share(worst) {
  const number = Number(worst);
  if (!Number.isFinite(number)) return "infinite";
  return `${Number(number.toPrecision(3))} ${number > 1 ? "times" : "of"} the tolerance`;
}

/** Numbers at any depth, the innermost lists on lines of their own. */
function tensor(data, indent = "") {
  if (!Array.isArray(data)) return typeof data === "string" ? data : String(data);
  if (!data.some(Array.isArray)) return `[${data.map((entry) => tensor(entry)).join(", ")}]`;
  return `[${data.map((entry) => tensor(entry, `${indent} `)).join(`,\n${indent} `)}]`;
}

function call(found) {
  const inPython = (value) => ({ true: "True", false: "False", null: "None" })[value] ?? JSON.stringify(value);
  const config = Object.entries(found.config).map(([name, value]) => `${name}=${inPython(value)}`);
  return `${found.loss}(${config.join(", ")})`;
}

/** Titled blocks of numbers, side by side where there is room. */
function blocks(pairs) {
  const made = pairs.filter(([, data]) => data !== undefined && data !== null).map(([title, data]) => {
    const text = typeof data === "object" && !Array.isArray(data) ? JSON.stringify(data, null, 1) : tensor(data);
    return element("div", {}, element("p", {}, title), element("pre", { tabindex: "0", "aria-label": title, role: "group" }, text));
  });
  return element("div", { class: "blocks" }, ...made);
}

/** A button that copies a text. */
function copying(label, text) {
  const button = element("button", { type: "button" }, label);
  button.onclick = async () => {
    await copyText(text());
    $("#copied").textContent = `Copied: ${text()}`;
  };
  return button;
}

function linkTo(part) {
  return `${location.href.split("#")[0]}#${part}`;
}

/** One case: its call, inputs, and what came beside what was wanted. */
function caseOf(target, found, isOpen) {
  const made = element("details", { class: "case" });
  made.open = isOpen;
  made.append(element("summary", {}, sign(found.outcome), element("code", {}, found.id)));
  if (found.convention) made.append(element("p", {}, `Differs by a convention: ${found.convention}`));
  if (found.message) made.append(element("p", { class: "message" }, found.message));
  if (found.explained) {
    const link = element("a", { href: `../divergences.md#${found.explained}` }, "Divergences");
    made.append(element("p", {}, link, " has the cause, in a few lines that reproduce it."));
  }
  made.append(element("p", {}, element("code", {}, call(found))));
  const { got, wanted, inputs } = found;
  if (wanted?.exception) made.append(element("p", {}, `Wanted: ${wanted.exception} that names ${wanted.argument}`));
  if (found.cut) made.append(element("p", {}, "Of what came, only the first numbers are kept here."));
  made.append(
    blocks([["Loss, wanted", wanted?.loss], ["Loss, got", got?.loss]]),
    blocks([["Gradient, wanted", wanted?.grad_logits], ["Gradient, got", got?.grad_logits]]),
    blocks(Object.entries(inputs ?? {}).map(([name, { data }]) => [name, data])),
  );
  made.append(element("p", { class: "features" }, found.features.join(", ")));
  const address = linkTo(`case=${anchor(target.target)},${found.id}`);
  const command = `xent run ${target.target} --cases ${found.id}`;
  made.append(
    element("p", { class: "copies" }, copying("Copy the link", () => address), copying("Copy the command", () => command)),
  );
  return made;
}

/** The cases, the first of them at once and the rest on demand. */
function list(target, cases, openId) {
  const made = element("div", { class: "cases" });
  const show = (some) => made.append(...some.map((found) => caseOf(target, found, found.id === openId || cases.length === 1)));
  show(cases.slice(0, MOST_CASES));
  if (cases.length > MOST_CASES) {
    const more = element("button", { type: "button" }, `Show ${cases.length - MOST_CASES} more`);
    more.onclick = () => {
      const first = made.children.length - 1;
      more.remove();
      show(cases.slice(MOST_CASES));
      $("summary", made.children[first]).focus();
    };
    made.append(more);
  }
  return made;
}

/** The sentences and cases of a cell. */
function contentOf(target, name) {
  const counts = target.cells[name] ?? {};
  const parts = SEVERITY.filter((outcome) => counts[outcome]);
  const made = element("div");
  const lines = parts.map((outcome) =>
    element("li", {}, sign(outcome), element("span", {}, `${counted(counts[outcome], "case")} ${WORDS[outcome]}`)),
  );
  made.append(element("ul", { class: "counts" }, ...lines));
  if (!parts.length) made.append(element("p", {}, "None of these cases is offered."));
  if (counts.worst !== undefined && counts.worst !== null) {
    made.append(element("p", {}, `Largest error: ${share(counts.worst)}.`));
  }
  for (const [title, texts] of [["Conventions", counts.conventions], ["Not offered because", counts.reasons]]) {
    if (texts?.length) {
      made.append(element("h3", {}, title), element("ul", {}, ...texts.map((text) => element("li", {}, text))));
    }
  }
  const isOf = (found) => found.loss === name || found.features.includes(name);
  const cases = target.failing.filter(isOf);
  cases.sort((a, b) => SEVERITY.indexOf(a.outcome) - SEVERITY.indexOf(b.outcome));
  if (cases.length) made.append(element("h3", {}, "Cases"), list(target, cases));
  return made;
}

function open(title, content) {
  $("#cell-title").textContent = title;
  $("#cell-content").replaceChildren(...content);
  $("#copied").textContent = "";
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
}

function titleOf(target) {
  return [target.target, target.version].filter(Boolean).join(" ");
}

/** Show what the address says. */
function follow() {
  const { feature = "", library = "", off = "", cell = "", case: id = "" } = read();
  $("#feature").value = feature;
  $("#library").value = library;
  $("#off").checked = Boolean(off);
  filter();
  const [where, ...rest] = (cell || id).split(",");
  const [target, name] = [TARGETS[where], NAMES[rest.join(",")]];
  const found = target?.failing.find((each) => each.id === rest.join(","));
  if (cell && target && name) open(`${titleOf(target)}: ${name}`, [contentOf(target, name)]);
  else if (id && found) open(titleOf(target), [list(target, [found], found.id)]);
  else if (cell || id) open("No such result", [element("p", {}, `This page has no ${cell || id}.`)]);
  else if (dialog.open) dialog.close();
}

function start() {
  $("#filters").hidden = false;
  table.setAttribute("role", "grid");
  table.addEventListener("keydown", move);
  table.addEventListener("focusin", (event) => event.target.matches("td > a") && rove(event.target));
  table.addEventListener("click", (event) => {
    const link = event.target.closest("td > a");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    write({ ...filters(), cell: link.hash.slice("#cell=".length) });
    follow();
  });
  $("#filters").addEventListener("submit", (event) => event.preventDefault());
  $("#filters").addEventListener("input", () => {
    write(filters());
    filter();
  });
  $("#close").onclick = () => dialog.close();
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("close", () => write(filters()));
  addEventListener("hashchange", follow);
  follow();
}

start();
