"use strict";
// Sorting and filtering of the table. Without scripts the table stays as written: worst first.
(function () {
  const table = document.querySelector("table");
  const body = table.tBodies[0];
  const heads = Array.from(table.querySelectorAll("th[data-key]"));
  const shown = document.getElementById("shown");

  function compare(key, sign) {
    return function (a, b) {
      const x = a.dataset[key], y = b.dataset[key];
      if (x === "" || y === "") return (x === "") - (y === ""); // rows without a value stay at the end
      const order = key === "name" ? x.localeCompare(y, undefined, { numeric: true }) : Number(x) - Number(y);
      return sign * order || Number(a.dataset.rank) - Number(b.dataset.rank);
    };
  }

  function sort(head) {
    const falling = head.dataset.key === "name" ? head.getAttribute("aria-sort") === "ascending"
      : head.getAttribute("aria-sort") !== "descending";
    heads.forEach(function (other) { other.removeAttribute("aria-sort"); });
    head.setAttribute("aria-sort", falling ? "descending" : "ascending");
    const rows = Array.from(body.rows).sort(compare(head.dataset.key, falling ? -1 : 1));
    rows.forEach(function (row) { body.appendChild(row); });
  }

  function filter() {
    const verdict = document.getElementById("verdict").value;
    const text = document.getElementById("text").value.toLowerCase();
    let count = 0;
    Array.from(body.rows).forEach(function (row) {
      const fits = (verdict === "" || row.dataset.label === verdict) && row.dataset.name.toLowerCase().includes(text);
      row.hidden = !fits;
      count += fits;
    });
    shown.textContent = count + " of " + body.rows.length + " shown";
  }

  heads.forEach(function (head) {
    head.querySelector("button").addEventListener("click", function () { sort(head); });
  });
  document.getElementById("verdict").addEventListener("change", filter);
  document.getElementById("text").addEventListener("input", filter);
  document.querySelector(".tools").hidden = false;
})();
