"use strict";
{
  const tip = document.getElementById("tip");

  // The browser's own tooltip would show beside ours, and only after a second.
  const told = new Map();
  for (const dot of document.querySelectorAll(".dot")) {
    const title = dot.querySelector("title");
    told.set(dot, title.textContent);
    title.remove();
  }

  const hide = () => {
    tip.hidden = true;
    document.querySelectorAll(".dot.now").forEach(dot => dot.classList.remove("now"));
  };
  const show = dot => {
    hide();
    dot.classList.add("now");
    const [recipe, ...rest] = told.get(dot).split("\n");
    const name = document.createElement("b");
    name.textContent = recipe;
    tip.replaceChildren(name, "\n" + rest.join("\n"));
    tip.hidden = false;
    const at = dot.querySelector("path").getBoundingClientRect();
    const left = at.left + at.width / 2 - tip.offsetWidth / 2;
    const above = at.top - tip.offsetHeight - 10;
    const right = document.documentElement.clientWidth - tip.offsetWidth - 8;
    tip.style.left = `${window.scrollX + Math.max(8, Math.min(left, right))}px`;
    tip.style.top = `${window.scrollY + (above < 0 ? at.bottom + 10 : above)}px`;
  };

  for (const chart of document.querySelectorAll(".chart")) {
    const dots = [...chart.querySelectorAll(".dot")];
    const across = dot => dot.transform.baseVal[0].matrix.e;
    const nearest = event => {
      let best = null, least = 26;
      for (const dot of dots) {
        const at = dot.querySelector("path").getBoundingClientRect();
        const away = Math.hypot(event.clientX - at.left - at.width / 2, event.clientY - at.top - at.height / 2);
        if (away < least) [best, least] = [dot, away];
      }
      return best;
    };
    const point = event => { const dot = nearest(event); if (dot) show(dot); else hide(); };
    chart.addEventListener("pointermove", point);
    chart.addEventListener("pointerdown", point);
    chart.addEventListener("pointerleave", event => { if (event.pointerType === "mouse") hide(); });

    // One stop of the Tab key for the whole chart; the arrow keys go from dot to dot.
    const ordered = chart.matches(".rows") ? dots : [...dots].sort((a, b) => across(a) - across(b));
    ordered.forEach((dot, index) => {
      dot.setAttribute("tabindex", index ? "-1" : "0");
      dot.addEventListener("focus", () => show(dot));
      dot.addEventListener("blur", hide);
      dot.addEventListener("keydown", event => {
        const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
        if (event.key === "Escape") hide();
        if (!step) return;
        event.preventDefault();
        const next = ordered[(index + step + ordered.length) % ordered.length];
        ordered.forEach(other => other.setAttribute("tabindex", other === next ? "0" : "-1"));
        next.focus();
      });
    });
  }

  const value = (row, index) => {
    const cell = row.cells[index];
    if (!cell.classList.contains("number")) return cell.textContent.toLowerCase();
    return "value" in cell.dataset ? Number(cell.dataset.value) : null;
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, index) => head.firstChild.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const order = (a, b) => {
        const [x, y] = [value(a, index), value(b, index)];
        if (x === null || y === null) return (x === null) - (y === null);
        return (x < y ? -1 : x > y ? 1 : 0) * (down ? -1 : 1);
      };
      body.append(...[...body.rows].sort(order));
    }));

    if (!table.closest("#trials")) continue;
    const find = document.createElement("input");
    find.id = "find";
    find.type = "search";
    find.placeholder = "Find a recipe, backend or outcome";
    find.setAttribute("aria-label", find.placeholder);
    find.addEventListener("input", () => {
      const words = find.value.toLowerCase().split(/\s+/);
      for (const row of body.rows) row.hidden = !words.every(word => row.textContent.toLowerCase().includes(word));
    });
    table.parentElement.before(find);
  }

  let folded = [];
  window.addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details:not([open])")];
    folded.forEach(each => { each.open = true; });
  });
  window.addEventListener("afterprint", () => folded.forEach(each => { each.open = false; }));
}
