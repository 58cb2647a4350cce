// The page of `dimo play`: whatever is moved is drawn at once, and only the newest wish counts.
import { drawCurve } from "./curve.js";

const $ = (id) => document.getElementById(id);
const SLIDER_PAUSE = 120, TYPING_PAUSE = 500; // milliseconds without a change before drawing
const SLOW = 250; // milliseconds after which the page says that it is at work
const SEARCHED = 30; // more classes than this are searched, not listed
const controls = ["count", "r-init", "temperature", "steps"];

let facts;
let drawing = new AbortController(), optimizing = null;
const FRAME = 160; // milliseconds that each step of the teacher is looked at
let timer;

/** A sentence of the server, or of ours. */
class Problem extends Error {
  constructor({ error, hint }) {
    super(error);
    this.hint = hint;
  }
}

/** Post a wish and hand each line of the answer to `heed`. */
async function ask(action, wish, signal, heed) {
  let response;
  try {
    response = await fetch(action, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(wish),
      signal,
    });
    if (!response.ok) throw new Problem(await refusal(response));
    let rest = "";
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let part; !(part = await reader.read()).done;) {
      const lines = (rest + part.value).split("\n");
      rest = lines.pop();
      for (const event of lines.map((line) => JSON.parse(line))) {
        if (event.error) throw new Problem(event);
        if (event.status) say(event.status, true);
        else heed(event);
      }
    }
  } catch (error) {
    if (error.name === "AbortError" || error instanceof Problem) throw error;
    throw new Problem({ error: "The server does not answer.", hint: "Is `dimo play` still running?" });
  }
}

/** What a response that is no answer says. */
async function refusal(response) {
  try {
    return await response.json();
  } catch {
    return { error: `The server answered ${response.status}.`, hint: null };
  }
}

function say(text, busy = false) {
  $("status").textContent = text;
  $("status").classList.toggle("busy", busy);
}

function complain(problem) {
  const box = $("alert");
  box.hidden = !problem;
  box.replaceChildren();
  if (!problem) return;
  const what = document.createElement("strong");
  what.append(...rich(problem.message));
  box.append(what, " ", ...rich(problem.hint ?? ""));
  say("");
}

/** Tell which words of the prompt no picture shows; nothing where they show all. */
function tell(note) {
  $("note").hidden = !note;
  $("note").replaceChildren(...rich(note ?? ""));
}

/** The prompt or class as it stands in the form. */
function condition() {
  if (facts.takes_prompts) return $("prompt").value.trim();
  return facts.classes.length > SEARCHED ? $("search").value.trim() : $("class").value;
}

/** Text in which `words` between backticks stand out, as nodes. */
function rich(text) {
  return text.split("`").map((part, index) => {
    if (index % 2 === 0) return part;
    const code = document.createElement("code");
    code.append(...command(part));
    return code;
  });
}

/** A command as nodes that no line break tears a flag of. */
function command(text) {
  return text.split(/( )/).map((word) => {
    if (!word.startsWith("-")) return word;
    return Object.assign(document.createElement("span"), { textContent: word });
  });
}

const number = (id) => ($(id).value === "" ? null : Number($(id).value));
const time = (seconds) => (seconds < 1 ? `${Math.round(1000 * seconds)} ms` : `${seconds.toFixed(1)} s`);

function show(section, images, label, made, note) {
  tell(note);
  const list = section.querySelector(".pictures");
  list.classList.toggle("small", facts.image_size < 128);
  if (facts.image_size >= 128) list.style.setProperty("--side", "14rem");
  list.replaceChildren(...images.map(({ src, file, caption, title }) => {
    const item = document.createElement("li");
    const image = Object.assign(new Image(), { src, alt: `${label}, ${caption}` });
    item.append(image);
    const link = Object.assign(document.createElement("a"), { href: src, download: file });
    const which = Object.assign(document.createElement("span"), { className: "unseen", textContent: ` ${caption}` });
    link.append("Save PNG", which);
    zoomable(image);
    item.append(...(title ? [title] : []), link);
    return item;
  }));
  section.classList.remove("stale");
  section.querySelector(".made").hidden = false;
  section.querySelector(".made code").replaceChildren(...command(made));
}

/** What the form asks for, from both; null while there is nothing to draw. */
function wished() {
  const wish = { condition: condition(), seed: number("seed"), count: number("count") };
  if (wish.condition) return wish;
  say(facts.takes_prompts ? "Type a prompt." : "Choose a class.");
  outdate($("pictures"), $("teacher"));
  return null;
}

/** Dim pictures that are no longer those that the form asks for. */
function outdate(...sections) {
  for (const section of sections) section.classList.add("stale");
}

/** Begin anew: what is being drawn is no longer wanted. */
function anew() {
  clearTimeout(timer);
  drawing.abort();
  drawing = new AbortController();
  complain(null);
  tell(null);
  return drawing.signal;
}

const steps = (count) => (count === 1 ? "1 step" : `${count} steps`);
const inSteps = (count) => (count === 1 ? "one step" : steps(count));

function showTeacher(found) {
  const how = steps(found.steps);
  const images = captioned(found.images, `teacher, ${how}`);
  show($("teacher"), images, found.label, found.command, found.note);
  $("teacher-title").textContent = `Teacher, ${how}: ${time(found.seconds)}`;
}

/** The teacher's pictures as they come out of their masks, one step after the other. */
async function watch() {
  const signal = anew(), wish = wished();
  if (!wish) return;
  const frames = [];
  let last;
  say("The teacher is drawing ...", true);
  try {
    await ask("teacher", { ...wish, steps: number("steps"), watch: true }, signal, (told) => {
      if (told.frames) frames.push(told);
      else if (told.images) last = told;
    });
    showTeacher(last);
    say(`Each of ${steps(last.steps)}; gray is still masked.`);
    const images = [...$("teacher").querySelectorAll(".pictures img")];
    for (const { step, of, frames: sources } of frames) {
      $("teacher-title").textContent = `Teacher, step ${step} of ${of}`;
      images.forEach((image, index) => { image.src = sources[index]; });
      await new Promise((done) => setTimeout(done, FRAME));
      if (signal.aborted) return;
    }
    showTeacher(last);
  } catch (error) {
    if (error.name === "AbortError") return;
    outdate($("teacher"));
    complain(error);
  }
}

/** Draw with the student, and with the teacher if it is to be compared. */
async function draw() {
  const signal = anew(), wish = wished();
  $("teacher").hidden = !$("compare").checked;
  if (!wish) return;
  const slow = setTimeout(() => say("Drawing ...", true), SLOW);
  const old = new Set([$("pictures"), $("teacher")]);
  try {
    let told = "";
    const settings = { temperature: number("temperature"), r_init: number("r-init") };
    await ask("draw", { ...wish, ...settings }, signal, (found) => {
      clearTimeout(slow);
      const images = captioned(found.images, inSteps(found.steps));
      show($("pictures"), images, found.label, found.command, found.note);
      old.delete($("pictures"));
      $("pictures-title").textContent = `Student, ${inSteps(found.steps)}: ${time(found.seconds)}`;
      told = `${amount(found.images.length)} in ${time(found.seconds)}`;
    });
    if ($("compare").checked) {
      say(`${told}; the teacher is drawing ...`, true);
      await ask("teacher", { ...wish, steps: number("steps") }, signal, (found) => {
        if (!found.images) return; // a step
        showTeacher(found);
        old.delete($("teacher"));
        told += `; teacher, ${steps(found.steps)}: ${time(found.seconds)}`;
      });
    }
    say(`${told}.`);
  } catch (error) {
    clearTimeout(slow);
    if (error.name === "AbortError") return;
    outdate(...old);
    complain(error);
  }
}

const amount = (count) => (count === 1 ? "1 image" : `${count} images`);
const captioned = (images, how) =>
  images.map((image, index) => ({ ...image, caption: `${how}, image ${index + 1}` }));

/** Draw when nothing has changed for a moment. */
function drawSoon(pause) {
  clearTimeout(timer);
  timer = setTimeout(draw, pause);
}

/** Optimize the prompt and draw the curve while it rises. */
async function optimize(event) {
  event.preventDefault();
  if (optimizing) return;
  const wish = {
    condition: condition(), seed: number("seed"), starts: number("starts"),
    iterations: number("iterations"), learning_rate: number("step-size"),
  };
  complain(null);
  if (!wish.condition) return say("Type a prompt.");
  optimizing = new AbortController();
  busyOptimizing(true);
  const trace = [];
  say("Optimizing ...", true);
  try {
    await ask("tteo", wish, optimizing.signal, (told) => {
      if (told.scores) {
        trace.push(told.scores);
        $("curve").hidden = false;
        const best = drawCurve($("curve"), trace, wish.iterations);
        say(`Iteration ${told.iterate} of ${wish.iterations}: best score ${best.toFixed(2)}.`, true);
        return;
      }
      const { before, after, score_before: low, score_after: high } = told;
      const pair = [
        { ...before, caption: "before", title: `Before: ${low.toFixed(2)}` },
        { ...after, caption: "after", title: `After: ${high.toFixed(2)}` },
      ];
      show($("tteo"), pair, told.label, told.command, told.note);
      const cost = `${time(told.seconds)}, ${Math.round(told.times)} times one plain image`;
      say(`Optimized from ${low.toFixed(2)} to ${high.toFixed(2)} in ${cost}.`);
    });
  } catch (error) {
    if (error.name === "AbortError") say("Stopped.");
    else complain(error);
  }
  optimizing = null;
  busyOptimizing(false);
}

function busyOptimizing(busy) {
  const start = $("tteo-controls").querySelector("[type=submit]");
  const focused = [start, $("stop")].includes(document.activeElement);
  start.hidden = busy;
  $("stop").hidden = !busy;
  if (focused) (busy ? $("stop") : start).focus(); // the keyboard stays where it was
}

/** Set every control as the student would have it. */
function ownSettings() {
  $("r-init").value = facts.r_init;
  $("temperature").value = facts.temperature;
  showValues();
}

function showValues() {
  for (const id of controls) $(`${id}-value`).textContent = $(id).value;
}

function option(value, text) {
  return Object.assign(document.createElement("option"), { value, textContent: text });
}

/** Offer prompts or classes, as the student takes them. */
function offerConditions() {
  if (facts.takes_prompts) {
    $("prompt-field").hidden = false;
    const first = facts.examples[0];
    $("prompt").value = first ?? "";
    $("prompt").placeholder = first ? `For example: ${first}` : "";
    $("examples").append(...facts.examples.map((text) => {
      const chip = Object.assign(document.createElement("button"), { type: "button", textContent: text });
      chip.addEventListener("click", () => {
        $("prompt").value = text;
        draw();
      });
      return chip;
    }));
  } else if (facts.classes.length > SEARCHED) {
    $("search-field").hidden = false;
    $("search").value = facts.classes[0];
    $("classes").append(...facts.classes.map((name, index) => option(name, `${index}`)));
  } else {
    $("class-field").hidden = false;
    $("class").append(...facts.classes.map((name, index) => option(`${index}`, name)));
  }
}

function offerTteo() {
  const { refusal: why, rewards, step_size: size } = facts.tteo;
  $("tteo-controls").hidden = Boolean(why);
  const about = (names) => `Spends more compute on one image: the student's input is moved until ` +
    `${names} the picture better. Prompt and seed are those above.`;
  const judges = why ? [] : rewards.map((name) => `\`${name}\``);
  const find = judges.length === 1 ? " finds" : " find";
  $("tteo-about").replaceChildren(...rich(why ?? about(judges.join(" and ") + find)));
  if (size) $("step-size").value = size;
}

function describe() {
  const kind = facts.takes_prompts ? "prompts" : `${facts.classes.length} classes`;
  document.title = `${facts.student} - dimo play`;
  $("about").textContent = `${facts.student}: ${inSteps(facts.draws_in)} from ${kind} to ${facts.image_size} x ${facts.image_size} pixels`;
  $("facts").textContent = `Student ${facts.student_id} of the teacher ${facts.teacher} ` +
    `(${facts.license}), dimo ${facts.version}.`;
}

function fitLimits() {
  for (const id of ["count", "steps", "starts", "iterations"]) $(id).max = facts.limits[id];
  $("temperature").max = Math.max(3, 2 * facts.temperature);
  $("count").value = facts.image_size < 512 ? 4 : 1;
  $("compare").checked = facts.teacher_at_hand; // others are loaded when somebody asks for them
  $("steps").max = Math.min(facts.limits.steps, Math.max(64, 2 * facts.teacher_steps));
  $("steps").value = facts.teacher_steps;
}

function listen() {
  $("controls").addEventListener("submit", (event) => {
    event.preventDefault();
    draw();
  });
  $("controls").addEventListener("input", ({ target }) => {
    showValues();
    if (target.id === "steps" && !$("compare").checked) return;
    drawSoon(["prompt", "search"].includes(target.id) ? TYPING_PAUSE : SLIDER_PAUSE);
  });
  $("prompt").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    draw();
  });
  $("new-seed").addEventListener("click", () => {
    $("seed").value = Math.floor(Math.random() * 2 ** 31);
    draw();
  });
  $("watch").addEventListener("click", watch);
  $("own").addEventListener("click", () => {
    ownSettings();
    draw();
  });
  $("tteo-controls").addEventListener("submit", optimize);
  $("stop").addEventListener("click", () => optimizing?.abort());
  for (const button of document.querySelectorAll(".copy")) {
    button.addEventListener("click", () => copy(button.parentElement.querySelector("code")));
  }
}

async function copy(code) {
  try {
    await navigator.clipboard.writeText(code.textContent);
    say("Copied.");
  } catch { // no clipboard outside of loopback and https: select it instead
    getSelection().selectAllChildren(code);
    say("Selected; copy it with the keyboard.");
  }
}

async function start() {
  const response = await fetch("facts");
  facts = await response.json();
  describe();
  fitLimits();
  offerConditions();
  offerTteo();
  ownSettings();
  $("settings").open = matchMedia("(min-width: 52rem)").matches; // on a phone, pictures first
  listen();
  await draw();
}

start();
