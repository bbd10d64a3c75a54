// Keeps an open page up to date. Without this script every page works too, but shows the state at the time of loading.
"use strict";
(() => {
  const COLUMNS = ["at", "ready", "unacknowledged", "oldest", "allocated", "answered", "p50", "p95", "p99"];
  const KEPT = 900;
  const columns = Object.fromEntries(COLUMNS.map((name) => [name, []]));
  const CHARTS = [
    { id: "chart-depth", unit: "", floor: 10, series: [["ready", "Ready"], ["unacknowledged", "Unacknowledged"]] },
    { id: "chart-oldest", unit: " s", floor: 1, series: [["oldest", "Oldest waiting"]] },
    { id: "chart-throughput", unit: "/s", floor: 10, series: [["allocated", "Allocated"], ["answered", "Answered"]] },
    { id: "chart-latency", unit: " ms", floor: 10, series: [["p50", "p50"], ["p95", "p95"], ["p99", "p99"]] },
  ];
  const INK = ["--one", "--two", "--three"];
  let charts = [];
  let source = null;

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const number = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
  const clock = (at) => new Date(at * 1000).toISOString().slice(11, 19);

  function draw(chart) {
    const place = document.getElementById(chart.id);
    const axis = { stroke: colour("--muted"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line"), width: 1 } };
    // While the pointer is not on the chart, the legend shows the latest values.
    const latest = (plot, raw, at, index) => (index == null ? plot.data[at][plot.data[at].length - 1] : raw);
    const value = (plot, raw, at, index) => {
      const shown = latest(plot, raw, at, index);
      return shown == null ? "none" : number.format(shown) + chart.unit;
    };
    const series = chart.series.map(([, label], index) => ({
      label, value, stroke: colour(INK[index]), width: 2, points: { show: false }, spanGaps: false,
      dash: index === 1 ? [7, 4] : index === 2 ? [2, 3] : undefined,
    }));
    const plot = new uPlot({
      width: place.clientWidth, height: 180, tzDate: (at) => uPlot.tzDate(new Date(at * 1000), "UTC"),
      cursor: { sync: { key: "console" }, drag: { x: false, y: false } },
      scales: {
        x: { range: (_, from, to) => [Math.min(from ?? to, to - 60), to] },
        y: { range: (_, from, to) => [0, Math.max((to ?? 0) * 1.12, chart.floor)] },
      },
      axes: [
        { ...axis, values: (_, marks) => marks.map((at) => clock(at).slice(0, at % 60 ? 8 : 5)), space: 70 },
        { ...axis, size: 58, values: (_, marks) => marks.map((mark) => number.format(mark) + chart.unit) },
      ],
      series: [{ label: "UTC", value: (plot, raw, at, index) => clock(latest(plot, raw, at, index) ?? 0) }, ...series],
    }, data(chart), place);
    return { plot, place, chart };
  }

  const data = (chart) => [columns.at, ...chart.series.map(([name]) => columns[name])];
  function drawAll() {
    for (const { plot } of charts) plot.destroy();
    charts = CHARTS.map(draw);
  }
  function refresh() {
    for (const { plot, chart } of charts) plot.setData(data(chart));
  }

  function takeHistory(history) {
    for (const name of COLUMNS) columns[name] = history[name];
    if (charts.length === 0) drawAll(); else refresh();
  }
  function takeSample(sample) {
    if (sample.at <= columns.at[columns.at.length - 1]) return;
    for (const name of COLUMNS) {
      columns[name].push(sample[name]);
      if (columns[name].length > KEPT) columns[name].shift();
    }
    refresh();
  }
  // Replaces only the parts that changed, so that the focus and the scroll position are kept.
  function takePage(text) {
    const next = new DOMParser().parseFromString(text, "text/html");
    for (const part of next.querySelectorAll("[data-part], [data-look]")) {
      const now = document.getElementById(part.id);
      if (!now) continue;
      if (now.className !== part.className) now.className = part.className;
      if (part.hasAttribute("data-part") && now.innerHTML !== part.innerHTML) now.innerHTML = part.innerHTML;
    }
  }

  function say(text) {
    const link = document.getElementById("link");
    if (link && link.textContent !== text) link.textContent = text;
  }
  function open() {
    if (source) return;
    source = new EventSource("/live");
    source.addEventListener("history", (event) => { say("Live"); takeHistory(JSON.parse(event.data)); });
    source.addEventListener("sample", (event) => takeSample(JSON.parse(event.data)));
    source.addEventListener("page", (event) => takePage(event.data));
    source.onerror = () => {
      say("Not live: this process does not answer. Trying again.");
      // A browser does not reconnect after an answer that is no stream, such as the 401 after a session has expired.
      if (source && source.readyState === EventSource.CLOSED) { close(); setTimeout(follow, 5000); }
    };
  }
  function close() {
    if (source) source.close();
    source = null;
  }
  function follow() {
    if (document.hidden) { close(); say("Paused while hidden"); } else open();
  }

  if (document.getElementById(CHARTS[0].id)) {
    const widths = new ResizeObserver(() => {
      for (const { plot, place } of charts) plot.setSize({ width: place.clientWidth, height: 180 });
    });
    for (const { id } of CHARTS) widths.observe(document.getElementById(id));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (charts.length) drawAll(); });
    document.addEventListener("visibilitychange", follow);
    follow();
  }

  // A checkbox that selects all rows of a list.
  for (const all of document.querySelectorAll("input[data-selects]")) {
    all.hidden = false;
    all.addEventListener("change", () => {
      for (const box of document.querySelectorAll(`input[name="${all.dataset.selects}"]`)) box.checked = all.checked;
    });
  }
})();
