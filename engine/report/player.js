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
    this.takes = [...scene.querySelectorAll("video[data-role=take], video[data-role=scout]")];
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

/** The page cannot change the run: it shows the command that does, selected and, where allowed, copied. */
async function offer(button) {
  const place = button.closest(".scene, .asks").querySelector(".command");
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
