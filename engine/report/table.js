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
    note.textContent = `The first ${shown.length} of ${this.left.length} scenario${this.left.length === 1 ? "" : "s"}${of}`;
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
