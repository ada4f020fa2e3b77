"use strict";

// Colours are CSS variables: charts follow the reader's theme without being drawn again.
const chartTheme = {
  background: null,
  font: "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif",
  padding: { left: 2, right: 8, top: 6, bottom: 2 },
  autosize: { type: "fit-x", contains: "padding" },
  view: { stroke: null },
  axis: {
    domainColor: "var(--line)", tickColor: "var(--line)", gridColor: "var(--line)",
    gridOpacity: 0.6, labelColor: "var(--soft)", titleColor: "var(--soft)",
    labelFontSize: 11, titleFontSize: 11, titleFontWeight: 400, titlePadding: 8,
    tickSize: 4, labelPadding: 5,
  },
  axisX: { grid: false, titleAnchor: "end", tickCount: { expr: "width < 420 ? 4 : 8" } },
  axisY: { domain: false, ticks: false, titleAnchor: "end", tickCount: 5, minExtent: 40 },
  legend: {
    orient: "top", direction: "horizontal", labelColor: "var(--soft)", labelFontSize: 12,
    labelLimit: 240, symbolSize: 70, symbolStrokeWidth: 2, symbolType: "stroke",
    columnPadding: 16, rowPadding: 4, offset: 10, columns: { expr: "width < 420 ? 2 : 6" },
  },
};

async function drawCharts() {
  for (const chart of document.querySelectorAll(".chart")) {
    await vegaEmbed(chart, JSON.parse(chart.nextElementSibling.textContent), {
      mode: "vega-lite", renderer: "svg", actions: false, ast: true, config: chartTheme,
      tooltip: { theme: "custom", disableDefaultStyle: true },
    });
    // Dozens of drawings take seconds, in which the page answers.
    await new Promise((resolve) => setTimeout(resolve));
  }
  document.documentElement.dataset.charts = "drawn";
}

function makeSortable(table) {
  const heads = [...table.querySelectorAll("th[aria-sort]")];
  const original = [...table.tBodies[0].rows];
  // Tables with the same rows stay in one order.
  const kind = `table[data-sortable="${table.dataset.sortable}"]`;
  const linked = [...table.closest("article").querySelectorAll(kind)];
  const valueOf = (row, column) => {
    const cell = row.cells[column];
    if (!("value" in cell.dataset)) return cell.textContent.trim().toLowerCase();
    return cell.dataset.value === "" ? null : Number(cell.dataset.value);
  };
  const compare = (a, b) => {
    if (a === null || b === null) return 0;
    return typeof a === "string" ? a.localeCompare(b) : a - b;
  };
  const next = { none: "ascending", ascending: "descending", descending: "none" };
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const order = next[head.getAttribute("aria-sort")];
    linked.flatMap((one) => [...one.querySelectorAll("th[aria-sort]")])
      .forEach((other) => other.setAttribute("aria-sort", other === head ? order : "none"));
    const sign = order === "descending" ? -1 : 1;
    const rows = order === "none" ? original : [...original].sort((one, two) => {
      const a = valueOf(one, column), b = valueOf(two, column);
      // What was not measured stays last in both directions.
      return (a === null) - (b === null) || sign * compare(a, b);
    });
    const places = rows.map((row) => original.indexOf(row));
    linked.forEach((one, n) => one.tBodies[0].append(...places.map((place) => listed[n][place])));
  }));
  const listed = linked.map((one) => [...one.tBodies[0].rows]);
}

// Search for methods and choice of columns, in all tables and figures of a subject.
function makeTools(form) {
  const article = form.closest("article");
  const algorithms = JSON.parse(form.nextElementSibling.textContent);
  const search = form.querySelector("input[type='search']");
  const pick = form.querySelector("select");
  const rows = [...article.querySelectorAll(".methods [id][data-of]")];
  const texts = new Map(rows.map((row) => [row.dataset.of,
    `${row.cells[0].textContent} ${algorithms[row.dataset.of] ?? ""}`.toLowerCase()]));
  const references = new Set(rows.filter((row) => row.matches(".baseline"))
    .map((row) => row.dataset.of));
  const find = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const algorithm = pick?.value ?? "";
    const asked = words.length > 0 || algorithm !== "";
    const found = new Set([...texts.keys()].filter((name) =>
      words.every((word) => texts.get(name).includes(word))
      && (!algorithm || algorithms[name] === algorithm)));
    // What methods are compared with stays, but for figures and tests of it alone.
    for (const element of article.querySelectorAll("[data-of]")) {
      const names = element.dataset.of.split(" ");
      const stays = element.matches("tr") && names.length === 1 && references.has(names[0]);
      element.hidden = asked && !stays && !names.some((name) => found.has(name));
    }
    const number = [...found].filter((name) => !references.has(name)).length;
    form.querySelector("[role='status']").textContent =
      `${number} of ${texts.size - references.size} methods`;
  };
  const choose = () => {
    const off = new Set([...form.querySelectorAll(".columns input:not(:checked)")]
      .map((box) => box.value));
    for (const cell of article.querySelectorAll("[data-col]")) {
      cell.hidden = off.has(cell.dataset.col);
    }
    for (const head of article.querySelectorAll("[data-cols]")) {
      const left = head.dataset.cols.split(" ").filter((key) => !off.has(key)).length;
      head.hidden = left === 0;
      head.colSpan = Math.max(1, left);
    }
    for (const table of article.querySelectorAll("table.methods")) {
      table.parentElement.hidden = !table.querySelector("td[data-col]:not([hidden])");
    }
  };
  const toRow = () => {
    const row = rows.find((one) => `#${one.id}` === decodeURIComponent(location.hash));
    if (!row?.hidden) return;
    form.reset();
    find();
    row.scrollIntoView();
  };
  form.hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.querySelector(".columns").addEventListener("change", choose);
  if (!search) return;
  search.addEventListener("input", find);
  pick?.addEventListener("change", find);
  window.addEventListener("hashchange", toRow);
  find();
}

// A table that is cut says so: scroll bars are hidden on many screens.
function tellWhatIsCut() {
  const tell = (place) => place.classList.toggle("cut", place.scrollWidth > place.clientWidth + 1);
  const watcher = new ResizeObserver((seen) => seen.forEach(({ target }) =>
    tell(target.matches(".scroll") ? target : target.parentElement)));
  document.querySelectorAll(".scroll").forEach((place) => {
    watcher.observe(place);
    watcher.observe(place.firstElementChild);
  });
}

function makeHeadlines(fieldset) {
  const panels = [...fieldset.parentElement.querySelectorAll(".panel")];
  const show = () => {
    const chosen = fieldset.querySelector("input:checked").value;
    panels.forEach((panel) => { panel.hidden = panel.dataset.method !== chosen; });
  };
  fieldset.hidden = false;
  fieldset.addEventListener("change", show);
  show();
}

const FIRST = 6;

function makeAnswers(section) {
  const form = section.querySelector("form");
  const search = form.querySelector("input[type='search']");
  const status = form.querySelector("[role='status']");
  const nothing = section.querySelector(".nothing");
  const more = section.querySelector(".more");
  const compare = section.querySelector("[data-compare]");
  const lower = (element) => element.textContent.toLowerCase();
  const examples = [...section.querySelectorAll(".example")].map((item) => ({
    item, part: item.dataset.part, question: lower(item.querySelector(".question")),
    answers: [...item.querySelectorAll(".answer")].map((answer) => ({ answer, text: lower(answer) })),
  }));
  const textOf = (example) => [example.question, ...example.answers
    .filter(({ answer }) => !answer.hidden).map(({ text }) => text)].join(" ");
  const choose = () => {
    const chosen = new Set([...compare.querySelectorAll("input:checked")].map((box) => box.value));
    for (const { answer } of examples.flatMap((example) => example.answers)) {
      answer.hidden = !chosen.has(answer.dataset.method);
    }
  };
  let all = false;
  const show = () => {
    const part = form.querySelector(".parts input:checked").value;
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = examples.filter((e) => words.every((word) => textOf(e).includes(word)));
    for (const count of form.querySelectorAll("[data-count]")) {
      count.textContent = found.filter((e) => e.part === count.dataset.count).length;
    }
    const here = found.filter((e) => e.part === part);
    const shown = new Set(all || words.length ? here : here.slice(0, FIRST));
    examples.forEach((e) => { e.item.hidden = !shown.has(e); });
    nothing.hidden = here.length > 0;
    more.hidden = shown.size === here.length;
    more.firstElementChild.textContent = `Show ${here.length - shown.size} more`;
    status.textContent = `${here.length} rows`;
  };
  if (compare) {
    compare.hidden = false;
    compare.addEventListener("change", () => { choose(); show(); });
    choose();
  }
  form.hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", show);
  form.querySelector("[data-erased]").addEventListener("change", (event) => {
    section.classList.toggle("erased", event.target.checked);
  });
  more.firstElementChild.addEventListener("click", () => { all = true; show(); });
  show();
}

function makeTips() {
  const tip = document.getElementById("tip");
  let owner = null;
  const hide = () => {
    tip.hidden = true;
    if (owner) owner.removeAttribute("aria-describedby");
    owner = null;
  };
  const show = (event) => {
    const target = event.target.closest?.("[data-tip]");
    if (!target || !target.dataset.tip) return;
    hide();
    owner = target;
    owner.setAttribute("aria-describedby", "tip");
    tip.textContent = target.dataset.tip;
    tip.hidden = false;
    place();
  };
  const place = () => {
    const at = owner.getBoundingClientRect(), size = tip.getBoundingClientRect();
    const room = document.documentElement.clientWidth - size.width - 8;
    const below = at.bottom + 8 + size.height < innerHeight;
    tip.style.left = `${Math.max(8, Math.min(at.left, room))}px`;
    tip.style.top = `${below ? at.bottom + 8 : at.top - size.height - 8}px`;
  };
  document.addEventListener("pointerover", show);
  document.addEventListener("focusin", show);
  document.addEventListener("pointerout", hide);
  document.addEventListener("focusout", hide);
  // Moving the focus scrolls the page: the tip of what has the focus goes along.
  const scrolled = () => { if (owner?.matches(":focus-visible")) place(); else hide(); };
  document.addEventListener("scroll", scrolled, { passive: true, capture: true });
  document.addEventListener("click", (event) => { if (event.target.closest("button")) hide(); });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
}

// Paper cannot be clicked: what is folded is opened for it, but for long tables of a file.
function unfoldForPaper() {
  const folded = () => [...document.querySelectorAll("details:not([open])")]
    .filter((d) => !d.matches("[data-long]") && !d.closest("form"));
  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = folded();
    opened.forEach((d) => { d.open = true; });
  });
  window.addEventListener("afterprint", () => opened.forEach((d) => { d.open = false; }));
}

document.querySelectorAll("[data-sortable]").forEach(makeSortable);
document.querySelectorAll("[data-tools]").forEach(makeTools);
document.querySelectorAll("[data-headlines]").forEach(makeHeadlines);
document.querySelectorAll("[data-answers]").forEach(makeAnswers);
makeTips();
unfoldForPaper();
tellWhatIsCut();
drawCharts();
