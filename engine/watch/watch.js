/** What the page knows: the name of the last change, the rows in their place, and which scenario it shows. */
const page = { rev: "", rows: null, byPlace: new Map(), shown: null, follows: true, failed: 0, live: true };
page.period = 1000; // ms between two questions; a page that nobody sees asks less often
const scenesHere = document.getElementById("scenes");

function ago(seconds) {
  const past = Math.max(0, Date.now() / 1000 - seconds);
  if (past < 90) return `${Math.round(past)} s ago`;
  return past < 5400 ? `${Math.round(past / 60)} min ago` : `${(past / 3600).toFixed(1)} h ago`;
}

function tell() {
  for (const time of document.querySelectorAll("time[data-ago]")) {
    const said = ago(Number(time.dataset.ago));
    if (time.textContent !== said) time.textContent = said;
  }
}

/** New HTML in a part; what the reader opened, scrolled or stands on stays so. */
function fill(part, html) {
  const kept = (selector) => [...part.querySelectorAll(selector)];
  const open = kept("details").map((one) => one.open);
  const scrolled = kept(".scroll").map((one) => one.scrollLeft);
  const focusable = "button, a, summary, [tabindex='0']";
  const focused = kept(focusable).indexOf(document.activeElement);
  part.innerHTML = html;
  part.hidden = html.trim() === "";
  kept("details").forEach((one, at) => {
    if (at < open.length) one.open = open[at];
  });
  kept(".scroll").forEach((one, at) => {
    one.scrollLeft = scrolled[at] || 0;
  });
  if (focused >= 0 && kept(focusable)[focused]) kept(focusable)[focused].focus({ preventScroll: true });
}

/** Takes as they finish: one plays while it is pointed at, so that eight clips stay quiet. */
function playWhilePointedAt(part) {
  for (const clip of part.querySelectorAll(".latest .clip")) {
    const video = clip.querySelector("video");
    const play = () => {
      if (!calm) video.play().catch(() => {}); // refused before it is loaded
    };
    for (const event of ["pointerenter", "focusin"]) clip.addEventListener(event, play);
    for (const event of ["pointerleave", "focusout"]) clip.addEventListener(event, () => video.pause());
  }
}

function refreshRows(changed, num) {
  const body = document.getElementById("overview").tBodies[0];
  if (!page.rows || num < page.byPlace.size) {
    page.byPlace.clear();
    page.rows = new Rows(body, [], 100);
    headed(document.getElementById("overview"), page.rows);
  }
  for (const entry of changed) {
    const known = page.byPlace.get(entry.place);
    if (known) {
      Object.assign(known, entry);
      delete known.text;
    } else {
      page.byPlace.set(entry.place, entry);
      page.rows.entries.push(entry);
      if (page.rows.left !== page.rows.entries) page.rows.left.push(entry);
    }
  }
  if (changed.length) showRows();
}

function showRows() {
  const links = () => [...page.rows.body.querySelectorAll("th a")];
  const focused = links().indexOf(document.activeElement);
  page.rows.show();
  if (focused >= 0) page.rows.offer(focused)?.focus({ preventScroll: true });
  mark();
}

function mark() {
  [...page.rows.body.rows].forEach((row, at) => {
    if (page.rows.left[at].place === page.shown) row.setAttribute("aria-current", "true");
    else row.removeAttribute("aria-current");
  });
}

/** Shows a scenario, or shows it again as it is now: takes go on from where they were, open parts stay open. */
async function show(place) {
  const answer = await fetch(`scene/${place}`);
  if (!answer.ok) return;
  const html = await answer.text();
  const before = scenesHere.querySelector(".scene");
  const again = page.shown === place && before;
  const player = before && players.get(before);
  const opened = again ? [...before.querySelectorAll("details")].map((one) => one.open) : [];
  const [wanted, seconds] = player?.button ? [player.wanted, player.lead?.currentTime || 0] : [null, 0];
  if (before) stop(before);
  scenesHere.innerHTML = html;
  page.shown = place;
  const scene = scenesHere.querySelector(".scene");
  if (again) {
    [...scene.querySelectorAll("details")].forEach((one, at) => {
      if (at < opened.length) one.open = opened[at];
    });
  }
  for (const video of scene.querySelectorAll("video")) {
    video.preload = "metadata"; // a picture before it plays: these are few, and on this machine
    video.load();
  }
  start(scene);
  const fresh = players.get(scene);
  if (again && wanted !== null && fresh.button) {
    fresh.wanted = wanted;
    for (const take of fresh.takes) take.currentTime = seconds;
    fresh.apply();
  }
  mark();
}

function follow(wanted) {
  page.follows = wanted;
  document.getElementById("follow").setAttribute("aria-pressed", String(wanted));
}

function choose(place) {
  follow(false);
  show(place).then(() => document.getElementById("viewer").scrollIntoView({ block: "start" }));
}

/** The scenario that many rows further, in the order of the table as it is sorted and filtered. */
function turn(by) {
  const places = page.rows ? page.rows.left.map((entry) => entry.place) : [];
  const at = places.indexOf(page.shown);
  const next = places[at < 0 ? 0 : Math.min(places.length - 1, Math.max(0, at + by))];
  if (next === undefined) return;
  follow(false);
  show(next);
}

async function take(found) {
  page.rev = found.rev;
  page.live = found.live;
  for (const [name, html] of Object.entries(found.parts)) {
    const part = document.querySelector(`[data-part="${name}"]`);
    fill(part, html);
    if (name === "latest") playWhilePointedAt(part);
  }
  refreshRows(found.rows, found.num_rows);
  const wanted = page.follows && found.latest !== null ? found.latest : page.shown;
  if (wanted !== null && (wanted !== page.shown || found.scenes.includes(wanted))) await show(wanted);
}

/** What could not be loaded while nobody answered. */
async function afresh() {
  for (const video of document.querySelectorAll(".latest video")) if (video.error) video.load();
  if (page.shown !== null) await show(page.shown);
}

function linked(is, said) {
  const link = document.getElementById("link");
  link.classList.toggle("on", is);
  link.classList.toggle("off", !is);
  if (link.textContent !== said) link.textContent = said;
}

/** One question; whoever serves the page may be gone for a while, or be another process the next time. */
async function ask() {
  try {
    const answer = await fetch(`state?since=${page.rev}`, {
      headers: page.rev ? { "If-None-Match": `"${page.rev}"` } : {},
      cache: "no-store",
    });
    if (answer.status === 200) await take(await answer.json());
    else if (answer.status !== 304) throw new Error(`status ${answer.status}`);
    if (page.failed) await afresh();
    page.failed = 0;
    linked(true, page.live ? "live" : "connected");
    root.dataset.ready = "true";
  } catch (error) {
    page.failed += 1;
    linked(false, "the page's server does not answer: retake watch");
    if (!(error instanceof TypeError) && !/^Error: status/.test(String(error))) report(error);
  }
  tell();
  const calmly = document.hidden ? 5 : 1;
  setTimeout(ask, page.period * calmly * Math.min(5, 1 + page.failed));
}

document.addEventListener("click", (event) => {
  const see = event.target.closest("[data-place]");
  if (see) choose(Number(see.dataset.place));
});
document.getElementById("overview").tBodies[0].addEventListener("click", (event) => {
  const row = event.target.closest("tr");
  if (!row) return;
  event.preventDefault();
  choose(page.rows.left[row.sectionRowIndex].place);
});
document.getElementById("overview").tBodies[0].addEventListener("keydown", (event) => page.rows.move(event));
document.getElementById("more").addEventListener("click", () => page.rows.more());
document.getElementById("filter").addEventListener("input", (event) => {
  page.rows.filter(event.target.value);
  mark();
});
document.getElementById("overview").tHead.addEventListener("click", () => setTimeout(mark));
document.getElementById("back").addEventListener("click", () => turn(-1));
document.getElementById("on").addEventListener("click", () => turn(1));
document.getElementById("follow").addEventListener("click", () => follow(!page.follows));
document.getElementById("keys-open").addEventListener("click", () => document.getElementById("keys").showModal());
document.getElementById("pixels").addEventListener("change", (event) => {
  root.classList.toggle("sharp", event.target.checked);
});
const KEYS = {
  j: () => turn(1),
  k: () => turn(-1),
  f: () => follow(!page.follows),
  p: () => players.get(scenesHere.querySelector(".scene"))?.toggle(),
  "/": () => document.getElementById("filter").focus(),
  "?": () => document.getElementById("keys").showModal(),
};
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, select, textarea, dialog");
  if (typing || event.ctrlKey || event.metaKey || event.altKey || !KEYS[event.key]) return;
  event.preventDefault();
  KEYS[event.key]();
});
ask();
