"use strict";
(() => {
  const root = document.documentElement;
  document.getElementById("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });
  for (const time of document.querySelectorAll("time[data-s]")) {
    time.textContent = new Date(1000 * Number(time.dataset.s)).toISOString().slice(0, 19).replace("T", " ");
  }
  const data = document.getElementById("samples-data");
  if (!data) return;
  const problems = JSON.parse(data.textContent);

  // What a token can be coloured by: text of the legend, and whether its numbers have a sign.
  const colourings = {
    divergence: {label: "divergence", text: "between student and teacher, nats: the stronger, the more the token is moved"},
    weight: {label: "agreement weight", text: "weak colour: the views agree and the token counts fully; strong: they disagree", from: 1, to: 0},
    version: {label: "policy version", text: "the version of the student that sampled the token"},
    contrast: {label: "what the contrast says", text: "nats: towards the right demonstration, or towards the wrong one", signed: true},
    entropy: {label: "entropy", text: "of the student's distribution there, nats"},
  };
  const named = new Set(problems.flat().flatMap((sample) => Object.keys(sample.values)));
  for (const name of named) {
    if (!colourings[name] && !["logprob", "primary", "negative"].includes(name)) {
      colourings[name] = {label: name, text: "by a term of the loss", signed: true};
    }
  }
  const numbersOf = (sample, name) => (name === "version" ? sample.versions : sample.values[name]) || [];
  const known = (numbers) => numbers.filter((number) => number !== null && Number.isFinite(number));
  const mix = (colour, share) => `color-mix(in srgb, var(--${colour}) ${Math.round(75 * Math.max(0, Math.min(1, share)))}%, transparent)`;
  const brief = (number) => (number === null || number === undefined ? "-" : String(Number(number.toPrecision(3))));

  const element = (kind, text, classes) => {
    const made = document.createElement(kind);
    if (text !== undefined) made.textContent = text;
    if (classes) made.className = classes;
    return made;
  };

  const scaleOf = (name) => {
    const all = known(problems.flat().flatMap((sample) => numbersOf(sample, name))).sort((a, b) => a - b);
    if (!all.length) return null;
    const {signed, from, to} = colourings[name];
    if (name === "version") {
      const versions = [...new Set(all)];
      const place = new Map(versions.map((version, index) => [version, index]));
      return {colour: (number) => mix(`c${place.get(number) % 8}`, 0.7), versions};
    }
    if (signed) {
      const most = Math.max(1e-9, ...[all[Math.floor(0.02 * all.length)], all[Math.floor(0.98 * (all.length - 1))]].map(Math.abs));
      const ends = {low: -most, high: most, below: all[0] < -most, above: all[all.length - 1] > most};
      return {colour: (number) => mix(number < 0 ? "hot" : "cool", Math.abs(number) / most), ...ends};
    }
    const low = from ?? 0, high = to ?? Math.max(1e-9, all[Math.floor(0.98 * (all.length - 1))]);
    return {colour: (number) => mix("hot", (number - low) / (high - low)), low, high, above: to === undefined && all[all.length - 1] > high};
  };

  const shown = [];
  const told = document.getElementById("token");
  // The line of numbers, in this order; log-probs and nats have one unit.
  const names = {
    divergence: "divergence", weight: "agreement weight", contrast: "contrast", entropy: "entropy",
    logprob: "log-prob of the student", primary: "of the teacher", negative: "of the teacher with the wrong demonstration",
  };
  const order = Object.keys(names);
  const tell = (sample, index) => {
    const rank = (name) => (order.includes(name) ? order.indexOf(name) : order.length);
    const numbers = Object.keys(sample.values).sort((a, b) => rank(a) - rank(b))
      .map((name) => `${names[name] ?? name} ${brief(sample.values[name][index])}`);
    if (sample.versions) numbers.unshift(`version ${sample.versions[index]}`);
    told.textContent = `${JSON.stringify(sample.tokens[index])}  ${numbers.join(" \u00b7 ")}`;
  };
  const choose = (entry, index) => {
    for (const other of document.querySelectorAll(".tokens .chosen")) other.classList.remove("chosen");
    entry.chosen = Math.max(0, Math.min(entry.spans.length - 1, index));
    const span = entry.spans[entry.chosen];
    if (!span) return;
    span.classList.add("chosen");
    tell(entry.sample, entry.chosen);
  };
  const writers = {policy: "the student's own answer", base: "the initial model's answer", gold: "the worked solution"};
  const answer = (sample) => {
    const part = element("div");
    const cut = sample.length > sample.tokens.length ? `, the first ${sample.tokens.length} shown` : "";
    const label = element("p", `step ${sample.step + 1}: ${writers[sample.source] ?? sample.source}, ${sample.length} tokens${cut}`, "label");
    if (sample.correct !== null) label.append(", ", element("span", sample.correct ? "right" : "wrong", `verdict ${sample.correct ? "good" : "bad"}`));
    part.append(label);
    const text = element("pre", undefined, "tokens");
    text.tabIndex = 0;
    text.setAttribute("role", "group");
    text.setAttribute("aria-label", `tokens of step ${sample.step + 1}: walk with the arrow keys`);
    const spans = sample.tokens.map((token) => element("span", token === "" ? "\u00b7" : token.replaceAll("\n", "\u23ce\n")));
    text.append(...spans);
    part.append(text);
    const entry = {sample, spans, chosen: -1};
    spans.forEach((span, index) => {
      span.addEventListener("pointerenter", () => tell(sample, index));
      span.addEventListener("click", () => choose(entry, index));
    });
    text.addEventListener("keydown", (event) => {
      const move = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key];
      if (!move) return;
      event.preventDefault();
      choose(entry, entry.chosen + move);
    });
    shown.push(entry);
    return part;
  };
  const unfolded = (title, text) => {
    const made = element("details");
    made.append(element("summary", title), element("pre", text));
    return made;
  };
  const place = document.getElementById("samples");
  for (const samples of problems) {
    const problem = element("article", undefined, samples.length > 1 ? "problem twice" : "problem"), last = samples[samples.length - 1];
    problem.append(element("p", last.asked || last.problem, "verdict"), element("p", `problem ${last.problem}`, "label"));
    const beside = element("div", undefined, "beside");
    beside.append(...samples.map(answer));
    const read = element("details");
    read.append(element("summary", "what student and teacher read"), unfolded("student", last.question));
    for (const view of last.views) read.append(unfolded(`teacher: ${view.kind} view`, view.text));
    problem.append(beside, read);
    place.append(problem);
  }

  const legend = document.getElementById("legend");
  const colour = (name) => {
    const scale = scaleOf(name), {label, text, signed} = colourings[name];
    legend.replaceChildren(element("strong", label));
    if (scale.versions) {
      const few = scale.versions.length > 12 ? [...scale.versions.slice(0, 6), ...scale.versions.slice(-6)] : scale.versions;
      for (const version of few) {
        const swatch = element("span", String(version), "swatch");
        swatch.style.background = scale.colour(version);
        legend.append(swatch);
      }
    } else {
      const ramp = element("span", undefined, "ramp");
      const stops = [0, 0.25, 0.5, 0.75, 1].map((share) => scale.colour(scale.low + share * (scale.high - scale.low)));
      ramp.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
      const [low, high] = signed ? ["wrong", "right"] : ["", ""];
      const whole = element("span", undefined, "scale"), ends = [[scale.below ? "\u2264 " : "", scale.low, low], [scale.above ? "\u2265 " : "", scale.high, high]];
      const [first, last] = ends.map(([sign, number, meaning]) => element("span", `${sign}${brief(number)} ${name === "contrast" ? meaning : ""}`.trim()));
      whole.append(first, ramp, last);
      legend.append(whole);
    }
    legend.append(element("span", text));
    for (const {sample, spans} of shown) {
      const numbers = numbersOf(sample, name);
      spans.forEach((span, index) => {
        const number = numbers[index];
        span.style.background = number === null || number === undefined ? "" : scale.colour(number);
      });
    }
  };
  const choices = document.getElementById("colourings");
  let first = true;
  for (const name of Object.keys(colourings)) {
    if (!scaleOf(name)) continue;
    const label = element("label"), input = element("input");
    Object.assign(input, {type: "radio", name: "colouring", value: name, checked: first});
    input.addEventListener("change", () => colour(name));
    label.append(input, ` ${colourings[name].label}`);
    choices.append(label);
    if (first) colour(name);
    first = false;
  }
})();
