/** A page of many scenarios: each is HTML while it is near the screen, and a compressed text before and after. */
class Packed {
  constructor(scenes) {
    this.scenes = scenes;
    this.titles = new Map(scenes.map((scene) => [scene, scene.firstElementChild])); // stand for packed ones
    root.style.overflowAnchor = "none"; // we do that ourselves: a browser loses its anchor where it is replaced
    root.style.scrollBehavior = "auto"; // a link that scrolls slowly would miss what grows on the way there
    this.near = new Set();
    this.wanted = new Set();
    this.kept = new Set(); // what the filter left, to be printed
    const blocks = scenes.filter((scene) => "packed" in scene.dataset);
    this.packed = new Map(blocks.map((scene) => [scene.dataset.block, scene]));
    this.recent = new Map(); // unpacked blocks, the last one used at the end
    this.watcher = new IntersectionObserver(
      (entries) => {
        for (const { target, isIntersecting } of entries) {
          if (isIntersecting) this.near.add(target);
          else this.near.delete(target);
          this.settle(target);
        }
      },
      { rootMargin: "1200px 0px" },
    );
    for (const scene of scenes) this.watcher.observe(scene);
  }

  /** Few scenarios that the filter left are all unpacked, so that they can be printed. */
  keep(names) {
    const before = this.kept;
    this.kept = new Set(names.size <= 40 ? this.scenes.filter((scene) => names.has(scene.id)) : []);
    for (const scene of new Set([...before, ...this.kept])) this.settle(scene);
  }

  async htmlOf(scene) {
    const { block, place } = scene.dataset;
    const found = this.recent.get(block) || unpacked(this.packed.get(block).dataset.packed).then(JSON.parse);
    this.recent.delete(block);
    this.recent.set(block, found);
    if (this.recent.size > 3) this.recent.delete(this.recent.keys().next().value);
    return (await found)[Number(place)];
  }

  async settle(scene) {
    const wanted = this.near.has(scene) || this.kept.has(scene);
    if (wanted === this.wanted.has(scene)) return;
    if (wanted) {
      this.wanted.add(scene);
      const html = await this.htmlOf(scene);
      if (!this.wanted.has(scene) || players.has(scene)) return; // left behind meanwhile
      const { top, height } = scene.getBoundingClientRect();
      scene.innerHTML = html;
      scene.style.minHeight = "";
      scene.classList.add("open"); // and not before: without its height the page would be shorter
      // a scene whose title is above the screen grows upwards: what the reader looks at, or went to, stays
      if (top < 0) scrollBy({ top: scene.offsetHeight - height, behavior: "instant" });
      start(scene);
      return;
    }
    this.wanted.delete(scene);
    if (players.has(scene)) {
      scene.style.minHeight = `${scene.offsetHeight}px`;
      stop(scene);
      scene.replaceChildren(this.titles.get(scene));
      scene.classList.remove("open");
    }
  }
}

async function unpacked(text) {
  const letters = atob(text);
  const bytes = new Uint8Array(letters.length);
  for (let at = 0; at < letters.length; at += 1) bytes[at] = letters.charCodeAt(at);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).text();
}

async function begin() {
  const table = document.getElementById("overview");
  const body = table.tBodies[0];
  const scenes = [...document.querySelectorAll(".scene")];
  const packed = body.dataset.packed === undefined ? null : new Packed(scenes);
  const rows = packed ? await Rows.packed(body) : Rows.ofTable(body);
  if (!packed) for (const scene of scenes) start(scene);
  headed(table, rows);
  document.getElementById("filter").addEventListener("input", (event) => {
    rows.filter(event.target.value);
    const names = new Set(rows.left.map((entry) => entry.anchor));
    for (const scene of scenes) scene.hidden = !names.has(scene.id);
    if (packed) packed.keep(names.size < scenes.length ? names : new Set());
  });
  if (packed) {
    rows.show();
    body.addEventListener("keydown", (event) => rows.move(event));
    document.getElementById("more").addEventListener("click", () => rows.more());
  }
  root.dataset.ready = "true";
}

document.getElementById("pixels").addEventListener("change", (event) => {
  root.classList.toggle("sharp", event.target.checked);
});
addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details")) part.open = true;
});
begin();
