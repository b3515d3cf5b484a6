/** Light, dark, or as the system has it. */

import { h } from "./dom.js";

const THEMES = [
  ["", "◐ as the system"],
  ["light", "☀ light"],
  ["dark", "☾ dark"],
];

/** A button that goes round the themes. */
export function themeButton() {
  let now = 0;
  const button = h("button", { type: "button", class: "theme", onclick: () => turn(now + 1) });
  const turn = (next) => {
    now = next % THEMES.length;
    document.documentElement.dataset.theme = THEMES[now][0];
    button.textContent = THEMES[now][1];
    button.setAttribute("aria-label", `colours of the page: ${THEMES[now][1].slice(2)}`);
  };
  turn(0);
  return button;
}
