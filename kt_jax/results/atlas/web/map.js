// ---- The map: a canvas of all images and clusters

const map = {
  canvas: document.getElementById("canvas"),
  tip: document.getElementById("tip"),
  scale: 1, left: 0, top: 0, width: 0, height: 0,
  shown: null, // a Uint8Array over the clusters, or null for all
  found: null, // the members that a search has found, or null for all
  isWhole: true, // until the user zooms or moves the map
  under: -1,
};

function mapBounds() {
  let [low, high] = [[Infinity, Infinity], [-Infinity, -Infinity]];
  const take = (x, y) => {
    low = [Math.min(low[0], x), Math.min(low[1], y)];
    high = [Math.max(high[0], x), Math.max(high[1], y)];
  };
  for (let c = 0; c < data.k; c++) if (sizeOf(c)) take(numbers.centreX[c], numbers.centreY[c]);
  for (let m = 0; "x" in numbers && m < data.keys.length; m++) take(numbers.x[m], numbers.y[m]);
  return [...low, ...high];
}

function showWholeMap() {
  const [left, top, right, bottom] = map.bounds;
  const span = Math.max(right - left, bottom - top) || 1;
  map.scale = (0.92 * Math.min(map.width, map.height)) / span;
  map.left = (left + right) / 2 - map.width / 2 / map.scale;
  map.top = (top + bottom) / 2 - map.height / 2 / map.scale;
}
const mapX = (x) => (x - map.left) * map.scale;
const mapY = (y) => map.height - (y - map.top) * map.scale;
const mostMembers = Math.max(1, ...Array.from({ length: data.k }, (_, c) => sizeOf(c)));
const mapRadius = (cluster) => 2.5 + 13 * Math.sqrt(sizeOf(cluster) / mostMembers) * Math.min(1, 6 / Math.sqrt(data.k) + 0.3);
const mapColour = (cluster) => (hasClasses ? colour(numbers.majority[cluster]) : colour(cluster, data.k));

function drawMap() {
  const context = map.canvas.getContext("2d");
  const ratio = window.devicePixelRatio || 1;
  map.canvas.width = map.width * ratio;
  map.canvas.height = map.height * ratio;
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  const styles = getComputedStyle(document.documentElement);
  const isShown = (cluster) => map.shown === null || map.shown[cluster];
  if ("x" in numbers && document.getElementById("dots").checked) {
    const members = map.found ?? data.keys.keys();
    const isDense = map.found === null && data.keys.length > 20000;
    const size = map.found !== null ? 3 : isDense ? 1.2 : 2;
    // Draw by colour, because changing the colour is slow.
    const groups = new Map();
    for (const member of members) {
      const cluster = clusterOf[member];
      const tint = hasClasses ? colour(numbers.label[member]) : mapColour(cluster);
      if (!groups.has(tint)) groups.set(tint, []);
      groups.get(tint).push(member);
    }
    context.globalAlpha = map.found !== null ? 0.9 : isDense ? 0.35 : 0.5;
    for (const [tint, members] of groups) {
      context.fillStyle = tint;
      for (const member of members) {
        context.fillRect(mapX(numbers.x[member]) - size / 2, mapY(numbers.y[member]) - size / 2, size, size);
      }
    }
  }
  for (let cluster = 0; cluster < data.k; cluster++) {
    if (!sizeOf(cluster)) continue;
    const [x, y, radius] = [mapX(numbers.centreX[cluster]), mapY(numbers.centreY[cluster]), mapRadius(cluster)];
    context.globalAlpha = isShown(cluster) ? 0.85 : 0.08;
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.fillStyle = mapColour(cluster);
    context.fill();
    context.lineWidth = cluster === map.under ? 3 : 1;
    context.strokeStyle = styles.getPropertyValue(cluster === map.under ? "--ink" : "--card");
    context.stroke();
    if (radius > 9 && isShown(cluster)) {
      context.globalAlpha = 1;
      context.fillStyle = "#fff";
      context.font = "600 10px system-ui";
      context.textAlign = "center";
      context.textBaseline = "middle";
      context.fillText(cluster, x, y);
    }
  }
  context.globalAlpha = 1;
}

let redrawing = 0;
function redrawMap() {
  if (!hasMap || redrawing) return;
  redrawing = requestAnimationFrame(() => { redrawing = 0; drawMap(); });
}

/** The cluster whose circle is nearest to a point, within a few pixels; -1 if there is none. */
function clusterAt(x, y) {
  let [found, least] = [-1, Infinity];
  for (let cluster = 0; cluster < data.k; cluster++) {
    if (!sizeOf(cluster) || (map.shown !== null && !map.shown[cluster])) continue;
    const away = Math.hypot(mapX(numbers.centreX[cluster]) - x, mapY(numbers.centreY[cluster]) - y);
    const beyond = away - mapRadius(cluster);
    if (beyond < 5 && away < least) [found, least] = [cluster, away];
  }
  return found;
}

function showTip(x, y) {
  const cluster = clusterAt(x, y);
  map.canvas.style.cursor = cluster < 0 ? "grab" : "pointer";
  if (cluster === map.under) return;
  map.under = cluster;
  map.tip.hidden = cluster < 0;
  if (cluster >= 0) {
    const strip = make("span", { className: "strip", style: { width: "13rem", marginTop: ".3rem" } },
      ...nearestOf(cluster).map(thumb));
    map.tip.replaceChildren(
      make("b", {}, `Cluster ${cluster}`), ` ${count(sizeOf(cluster), "image")} `,
      hasClasses && numbers.majority[cluster] >= 0 ? chip(numbers.majority[cluster]) : "", strip);
    const right = x > map.width / 2;
    Object.assign(map.tip.style, {
      left: right ? "" : `${x + 14}px`, right: right ? `${map.width - x + 14}px` : "",
      top: `${Math.min(y, map.height - 90)}px`,
    });
  }
  redrawMap();
}
const nearestOf = (cluster) =>
  Array.from({ length: Math.min(6, sizeOf(cluster)) }, (_, at) => numbers.start[cluster] + at);

function zoomMap(factor, x = map.width / 2, y = map.height / 2) {
  map.isWhole = false;
  const [atX, atY] = [map.left + x / map.scale, map.top + (map.height - y) / map.scale];
  map.scale *= factor;
  map.left = atX - x / map.scale;
  map.top = atY - (map.height - y) / map.scale;
  redrawMap();
}

function startMap() {
  if (!hasMap) return;
  document.getElementById("map").hidden = false;
  map.bounds = mapBounds();
  new ResizeObserver(() => {
    const { width, height } = map.canvas.getBoundingClientRect();
    if (!width) return; // another view is shown
    [map.width, map.height] = [width, height];
    if (map.isWhole) showWholeMap();
    redrawMap();
  }).observe(map.canvas);
  let pressed = null;
  map.canvas.addEventListener("pointerdown", (event) => {
    pressed = { x: event.offsetX, y: event.offsetY, moved: false };
    map.canvas.setPointerCapture(event.pointerId);
  });
  map.canvas.addEventListener("pointermove", (event) => {
    if (pressed === null) return showTip(event.offsetX, event.offsetY);
    const [dx, dy] = [event.offsetX - pressed.x, event.offsetY - pressed.y];
    if (!pressed.moved && Math.hypot(dx, dy) < 4) return;
    map.isWhole = false;
    map.left -= dx / map.scale;
    map.top += dy / map.scale;
    pressed = { x: event.offsetX, y: event.offsetY, moved: true };
    redrawMap();
  });
  map.canvas.addEventListener("pointerup", (event) => {
    const cluster = pressed && !pressed.moved ? clusterAt(event.offsetX, event.offsetY) : -1;
    pressed = null;
    if (cluster >= 0) location.hash = `cluster-${cluster}`;
  });
  map.canvas.addEventListener("pointerleave", () => showTip(-99, -99));
  map.canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoomMap(Math.exp(-event.deltaY / 400), event.offsetX, event.offsetY);
  }, { passive: false });
  document.querySelectorAll("[data-map]").forEach((button) => {
    button.addEventListener("click", () => {
      if (button.dataset.map === "all") { map.isWhole = true; showWholeMap(); redrawMap(); }
      else zoomMap(button.dataset.map === "in" ? 1.5 : 1 / 1.5);
    });
  });
  document.getElementById("dots").addEventListener("change", redrawMap);
  document.getElementById("dots").parentElement.hidden = !("x" in numbers);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawMap);
  const shares = data.facts.shares;
  document.getElementById("shares").textContent =
    (shares.length
      ? `Principal components of the centroids: ${percent(shares[0])} of their variance from left ` +
        `to right, ${percent(shares[1])} upwards.`
      : "UMAP: neighbours are alike; distances between groups mean little.") +
    " A circle is a cluster, its area the number of images.";
  if (hasClasses) {
    document.getElementById("legend").append(...data.classNames.map((_, label) => chip(label)));
  }
}
