"""The page's script: one tooltip for the pointer and for the keyboard.

Marks carry their text in ``data-tip``. Heatmaps have thousands of cells and only a few paths: the
cell follows from the position, and its text from the data beside the drawing.
"""

from __future__ import annotations

SCRIPT = """
(() => {
  "use strict";
  const NEAR = 24;
  const tip = document.getElementById("tip");

  const show = (text, x, y) => {
    tip.textContent = text;
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const left = Math.min(x + 14, document.documentElement.clientWidth - box.width - 6);
    const above = y - box.height - 12;
    tip.style.left = Math.max(6, left) + "px";
    tip.style.top = (above > 4 ? above : y + 18) + "px";
  };
  const hide = () => { tip.hidden = true; };

  const middle = (mark) => {
    const box = mark.getBoundingClientRect();
    return [box.left + box.width / 2, box.top + box.height / 2];
  };

  const marks = (svg) => {
    const all = [...svg.querySelectorAll("[data-tip]")];
    let at = -1;
    const select = (index, point) => {
      if (at >= 0) all[at].classList.remove("on");
      at = index;
      if (at < 0) return hide();
      all[at].classList.add("on");
      show(all[at].dataset.tip, ...(point || middle(all[at])));
    };
    svg.addEventListener("pointermove", (event) => {
      let found = all.indexOf(event.target.closest("[data-tip]"));
      if (found < 0) {
        let least = NEAR;
        all.forEach((mark, index) => {
          if (mark.tagName === "rect") return;
          const [x, y] = middle(mark);
          const far = Math.hypot(x - event.clientX, y - event.clientY);
          if (far < least) [least, found] = [far, index];
        });
      }
      select(found, [event.clientX, event.clientY]);
    });
    svg.addEventListener("pointerleave", () => select(-1));
    svg.addEventListener("blur", () => select(-1));
    svg.addEventListener("keydown", (event) => {
      const last = all.length - 1;
      const to = {
        ArrowRight: Math.min(last, at + 1), ArrowDown: Math.min(last, at + 1),
        ArrowLeft: Math.max(0, at - 1), ArrowUp: Math.max(0, at - 1),
        Home: 0, End: last, Escape: -1,
      }[event.key];
      if (to === undefined || last < 0) return;
      event.preventDefault();
      select(to);
    });
  };

  const cells = (svg) => {
    const data = JSON.parse(document.getElementById(svg.dataset.heat).textContent);
    const cursor = svg.querySelector(".cursor");
    const rows = data.rows.length, columns = data.columns.length;
    let at = null;
    const select = (row, column, point) => {
      at = row === null ? null : [row, column];
      const text = at && data.tips[row][column];
      if (!text) {
        cursor.setAttribute("visibility", "hidden");
        return hide();
      }
      cursor.setAttribute("x", data.x + column * data.width);
      cursor.setAttribute("y", data.y + row * data.height);
      cursor.setAttribute("visibility", "visible");
      const whole = data.joined
        ? data.rows[row] + " and " + data.columns[column] + ": " + text : text;
      show(whole, ...(point || middle(cursor)));
    };
    svg.addEventListener("pointermove", (event) => {
      const place = new DOMPoint(event.clientX, event.clientY)
        .matrixTransform(svg.getScreenCTM().inverse());
      const row = Math.floor((place.y - data.y) / data.height);
      const column = Math.floor((place.x - data.x) / data.width);
      const inside = row >= 0 && row < rows && column >= 0 && column < columns;
      select(inside ? row : null, column, [event.clientX, event.clientY]);
    });
    svg.addEventListener("pointerleave", () => select(null));
    svg.addEventListener("blur", () => select(null));
    svg.addEventListener("keydown", (event) => {
      const step = {
        ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0],
      }[event.key];
      if (event.key === "Escape") select(null);
      if (!step) return;
      event.preventDefault();
      const [row, column] = at || [-step[0], -step[1]];
      const within = (value, count) => Math.min(count - 1, Math.max(0, value));
      select(within(row + step[0], rows), within(column + step[1], columns));
    });
  };

  for (const svg of document.querySelectorAll("figure .scroll > svg")) {
    (svg.dataset.heat ? cells : marks)(svg);
  }
  addEventListener("scroll", hide, { passive: true, capture: true });
})();
"""
