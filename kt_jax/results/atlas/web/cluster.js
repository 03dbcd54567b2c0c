// ---- One cluster

const MORE = 500; // images that are shown at a time

/** Rows of a name, a bar and a share. */
const rowsOf = (parts, all, name, tint) =>
  make("div", { className: "rows" }, ...parts.flatMap(([number, members]) =>
    [name(number), bar(members / all, tint(number)), `${whole.format(members)} · ${percent(members / all)}`]));

/** How often each number occurs among the members of a cluster, the most frequent first. */
function countOf(array, cluster) {
  const counts = new Map();
  for (let member = numbers.start[cluster]; member < numbers.start[cluster + 1]; member++) {
    counts.set(array[member], (counts.get(array[member]) || 0) + 1);
  }
  return [...counts].sort((a, b) => b[1] - a[1] || a[0] - b[0]);
}

function imageList(members, describe, part = "") {
  const list = make("ol", { className: `images ${part}` });
  list.append(...members.map((member, at) => make("li", {},
    make("button", { type: "button", onclick: () => showImage(members, at) },
      thumb(member),
      make("small", { className: "name", title: data.keys[member] }, make("bdi", {}, data.keys[member])),
      make("small", {}, describe(member))))));
  return list;
}

function partsOf(cluster) {
  const [start, size] = [numbers.start[cluster], sizeOf(cluster)];
  const places = Array.from({ length: size }, (_, at) => start + at);
  const first = Math.max(0, Math.floor((size - data.shown) / 2));
  const parts = {
    Nearest: places.slice(0, data.shown),
    Median: places.slice(first, first + data.shown),
    Farthest: places.slice(-data.shown).reverse(),
  };
  if (data.k === 1) return parts; // no other cluster is near
  return {
    ...parts,
    Borderline: places.slice().sort((a, b) => numbers.margin[a] - numbers.margin[b]).slice(0, data.shown),
  };
}
const PART_NOTES = {
  Nearest: "to the centroid", Median: "by distance", Farthest: "from the centroid",
  Borderline: "the second cluster is nearly as near",
};
const distanceOf = (member) => `distance ${measure(numbers.distance[member])}`;
const marginOf = (member) => `margin ${measure(numbers.margin[member])}`;
const secondOf = (member) => `or cluster ${numbers.second[member]}`;

function showCluster(cluster) {
  const detail = byId("detail");
  const size = sizeOf(cluster);
  const at = listed.indexOf(cluster);
  const step = (by, words, name) => {
    const next = listed[at + by];
    const isThere = at >= 0 && next !== undefined;
    return make("button", { type: "button", id: name, disabled: !isThere, onclick: () => { location.hash = `cluster-${next}`; } }, words);
  };
  const title = make("h2", { tabIndex: -1 }, `Cluster ${cluster}`);
  const purity = hasClasses && size && numbers.majority[cluster] >= 0
    ? `, ${percent(numbers.purity[cluster])} ${className(numbers.majority[cluster])}` : "";
  const facts = make("p", {}, `${count(size, "image")} (${percent(size / data.keys.length)} of all)${purity}` +
    (size ? `, mean distance ${measure(numbers.tightness[cluster])}` : ""));
  detail.replaceChildren(
    make("nav", { className: "path" }, make("a", { href: "#", className: "button" }, "← All clusters"),
      make("span", { className: "end" }, step(-1, "Previous", "previous"), step(1, "Next", "next"))),
    title, facts);
  document.title = `Cluster ${cluster} of ${data.title}`;
  if (!size) {
    detail.append(make("p", {}, "No image is in this cluster."));
    return title;
  }
  const panels = make("div", { className: "panels" });
  const panel = (heading, body) => panels.append(make("section", {}, make("h3", {}, heading), body));
  if (hasClasses) {
    panel("Classes", rowsOf(countOf(numbers.label, cluster).slice(0, 8), size, chip, (label) => colour(label)));
  }
  const link = (number) => make("a", { href: `#cluster-${number}` }, `Cluster ${number}`);
  const seconds = countOf(numbers.second, cluster).filter(([number]) => number >= 0);
  if (seconds.length) {
    panel("Second nearest clusters of its images",
      rowsOf(seconds.slice(0, 8), size, link, (number) => mapColour(number)));
  }
  if (hasOther) {
    panel(`Its images in ${data.other.name}`,
      rowsOf(countOf(numbers.other, cluster).slice(0, 8), size,
        (number) => make("span", {}, number < 0 ? "not there" : `Cluster ${number}`),
        (number) => colour(number, data.other.k)));
  }
  detail.append(panels);
  for (const [name, members] of size > data.shown ? Object.entries(partsOf(cluster)) : []) {
    detail.append(make("section", { "aria-label": name },
      make("h3", {}, name, make("small", {}, PART_NOTES[name])),
      imageList(members, name === "Borderline" ? secondOf : distanceOf, "part")));
  }
  detail.append(allMembers(cluster));
  return title;
}

function allMembers(cluster) {
  const section = make("section", { id: "members", "aria-label": "All images" });
  const order = make("select", {}, ...["distance", "margin", "name", ...(hasClasses ? ["class"] : [])]
    .map((name) => make("option", { value: name }, name)));
  const compare = {
    distance: (a, b) => a - b,
    margin: (a, b) => numbers.margin[a] - numbers.margin[b],
    name: (a, b) => (data.keys[a] < data.keys[b] ? -1 : 1),
    class: (a, b) => numbers.label[a] - numbers.label[b] || a - b,
  };
  const lists = make("div", {});
  const button = make("button", { type: "button", className: "more" });
  let members = [];
  let done = 0;
  const more = () => {
    const next = members.slice(done, done + MORE);
    const describe = order.value === "margin" ? marginOf : order.value === "class" ? (m) => className(numbers.label[m]) : distanceOf;
    const list = imageList(next, describe);
    const existing = lists.querySelector("ol");
    if (existing) existing.append(...list.children);
    else lists.append(list);
    done += next.length;
    button.hidden = done === members.length;
    button.textContent = `Show ${whole.format(Math.min(MORE, members.length - done))} more of ${whole.format(members.length - done)}`;
  };
  const start = () => {
    members = Array.from({ length: sizeOf(cluster) }, (_, at) => numbers.start[cluster] + at).sort(compare[order.value]);
    done = 0;
    lists.replaceChildren();
    more();
  };
  order.onchange = start;
  button.onclick = more;
  const without = sizeOf(cluster) - pictured[cluster];
  section.append(
    make("h3", {}, `All ${count(sizeOf(cluster), "image")}`,
      without ? make("small", {}, `${whole.format(pictured[cluster])} with a picture, the others by name, to bound the page`) : null,
      make("label", { className: "end" }, "Sort by ", order)),
    lists, button);
  start();
  return section;
}

// ---- One image

function showImage(members, at) {
  const viewer = byId("viewer");
  const member = members[at];
  const facts = make("dl", {});
  const fact = (name, value) => facts.append(make("dt", {}, name), make("dd", {}, value));
  const close = () => viewer.close();
  const link = (number) => make("a", { href: `#cluster-${number}`, onclick: close }, `${number}`);
  fact("Name", data.keys[member]);
  if (hasClasses) fact("Class", chip(numbers.label[member]));
  fact("Cluster", link(clusterOf[member]));
  fact("Distance", measure(numbers.distance[member]));
  if (numbers.second[member] >= 0) {
    fact("Second nearest", link(numbers.second[member]));
    fact("Margin", measure(numbers.margin[member]));
  }
  if (hasOther && numbers.other[member] >= 0) fact(data.other.name, `cluster ${numbers.other[member]}`);
  const go = (by) => () => showImage(members, at + by);
  const previous = make("button", { type: "button", disabled: at === 0, onclick: go(-1) }, "Previous");
  const next = make("button", { type: "button", disabled: at === members.length - 1, onclick: go(1) }, "Next");
  viewer.replaceChildren(make("div", { className: "viewer" }, thumb(member), facts,
    make("span", { className: "keys" }, previous, next,
      make("button", { type: "button", onclick: close, autofocus: true }, "Close"))));
  viewer.onkeydown = (event) => {
    if (event.key === "ArrowLeft" && at > 0) go(-1)();
    else if (event.key === "ArrowRight" && at < members.length - 1) go(1)();
    else return;
    event.preventDefault();
  };
  viewer.onclick = (event) => { if (event.target === viewer) close(); };
  if (!viewer.open) viewer.showModal();
}
