// ---- The overview: all clusters, searched and sorted

const byId = (name) => document.getElementById(name);
const search = byId("search");
const sort = byId("sort");
const direction = byId("direction");
// For each way to sort: the default direction, and the names of the two directions.
const ORDERS = {
  size: { value: sizeOf, falls: true, words: ["smallest first", "largest first"] },
  tightness: { value: (c) => numbers.tightness[c], falls: false, words: ["tightest first", "loosest first"] },
  purity: { value: (c) => numbers.purity[c], falls: true, words: ["least pure first", "purest first"] },
  kept: { value: keptShare, falls: false, words: ["most divided first", "least divided first"] },
  matches: { value: (c) => result?.found.get(c)?.length ?? 0, falls: true, words: ["fewest first", "most first"] },
  number: { value: (c) => c, falls: false, words: ["lowest first", "highest first"] },
};
let falls = true;
let result = null; // of the search
let before = "size"; // the order without a search
let listed = []; // the clusters as they are shown
const cards = new Map();
const lowerKeys = data.keys.map((key) => key.toLowerCase());
const lowerClasses = data.classNames.map((name) => name.toLowerCase());

/** The members of each cluster that a text finds, and the cluster of that number. */
function find(text) {
  const wanted = text.trim().toLowerCase();
  if (!wanted) return null;
  const isOfClass = lowerClasses.map((name) => name.includes(wanted));
  const found = new Map();
  const number = /^#?\d+$/.test(wanted) ? Number(wanted.replace("#", "")) : -1;
  if (number >= 0 && number < data.k) found.set(number, []);
  for (let member = 0; member < lowerKeys.length; member++) {
    const label = numbers.label[member];
    if (!(label >= 0 && isOfClass[label]) && !lowerKeys[member].includes(wanted)) continue;
    const cluster = clusterOf[member];
    if (!found.has(cluster)) found.set(cluster, []);
    found.get(cluster).push(member);
  }
  return { found, number };
}

function makeCard(cluster) {
  const strip = make("div", { className: "strip" });
  const matches = make("span", {});
  const title = make("h2", {}, make("b", {}, `${cluster}`));
  if (hasClasses && numbers.majority[cluster] >= 0) title.append(chip(numbers.majority[cluster]));
  title.append(make("span", { className: "size" }, count(sizeOf(cluster), "image")));
  const meters = make("div", { className: "meters" });
  const line = (name, share, words, tint) => meters.append(make("span", {}, name), bar(share, tint), make("span", {}, words));
  if (hasClasses) {
    const purity = numbers.purity[cluster];
    line("purity", purity || 0, Number.isNaN(purity) ? "–" : percent(purity), colour(numbers.majority[cluster]));
  }
  line("mean distance", (numbers.tightness[cluster] || 0) / loosest, measure(numbers.tightness[cluster]));
  if (hasOther) {
    const share = keptShare(cluster);
    line("largest part", share || 0, Number.isNaN(share) ? "–" : percent(share));
  }
  const link = make("a", { href: `#cluster-${cluster}`, "aria-label": `Cluster ${cluster}, ${count(sizeOf(cluster), "image")}` },
    title, strip, meters, matches);
  const card = make("li", { className: "card", id: `card-${cluster}` }, link);
  return { card, strip, matches, members: null };
}
const loosest = Math.max(1e-9, ...numbers.tightness.filter((value) => !Number.isNaN(value)));

function showCard(cluster, members) {
  if (!cards.has(cluster)) cards.set(cluster, makeCard(cluster));
  const entry = cards.get(cluster);
  const some = members && members.length ? members.slice(0, 6) : nearestOf(cluster);
  if (entry.members?.join() !== some.join()) {
    entry.members = some;
    entry.strip.replaceChildren();
    whenSeen(entry.card, () => entry.strip.replaceChildren(...some.map(thumb)));
  }
  const words = members && members.length ? `${whole.format(members.length)} of them match` : "";
  entry.matches.replaceChildren(make("small", {}, words));
  return entry.card;
}

/** A search sorts clusters by the number of matches, unless the user chooses another order. */
function updateSearch() {
  const hadNone = result === null;
  result = find(search.value);
  const matches = sort.querySelector("[value=matches]");
  matches.hidden = matches.disabled = result === null;
  if (hadNone && result !== null) {
    before = sort.value;
    chooseOrder("matches");
  } else if (result === null && sort.value === "matches") {
    chooseOrder(before);
  } else {
    showList();
  }
}

function chooseOrder(name) {
  sort.value = name;
  ({ falls } = ORDERS[name]);
  showList();
}

function showList() {
  const { value } = ORDERS[sort.value];
  listed = Array.from({ length: data.k }, (_, cluster) => cluster);
  if (result) listed = listed.filter((cluster) => result.found.has(cluster));
  const last = (cluster) => !sizeOf(cluster) || Number.isNaN(value(cluster));
  listed.sort((a, b) =>
    (result && (b === result.number) - (a === result.number)) || last(a) - last(b) ||
    (falls ? value(b) - value(a) : value(a) - value(b)) || a - b);
  byId("cards").replaceChildren(...listed.map((cluster) => showCard(cluster, result?.found.get(cluster))));
  byId("nothing").hidden = listed.length > 0;
  const images = result ? [...result.found.values()].reduce((sum, members) => sum + members.length, 0) : 0;
  byId("count").textContent = result
    ? `${count(listed.length, "cluster")}, ${count(images, "image")} found`
    : count(listed.length, "cluster");
  direction.textContent = ORDERS[sort.value].words[Number(falls)];
  map.found = result && [...result.found.values()].flat();
  map.shown = result ? Uint8Array.from({ length: data.k }, (_, c) => result.found.has(c)) : null;
  redrawMap();
}
