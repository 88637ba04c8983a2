"use strict";
const root = document.documentElement;
const errors = [];
function report(message) {
  errors.push(String(message));
  root.dataset.errors = errors.join(" | ");
}
window.addEventListener("error", (event) => {
  if (event.message) report(event.message);
});
window.addEventListener("unhandledrejection", (event) => report(event.reason));
document.addEventListener("securitypolicyviolation", (event) => report(`blocked ${event.violatedDirective}`));

const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;

/** All takes of one scenario under one clock: the first playable take leads, the others follow. */
class Player {
  constructor(scene) {
    this.scene = scene;
    this.takes = [...scene.querySelectorAll("video[data-role=take]")];
    this.prefix = scene.querySelector("video[data-role=prefix]");
    this.button = scene.querySelector(".play");
    this.scrub = scene.querySelector(".scrub");
    this.clock = scene.querySelector(".clock");
    this.speed = scene.querySelector(".speed");
    this.wanted = !calm;
    this.visible = false;
    this.pending = null;
    if (!this.button) return;
    for (const video of [...this.takes, this.prefix]) {
      if (!video) continue;
      video.addEventListener("error", () => this.broken(video));
      if (video.error) this.broken(video);
      if (calm) video.pause();
    }
    this.button.addEventListener("click", () => this.toggle());
    this.scrub.addEventListener("input", () => this.seek(Number(this.scrub.value)));
    this.speed.addEventListener("change", () => this.rate(Number(this.speed.value)));
    for (const take of this.takes) {
      take.addEventListener("loadedmetadata", () => this.measure());
      take.addEventListener("click", () => this.toggle());
    }
    for (const finding of scene.querySelectorAll("[data-seek]")) {
      finding.addEventListener("click", () => this.show(finding));
    }
    this.measure();
    this.draw();
  }

  get lead() {
    return this.takes.find((take) => !take.error);
  }

  get duration() {
    const known = this.takes.map((take) => take.duration).filter(Number.isFinite);
    return known.length ? Math.max(...known) : 5;
  }

  broken(video) {
    const note = document.createElement("p");
    note.className = "no-video";
    note.textContent = "This browser could not play the video.";
    video.replaceWith(note);
    this.takes = this.takes.filter((take) => take !== video);
    root.dataset.brokenVideos = String(Number(root.dataset.brokenVideos || 0) + 1);
  }

  measure() {
    this.scrub.max = String(this.duration);
    for (const mark of this.scene.querySelectorAll(".marks i")) {
      mark.style.left = `${Math.min(100, (100 * Number(mark.dataset.at)) / this.duration)}%`;
    }
  }

  toggle() {
    this.wanted = !this.wanted;
    this.apply();
  }

  /** Plays when the reader wants it and the scenario is on screen, so that hundreds of clips stay cheap. */
  apply() {
    const playing = this.wanted && this.visible;
    this.button.textContent = this.wanted ? "Pause" : "Play";
    this.button.setAttribute("aria-pressed", String(this.wanted));
    if (playing && this.lead) this.align(this.lead.currentTime);
    for (const video of [...this.takes, this.prefix]) {
      if (!video) continue;
      if (playing) video.play().catch(() => {}); // refused when the page is hidden; the next apply repeats it
      else video.pause();
    }
    if (playing) this.tick();
  }

  align(seconds) {
    for (const take of this.takes) {
      const length = Number.isFinite(take.duration) ? take.duration : this.duration;
      const apart = Math.abs(take.currentTime - seconds);
      if (Math.min(apart, length - apart) > 0.12) take.currentTime = Math.min(seconds, length - 0.01);
    }
  }

  tick() {
    if (this.pending !== null) return;
    this.pending = requestAnimationFrame(() => {
      this.pending = null;
      if (!this.wanted || !this.visible) return;
      if (this.lead && !this.lead.seeking) this.align(this.lead.currentTime);
      this.draw();
      this.tick();
    });
  }

  draw(seconds = this.lead ? this.lead.currentTime : 0) {
    this.scrub.value = String(seconds);
    this.clock.textContent = `${seconds.toFixed(2)} s`;
    this.scrub.setAttribute("aria-valuetext", `${seconds.toFixed(2)} seconds`);
  }

  seek(seconds) {
    this.wanted = false;
    this.apply();
    for (const take of this.takes) take.currentTime = Math.min(seconds, (take.duration || this.duration) - 0.01);
    this.draw(seconds);
  }

  rate(speed) {
    for (const video of [...this.takes, this.prefix]) if (video) video.playbackRate = speed;
  }

  /** A finding: the whole row goes to its time, for comparison, and the take concerned is marked. */
  show(finding) {
    this.seek(Number(finding.dataset.seek));
    for (const clip of this.scene.querySelectorAll(".clip")) {
      clip.classList.toggle("pointed", clip.dataset.take === finding.dataset.of);
    }
    this.scene.querySelector(".stage").scrollIntoView({ behavior: calm ? "auto" : "smooth", block: "nearest" });
  }
}

const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
const smallest = (value) => (value === null || value === "" ? -Infinity : value);
const byColumn = (column, sign) => (a, b) => {
  const [x, y] = [smallest(a.values[column]), smallest(b.values[column])];
  return x === y ? 0 : sign * compare(x, y);
};

/** The rows of the table: sorted, filtered, and of very many only the first ones shown. */
class Rows {
  constructor(body, entries, listed) {
    this.body = body;
    this.entries = entries;
    this.left = entries;
    this.listed = this.step = listed;
  }

  static ofTable(body) {
    const value = (cell) => {
      if (cell.dataset.value === undefined) return cell.textContent.trim();
      return cell.dataset.value === "" ? null : Number(cell.dataset.value);
    };
    const entries = [...body.rows].map((row) => ({
      row,
      values: [...row.cells].map(value),
      anchor: row.querySelector("a").hash.slice(1),
    }));
    return new Rows(body, entries, Infinity);
  }

  static async packed(body) {
    const entries = JSON.parse(await unpacked(body.dataset.packed));
    return new Rows(body, entries, Number(body.dataset.listed));
  }

  /** What a row shows, also of one that is not in the page. */
  static textOf({ row, values, html }) {
    return row ? row.textContent : `${values.slice(0, 2).join(" ")} ${html.replace(/<[^>]*>/g, " ")}`;
  }

  sort(column, sign) {
    this.entries.sort(byColumn(column, sign));
    const left = new Set(this.left);
    this.left = this.entries.filter((entry) => left.has(entry));
    this.show();
  }

  filter(text) {
    const words = text.toLowerCase().split(/\s+/);
    for (const entry of this.entries) entry.text ??= Rows.textOf(entry).toLowerCase(); // none before it is asked for
    this.left = this.entries.filter((entry) => words.every((word) => entry.text.includes(word)));
    this.listed = this.step;
    this.show();
  }

  more() {
    this.listed += this.step;
    this.show();
  }

  show() {
    const shown = this.left.slice(0, this.listed);
    if (this.entries.some((entry) => entry.row)) this.body.replaceChildren(...shown.map((entry) => entry.row));
    else this.body.innerHTML = shown.map((entry) => entry.html).join("");
    const note = document.getElementById("listed");
    if (!note) return;
    const of = this.left.length === this.entries.length ? "" : ` that match, of ${this.entries.length}`;
    note.textContent = `The first ${shown.length} of ${this.left.length} scenarios${of}`;
    document.getElementById("more").hidden = shown.length === this.left.length;
    this.offer();
  }

  /** All links as one stop of the Tab key: the arrow keys go from row to row. */
  offer(at = 0) {
    const links = [...this.body.querySelectorAll("th a")];
    for (const link of links) link.tabIndex = -1;
    if (links[at]) links[at].tabIndex = 0;
    return links[at];
  }

  move(event) {
    const links = [...this.body.querySelectorAll("th a")];
    const at = links.indexOf(document.activeElement);
    const next = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: links.length - 1 }[event.key];
    if (at < 0 || next === undefined || next < 0) return;
    event.preventDefault();
    if (next >= links.length) this.more();
    const link = this.offer(Math.min(next, this.body.rows.length - 1));
    if (link) link.focus();
  }
}

function headed(table, rows) {
  const heads = [...table.querySelectorAll("thead th")];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const order = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
      for (const other of heads) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", order);
      rows.sort(column, order === "ascending" ? 1 : -1);
    });
  });
}

/** The page cannot change the run: it shows the command that does, selected and, where allowed, copied. */
async function offer(button) {
  const place = button.closest(".scene").querySelector(".command");
  const [code, copied] = [place.querySelector("code"), place.querySelector(".copied")];
  code.textContent = button.dataset.command;
  copied.textContent = "";
  place.hidden = false;
  place.scrollIntoView({ behavior: "auto", block: "nearest" });
  getSelection().selectAllChildren(code);
  try {
    await navigator.clipboard.writeText(code.textContent);
    copied.textContent = "copied";
  } catch {
    copied.textContent = document.execCommand("copy") ? "copied" : "selected: copy it";
  }
}
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-command]");
  if (button) offer(button);
});

const players = new Map();
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const player = players.get(entry.target.closest(".scene"));
    if (!player) continue;
    player.visible = entry.isIntersecting;
    if (player.button) player.apply();
  }
});

function start(scene) {
  players.set(scene, new Player(scene));
  watcher.observe(scene.querySelector(".stage"));
}

function stop(scene) {
  watcher.unobserve(scene.querySelector(".stage"));
  for (const video of scene.querySelectorAll("video")) video.pause();
  players.delete(scene);
}

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
    const blocks = scenes.filter((scene) => scene.dataset.packed);
    this.packed = new Map(blocks.map((scene) => [scene.dataset.block, scene.dataset.packed]));
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
    const found = this.recent.get(block) || unpacked(this.packed.get(block)).then(JSON.parse);
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
