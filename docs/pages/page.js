"use strict";

/** Copy text to the clipboard, also where a browser gives the page no access to it. */
async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

/** The button that changes between light, dark, and the colours of the system; the documentation has the same choice. */
function startThemes(button) {
  const themes = ["auto", "light", "dark"];
  const show = () => {
    button.title = `Colours: ${document.documentElement.dataset.theme}`;
    button.setAttribute("aria-label", button.title);
  };
  button.hidden = false;
  button.onclick = () => {
    const root = document.documentElement;
    root.dataset.theme = themes[(themes.indexOf(root.dataset.theme) + 1) % themes.length];
    localStorage.setItem("theme", root.dataset.theme);
    show();
  };
  show();
}

startThemes(document.querySelector("#theme"));
