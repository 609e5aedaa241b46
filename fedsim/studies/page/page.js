"use strict";
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const study = read("study-data");
  const { config, specs, plots } = read("study-plots");
  const form = document.querySelector(".filters");
  const legend = [...form.querySelectorAll(".legend button")];
  const views = new Map();
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // ---- data: columns become rows --------------------------------------------------------------
  const unpack = ({ size, columns }) => Array.from({ length: size }, (_, i) => {
    const row = {};
    for (const [name, values] of Object.entries(columns)) row[name] = "all" in values ? values.all : values[i];
    return row;
  });
  const sets = Object.fromEntries(Object.entries(study.sets).map(([name, set]) => [name, unpack(set)]));
  const isIn = (value, wanted) => (Array.isArray(wanted) ? wanted.includes(value) : value === wanted);
  const matches = (row, wanted) => Object.entries(wanted).every(([key, value]) => isIn(row[key], value));

  // ---- what is shown --------------------------------------------------------------------------
  const state = { series: new Set(), attacker: "", factors: {}, text: "" };

  const readState = () => {
    state.series = new Set(legend.filter((b) => b.ariaPressed === "true").map((b) => b.dataset.series));
    state.attacker = form.elements.attacker.value;
    state.text = form.elements.text.value.trim().toLowerCase();
    state.factors = {};
    for (const select of all("select[data-factor]", form)) {
      if (select.value) state.factors[select.dataset.factor] = select.value;
    }
  };

  const factorsOf = ({ panel, place }) =>
    study.panels[panel] ?? study.places[place] ?? {};

  // What a row does not tell (a curve has no attacker) cannot leave it out.
  const shown = (row, text) => {
    const factors = factorsOf(row);
    return (!row.series || state.series.has(row.series))
      && (!state.attacker || !row.attacker || row.attacker === state.attacker)
      && Object.entries(state.factors).every(([name, value]) => !(name in factors) || factors[name] === value)
      && (!state.text || text.includes(state.text));
  };

  const textOf = (row) =>
    [row.series, row.strength, row.who ?? "", ...Object.values(factorsOf(row))].join(" ").toLowerCase();

  const selected = (key) => Object.fromEntries(Object.entries(plots[key].match).map(([name, wanted]) =>
    [name, sets[name].filter((row) => matches(row, wanted) && shown(row, textOf(row)))]));

  // ---- plots ----------------------------------------------------------------------------------
  const embed = async (panel) => {
    const key = panel.dataset.plot;
    const spec = { ...specs[plots[key].like], datasets: selected(key) };
    const options = {
      config, renderer: "svg", actions: false,
      tooltip: { theme: "study", disableDefaultStyle: true },
    };
    const { view } = await vegaEmbed(panel.querySelector(".drawing"), spec, options);
    views.set(key, view);
  };

  const refresh = (panel) => {
    const key = panel.dataset.plot;
    const data = selected(key);
    panel.hidden = !Object.values(data).some((rows) => rows.length);
    const view = views.get(key);
    if (panel.hidden || !view) return;
    for (const [name, rows] of Object.entries(data)) view.data(name, rows);
    view.resize().run();
  };

  // ---- tables and pictures --------------------------------------------------------------------
  const told = (element) => {
    const { series, attacker, panel, place } = element.dataset;
    return { series, attacker, panel, place };
  };

  // What is searched in a line are its words: what a mark in a plot has as well.
  const wordsOf = (row) => all(".words", row).map((cell) => cell.firstChild.textContent).join(" ").toLowerCase();

  const filterElements = () => {
    for (const row of all(".sortable tbody tr")) row.hidden = !shown(told(row), wordsOf(row));
    for (const album of all(".album")) album.hidden = !shown(told(album), album.textContent.toLowerCase());
  };

  const say = () => {
    const rows = all("[data-table=rows] tbody tr");
    const left = rows.filter((row) => !row.hidden).length;
    form.querySelector(".status").textContent = `${left} of ${rows.length} rows of the table of cells shown`;
  };

  const update = () => {
    readState();
    filterElements();
    all(".panel").forEach(refresh);
    for (const figure of all(".plots")) {
      figure.querySelector(".nothing").hidden = all(".panel", figure).some((panel) => !panel.hidden);
    }
    say();
    window.dispatchEvent(new Event("resize"));
  };

  // ---- controls -------------------------------------------------------------------------------
  const press = (button, on) => button.setAttribute("aria-pressed", String(on));

  const chooseSeries = (select) => {
    if (select.value === "several") return;
    legend.forEach((button, i) => press(button, select.value === "" || Number(select.value) === i));
  };

  const nameChoice = () => {
    const on = legend.flatMap((button, i) => (button.ariaPressed === "true" ? [i] : []));
    const select = form.elements.series;
    select.value = on.length === legend.length ? "" : on.length === 1 ? String(on[0]) : "several";
  };

  const listen = () => {
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("change", (event) => {
      if (event.target.name === "series") chooseSeries(event.target);
      update();
    });
    form.elements.text.addEventListener("input", update);
    form.addEventListener("reset", () => setTimeout(() => {
      legend.forEach((button) => press(button, true));
      update();
    }));
    for (const button of legend) {
      button.addEventListener("click", () => {
        press(button, button.ariaPressed !== "true");
        nameChoice();
        update();
      });
    }
  };

  // ---- sorting --------------------------------------------------------------------------------
  const valueOf = (row, place) => {
    const text = row.cells[place].dataset.by;
    return text === undefined || text === "" ? null : Number.isNaN(Number(text)) ? text : Number(text);
  };

  // Empty cells stay at the end whichever way a column is sorted.
  const compare = (a, b, sign) => {
    if (a === null || b === null) return (a === null) - (b === null);
    const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
    return sign * order;
  };

  const sort = (head) => {
    const table = head.closest("table");
    const descending = head.ariaSort === "ascending";
    for (const other of all("thead th", table)) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const rows = [...table.tBodies[0].rows];
    const keys = new Map(rows.map((row) => [row, valueOf(row, head.cellIndex)]));
    rows.sort((a, b) => compare(keys.get(a), keys.get(b), descending ? -1 : 1));
    table.tBodies[0].append(...rows);
  };

  // ---- CSV ------------------------------------------------------------------------------------
  const quoted = (value) => {
    const text = value === null || value === undefined ? "" : String(value);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };

  const csv = (name) => {
    const rows = unpack(study.tables[name]);
    const names = Object.keys(study.tables[name].columns);
    const lines = all(`[data-table=${name}] tbody tr`).filter((line) => !line.hidden);
    const kept = [...new Set(lines.map((line) => line.dataset.row))].map((i) => rows[i]);
    return [names, ...kept.map((row) => names.map((column) => row[column]))]
      .map((row) => row.map(quoted).join(",")).join("\r\n") + "\r\n";
  };

  const download = (button) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([csv(button.dataset.csv)], { type: "text/csv" }));
    link.download = `${study.name.replaceAll(/[^\w.-]+/g, "_")}-${button.dataset.csv}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };

  // ---- start ----------------------------------------------------------------------------------
  const start = async () => {
    form.hidden = false;
    listen();
    readState();
    for (const head of all(".sortable thead th")) head.querySelector("button").addEventListener("click", () => sort(head));
    for (const button of all(".download")) {
      button.hidden = false;
      button.addEventListener("click", () => download(button));
    }
    for (const panel of all(".panel")) await embed(panel);
    update();
    document.documentElement.dataset.ready = "true";
  };
  start();
})();
