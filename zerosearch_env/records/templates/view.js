const form = document.querySelector("form"), items = [...document.querySelectorAll(".item")];
function filter() {
  const verdict = form.verdict.value, noise = form.noise.value, words = form.words.value.toLowerCase().trim();
  let shown = 0;
  for (const item of items) {
    const fits = (verdict === "all" || item.dataset.verdict === verdict)
      && (noise === "all" || item.dataset.noise === noise)
      && (!words || item.textContent.toLowerCase().includes(words));
    item.hidden = !fits;
    shown += fits;
  }
  form.count.value = `${shown} of ${items.length} transcripts`;
}
form.addEventListener("input", filter);
form.addEventListener("submit", event => event.preventDefault());
form.hidden = false;
filter();
