"use strict";
document.documentElement.classList.add("js");

// One sample grid at a time, chosen by the slider.
for (const box of document.querySelectorAll(".slides")) {
  const slider = box.querySelector("input"), output = box.querySelector("output");
  const slides = [...box.querySelectorAll(".slide")];
  const show = () => {
    slides.forEach((slide, index) => { slide.hidden = index !== Number(slider.value); });
    const title = slides[Number(slider.value)].dataset.title;
    output.value = title;
    slider.setAttribute("aria-valuetext", title);
  };
  slider.addEventListener("input", show);
  show();
}

// The values under the pointer; the same numbers are in each chart's table.
for (const figure of document.querySelectorAll(".chart[data-plot]")) {
  const plot = JSON.parse(figure.dataset.plot), svg = figure.querySelector(":scope > svg");
  const readout = figure.querySelector(".readout");
  const cursor = document.createElementNS("http://www.w3.org/2000/svg", "path");
  cursor.setAttribute("class", "cursor");
  svg.append(cursor);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const at = (event.clientX - box.left) / box.width * plot.width;
    const x = plot.low + (at - plot.left) / (plot.right - plot.left) * (plot.high - plot.low);
    const near = plot.series.map((series) =>
      series.points.reduce((a, b) => Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a));
    const step = near.reduce((a, b) => Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a)[0];
    const place = plot.left + (step - plot.low) / (plot.high - plot.low) * (plot.right - plot.left);
    cursor.setAttribute("d", `M${place} ${plot.top}V${plot.bottom}`);
    const told = plot.series.map((series, index) => `${series.name} ${near[index][1]}`);
    readout.textContent = `${plot.x} ${step}: ${told.join(", ")}`;
  });
  svg.addEventListener("pointerleave", () => {
    cursor.removeAttribute("d");
    readout.textContent = "";
  });
}
