// What a reader may do with the page: sort and filter its tables, filter and copy its runs. The
// controls are made here, so that a page whose script does not run shows none that do nothing.
"use strict";

const all = (selector, within = document) => [...within.querySelectorAll(selector)];

function make(name, properties) {
  return Object.assign(document.createElement(name), properties);
}

// A cell sorts by its data-value, a number, where it has one; what has none comes last.
function compare(a, b, sign) {
  const [x, y] = [a, b].map((cell) => cell.dataset.value);
  if (x === undefined && y === undefined) {
    return sign * a.textContent.localeCompare(b.textContent, undefined, { numeric: true });
  }
  if (x === undefined || y === undefined) return x === undefined ? 1 : -1;
  return sign * (x - y);
}

function sort(table, header) {
  const column = header.cellIndex;
  const first = header.dataset.first || "descending";
  const second = first === "descending" ? "ascending" : "descending";
  const order = header.getAttribute("aria-sort") === first ? second : first;
  const sign = order === "ascending" ? 1 : -1;
  for (const other of all("thead th", table)) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", order);
  const rows = all("tbody tr", table);
  rows.sort((a, b) => compare(a.cells[column], b.cells[column], sign));
  table.tBodies[0].append(...rows);
}

function makeSortable(table) {
  for (const header of all("thead th", table)) {
    const button = make("button", { type: "button", title: "Sort by this column" });
    button.append(...header.childNodes);
    button.addEventListener("click", () => sort(table, header));
    header.append(button);
  }
}

// Shows the items that hold every word of the filter, in any order and case.
function makeFilter(place) {
  const items = all(place.dataset.items, place);
  const texts = items.map((item) => (item.dataset.text || item.textContent).toLowerCase());
  const bar = make("div", { className: "filter" });
  const input = make("input", { type: "search", placeholder: place.dataset.filter });
  const told = make("output", {});
  input.setAttribute("aria-label", place.dataset.filter);
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    items.forEach((item, i) => (item.hidden = !words.every((word) => texts[i].includes(word))));
    const shown = items.filter((item) => !item.hidden).length;
    told.textContent = words.length ? `${shown} of ${items.length}` : "";
    for (const group of all("details.group", place)) {
      group.hidden = !all(place.dataset.items, group).some((item) => !item.hidden);
      group.open = words.length > 0 && !group.hidden;
    }
  });
  bar.append(input, told);
  place.prepend(bar);
}

function makeCopyable(place) {
  const button = make("button", { type: "button", textContent: "Copy" });
  button.addEventListener("click", async () => {
    const text = place.querySelector("pre");
    try {
      await navigator.clipboard.writeText(text.textContent);
      button.textContent = "Copied";
    } catch {
      // Where the browser forbids it, the reader copies what is selected.
      getSelection().selectAllChildren(text);
      button.textContent = "Selected";
    }
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
  place.append(button);
}

all("table.sortable").forEach(makeSortable);
all("[data-filter]").forEach(makeFilter);
all(".copyable").forEach(makeCopyable);
