"use strict";

// ---- Curves: [loss, slope] of the true class, given its log-odds m. Everything is float64.
// p = sigmoid(m) is its probability, and rest = sigmoid(-m) is 1 - p with all its digits.

/** log(1 + exp(x)) */
function softplus(x) {
  return Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));
}

/** 1 / (1 + exp(-x)) */
function sigmoid(x) {
  return x >= 0 ? 1 / (1 + Math.exp(-x)) : Math.exp(x) / (1 + Math.exp(x));
}

function crossEntropy(m) {
  return [softplus(-m), -sigmoid(-m)];
}

/** rest^gamma * -log p; a modulator that is detached has no slope. */
function focal(m, gamma, detached = false) {
  const exponent = gamma === "flsd53" ? (m <= Math.log(0.25) ? 5 : 3) : gamma;
  const [surprise, p, rest] = [softplus(-m), sigmoid(m), sigmoid(-m)];
  const modulator = exponent === 0 ? 1 : Math.exp(-exponent * softplus(m));
  return [modulator * surprise, -modulator * (detached ? rest : exponent * p * surprise + rest)];
}

function poly(m, epsilon) {
  const rest = sigmoid(-m);
  let left = softplus(-m) - rest;
  if (rest < 0.1) {
    // The difference cancels; it is the series rest^2 / 2 + rest^3 / 3 + ...
    left = 0;
    for (let power = 20; power > 1; power--) left = rest * left + 1 / power;
    left *= rest * rest;
  }
  return [(1 + epsilon) * rest + left, -rest * (1 + epsilon - epsilon * rest)];
}

function generalized(m, q, truncateAt) {
  const lowest = truncateAt === null ? -Infinity : Math.log(truncateAt) - Math.log1p(-truncateAt);
  const surprise = softplus(-Math.max(m, lowest));
  const z = q * surprise;
  const value = z < 1e-17 ? surprise : -Math.expm1(-z) / q;
  return [value, m < lowest ? 0 : -Math.exp(-z) * sigmoid(-m)];
}

function symmetric(m, alpha, beta, logZero) {
  const [p, rest] = [sigmoid(m), sigmoid(-m)];
  return [alpha * softplus(-m) - beta * logZero * rest, rest * (beta * logZero * p - alpha)];
}

function taylor(m, order) {
  const rest = sigmoid(-m);
  let value = 0;
  for (let power = order; power > 0; power--) value = rest * (value + 1 / power);
  return [value, rest * Math.expm1(-order * softplus(m))];
}

function labelRelaxation(m, alpha) {
  const highest = Math.log1p(-alpha) - Math.log(alpha);
  const d = m - highest;
  if (d >= 0) return [0, 0];
  const far =
    (1 - alpha) * (Math.log1p(-alpha) + softplus(-m)) + alpha * (Math.log(alpha) + softplus(m));
  const near = Math.log1p(alpha * Math.expm1(-(1 - alpha) * d) + (1 - alpha) * Math.expm1(alpha * d));
  return [d < -4 ? far : near, (1 - alpha) * sigmoid(-m) * Math.expm1(d)];
}

function jensenShannon(m) {
  const [surprise, p, rest] = [softplus(-m), sigmoid(m), sigmoid(-m)];
  const bits = Math.log1p(p);
  const w = rest / (2 - rest);
  const likely = rest * (surprise + bits) + Math.log1p(-w * w);
  const unlikely = 2 * Math.LN2 - (1 + p) * bits - (p === 0 ? 0 : p * surprise);
  return [(m >= 0 ? likely : unlikely) / 2, p === 0 ? 0 : (-p * rest * (surprise + bits)) / 2];
}

/** The loss of label 0, whose log-odds are m: q^gamma * -log(1 - q), q = max(rest - margin, 0). */
function asymmetricOfZero(m, gamma, margin, detached) {
  if (margin === 0) return focal(m, gamma, detached);
  const [p, rest] = [sigmoid(m), sigmoid(-m)];
  const q = rest - margin;
  if (q <= 0) return [0, 0];
  const surprise = q < 0.5 ? -Math.log1p(-q) : -Math.log(p + margin);
  const modulator = q ** gamma;
  const own = detached || gamma === 0 ? 0 : (gamma * modulator * surprise) / q;
  return [modulator * surprise, -p * rest * (own + modulator / (p + margin))];
}

const CURVES = {
  cross_entropy: (m) => crossEntropy(m),
  focal: (m, { gamma }) => focal(m, gamma),
  poly: (m, { epsilon }) => poly(m, epsilon),
  generalized: (m, { q, truncate_at }) => generalized(m, q, truncate_at),
  symmetric: (m, { alpha, beta, log_zero }) => symmetric(m, alpha, beta, log_zero),
  taylor: (m, { order }) => taylor(m, order),
  label_relaxation: (m, { alpha }) => labelRelaxation(m, alpha),
  jensen_shannon: (m) => jensenShannon(m),
  mean_absolute_error: (m) => [2 * sigmoid(-m), -2 * sigmoid(m) * sigmoid(-m)],
  squared_error: (m) => [sigmoid(-m) ** 2, -2 * sigmoid(m) * sigmoid(-m) ** 2],
  hinge: (m) => [Math.max(0, 1 - m), m < 1 ? -1 : 0],
  asymmetric: (m, { gamma_pos, gamma_neg, margin, detach_modulator }, label) =>
    label === 1
      ? focal(m, gamma_pos, detach_modulator)
      : asymmetricOfZero(m, gamma_neg, margin, detach_modulator),
};

const BY_NAME = Object.fromEntries(LOSSES.map((loss) => [loss.name, loss]));

/** A loss's own keywords with their defaults. */
function defaults(name) {
  return Object.fromEntries(BY_NAME[name].fields.map((field) => [field.name, field.default]));
}

/** [loss, slope] of a row, given the log-odds of its true class; `label` is that of a binary loss. */
function evaluate(name, config, m, label = 1) {
  const { curve, family } = BY_NAME[name];
  const own = { ...defaults(name), ...config };
  const pair = CURVES[curve](m, own, label);
  const isBalanced = curve === "focal" && family === "binary" && own.alpha !== null;
  const weight = isBalanced ? (label === 1 ? own.alpha : 1 - own.alpha) : 1;
  return pair.map((number) => weight * number);
}

/** The gradient on the logits: on that of the true class and on each rival, all of which are equal. */
function gradient(name, slope, label, classes) {
  if (BY_NAME[name].family === "binary") return { own: label === 1 ? slope : -slope };
  return { own: slope, rival: -slope / (classes - 1) };
}

// ---- Values of the fields.

/** The ends of an interval, which is written like "[0, inf)". */
function ends(interval) {
  const [low, high] = interval.slice(1, -1).split(",").map((end) => Number(end.trim().replace("inf", "Infinity")));
  return { low, high, hasLow: interval.startsWith("["), hasHigh: interval.endsWith("]") };
}

/** What is wrong with a value of a field; an empty string if nothing is. */
function fault(field, value) {
  if (field.interval === undefined) return typeof value === "boolean" ? "" : `${field.name} must be true or false`;
  if (value === null && field.default === null) return "";
  if (field.names?.includes(value)) return "";
  const { low, high, hasLow, hasHigh } = ends(field.interval);
  const isInside = (value > low || (hasLow && value === low)) && (value < high || (hasHigh && value === high));
  if (typeof value === "number" && isInside && (!field.whole || Number.isInteger(value))) return "";
  return `${field.name} must be ${field.whole ? "a whole number" : "a number"} in ${field.interval}`;
}

/** The part of an interval that a slider covers, and its step. */
function span(field) {
  const { low, high, hasLow, hasHigh } = ends(field.interval);
  const [from, to] = [Math.max(low, high === Infinity ? low : high - 10), Math.min(high, low === -Infinity ? high : low + 10)];
  const step = field.whole ? 1 : to - from <= 2 ? 0.01 : 0.05;
  return { from: low === from && !hasLow ? from + step : from, to: high === to && !hasHigh ? to - step : to, step };
}

/** A number as Python, YAML and JSON all read it: 2.0, 1.0e-7. */
function written(field, value) {
  if (typeof value !== "number" || field.whole) return JSON.stringify(value);
  const text = String(value);
  if (text.includes("e")) return text.replace(/^(-?\d+)e/, "$1.0e");
  return text.includes(".") ? text : `${text}.0`;
}

/** The keywords of a line that differ from their defaults, as pairs of a field and a value. */
function changed(line) {
  return BY_NAME[line.loss].fields
    .map((field) => [field, line.config[field.name]])
    .filter(([field, value]) => value !== field.default);
}

const inPython = (text) => ({ true: "True", false: "False", null: "None" })[text] ?? text;

/** The loss of a line for Keras, for LightningCLI, and as a spec for both packages. */
const CODE = {
  keras: (line) => {
    const given = changed(line).map(([field, value]) => `${field.name}=${inPython(written(field, value))}`);
    return `keras_xent.${line.loss}(${given.join(", ")})`;
  },
  yaml: (line) => {
    const given = changed(line).map(([field, value]) => `${field.name}: ${written(field, value)}`);
    const arguments_ = given.length ? `\n  init_args: {${given.join(", ")}}` : "";
    return `loss:\n  class_path: lightning_xent.${line.loss}${arguments_}`;
  },
  json: (line) => {
    const given = changed(line).map(([field, value]) => `"${field.name}": ${written(field, value)}`);
    return `{"loss": "${line.loss}", "config": {${given.join(", ")}}}`;
  },
};

// ---- The state of the page, which its address holds.

const MOST_LINES = 6;
const REACHES = [4, 6, 10, 20, 40];
const LIKELY = 0.99; // the axis of probabilities ends here, and at 1 - LIKELY
const START = ["CategoricalCrossEntropy", "CategoricalFocalCrossEntropy", "CategoricalGeneralizedCrossEntropy"];

/** The state of an address, and what of the address could not be read. */
function read(address) {
  const state = { lines: [], axis: "log-odds", lower: "slope", reach: 6, classes: 10, at: 0 };
  const faults = [];
  for (const part of address.split("&").filter(Boolean)) {
    const [key, ...rest] = part.split("=");
    const text = decodeURIComponent(rest.join("="));
    const number = Number(text);
    if (key === "loss") {
      const line = readLine(text, faults);
      if (line && state.lines.length < MOST_LINES) state.lines.push(line);
    } else if (key === "axis" && text === "probability") state.axis = text;
    else if (key === "lower" && text === "gradient") state.lower = text;
    else if (key === "reach" && REACHES.includes(number)) state.reach = number;
    else if (key === "classes" && Number.isInteger(number) && number >= 2) state.classes = number;
    else if (key === "at" && text !== "" && Number.isFinite(number)) state.at = number;
    else faults.push(part);
  }
  if (!state.lines.length) state.lines = START.map((loss) => ({ loss, config: defaults(loss), label: 1 }));
  return [state, faults];
}

/** The line of LOSS:keyword=value,...; `label` is a keyword too. Faults are added to a list. */
function readLine(text, faults) {
  const [loss, keywords = ""] = text.split(":");
  if (!Object.hasOwn(BY_NAME, loss)) {
    faults.push(loss);
    return null;
  }
  const line = { loss, config: defaults(loss), label: 1 };
  for (const keyword of keywords.split(",").filter(Boolean)) {
    const [name, value = ""] = keyword.split("=");
    const field = BY_NAME[loss].fields.find((each) => each.name === name);
    const given = readValue(value);
    if (name === "label" && BY_NAME[loss].family === "binary" && (given === 0 || given === 1)) line.label = given;
    else if (field && !fault(field, given)) line.config[name] = given;
    else faults.push(`${loss}: ${keyword}`);
  }
  return line;
}

function readValue(text) {
  const words = { true: true, false: false, null: null };
  if (Object.hasOwn(words, text)) return words[text];
  return text === "" || Number.isNaN(Number(text)) ? text : Number(text);
}

/** The address of a state; what is as at the start is left out. */
function address(state) {
  const parts = state.lines.map((line) => {
    const keywords = changed(line).map(([field, value]) => `${field.name}=${value}`);
    if (line.label !== 1) keywords.push(`label=${line.label}`);
    return `loss=${[line.loss, keywords.join(",")].filter(Boolean).join(":")}`;
  });
  if (state.axis !== "log-odds") parts.push(`axis=${state.axis}`);
  if (state.lower !== "slope") parts.push(`lower=${state.lower}`);
  if (state.reach !== 6) parts.push(`reach=${state.reach}`);
  if (state.classes !== 10) parts.push(`classes=${state.classes}`);
  if (state.at !== 0) parts.push(`at=${state.at}`);
  return `#${parts.join("&")}`;
}

// ---- Numbers for people.

const MINUS = "\u2212";

/** A number in `digits` digits. */
function shown(value, digits = 4) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size < 1e-4 || size >= 1e6 ? value.toExponential(digits - 1) : value.toPrecision(digits);
  return text.replace(/(\.\d*?)0+(?=e|$)/, "$1").replace(/\.(?=e|$)/, "").replaceAll("-", MINUS);
}

const logit = (p) => Math.log(p) - Math.log1p(-p);

/** Round places between two numbers, about `count` of them. */
function ticks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 2.5, 5, 10].find((factor) => factor * power >= rough * (1 - 1e-9));
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, index) =>
    Number(((first + index) * step).toPrecision(12)),
  );
}

/** The name of a line in the legend. */
function title(line) {
  const given = changed(line).map(([field, value]) => `${field.name}=${String(value).replace("-", MINUS)}`);
  if (line.label !== 1) given.push(`label ${line.label}`);
  return line.loss + (given.length ? ` (${given.join(", ")})` : "");
}

// ---- The page.

let [state] = read("");
const $ = (selector, parent = document) => parent.querySelector(selector);

/** An element with attributes and children. */
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** Text in ASCII with the signs of formulas. */
function typeset(text) {
  return text.replaceAll("<=", "\u2264").replaceAll(">=", "\u2265").replace(/(?<!\w)-/g, MINUS);
}

/** The parts of a name, with places between its words where it may break. */
function breakable(name) {
  const [first, ...others] = name.split(/(?<=[a-z])(?=[A-Z])/);
  return [first, ...others.flatMap((part) => [element("wbr"), part])];
}

/** The place of log-odds on the axis that is shown, and the log-odds of a place. */
const placeOf = (m) => (state.axis === "log-odds" ? m : sigmoid(m));
const logOddsOf = (place) => (state.axis === "log-odds" ? place : logit(place));
const axisEnds = () => (state.axis === "log-odds" ? [-state.reach, state.reach] : [1 - LIKELY, LIKELY]);

/** The log-odds at the cursor, inside the axis. */
function cursor() {
  const [low, high] = axisEnds();
  return logOddsOf(Math.min(Math.max(placeOf(state.at), low), high));
}

/** What each line has at some log-odds: names and numbers. */
function numbersAt(line, m) {
  const [loss, slope] = evaluate(line.loss, line.config, m, line.label);
  return { loss, slope, ...gradient(line.loss, slope, line.label, state.classes) };
}

/** A small picture of a line's colour and dashes. */
function sample(index) {
  const svg = `<svg class="sample" viewBox="0 0 28 8" aria-hidden="true"><path class="curve line-${index}" d="M1 4H27"/></svg>`;
  return document.createRange().createContextualFragment(svg);
}

const SIZES = { left: 56, right: 18, top: 12, bottom: 62 };
const POINTS = 480;

/** Draw one chart; `parts` are the numbers that it shows. */
function drawChart(svg, parts) {
  const [width, height] = [svg.clientWidth, svg.clientHeight];
  const { left, right, top, bottom } = SIZES;
  const [low, high] = axisEnds();
  const places = Array.from({ length: POINTS + 1 }, (_, index) => low + ((high - low) * index) / POINTS);
  const curves = state.lines.flatMap((line, index) => {
    const rows = places.map((place) => numbersAt(line, logOddsOf(place)));
    const own = parts.filter((part) => part in rows[0]);
    return own.map((part) => ({ index, part, values: rows.map((row) => row[part]) }));
  });
  const all = curves.flatMap((curve) => curve.values);
  let [least, most] = [Math.min(0, ...all), Math.max(0, ...all)];
  if (least === most) most = 1;
  const space = 0.06 * (most - least);
  [least, most] = [least && least - space, most && most + space];
  const x = (place) => left + ((place - low) / (high - low)) * (width - left - right);
  const y = (value) => top + ((most - value) / (most - least)) * (height - top - bottom);
  const at = x(placeOf(cursor())).toFixed(2);
  const floor = height - bottom;

  const drawn = [];
  for (const value of ticks(least, most, height < 260 ? 3 : 5)) {
    drawn.push(`<path class="grid${value === 0 ? " zero" : ""}" d="M${left} ${y(value)}H${width - right}"/>`);
    drawn.push(`<text x="${left - 10}" y="${y(value)}" dy=".32em" text-anchor="end">${shown(value)}</text>`);
  }
  for (const place of ticks(low, high, width < 480 ? 5 : 12)) {
    const isOdds = state.axis === "log-odds";
    const other = isOdds ? shown(sigmoid(place), place > 4 ? 4 : 2) : shown(logit(place), 2);
    drawn.push(`<path class="grid${isOdds && place === 0 ? " zero" : ""}" d="M${x(place)} ${top}V${floor}"/>`);
    drawn.push(`<text x="${x(place)}" y="${floor + 18}" text-anchor="middle">${shown(place)}</text>`);
    drawn.push(`<text class="faint" x="${x(place)}" y="${floor + 35}" text-anchor="middle">${other}</text>`);
  }
  const [first, second] = state.axis === "log-odds" ? ["m", "p"] : ["p", "m"];
  drawn.push(`<text class="symbol" x="${left - 30}" y="${floor + 18}" text-anchor="end">${first}</text>`);
  drawn.push(`<text class="symbol faint" x="${left - 30}" y="${floor + 35}" text-anchor="end">${second}</text>`);
  const axis = { "log-odds": "log-odds m of the true class", probability: "probability p of the true class" };
  drawn.push(`<text x="${(left + width - right) / 2}" y="${height - 6}" text-anchor="middle">${axis[state.axis]}</text>`);
  drawn.push(`<path class="cursor" d="M${at} ${top}V${floor}"/>`);
  for (const { index, part, values } of curves) {
    const path = values.map((value, step) => `${step ? "L" : "M"}${x(places[step]).toFixed(2)} ${y(value).toFixed(2)}`);
    drawn.push(`<path class="curve line-${index} ${part}" d="${path.join("")}"/>`);
  }
  for (const { index, part } of curves) {
    const value = numbersAt(state.lines[index], cursor())[part];
    drawn.push(`<circle class="dot line-${index} ${part}" cx="${at}" cy="${y(value).toFixed(2)}" r="4"/>`);
  }
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.innerHTML = drawn.join("");
}

/** Let the pointer move the cursor in a chart. */
function followPointer(svg) {
  const follow = (event) => {
    const { left, width } = svg.getBoundingClientRect();
    const share = (event.clientX - left - SIZES.left) / (width - SIZES.left - SIZES.right);
    const [low, high] = axisEnds();
    moveTo(low + Math.min(Math.max(share, 0), 1) * (high - low));
  };
  svg.addEventListener("pointermove", follow);
  svg.addEventListener("pointerdown", follow);
}

/** Move the cursor to a place on the axis. */
function moveTo(place) {
  state.at = Number(logOddsOf(place).toPrecision(4));
  drawCursor();
}

/** What moves with the cursor: both charts, the readout and the address. */
function drawCursor() {
  const [low, high] = axisEnds();
  const slider = $("#cursor");
  const step = state.axis === "log-odds" ? (state.reach > 10 ? 0.25 : 0.05) : 0.005;
  Object.assign(slider, { min: low, max: high, step, value: placeOf(cursor()) });
  drawChart($("#upper svg"), ["loss"]);
  drawChart($("#lower svg"), state.lower === "slope" ? ["slope"] : ["own", "rival"]);

  const m = cursor();
  const where = `m = ${shown(m)}, p = ${shown(sigmoid(m))}`;
  $("#readout caption").textContent = `At ${where}`;
  const hasGradient = state.lower === "gradient";
  const heads = ["Loss", ...(hasGradient ? ["Own logit", "Each rival"] : ["Slope"])];
  $("#readout thead tr").replaceChildren(
    element("th", { scope: "col" }, "Line"),
    ...heads.map((head) => element("th", { scope: "col" }, head)),
  );
  const rows = state.lines.map((line, index) => {
    const { loss, slope, own, rival } = numbersAt(line, m);
    const numbers = hasGradient ? [loss, own, rival] : [loss, slope];
    const cells = numbers.map((number) => element("td", {}, number === undefined ? "" : shown(number)));
    const name = element("div", {}, sample(index), element("span", {}, ...breakable(title(line))));
    return element("tr", {}, element("th", { scope: "row" }, name), ...cells);
  });
  $("#readout tbody").replaceChildren(...rows);
  const losses = state.lines.map((line) => `${title(line)} ${shown(numbersAt(line, m).loss)}`);
  slider.setAttribute("aria-valuetext", `${where}: ${losses.join("; ")}`);
  keepAddress();
}

let waiting;

/** Put the state into the address, a moment after its last change: browsers limit how often it may change. */
function keepAddress() {
  clearTimeout(waiting);
  waiting = setTimeout(() => history.replaceState(null, "", address(state) === "#" ? "#" : address(state)), 200);
}

/** The table of numbers, for those who do not look at curves. */
function drawTable() {
  const [low, high] = axisEnds();
  const isOdds = state.axis === "log-odds";
  const places = isOdds ? ticks(low, high, 12) : [0.01, ...ticks(0.1, 0.9, 8), 0.99];
  const parts = { loss: "loss", slope: "slope", own: "own logit", rival: "each rival" };
  const wanted = state.lower === "slope" ? ["loss", "slope"] : ["loss", "own", "rival"];
  const columns = state.lines.map((line) => wanted.filter((part) => part in numbersAt(line, 0)));
  const names = state.lines.map((line, index) =>
    element("th", { scope: "colgroup", colspan: columns[index].length }, sample(index), title(line)),
  );
  const heads = columns.flat().map((part) => element("th", { scope: "col" }, parts[part]));
  $("#numbers thead").replaceChildren(
    element("tr", {}, element("th", { scope: "col", rowspan: 2 }, "m"), element("th", { scope: "col", rowspan: 2 }, "p"), ...names),
    element("tr", {}, ...heads),
  );
  const rows = places.map((place) => {
    const m = logOddsOf(place);
    const cells = state.lines.flatMap((line, index) => {
      const numbers = numbersAt(line, m);
      return columns[index].map((part) => element("td", {}, shown(numbers[part], 7)));
    });
    const head = element("th", { scope: "row" }, shown(isOdds ? place : m));
    return element("tr", {}, head, element("td", {}, shown(isOdds ? sigmoid(m) : place, 7)), ...cells);
  });
  $("#numbers tbody").replaceChildren(...rows);
}

/** The code of each line, with a button that copies it. */
function drawCodes() {
  const { value, parentElement } = $("[name=code]:checked");
  const items = state.lines.map((line, index) => {
    const code = CODE[value](line);
    const button = element("button", { type: "button" }, "Copy");
    button.setAttribute("aria-label", `Copy the ${parentElement.textContent} of ${title(line)}`);
    button.onclick = async () => {
      await copyText(code);
      button.textContent = "Copied";
      say(`Copied: ${code}`);
    };
    return element("li", {}, sample(index), element("pre", {}, code), button);
  });
  $("#codes").replaceChildren(...items);
}

/** Everything but the cards. */
function draw() {
  $(`[name=axis][value=${state.axis}]`).checked = true;
  $(`[name=lower][value=${state.lower}]`).checked = true;
  $("#reach").value = state.reach;
  $("#reach-box").hidden = state.axis !== "log-odds";
  const hasClasses = state.lower === "gradient" && state.lines.some((line) => BY_NAME[line.loss].family === "categorical");
  $("#classes-box").hidden = !hasClasses;
  if (document.activeElement !== $("#classes")) $("#classes").value = state.classes;
  const isSlope = state.lower === "slope";
  $("#lower-title").textContent = isSlope ? "Slope" : "Gradient on the logits";
  const ofRivals = "Wide line: the logit of the true class. Thin line: each of its rivals, whose logits are equal here.";
  const ofSlope = state.axis === "log-odds" ? "" : "It is the slope in m, also over p.";
  $("#lower-note").textContent = hasClasses ? ofRivals : isSlope ? ofSlope : "";
  drawCodes();
  drawCursor();
  drawTable();
}

// ---- Cards, one a line.

let count = 0;

/** A part of the page that stands in it as a template, with the ids in it made unique. */
function fromTemplate(id) {
  const made = $(`#${id}`).content.cloneNode(true).firstElementChild;
  count += 1;
  for (const attribute of ["id", "for", "name", "aria-describedby", "aria-labelledby"]) {
    for (const each of [made, ...made.querySelectorAll("*")].filter((one) => one.hasAttribute(attribute))) {
      each.setAttribute(attribute, each.getAttribute(attribute).replace(/\w+/g, `$&-${count}`));
    }
  }
  return made;
}

function say(text) {
  $("#status").textContent = text;
}

function drawCards() {
  $("#cards").replaceChildren(...state.lines.map(card));
  const isFull = state.lines.length >= MOST_LINES;
  $("#add").disabled = isFull;
  $("#full").hidden = !isFull;
}

function card(line, index) {
  const made = fromTemplate("card");
  const { formula, page, family, fields } = BY_NAME[line.loss];
  $("h3", made).append(sample(index), element("span", {}, ...breakable(line.loss)));
  const powers = typeset(formula).split(/\^(\w+)/);
  $(".formula", made).append(...powers.map((text, place) => (place % 2 ? element("sup", {}, text) : text)));
  $(".page", made).href = page;
  $(".page", made).textContent = `About ${line.loss}`;
  const remove = $(".remove", made);
  remove.setAttribute("aria-label", `Remove ${line.loss}`);
  remove.disabled = state.lines.length === 1;
  remove.onclick = () => {
    state.lines.splice(index, 1);
    drawCards();
    draw();
    $("#which").focus();
    say(`Removed ${line.loss}`);
  };
  $(".fields", made).append(...fields.map((field) => control(line, field)));
  $(".label", made).hidden = family !== "binary";
  for (const radio of made.querySelectorAll(".label input")) {
    radio.checked = Number(radio.value) === line.label;
    radio.onchange = () => {
      line.label = Number(radio.value);
      draw();
    };
  }
  return made;
}

/** The control of a field: a box to tick, or a number with its slider, and the values that are no numbers. */
function control(line, field) {
  const isNumber = field.interval !== undefined;
  const made = fromTemplate(isNumber ? "number" : "switch");
  const about = typeset(field.about.replace(/ \([A-Z][^()]*\d{4}[^()]*\)/g, ""));
  for (const each of made.querySelectorAll(".name")) each.textContent = field.name;
  $(".about", made).append(...about.split("`").map((text, place) => (place % 2 ? element("code", {}, text) : text)));
  if (!isNumber) {
    const box = $("input", made);
    box.checked = line.config[field.name];
    box.onchange = () => {
      line.config[field.name] = box.checked;
      draw();
    };
    return made;
  }
  const [number, slider, message] = [$("input[type=number]", made), $("input[type=range]", made), $(".fault", made)];
  const { from, to, step } = span(field);
  Object.assign(slider, { min: from, max: to, step });
  slider.setAttribute("aria-label", `${field.name}, slider`);
  const words = [...(field.names ?? []), ...(field.default === null ? [null] : [])];
  const box = $(".word", made);
  box.hidden = words.length === 0;
  const tick = $("input", box);
  if (words.length) $("span", box).textContent = words[0] === null ? "None" : words[0];
  const last = typeof line.config[field.name] === "number" ? line.config[field.name] : (field.default ?? (from + to) / 2);
  number.value = slider.value = last;

  const take = (value) => {
    const wrong = fault(field, value);
    message.textContent = wrong && `${wrong}, got ${number.value || "nothing"}`;
    number.setAttribute("aria-invalid", String(Boolean(wrong)));
    if (wrong) return;
    line.config[field.name] = value;
    tick.checked = words.includes(value);
    number.disabled = slider.disabled = tick.checked;
    draw();
  };
  slider.oninput = () => {
    number.value = slider.value;
    take(Number(slider.value));
  };
  number.oninput = () => {
    const value = number.value === "" ? NaN : Number(number.value);
    if (!fault(field, value)) slider.value = value;
    take(value);
  };
  tick.onchange = () => take(tick.checked ? words[0] : Number(number.value));
  tick.checked = words.includes(line.config[field.name]);
  number.disabled = slider.disabled = tick.checked;
  return made;
}

// ---- The controls of the page.

function openAddress() {
  const [opened, faults] = read(location.hash.slice(1));
  state = opened;
  drawCards();
  draw();
  $("#left-out").textContent = faults.length ? `This page cannot read a part of the link: ${faults.join(", ")}` : "";
}

function start() {
  for (const family of ["categorical", "binary"]) {
    const group = element("optgroup", { label: family === "categorical" ? "Several classes" : "Two labels" });
    group.append(...LOSSES.filter((loss) => loss.family === family).map((loss) => element("option", {}, loss.name)));
    $("#which").append(group);
  }
  $("#reach").append(...REACHES.map((reach) => element("option", { value: reach }, `\u00b1${reach}`)));
  $("#adding").onsubmit = (event) => {
    event.preventDefault();
    const loss = $("#which").value;
    state.lines.push({ loss, config: defaults(loss), label: 1 });
    drawCards();
    draw();
    say(`Added ${loss}`);
    const added = $("#cards").lastElementChild;
    const inputs = [...added.querySelectorAll(".fields input:enabled")];
    (inputs.find((each) => each.checkVisibility()) ?? $(".remove", added)).focus();
  };
  $("[name=code]").checked = true;
  for (const radio of document.querySelectorAll("[name=code]")) radio.onchange = drawCodes;
  for (const radio of document.querySelectorAll("[name=axis], [name=lower]")) {
    radio.onchange = () => {
      state[radio.name] = radio.value;
      draw();
    };
  }
  $("#reach").onchange = () => {
    state.reach = Number($("#reach").value);
    draw();
  };
  $("#classes").oninput = () => {
    const classes = Number($("#classes").value);
    const isValid = Number.isInteger(classes) && classes >= 2;
    $("#classes").setAttribute("aria-invalid", String(!isValid));
    if (isValid) {
      state.classes = classes;
      draw();
    }
  };
  $("#cursor").oninput = () => moveTo(Number($("#cursor").value));
  document.querySelectorAll("figure svg").forEach(followPointer);
  new ResizeObserver(() => drawCursor()).observe($("#upper"));
  addEventListener("hashchange", openAddress);
  openAddress();
}

start();
