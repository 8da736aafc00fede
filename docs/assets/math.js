// Sets the formulas of a page, which pymdownx.arithmatex and docs/equations.py mark.
document.addEventListener("DOMContentLoaded", () => {
  for (const element of document.querySelectorAll(".arithmatex")) {
    const source = element.textContent.trim();
    katex.render(source.slice(2, -2), element, { displayMode: source.startsWith("\\[") });
  }
});
