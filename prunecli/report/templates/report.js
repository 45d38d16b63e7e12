"use strict";
// Sorts and searches the table, and unfolds sections for print. Without it the page shows the same numbers.
const table = document.getElementById("tensors");
if (table) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const key = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.v === undefined ? cell.textContent : Number(cell.dataset.v);
  };
  const compare = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true }));
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      // Numbers: the largest first. The second click reverses the order, the third restores that of the checkpoint.
      const turns = head.classList.contains("n") || column === 1 ? ["descending", "ascending"] : ["ascending", "descending"];
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
    find.placeholder = "Find a tensor";
    find.setAttribute("aria-label", "Find a tensor by name");
    find.addEventListener("input", () => {
      const words = find.value.toLowerCase();
      for (const row of rows) row.hidden = !row.cells[0].textContent.toLowerCase().includes(words);
    });
    table.closest(".scroll").before(find);
  }
}
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((fold) => (fold.open = true)));
