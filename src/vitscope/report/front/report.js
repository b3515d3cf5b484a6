/** The report: everything that it shows is in the page. */

import { themeButton } from "./theme.js";
import { Viewer } from "./viewer.js";

const content = JSON.parse(document.getElementById("content").textContent);
const viewer = new Viewer(content.palettes);
document.getElementById("view").append(viewer.element);
document.querySelector(".top").append(themeButton());
viewer.open(content);
window.vitscope = viewer;
requestAnimationFrame(() => {
  document.documentElement.dataset.ready = performance.now(); // the first map is there
});
