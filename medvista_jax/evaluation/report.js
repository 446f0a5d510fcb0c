"use strict";
(() => {
  const form = document.querySelector(".bar form");
  const cards = [...document.querySelectorAll("article")];
  const count = document.querySelector(".count");
  const nothing = document.querySelector(".nothing");
  const selects = [...form.querySelectorAll("select")];

  function apply() {
    let shown = 0;
    for (const card of cards) {
      const visible = selects.every((s) => s.value === "" || card.dataset[s.name] === s.value.slice(1));
      card.hidden = !visible;
      shown += visible;
    }
    const right = cards.filter((c) => !c.hidden && c.dataset.outcome === "right").length;
    count.textContent = `${shown} of ${cards.length} shown, ${right} right`;
    nothing.hidden = shown > 0;
  }

  // j and k go from card to card, as in many readers; keys typed into a control are left alone.
  function move(step) {
    const visible = cards.filter((c) => !c.hidden);
    if (!visible.length) return;
    const at = visible.indexOf(document.activeElement.closest("article"));
    const next = visible[Math.min(visible.length - 1, Math.max(0, at < 0 ? 0 : at + step))];
    next.focus({ preventScroll: true });
    next.scrollIntoView({ block: "start" });
  }

  // Paper cannot be unfolded.
  window.addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((d) => (d.open = true)));

  form.hidden = false;
  form.addEventListener("change", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(apply));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select, button")) return;
    if (event.key === "j") move(1);
    if (event.key === "k") move(-1);
  });
  apply();
})();
