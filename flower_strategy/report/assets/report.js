// Draws the figures with Vega-Lite. A mark's description, which a screen reader says, is its
// tooltip too, for the pointer and for the arrow keys.
(() => {
  const specs = JSON.parse(document.getElementById("figures").textContent);
  const tip = document.getElementById("tip");
  const marks = (place) => [...place.querySelectorAll("path[aria-label]")];
  const text = { labelColor: "var(--soft)", titleColor: "var(--soft)", labelFontSize: 11,
    titleFontSize: 12, titleFontWeight: "normal", aria: false };
  const config = (width) => ({
    background: null, font: "system-ui, sans-serif", view: { stroke: null, continuousHeight: 260 },
    axis: { ...text, gridColor: "var(--line)", domainColor: "var(--soft)", labelLimit: 110 },
    legend: { ...text, titleOrient: "left", labelLimit: 140, symbolLimit: 60, gradientLength: 150,
      orient: "top", layout: { top: { direction: "vertical", anchor: "start" } },
      columns: Math.max(1, Math.floor(width / 120)) },
    rule: { color: "var(--ink)" }, text: { color: "var(--ink)" },
  });

  let shown = null;
  const show = (mark) => {
    shown?.classList.remove("on");
    shown = mark;
    tip.hidden = !mark;
    if (!mark) return;
    mark.classList.add("on");
    tip.textContent = mark.getAttribute("aria-label");
    const box = mark.getBoundingClientRect();
    const left = Math.min(box.left + box.width / 2 + 8, innerWidth - tip.offsetWidth - 4);
    const above = box.top - tip.offsetHeight - 8;
    tip.style.left = `${Math.max(4, left)}px`;
    tip.style.top = `${above > 4 ? above : box.bottom + 8}px`;
  };

  // Goes to the nearest mark in the direction of the arrow, rather ahead than aside.
  const walk = (event) => {
    if (event.key === "Escape") show(null);
    const step = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
    if (!step) return;
    event.preventDefault();
    const all = marks(event.currentTarget);
    const from = all.includes(shown) ? shown.getBoundingClientRect() : null;
    const far = (mark) => {
      const box = mark.getBoundingClientRect();
      const x = box.left + box.right - from.left - from.right;
      const y = box.top + box.bottom - from.top - from.bottom;
      const ahead = x * step[0] + y * step[1];
      return ahead > 1 ? ahead + 4 * Math.abs(x * step[1] + y * step[0]) : Infinity;
    };
    if (!from) return show(all[0]);
    const nearest = all.reduce((best, mark) => (far(mark) < far(best) ? mark : best));
    if (far(nearest) < Infinity) show(nearest);
  };

  for (const place of document.querySelectorAll("[data-figure]")) {
    // The interpreter: the page's policy lets no text become code.
    vegaEmbed(place, specs[place.dataset.figure], { renderer: "svg", actions: false, ast: true,
      defaultStyle: false, config: config(place.clientWidth) }).then(() => {
      const said = marks(place).map((mark) => mark.getAttribute("aria-label"));
      if (said.length > 400) said.splice(400, said.length, "The rest: floe-llm report --json");
      place.parentElement.querySelector("details .scroll").textContent = said.join("\n");
    });
    place.addEventListener("pointermove", ({ target }) => show(target.closest("path[aria-label]")));
    for (const end of ["pointerleave", "blur"]) place.addEventListener(end, () => show(null));
    place.addEventListener("keydown", walk);
  }
  addEventListener("scroll", () => show(null), { passive: true, capture: true });
})();
