"use strict";

const forms = {
  percent: (value) => (100 * value).toFixed(1) + "%",
  tokens: (value) => Math.round(value).toLocaleString("en"),
  seconds: (value) => value.toFixed(1) + " s",
  number: (value) => (Math.abs(value) >= 0.01 || value === 0 ? value.toFixed(3) : value.toFixed(5)),
};

function element(tag, className, text) {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

for (const plot of document.querySelectorAll(".plot")) {
  const data = JSON.parse(plot.querySelector(".data").textContent);
  const [x0, x1, y0, y1] = data.frame;
  const cursor = plot.querySelector(".cursor");
  const tip = plot.querySelector(".tip");
  let shown = -1;

  const show = (index) => {
    shown = index;
    const share = x1 === x0 ? 0.5 : (data.steps[index] - x0) / (x1 - x0);
    cursor.replaceChildren();
    const name = data.names ? data.names[index] : "Step " + data.steps[index].toLocaleString("en");
    tip.replaceChildren(element("b", "", name));
    for (const series of data.series) {
      const value = series.values[index];
      const row = element("span", series.tone, series.label);
      row.append(element("output", "", value === null ? "–" : forms[data.kind](value)));
      tip.append(row);
      if (value !== null && data.dots) {
        const dot = element("i", series.tone, "");
        dot.style.top = 100 - (100 * (value - y0)) / (y1 - y0) + "%";
        cursor.append(dot);
      }
    }
    cursor.hidden = tip.hidden = false;
    cursor.style.left = 100 * share + "%";
    // The tip stands beside the cursor on the roomier side, and never outside the plot.
    const x = share * plot.clientWidth;
    const left = share < 0.5 ? x + 12 : x - tip.offsetWidth - 12;
    tip.style.left = Math.max(0, Math.min(left, plot.clientWidth - tip.offsetWidth)) + "px";
  };
  const hide = () => {
    shown = -1;
    cursor.hidden = tip.hidden = true;
  };
  const follow = (event) => {
    const box = plot.getBoundingClientRect();
    const step = x0 + ((event.clientX - box.left) / box.width) * (x1 - x0);
    let nearest = 0;
    data.steps.forEach((candidate, index) => {
      if (Math.abs(candidate - step) < Math.abs(data.steps[nearest] - step)) nearest = index;
    });
    if (nearest !== shown) show(nearest);
  };
  const hit = plot.querySelector(".hit");
  hit.addEventListener("pointermove", follow);
  hit.addEventListener("pointerdown", follow);
  hit.addEventListener("pointerleave", hide);
  plot.addEventListener("blur", hide);
  plot.addEventListener("keydown", (event) => {
    const last = data.steps.length - 1;
    const moves = { ArrowRight: shown + 1, ArrowLeft: shown < 0 ? last : shown - 1, Home: 0, End: last };
    if (event.key === "Escape") hide();
    if (!(event.key in moves)) return;
    event.preventDefault();
    show(Math.max(0, Math.min(last, moves[event.key])));
  });
}

const samples = [...document.querySelectorAll(".sample")];
const filters = document.querySelector(".filters");
if (filters) {
  const wanted = { task: "", outcome: "" };
  const toggle = document.getElementById("toggle-all");
  filters.hidden = false;
  for (const button of filters.querySelectorAll("[data-filter]")) {
    button.addEventListener("click", () => {
      wanted[button.dataset.filter] = button.dataset.value;
      for (const other of filters.querySelectorAll(`[data-filter="${button.dataset.filter}"]`)) {
        other.setAttribute("aria-pressed", String(other === button));
      }
      for (const sample of samples) {
        sample.hidden = Object.entries(wanted).some(([key, value]) => value && sample.dataset[key] !== value);
      }
      document.querySelector(".none").hidden = samples.some((sample) => !sample.hidden);
    });
  }
  toggle.addEventListener("click", () => {
    const open = toggle.getAttribute("aria-expanded") !== "true";
    for (const sample of samples) sample.open = open;
    toggle.setAttribute("aria-expanded", String(open));
    toggle.textContent = open ? "Close all" : "Open all";
  });
}

// Paper cannot be clicked: open the samples for printing, then restore what was open.
let closed = [];
addEventListener("beforeprint", () => {
  closed = [...document.querySelectorAll("details.sample, details.yaml")].filter((card) => !card.open);
  for (const card of closed) card.open = true;
});
addEventListener("afterprint", () => {
  for (const card of closed) card.open = false;
});
