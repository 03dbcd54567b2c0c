"use strict";
// The data. Arrays of members are sorted by cluster, then by distance.
const data = JSON.parse(document.getElementById("data").textContent);
const numbers = {};
for (const [name, text] of Object.entries(data.arrays)) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const isWhole = ["start", "majority", "second", "label", "thumbnail", "other"].includes(name);
  numbers[name] = new (isWhole ? Int32Array : Float32Array)(bytes.buffer);
}
delete data.arrays;
const clusterOf = new Int32Array(data.keys.length);
const sizeOf = (cluster) => numbers.start[cluster + 1] - numbers.start[cluster];
for (let cluster = 0; cluster < data.k; cluster++) {
  clusterOf.fill(cluster, numbers.start[cluster], numbers.start[cluster + 1]);
}
const hasClasses = numbers.majority.some((label) => label >= 0);
const hasOther = data.other !== null;
const hasMap = "centreX" in numbers;

// ---- Words

const whole = new Intl.NumberFormat("en");
const count = (number, one, many = `${one}s`) => `${whole.format(number)} ${number === 1 ? one : many}`;
/** A share as text. 0 % and 100 % are exact: other shares are never rounded to them. */
const percent = (share) => {
  const isRound = share === 0 || share === 1 || (share > 0.0995 && share < 0.9895);
  return `${Math.min(100 * share, share < 1 ? 99.9 : 100).toFixed(isRound ? 0 : 1)} %`;
};
const measure = (value) => (Number.isFinite(value) ? value.toPrecision(3) : "–");
const decimals = (value, digits) => value.toFixed(digits).replace(/^-(0\.0+)$/, "$1");
const className = (label) => (label >= 0 ? data.classNames[label] : "unknown");

// ---- Colours: of classes, of clusters of the other clustering

const PALETTE = ["#4c78a8", "#f58518", "#54a24b", "#e45756", "#72b7b2", "#b279a2", "#d6a400", "#9d755d",
  "#ff9da6", "#8c8c8c"];
function colour(number, known = data.classNames.length) {
  if (number < 0) return "#9aa0a6";
  if (known <= PALETTE.length) return PALETTE[number % PALETTE.length];
  return `hsl(${(number * 137.508) % 360} 52% ${number % 2 ? 46 : 56}%)`;
}

// ---- Elements

/** Makes an element with properties and children (elements or texts, which are not parsed as HTML). */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "style") Object.assign(element.style, value);
    else if (name.includes("-") || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}
const swatch = (tint) => make("i", { className: "swatch", style: { background: tint } });
const chip = (label) =>
  make("span", { className: "chip" }, swatch(colour(label)), make("span", {}, className(label)));
const bar = (share, tint) =>
  make("span", { className: "bar" },
    make("i", { style: { width: `${100 * share}%`, ...(tint ? { background: tint } : {}) } }));

/** Calls `draw` once, when the element is nearly in sight. */
const waiting = new WeakMap();
const observer = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    observer.unobserve(entry.target);
    waiting.get(entry.target)();
  }
}, { rootMargin: "400px" });
function whenSeen(element, draw) {
  waiting.set(element, draw);
  observer.observe(element);
  return element;
}

// ---- Thumbnails: JPEG sheets, decoded by the browser when they are shown

const urls = new Map();
function sheetUrl(name) {
  if (!urls.has(name)) {
    const element = document.getElementById(`sheet-${name}`);
    const bytes = Uint8Array.from(atob(element.textContent), (character) => character.charCodeAt(0));
    element.remove();
    urls.set(name, URL.createObjectURL(new Blob([bytes], { type: "image/jpeg" })));
  }
  return urls.get(name);
}

/** How many members of each cluster have a thumbnail. */
const pictured = new Int32Array(data.k);
numbers.thumbnail.forEach((place, member) => { if (place >= 0) pictured[clusterOf[member]]++; });

/** The thumbnail of a member, or its name if it has none. */
function thumb(member) {
  const place = numbers.thumbnail[member];
  const key = data.keys[member];
  if (place < 0) {
    const name = key.slice(key.lastIndexOf("/") + 1);
    return make("span", { className: "thumb none", title: key }, name);
  }
  const element = make("span", { className: "thumb", role: "img", "aria-label": key, title: key });
  const cluster = clusterOf[member];
  const sheet = Math.floor(place / data.perSheet);
  const within = place % data.perSheet;
  const held = Math.min(pictured[cluster] - sheet * data.perSheet, data.perSheet);
  const columns = Math.min(held, data.columns);
  const rows = Math.ceil(held / columns);
  // In percent, because CSS sets the size of thumbnails. Half a pixel is cut off at each edge,
  // where browsers blend neighbouring thumbnails when they enlarge a sheet.
  const inner = data.side - 1;
  const offset = (at, all) => {
    const left = at * data.side + 0.5;
    return `${(100 * left) / (all * data.side - inner || 1)}%`;
  };
  element.style.backgroundSize =
    `${(100 * columns * data.side) / inner}% ${(100 * rows * data.side) / inner}%`;
  element.style.backgroundPosition =
    `${offset(within % columns, columns)} ${offset(Math.floor(within / columns), rows)}`;
  return whenSeen(element, () => {
    element.style.backgroundImage = `url(${sheetUrl(`${cluster}-${sheet}`)})`;
  });
}
