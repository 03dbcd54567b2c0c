// ---- Which view is shown

let leftAt = 0;
function route() {
  if (byId("viewer").open) byId("viewer").close();
  const number = /^#cluster-(\d+)$/.exec(location.hash);
  const isCluster = number !== null && Number(number[1]) < data.k;
  const isComparison = location.hash === "#compare" && hasOther;
  const isOverview = !isCluster && !isComparison;
  if (!isOverview && !byId("overview").hidden) leftAt = scrollY;
  byId("overview").hidden = byId("top").hidden = !isOverview;
  byId("detail").hidden = !isCluster;
  byId("comparison").hidden = !isComparison;
  if (isOverview) {
    document.title = `Atlas of ${data.title}`;
    scrollTo(0, leftAt);
    return;
  }
  const title = isCluster ? showCluster(Number(number[1])) : showComparison();
  scrollTo(0, 0);
  title.focus({ preventScroll: true });
}

function start() {
  const { facts } = data;
  const used = Array.from({ length: data.k }, (_, c) => sizeOf(c)).filter((size) => size > 0).sort((a, b) => a - b);
  byId("facts").textContent =
    [facts.images, facts.layer && `layer ${facts.layer}`, `distances: ${facts.distances}`].filter(Boolean).join(" · ");
  const total = (name, value, note = "") =>
    byId("totals").append(make("div", {}, make("dt", {}, name), make("dd", {}, value, note ? make("small", {}, ` ${note}`) : "")));
  total("images", whole.format(data.keys.length));
  total("clusters", whole.format(data.k), used.length < data.k ? `${data.k - used.length} empty` : "");
  total("median size", whole.format(used[Math.floor(used.length / 2)]), `of ${whole.format(used[0])} to ${whole.format(used.at(-1))}`);
  if (hasClasses) {
    total("purity", percent(facts.purity), `commonest class ${percent(facts.commonest)}`);
    total("AMI with classes", decimals(facts.ami, 2));
  }
  if (hasOther) total(`AMI with ${data.other.name}`, decimals(data.other.ami, 2));
  document.querySelectorAll(".with-classes").forEach((element) => { if (!hasClasses) element.remove(); });
  document.querySelectorAll(".with-other").forEach((element) => { if (!hasOther) element.remove(); });
  let timer = 0;
  search.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(updateSearch, 120); });
  sort.addEventListener("change", () => chooseOrder(sort.value));
  direction.addEventListener("click", () => { falls = !falls; showList(); });
  addEventListener("keydown", (event) => {
    const isTyping = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) && event.target.type !== "checkbox";
    if (byId("viewer").open || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape" && event.target === search) { search.value = ""; updateSearch(); return; }
    if (isTyping) return;
    if (event.key === "/") { event.preventDefault(); location.hash = ""; route(); search.focus(); }
    else if (event.key === "Escape") location.hash = "";
    else if (event.key === "ArrowLeft" && !byId("detail").hidden) byId("previous")?.click();
    else if (event.key === "ArrowRight" && !byId("detail").hidden) byId("next")?.click();
  });
  addEventListener("hashchange", route);
  startMap();
  showList();
  route();
}
start();
