"use strict";
(function () {
  const reports = JSON.parse(document.getElementById("data").textContent);
  const coarse = window.matchMedia("(pointer: coarse)").matches || window.innerWidth < 600;
  const config = { responsive: true, displayModeBar: false, displaylogo: false, scrollZoom: false };
  const drawn = new Set();

  function colours() {
    const style = getComputedStyle(document.documentElement);
    const value = (name) => style.getPropertyValue("--" + name).trim();
    return { source: value("source"), target: value("target"), estimated: value("estimated"), ink: value("ink"), soft: value("soft"), line: value("line"), card: value("card"), track: value("track") };
  }

  function layout(c, extra) {
    const axis = { fixedrange: coarse, gridcolor: c.line, zerolinecolor: c.line, linecolor: c.line, tickcolor: c.line, automargin: true };
    return Object.assign({
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", dragmode: coarse ? false : "zoom",
      font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: c.soft },
      hoverlabel: { bgcolor: c.card, bordercolor: c.soft, font: { color: c.ink, size: 13 }, align: "left" },
      margin: { l: 8, r: 8, t: 8, b: 8 }, showlegend: false, hovermode: "closest", barcornerradius: 3,
    }, extra, { xaxis: Object.assign({}, axis, extra.xaxis), yaxis: Object.assign({}, axis, extra.yaxis) });
  }

  function drawMap(node, data, c) {
    const trace = (points, name, colour, symbol) => ({
      type: "scatter", mode: "markers", name: name, x: points.x, y: points.y, hovertext: points.hover, hoverinfo: "text",
      customdata: points.text, marker: { color: colour, symbol: symbol, size: coarse ? 8 : 7, opacity: 0.72, line: { width: 0.6, color: c.card } },
    });
    const axis = (text) => ({ title: { text: text, font: { size: 12 } }, showticklabels: false, zeroline: false, showgrid: false });
    return Plotly.react(node, [
      trace(data.map.source, data.source, c.source, "circle"), trace(data.map.target, data.target, c.target, "diamond"),
    ], layout(c, { height: coarse ? 380 : 480, xaxis: axis(data.map.axes[0]), yaxis: axis(data.map.axes[1]) }), config);
  }

  function drawNull(node, data, c) {
    const d = data.permutations;
    const bars = { type: "bar", x: d.x, y: d.count, width: d.width, marker: { color: c.soft, opacity: 0.55 }, hoverinfo: "text", hovertext: d.hover };
    const top = Math.max.apply(null, d.count) * 1.4; // the words stand above the bars, on a phone too
    const arrow = { x: d.shown, y: top, yanchor: "top", text: d.label, showarrow: false, xanchor: d.anchor, xshift: d.anchor === "right" ? -8 : 8, font: { color: c.ink, size: 13 }, align: d.anchor };
    return Plotly.react(node, [bars], layout(c, {
      height: 300, bargap: 0, annotations: [arrow],
      shapes: [{ type: "line", x0: d.shown, x1: d.shown, y0: 0, y1: top, line: { color: c.target, width: 3, dash: d.cut ? "dot" : "solid" } }],
      xaxis: { range: d.range, title: { text: d.axis, font: { size: 12 } }, nticks: 5, showgrid: false },
      yaxis: { range: [0, top], title: { text: "permutations", font: { size: 12 } }, nticks: 4 },
    }), config);
  }

  function drawClasses(node, data, c) {
    const bar = (item, colour, pattern) => ({
      type: "bar", orientation: "h", name: item.name, y: item.classes, x: item.share, hoverinfo: "text", hovertext: item.hover,
      text: item.label, textposition: "auto", insidetextfont: { color: c.card }, outsidetextfont: { color: c.ink }, cliponaxis: false,
      marker: { color: colour, pattern: pattern ? { shape: "/", fillmode: "overlay", size: 6, solidity: 0.3, fgcolor: c.card, fgopacity: 0.9 } : undefined },
      error_x: item.above ? { type: "data", symmetric: false, array: item.above, arrayminus: item.below, color: c.ink, thickness: 1.5, width: 4 } : undefined,
    });
    const looks = { source: [c.source, false], target: [c.target, false], estimated: [c.estimated, true] };
    return Plotly.react(node, data.classes.bars.map((item) => bar(item, looks[item.kind][0], looks[item.kind][1])), layout(c, {
      height: 110 + data.classes.count * (data.classes.bars.length * 24 + 16), barmode: "group", showlegend: true, bargap: 0.28,
      legend: { orientation: "h", x: 0, y: 1, yanchor: "bottom", font: { color: c.ink } },
      xaxis: { range: [0, data.classes.most], tickformat: ".0%", nticks: 5 }, yaxis: { type: "category", showgrid: false, autorange: "reversed", tickfont: { color: c.ink } },
      margin: { l: 8, r: 24, t: 40, b: 8 },
    }), config);
  }

  function drawWithin(node, data, c) {
    const d = data.within;
    return Plotly.react(node, [{ type: "bar", orientation: "h", y: d.classes, x: d.value, text: d.label, textposition: "auto", insidetextfont: { color: c.card }, outsidetextfont: { color: c.ink }, cliponaxis: false, hoverinfo: "text", hovertext: d.label, marker: { color: d.classes.map((name, i) => (i === 0 ? c.soft : c.target)) } }],
      layout(c, { height: 70 + d.classes.length * 52, bargap: 0.35, xaxis: { rangemode: "tozero", nticks: 4 }, yaxis: { type: "category", showgrid: false, autorange: "reversed", tickfont: { color: c.ink } }, margin: { l: 8, r: 24, t: 8, b: 8 } }), config);
  }

  function drawPareto(node, data, c) {
    const points = (rows, colour, symbol) => ({
      type: "scatter", mode: "markers+text", x: rows.map((r) => r.cost), y: rows.map((r) => r.score), text: rows.map((r) => " " + r.label), textposition: "bottom right", cliponaxis: false,
      textfont: { color: c.ink, size: 12 }, hovertext: rows.map((r) => r.hover), hoverinfo: "text", marker: { color: colour, symbol: symbol, size: 11, line: { width: 0.6, color: c.card } },
      error_y: { type: "data", symmetric: false, array: rows.map((r) => r.above), arrayminus: rows.map((r) => r.below), color: c.soft, thickness: 1.2, width: 4 },
    });
    const best = data.points.filter((r) => r.pareto), rest = data.points.filter((r) => !r.pareto);
    const order = best.slice().sort((a, b) => a.cost - b.cost);
    const line = { type: "scatter", mode: "lines", x: order.map((r) => r.cost), y: order.map((r) => r.score), line: { color: c.target, width: 1.5, dash: "dot", shape: "hv" }, hoverinfo: "skip" };
    return Plotly.react(node, [line, points(rest, c.source, "circle"), points(best, c.target, "diamond")], layout(c, {
      height: 460, margin: { l: 8, r: 32, t: 28, b: 8 },
      xaxis: { type: "log", title: { text: data.axes[0], font: { size: 12 } }, range: data.range, dtick: "D2" }, yaxis: { title: { text: data.axes[1], font: { size: 12 } } },
    }), config);
  }

  const kinds = { pareto: drawPareto, map: drawMap, permutations: drawNull, classes: drawClasses, within: drawWithin };

  function draw(node) {
    const data = reports[Number(node.dataset.report)];
    kinds[node.dataset.plot](node, data, colours()).then(function () {
      if (drawn.has(node)) return;
      drawn.add(node);
      if (node.dataset.plot === "map") read(node, data);
    });
  }

  function read(node, data) {
    const reader = node.parentElement.querySelector(".reader");
    const show = function (event) {
      const point = event.points[0];
      const title = document.createElement("b"), text = document.createElement("span");
      title.textContent = point.curveNumber === 0 ? data.source : data.target;
      title.className = point.curveNumber === 0 ? "source" : "target";
      text.textContent = point.customdata;
      text.className = "text";
      reader.replaceChildren(title, text);
    };
    node.on("plotly_hover", show);
    node.on("plotly_click", show);
  }

  function drawAll(root) {
    root.querySelectorAll("[data-plot]").forEach(function (node) {
      const folded = node.closest("details");
      if (!folded || folded.open) draw(node);
    });
  }

  document.querySelectorAll("details.report").forEach((node) => node.addEventListener("toggle", () => node.open && drawAll(node)));
  document.querySelectorAll(".clamp").forEach((node) => node.addEventListener("click", () => node.classList.toggle("open")));
  document.querySelectorAll("a[data-open]").forEach((link) => link.addEventListener("click", function () { document.getElementById(link.dataset.open).open = true; }));
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawAll(document));
  drawAll(document);
})();
