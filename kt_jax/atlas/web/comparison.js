// ---- Another clustering

/** The share of a cluster's images that are together in the other clustering, too. */
const kept = new Map();
function keptShare(cluster) {
  if (!kept.has(cluster)) {
    const parts = countOf(numbers.other, cluster).filter(([number]) => number >= 0);
    const all = parts.reduce((sum, [, members]) => sum + members, 0);
    kept.set(cluster, all ? parts[0][1] / all : NaN);
  }
  return kept.get(cluster);
}

function showComparison() {
  const element = byId("comparison");
  const { name, k, common, ami } = data.other;
  const title = make("h2", { tabIndex: -1 }, `${data.title} and ${name}`);
  const toOther = Array.from({ length: data.k }, () => new Map());
  const fromOther = Array.from({ length: k }, () => new Map());
  numbers.other.forEach((number, member) => {
    if (number < 0) return;
    const cluster = clusterOf[member];
    toOther[cluster].set(number, (toOther[cluster].get(number) || 0) + 1);
    fromOther[number].set(cluster, (fromOther[number].get(cluster) || 0) + 1);
  });
  const body = make("tbody", {});
  const heads = [make("th", {}), make("th", { className: "number" }, "images"), make("th", {})];
  const draw = (isBack) => {
    const [table, all] = isBack ? [fromOther, data.k] : [toOther, k];
    heads[0].textContent = isBack ? `Cluster of ${name}` : `Cluster of ${data.title}`;
    heads[2].textContent = isBack ? `where its images are in ${data.title}` : `where its images are in ${name}`;
    const rows = table.map((parts, number) => {
      const sorted = [...parts].sort((a, b) => b[1] - a[1] || a[0] - b[0]);
      return { number, sorted, size: sorted.reduce((sum, [, members]) => sum + members, 0) };
    }).filter(({ size }) => size).sort((a, b) => b.size - a.size || a.number - b.number);
    body.replaceChildren(...rows.map(({ number, sorted, size }) => {
      const stack = make("div", { className: "stack" });
      for (const [part, members] of sorted.slice(0, 12)) {
        const words = `${part}: ${whole.format(members)} (${percent(members / size)})`;
        stack.append(make("i", { title: words, style: { width: `${(100 * members) / size}%`, background: colour(part, all) } },
          members / size > 0.06 ? `${part}` : ""));
      }
      const spoken = sorted.slice(0, 3).map(([part, members]) => `${part} ${percent(members / size)}`).join(", ");
      stack.setAttribute("role", "img");
      stack.setAttribute("aria-label", spoken);
      const own = isBack ? `${number}` : make("a", { href: `#cluster-${number}` }, `${number}`);
      return make("tr", {}, make("td", {}, own), make("td", { className: "number" }, whole.format(size)),
        make("td", { className: "wide" }, stack));
    }));
  };
  const back = make("input", { type: "checkbox", onchange: () => draw(back.checked) });
  element.replaceChildren(
    make("nav", { className: "path" }, make("a", { href: "#", className: "button" }, "← All clusters"),
      make("label", { className: "end" }, back, ` The other way round`)),
    title,
    make("p", {}, `Adjusted mutual information ${decimals(ami, 3)} (1: the same clusters, 0: no more alike than ` +
      `by chance), over ${count(common, "image")} that both have.`),
    make("table", {}, make("thead", {}, make("tr", {}, ...heads)), body));
  draw(false);
  document.title = `${data.title} and ${name}`;
  return title;
}
