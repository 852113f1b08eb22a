// Draws the page's figures with Plotly, in the colours of the style sheet, and shows tooltips.
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const tip = document.getElementById("tip");
  const config = { displayModeBar: false, responsive: true, doubleClick: false };

  const theme = () => {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(`--${name}`).trim();
    const axis = { gridcolor: colour("line"), linecolor: colour("soft"),
      zerolinecolor: colour("line"), automargin: true, title: { standoff: 8 } };
    const ramp = [[0, colour("low")], [0.5, colour("middle")], [1, colour("high")]];
    return {
      ramp, ink: colour("ink"), absent: colour("absent"),
      palette: [0, 1, 2, 3, 4, 5].map((index) => colour(`c${index}`)),
      layout: {
        paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
        font: { color: colour("soft"), family: getComputedStyle(document.body).fontFamily },
        shapedefaults: { line: { color: colour("ink") } }, xaxis: axis, yaxis: axis,
        legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
        margin: { l: 10, r: 10, t: 10, b: 10 },
        hovermode: "closest", dragmode: false,
      },
    };
  };

  const draw = (place) => {
    const { ramp, ink, absent, palette, layout } = theme();
    const { data, layout: own } = figures[place.dataset.figure];
    const traces = data.map((trace) => {
      if (trace.type === "heatmap") return { ...trace, colorscale: ramp };
      const { style } = trace.meta;
      const color = style < 0 ? ink : palette[style % palette.length];
      const marker = { ...trace.marker, color, line: { ...trace.marker?.line, color } };
      return { ...trace, marker, ...(trace.type === "scatter" && { line: { ...trace.line, color } }) };
    });
    const ground = data[0].type === "heatmap" ? { plot_bgcolor: absent } : {};
    return Plotly.react(place, traces, { ...own, ...ground, template: { layout } }, config);
  };

  // A heatmap's titles stand once a row and column, and its texts once, not once a cell.
  const said = ({ data: { meta, z }, pointNumber }) => {
    if (!meta.rows) return (meta.name ? meta.name + meta.joint : "") + meta.tips[pointNumber];
    const [row, column] = pointNumber;
    const place = [meta.rows[row], meta.columns[column]].filter(Boolean);
    if (!meta.tips.length) return `${place.join(meta.joint)}: ${meta.name} ${z[row][column].toFixed(3)}`;
    const text = meta.texts[meta.tips[row][column]];
    return text && (place.length > 1 ? `${place.join(meta.joint)}: ${text}` : `${place}, ${text}`);
  };
  const told = (name) => figures[name].data.filter((trace) => trace.meta.tips && trace.name !== undefined || trace.z);

  const hide = () => { tip.hidden = true; };
  const show = (place, point) => {
    tip.textContent = said(point) || "";
    tip.hidden = !tip.textContent;
    const { left, top } = place.getBoundingClientRect();
    const { x1, y0, y1 } = point.bbox;
    const below = top + y1 + 10;
    const above = top + y0 - tip.offsetHeight - 10;
    tip.style.left = `${Math.max(4, Math.min(left + x1 + 8, innerWidth - tip.offsetWidth - 4))}px`;
    tip.style.top = `${below + tip.offsetHeight > innerHeight ? above : below}px`;
  };

  // Arrows go through the cells of a heatmap, or through a line's points and from line to line.
  const walk = (place, event, at) => {
    const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
    if (event.key === "Escape") hide();
    if (!step) return at;
    event.preventDefault();
    const traces = told(place.dataset.figure);
    const lines = traces[0].z || traces.map((trace) => trace.x);
    const within = (value, count) => Math.min(count - 1, Math.max(0, value));
    const row = at ? within(at[0] + step[0], lines.length) : 0;
    const column = at ? within(at[1] + step[1], lines[row].length) : 0;
    const trace = traces[0].z ? traces[0] : traces[row];
    const { xaxis, yaxis } = place._fullLayout;
    const x = xaxis._offset + xaxis.d2p(trace.z ? column : trace.x[column]);
    const y = yaxis._offset + yaxis.d2p(trace.z ? row : trace.y[column]);
    const pointNumber = trace.z ? [row, column] : column;
    show(place, { data: trace, pointNumber, bbox: { x1: x, y0: y - 8, y1: y + 8 } });
    return [row, column];
  };

  for (const place of document.querySelectorAll("[data-figure]")) {
    let at = null;
    draw(place).then(() => {
      place.on("plotly_hover", ({ points }) => show(place, points[0]));
      place.on("plotly_unhover", hide);
    });
    place.addEventListener("keydown", (event) => { at = walk(place, event, at); });
    place.addEventListener("blur", () => { at = null; hide(); });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw(place));
  }
  for (const details of document.querySelectorAll("figure details")) {
    details.addEventListener("toggle", () => {
      const points = told(details.parentElement.querySelector(".plot").dataset.figure).flatMap((data) =>
        data.z ? data.z.flatMap((line, row) => line.map((_, column) => ({ data, pointNumber: [row, column] })))
          : data.x.flatMap((_, pointNumber) => (data.y[pointNumber] === null ? [] : { data, pointNumber })));
      const texts = points.slice(0, 400).map(said).filter(Boolean);
      if (points.length > 400) texts.push("The other values are in floe-llm report --json.");
      details.lastElementChild.replaceChildren(...texts.map((text) => {
        const entry = document.createElement("li");
        entry.textContent = text;
        return entry;
      }));
    }, { once: true });
  }
  // Plotly tells of a point only when it is another than before: a scroll makes it forget.
  addEventListener("scroll", () => {
    hide();
    document.querySelectorAll(".js-plotly-plot").forEach((place) => Plotly.Fx.unhover(place));
  }, { passive: true, capture: true });
})();
