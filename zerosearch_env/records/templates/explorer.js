
"use strict";
(() => {
  const PAGE = 25, WORDS = /[\p{L}\p{N}]+/gu, THOUGHT = /(<think>[\s\S]*?(?:<\/think>|$))/;
  const LETTERS = {r: "right", m: "misled", a: "abstained", w: "wrong", n: "no answer", f: "failed", o: "open"};
  const root = document.getElementById("explorer"), form = root.querySelector("form");
  const list = root.querySelector(".ze-list"), more = root.querySelector(".ze-more"), count = root.querySelector(".ze-count");
  const data = JSON.parse(document.getElementById("ze-listing").textContent);
  const [ENGINE, KIND, LEVEL, NOTE] = [0, 1, 2, 3], [ID, TEXT, ANSWERS, GROUP, SOURCE, BLOCK, FILE] = [0, 1, 2, 3, 4, 5, 6];
  const question = row => data.questions[data.question[row]], place = row => data.places[data.place[row]];
  const all = data.question.map((_, row) => row), blocks = new Map(), waiting = new Map();
  const unique = values => [...new Set(values)];
  let order = [], shown = 0, pinned = -1, expanded = -1;

  // Text only: control, format and unassigned characters become visible, as in every other rendering of transcripts.
  const clean = text => String(text).replace(/[^\P{C}\n\t]/gu, "\ufffd");
  function node(tag, name, ...children) {
    const element = document.createElement(tag);
    if (name) element.className = name;
    for (const child of children) element.append(typeof child === "object" ? child : clean(child));
    return element;
  }
  const chip = (text, name = "") => node("span", `zs-chip ${name}`, text);
  const plural = (number, what) => `${number.toLocaleString("en")} ${what}${number === 1 ? "" : "s"}`;
  const slug = letter => `ze-${(LETTERS[letter] || "open").replace(" ", "-")}`;

  // ---- filters ----
  const ANY = {agent: "all agents", outcome: "any result", kind: "any kind", level: "any level", engine: "any engine",
    group: "all questions", source: "all data"};
  // Whether a question has transcripts, on the page or in a file.
  const stored = data.questions.map(q => q[BLOCK] >= 0 || Boolean(q[FILE]));
  const SORTS = {...(stored.includes(true) && stored.includes(false) && {stored: "transcripts first"}), noise: "by noise", question: "by question", split: "agents differ first", searches: "most searches first"};
  const SORT = Object.keys(SORTS)[0];
  function choices(name, values, text = value => value) {
    const select = form.elements[name];
    const entries = name === "sort" ? Object.entries(SORTS) : [["", ANY[name]], ...values.map(value => [String(value), text(value)])];
    select.replaceChildren(...entries.map(([value, label]) => Object.assign(node("option", "", label), {value})));
    select.parentElement.hidden = name !== "sort" && values.length < 2;
  }
  const letters = unique(data.columns.flatMap(column => unique(column.outcomes))).filter(letter => letter !== ".");
  choices("agent", data.agents);
  choices("outcome", Object.keys(LETTERS).filter(letter => letters.includes(letter)), letter => LETTERS[letter]);
  choices("kind", unique(data.places.filter(p => p[LEVEL] > 0).map(p => p[KIND])));
  choices("level", unique(data.places.map(p => p[LEVEL])).sort((a, b) => a - b), level => `p = ${level}`);
  choices("engine", unique(data.places.map(p => p[ENGINE])));
  choices("group", unique(data.questions.map(q => q[GROUP])).filter(Boolean).sort());
  choices("source", unique(data.questions.map(q => q[SOURCE])).filter(Boolean).sort());
  choices("sort", []);
  const lower = data.questions.map(q => [q[ID], q[TEXT], ...q[ANSWERS]].join("\n").toLowerCase());
  const lowerStrings = data.strings.map(text => text.toLowerCase());

  function fitting() {
    const want = Object.fromEntries(new FormData(form)), text = want.text.trim().toLowerCase();
    const columns = want.agent ? [data.columns[data.agents.indexOf(want.agent)]].filter(Boolean) : data.columns;
    const questionHas = text && lower.map(words => words.includes(text));
    const stringHas = text && lowerStrings.map(words => words.includes(text));
    const placeFits = data.places.map(p => (!want.engine || p[ENGINE] === want.engine)
      // Without noise all kinds are the same, so that level belongs to each of them.
      && (!want.kind || p[KIND] === want.kind || p[LEVEL] === 0) && (!want.level || String(p[LEVEL]) === want.level));
    const questionFits = data.questions.map(q => (!want.group || q[GROUP] === want.group) && (!want.source || q[SOURCE] === want.source));
    return all.filter(row => placeFits[data.place[row]] && questionFits[data.question[row]]
      && columns.some(c => c.outcomes[row] !== "." && (!want.outcome || c.outcomes[row] === want.outcome))
      && (!text || questionHas[data.question[row]] || columns.some(c => c.predictions[row] >= 0 && stringHas[c.predictions[row]])));
  }
  function sorted(rows) {
    const by = form.elements.sort.value;
    if (by === "question") return rows.sort((a, b) => data.question[a] - data.question[b] || data.place[a] - data.place[b]);
    const key = by === "split" ? row => unique(data.columns.map(c => c.outcomes[row]).filter(letter => letter !== ".")).length
      : by === "stored" ? row => Number(stored[data.question[row]]) : by === "searches" ? row => Math.max(...data.columns.map(c => c.searches[row])) : null;
    return key ? rows.map(row => [key(row), row]).sort((a, b) => b[0] - a[0] || a[1] - b[1]).map(pair => pair[1]) : rows;
  }

  // ---- the list ----
  function where(row) {
    const [engine, kind, level, note] = place(row), several = name => unique(data.places.map(p => p[name])).length > 1;
    return [question(row)[GROUP], level > 0 ? `${kind}, p = ${level}` : "no noise", several(ENGINE) ? engine : "", note].filter(Boolean).join(" · ");
  }
  function head(row) {
    const chips = data.agents.map((agent, a) => [agent, data.columns[a]]).filter(([, c]) => c.outcomes[row] !== ".").map(([agent, c]) => {
      const letter = c.outcomes[row], said = data.strings[c.predictions[row]] ?? "";
      const element = node("span", `ze-chip ${slug(letter)}`, node("i", ""), data.agents.length > 1 || agent ? node("b", "", agent) : "",
        node("span", "", said || LETTERS[letter]));
      element.title = clean(`${agent}: ${LETTERS[letter]}${said ? `, "${said}"` : ""}; ${c.searches[row] === 1 ? "1 search" : `${c.searches[row]} searches`}, ${c.noisy[row]} noisy`);
      return element;
    });
    const button = node("button", "ze-head", node("span", "ze-question", question(row)[TEXT] || question(row)[ID]),
      node("span", "ze-where", where(row)), node("span", "ze-chips", ...chips));
    button.type = "button";
    button.setAttribute("aria-expanded", "false");
    button.addEventListener("click", () => expanded === row ? close() : open(row));
    return button;
  }
  function item(row) {
    const element = node("li", "ze-row", head(row));
    element.dataset.row = row;
    return element;
  }
  function extend() {
    const next = order.slice(shown, shown + PAGE).filter(row => row !== pinned);
    list.append(...next.map(item));
    shown = Math.min(order.length, shown + PAGE);
    more.hidden = shown >= order.length;
    more.textContent = `Show more (${(order.length - shown).toLocaleString("en")} left)`;
  }
  function update(pin = -1) {
    order = sorted(fitting());
    const episodes = order.reduce((sum, row) => sum + data.columns.filter(c => c.outcomes[row] !== ".").length, 0);
    count.textContent = order.length === all.length
      ? `${plural(order.length, "row")}, ${plural(episodes, "episode")}` : `${order.length.toLocaleString("en")} of ${plural(all.length, "row")}, ${plural(episodes, "episode")}`;
    if (!data.predictions) count.append("; predictions are in the transcripts only");
    list.replaceChildren();
    [shown, expanded] = [0, -1];
    pinned = pin >= 0 && order.indexOf(pin) >= PAGE || !order.includes(pin) ? pin : -1;
    if (pinned >= 0) list.append(item(pinned));
    extend();
  }

  // ---- transcripts ----
  window.zerosearchBlock = (number, block, version) => {
    const known = blocks.get(number);
    if (version === data.version) blocks.set(number, known ? merge(known, block) : block);
    else data.questions[number].broken = true;
    for (const done of waiting.get(number) || []) done();
    waiting.delete(number);
  };
  const merge = (a, b) => ({parts: [...(a.parts || [a]), ...(b.parts || [b])]});
  function lookUp(number, a, p) {
    const block = blocks.get(number);
    for (const part of block ? block.parts || [block] : []) {
      const hit = part.episodes.find(e => e[0] === a && e[1] === p);
      if (hit) return {episode: hit[2], texts: part.texts, documents: part.documents};
    }
    return null;
  }
  function load(number, done) {
    const q = data.questions[number];
    if (q[BLOCK] >= 0) {
      if (!blocks.has(number)) zerosearchBlock(number, JSON.parse(document.getElementById(`ze-block-${q[BLOCK]}`).textContent), data.version);
      q[BLOCK] = -1;
    }
    done();
    if (waiting.has(number)) waiting.get(number).push(done);
    if (!q[FILE] || q.asked) return;
    q.asked = true;
    waiting.set(number, [done]);
    const script = document.createElement("script");
    script.src = q[FILE];
    script.addEventListener("error", () => { q.broken = true; done(); });
    document.head.append(script);
  }
  function pattern(answers) {
    const parts = answers.map(answer => answer.match(WORDS)).filter(words => words && !/^(yes|no)$/i.test(words.join(" ")))
      .map(words => words.join("[^\\p{L}\\p{N}]+"));
    return parts.length ? `(?<![\\p{L}\\p{N}])(?:${parts.sort((a, b) => b.length - a.length).join("|")})(?![\\p{L}\\p{N}])` : null;
  }
  function marked(text, gold, wrong) {
    const [good, bad] = [pattern(gold), pattern(wrong)], found = [good && `(${good})`, bad && `(${bad})`].filter(Boolean);
    if (!found.length) return [text];
    const pieces = [], expression = new RegExp(found.join("|"), "giu");
    let end = 0;
    for (const match of text.matchAll(expression)) {
      pieces.push(text.slice(end, match.index), node("mark", good && match[1] ? "ze-gold" : "ze-false", match[0]));
      end = match.index + match[0].length;
    }
    return [...pieces, text.slice(end)];
  }
  function searchNode(search, turn, documents, gold) {
    const cards = search.documents.map(([number, noisy], at) => {
      const [title, text] = documents[number];
      return node("article", `zs-document${noisy ? " zs-is-noisy" : ""}`,
        node("h4", "", `${at + 1}. `, ...marked(title || "untitled", gold, search.wrong), " ", noisy ? chip("noisy", "zs-noisy") : ""),
        node("p", "", ...marked(text, gold, search.wrong)));
    });
    if (!cards.length) cards.push(node("p", "zs-none", search.message || (turn.asked ? "no documents" : "not run: only an answer was allowed")));
    return [node("p", "zs-query", search.query, " ", search.kind ? chip(search.kind, "zs-noisy") : ""), node("div", "zs-documents", ...cards)];
  }
  function turnNode(turn, number, documents, gold) {
    const parts = turn.text.trim().split(THOUGHT).map((part, i) => i % 2 ? node("span", "zs-thought", part) : part);
    const element = node("li", "zs-turn", node("p", "zs-label", `Turn ${number} `, chip(turn.action, `zs-${turn.action}`), " ",
      turn.found ? chip("documents hold the answer", "zs-found") : ""), node("pre", "zs-policy", ...parts));
    for (const search of turn.searches) element.append(...searchNode(search, turn, documents, gold));
    if (turn.notice && turn.notice.trim()) element.append(node("pre", "zs-notice", turn.notice.trim()));
    return element;
  }
  function resultNode(episode, letter) {
    const s = episode.scores, scored = s && s.em !== null;
    const element = node("footer", `zs-result ${scored ? s.em === 1 ? "zs-right" : "zs-wrong" : ""}`);
    if (episode.error) element.append(node("p", "zs-error", `The ${episode.end === "agent_error" ? "agent" : "search engine"} failed: ${episode.error}`));
    if (!episode.end) element.append(node("p", "", "The episode is not finished."));
    else if (!s) element.append(node("p", "", `Ended: ${episode.end}`));
    else {
      element.append(node("p", "", scored ? node("span", "zs-verdict", LETTERS[letter]) : "", " ", node("strong", "zs-answer", s.prediction === null ? "no answer" : s.prediction)));
      const figures = scored ? [["EM", s.em], ["F1", Math.round(100 * s.f1) / 100], ["subEM", s.subem], ["reward", Math.round(1e4 * s.reward) / 1e4]] : [];
      element.append(node("dl", "", ...[...figures, ["searches", s.searches], ["ended", episode.end]].map(([name, value]) => node("div", "", node("dt", "", name), node("dd", "", value)))));
    }
    if (scored) element.append(node("p", "zs-gold", `Gold: ${episode.answers.join(" · ")}`));
    return element;
  }
  function transcriptNode(agent, row) {
    const letter = data.columns[agent].outcomes[row], number = data.question[row], found = lookUp(number, agent, data.place[row]);
    const title = data.agents[agent] || "transcript";
    const element = node("section", "zs-transcript ze-column", node("h4", "ze-agent", title, " ", node("span", `ze-verdict ${slug(letter)}`, node("i", ""), LETTERS[letter])));
    if (!found) {
      const q = data.questions[number], text = q.broken ? `The transcript is in ${q[FILE]}, which could not be loaded. Keep the folder that was written with this page next to it.`
        : waiting.has(number) ? "Loading…" : "The transcript of this episode is not on this page.";
      element.append(node("p", "zs-none", text));
      return element;
    }
    const {episode, texts, documents} = found, prompt = node("details", "zs-prompt", node("summary", "", "Prompt"), node("pre", "", texts[episode.prompt]));
    element.append(node("p", "zs-chips", chip(episode.protocol), ...episode.notes.flatMap(note => [" ", chip(note)])), prompt,
      node("ol", "zs-turns", ...episode.turns.map((turn, i) => turnNode(turn, i + 1, documents, episode.answers))), resultNode(episode, letter));
    return element;
  }
  function sibling(row, change) {
    const wanted = place(row).slice();
    for (const [at, value] of change) wanted[at] = value;
    return all.findIndex(other => data.question[other] === data.question[row] && data.places[data.place[other]].every((value, at) => value === wanted[at]
      || (at === KIND && wanted[LEVEL] === 0)));
  }
  function switches(row) {
    const bar = node("div", "ze-bar"), current = place(row), mine = all.filter(other => data.question[other] === data.question[row]);
    const add = (label, at, values, text) => {
      if (values.length < 2) return;
      const group = node("span", "ze-switch", node("span", "ze-label", label));
      for (const value of values) {
        const target = at === KIND ? sibling(row, [[KIND, value], ...(current[LEVEL] ? [] : [[LEVEL, lastLevel]])]) : sibling(row, [[at, value], ...(at === LEVEL && !current[LEVEL] ? [[KIND, lastKind]] : [])]);
        const button = node("button", "", text(value));
        button.type = "button";
        button.disabled = target < 0;
        button.setAttribute("aria-pressed", String(value === current[at] && !(at === KIND && !current[LEVEL])));
        button.addEventListener("click", () => show(target));
        group.append(button);
      }
      bar.append(group);
    };
    if (current[LEVEL]) [lastKind, lastLevel] = [current[KIND], current[LEVEL]];
    add("Noise", KIND, unique(mine.map(place).filter(p => p[LEVEL]).map(p => p[KIND])), value => value);
    add("Level", LEVEL, unique(mine.map(other => place(other)[LEVEL])).sort((a, b) => a - b), value => `p = ${value}`);
    add("Engine", ENGINE, unique(mine.map(other => place(other)[ENGINE])), value => value);
    const link = node("a", "ze-link", "Link to this");
    link.href = hash(row);
    bar.append(link);
    return bar;
  }
  const noisyPlace = data.places.find(p => p[LEVEL] > 0) || data.places[0] || [];
  let lastKind = noisyPlace[KIND], lastLevel = noisyPlace[LEVEL];
  function fill(body, row) {
    const only = form.elements.agent.value, agents = data.agents.map((_, a) => a)
      .filter(a => data.columns[a].outcomes[row] !== "." && (!only || data.agents[a] === only));
    const columns = node("div", "ze-columns", ...agents.map(agent => transcriptNode(agent, row)));
    columns.style.setProperty("--ze-count", agents.length);
    columns.tabIndex = 0;
    body.replaceChildren(switches(row), columns);
  }
  function close() {
    const element = list.querySelector(".ze-expanded");
    if (element) {
      element.classList.remove("ze-expanded");
      element.querySelector(".ze-head").setAttribute("aria-expanded", "false");
      element.querySelector(".ze-body").remove();
    }
    expanded = -1;
    remember();
  }
  function open(row) {
    close();
    const element = list.querySelector(`[data-row="${row}"]`);
    const body = node("div", "ze-body");
    element.append(body);
    element.classList.add("ze-expanded");
    element.querySelector(".ze-head").setAttribute("aria-expanded", "true");
    fillRow(body, row);
    return element;
  }
  function fillRow(body, row) {
    expanded = row;
    load(data.question[row], () => { if (expanded === row && body.isConnected) fill(body, row); });
    remember();
  }
  // Another level or kind of the same question, in the row that is open.
  function show(row) {
    const element = list.querySelector(".ze-expanded");
    const before = element.dataset.row;
    list.querySelectorAll(`[data-row="${row}"]`).forEach(other => { if (other !== element) other.dataset.row = before; });
    list.querySelectorAll(`[data-row="${before}"]`).forEach(other => { if (other !== element) other.replaceChildren(head(Number(before))); });
    element.dataset.row = row;
    const fresh = head(row);
    fresh.setAttribute("aria-expanded", "true");
    element.querySelector(".ze-head").replaceWith(fresh);
    fillRow(element.querySelector(".ze-body"), row);
  }

  // ---- permanent links: #episodes&kind=...&open=... ----
  const NAMES = ["agent", "outcome", "kind", "level", "engine", "group", "source", "sort", "text"];
  const address = row => [question(row)[ID], ...place(row)].join("|");
  function hash(row) {
    const values = new URLSearchParams();
    for (const name of NAMES) {
      const value = form.elements[name].value;
      if (value && !(name === "sort" && value === SORT)) values.set(name, value);
    }
    if (row >= 0) values.set("open", address(row));
    return `#episodes${values.size === 0 || String(values) === "" ? "" : `&${values}`}`;
  }
  function remember() {
    const target = hash(expanded);
    if (target !== "#episodes" || location.hash.startsWith("#episodes")) history.replaceState(null, "", target);
  }
  function restore() {
    if (!location.hash.startsWith("#episodes&")) return false;
    const values = new URLSearchParams(location.hash.slice("#episodes&".length));
    for (const name of NAMES) form.elements[name].value = values.get(name) || (name === "sort" ? SORT : "");
    for (const name of NAMES) if (form.elements[name].selectedIndex === -1) form.elements[name].selectedIndex = 0;
    const wanted = values.get("open"), row = wanted ? all.find(r => address(r) === wanted) : undefined;
    update(row ?? -1);
    if (row !== undefined) open(row).scrollIntoView({block: "start"});
    else root.scrollIntoView({block: "start"});
    if (wanted && row === undefined) count.append("; the linked episode is not on this page");
    return true;
  }
  form.addEventListener("submit", event => event.preventDefault());
  form.addEventListener("input", () => { update(); remember(); });
  more.addEventListener("click", extend);
  addEventListener("hashchange", restore);
  form.hidden = false;
  if (!restore()) update();
})();
