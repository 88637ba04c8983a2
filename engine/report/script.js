/**
 * A page of many scenarios: each is HTML while it is near the screen, and a compressed text before and after.
 * The browser lays out the blocks near the screen, and of the others knows the height.
 */
class Packed {
  constructor(blocks) {
    this.blocks = blocks;
    this.titles = new Map(); // of the open scenes: what stands for them while they are packed
    root.style.overflowAnchor = "none"; // we do that ourselves: a browser loses its anchor where it is replaced
    root.style.scrollBehavior = "auto"; // a link that scrolls slowly would miss what grows on the way there
    this.near = new Set(); // blocks, and scenes of these
    this.wanted = new Set();
    this.kept = new Set(); // what the filter left, to be printed
    this.recent = new Map(); // unpacked blocks, the last one used at the end
    this.watcher = new IntersectionObserver(
      (entries) => {
        for (const { target, isIntersecting } of entries) {
          const changed = isIntersecting !== this.near.has(target);
          if (isIntersecting) this.near.add(target);
          else this.near.delete(target);
          if (!target.classList.contains("block")) this.settle(target);
          else if (changed) this.attend(target);
        }
      },
      { rootMargin: "1200px 0px" },
    );
    for (const block of blocks) this.watcher.observe(block);
  }

  /** The scenes of a block near the screen are watched, those of another one packed. */
  attend(block) {
    for (const scene of block.children) {
      if (this.near.has(block)) {
        this.watcher.observe(scene);
        continue;
      }
      this.watcher.unobserve(scene);
      this.near.delete(scene);
      this.settle(scene);
    }
    this.rest([block]);
  }

  /** Blocks that need no layout any more keep the height that they have in it. */
  rest(blocks) {
    for (const block of blocks) block.style.contentVisibility = "visible";
    const heights = blocks.map((block) => block.getBoundingClientRect().height);
    blocks.forEach((block, at) => {
      if (this.near.has(block) || [...block.children].some((scene) => this.kept.has(scene))) return;
      block.style.containIntrinsicHeight = `${heights[at]}px`;
      block.style.contentVisibility = "";
    });
  }

  /** Few scenarios that the filter left are all unpacked, so that they can be printed. */
  keep(left, isFiltered) {
    const before = this.kept;
    this.kept = new Set(isFiltered && left.length <= 40 ? left : []);
    for (const scene of new Set([...before, ...this.kept])) this.settle(scene);
    for (const block of this.blocks) block.hidden = [...block.children].every((scene) => scene.hidden);
    this.rest(this.blocks);
  }

  async htmlOf(scene) {
    const block = scene.parentElement;
    const found = this.recent.get(block) || unpacked(block.dataset.packed).then(JSON.parse);
    this.recent.delete(block);
    this.recent.set(block, found);
    if (this.recent.size > 3) this.recent.delete(this.recent.keys().next().value);
    return (await found)[[...block.children].indexOf(scene)];
  }

  async settle(scene) {
    const wanted = this.near.has(scene) || this.kept.has(scene);
    if (wanted === this.wanted.has(scene)) return;
    if (wanted) {
      this.wanted.add(scene);
      const html = await this.htmlOf(scene);
      if (!this.wanted.has(scene) || players.has(scene)) return; // left behind meanwhile
      const { top, height } = scene.getBoundingClientRect();
      this.titles.set(scene, scene.firstElementChild);
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
      scene.style.minHeight = scene.hidden ? "" : `${scene.offsetHeight}px`; // one that is filtered out has no height
      stop(scene);
      scene.replaceChildren(this.titles.get(scene));
      this.titles.delete(scene);
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
  const scenes = document.querySelectorAll(".scene");
  const packed = body.dataset.packed === undefined ? null : new Packed([...document.querySelectorAll(".block")]);
  const rows = packed ? await Rows.packed(body) : Rows.ofTable(body);
  if (!packed) for (const scene of scenes) start(scene);
  headed(table, rows);
  document.getElementById("filter").addEventListener("input", (event) => {
    rows.filter(event.target.value);
    const names = new Set(rows.left.map((entry) => entry.anchor));
    for (const scene of scenes) scene.hidden = !names.has(scene.id);
    if (packed) packed.keep([...scenes].filter((scene) => !scene.hidden), names.size < scenes.length);
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
