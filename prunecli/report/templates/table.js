"use strict";
// Sorts and searches tables, and unfolds sections for print. Without it a page shows the same numbers.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  for (const row of rows) {
    // Names may break after their dots.
    const name = row.cells[0].firstElementChild;
    name?.replaceChildren(...name.textContent.split(/(?<=\.)/).flatMap((part) => [part, document.createElement("wbr")]));
  }
  const key = (row, column) => {
    const cell = row.cells[column];
    if (cell.dataset.v !== undefined) return Number(cell.dataset.v);
    if (!cell.textContent && cell.firstElementChild) return Number(cell.firstElementChild.style.getPropertyValue("--b"));
    const text = cell.textContent;
    const number = text === "-" ? -1 : Number(text.replace(/[,%<>]/g, ""));
    return text === "" || Number.isNaN(number) ? text : number;
  };
  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true }));
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      // Numbers: the largest first. The second click reverses the order, the third restores the first one.
      const turns = !head.matches(".t:not(.meter), :first-child") ? ["descending", "ascending"] : ["ascending", "descending"];
      const turn = turns[turns.indexOf(head.getAttribute("aria-sort")) + 1];
      table.tHead.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
      if (!turn) return body.append(...rows);
      head.setAttribute("aria-sort", turn);
      const sign = turn === "ascending" ? 1 : -1;
      const keyed = rows.map((row) => [key(row, column), row]);
      body.append(...keyed.sort((a, b) => sign * compare(a[0], b[0])).map((pair) => pair[1]));
    });
  });
  if (rows.length > 12) {
    const find = document.createElement("input");
    find.type = "search";
    find.className = "find";
    find.placeholder = "Find a name";
    find.setAttribute("aria-label", "Find rows by name");
    const count = document.createElement("output");
    find.addEventListener("input", () => {
      const words = find.value.toLowerCase().split(/\s+/);
      for (const row of rows) {
        const name = row.cells[0].textContent.toLowerCase();
        row.hidden = !words.every((word) => name.includes(word));
      }
      const found = rows.filter((row) => !row.hidden).length;
      count.textContent = find.value.trim() ? `${found.toLocaleString("en")} of ${rows.length.toLocaleString("en")}` : "";
    });
    table.closest(".scroll").before(find, count);
  }
}
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((fold) => (fold.open = true)));
