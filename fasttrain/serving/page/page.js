const at = (selector, within = document) => within.querySelector(selector);
const MOST_TRIES = 5;
const LEAST_PERCENT = 0.1, MOST_PERCENT = 99.9; // 100.0 beside another class with a part would contradict it
let model = null;

async function ask(path, options = {}) {
  const token = sessionStorage.getItem("token");
  const headers = token ? { Authorization: `Bearer ${inBytes(token)}` } : {};
  for (let tries = 1; ; tries += 1) {
    const answer = await fetch(path, { ...options, headers });
    const content = await answer.json();
    if (answer.ok) return content;
    if (answer.status === 401) {
      askForToken();
      throw new Error(token ? "This token is wrong." : "This service needs a token.");
    }
    if (answer.status !== 429 || tries === MOST_TRIES) throw new Error(content.detail ?? `error ${answer.status}`);
    await new Promise((resolve) => setTimeout(resolve, 1000 * Number(answer.headers.get("Retry-After") ?? 1)));
  }
}

function inBytes(text) { // fetch takes no characters above 255 in a header: a character for each byte of UTF-8
  return String.fromCharCode(...new TextEncoder().encode(text));
}

function accept(described) {
  model = described;
  at("#token").hidden = model !== null;
  for (const button of [at("#choose"), at("#camera")]) button.disabled = model === null;
}

function askForToken() {
  sessionStorage.removeItem("token");
  accept(null);
  at("#secret").select();
}

function tell(error) {
  at("#problem").textContent = error instanceof TypeError ? "The server doesn't answer." : error.message;
  at("#problem").hidden = false;
}

async function start() {
  const tried = sessionStorage.getItem("token");
  try {
    accept(await ask("model"));
  } catch (error) {
    if (tried || at("#token").hidden) tell(error);
    return;
  }
  at("#problem").hidden = true;
  const several = model.multi_label ? ", several at a time" : "";
  at("#model").textContent = `${model.name}, ${model.classes.length.toLocaleString("en")} classes${several}`;
  at("#limits").textContent = `up to ${model.max_bytes / 1e6} MB and ${model.max_pixels / 1e6} megapixels`;
}

function newCard(file) {
  const card = at("#card").content.cloneNode(true).firstElementChild;
  const photograph = at(".photograph", card);
  photograph.src = URL.createObjectURL(file);
  photograph.alt = `Photograph ${file.name}`;
  photograph.onload = () => URL.revokeObjectURL(photograph.src);
  photograph.onerror = () => { photograph.hidden = true; };
  at("figcaption", card).textContent = file.name;
  return card;
}

async function classify(file, card) {
  const state = at(".state", card);
  try {
    if (file.size > model?.max_bytes) throw new Error(`It is larger than ${model.max_bytes / 1e6} MB.`);
    const { predictions: [seen] } = await ask("predict", { method: "POST", body: file });
    const found = seen.top ?? seen.classes;
    const unknown = seen.answer === "unknown" && found[0].class !== "unknown";
    state.hidden = found.length > 0 && !unknown;
    state.textContent = unknown ? "Unknown: no class is likely enough." : "None of the classes.";
    for (const each of found) list(card, each);
    if (model?.explains && found.length) offerHeatMap(card, file, found[0].class);
  } catch (error) {
    state.textContent = error instanceof TypeError ? "The server doesn't answer." : error.message;
    state.classList.add("bad");
    card.classList.add("refused");
  }
}

function shown(percent) {
  if (percent < LEAST_PERCENT / 2) return `< ${LEAST_PERCENT} %`;
  return `${Math.min(percent, MOST_PERCENT).toFixed(1)} %`;
}

function list(card, { class: name, probability }) {
  const row = document.createElement("li");
  const percent = 100 * probability;
  for (const text of [name, shown(percent)]) {
    row.append(Object.assign(document.createElement("span"), { textContent: text }));
  }
  row.dataset.class = name;
  row.style.setProperty("--share", `${percent}%`);
  at("ol", card).append(row);
}

function offerHeatMap(card, file, likeliest) {
  const box = at(".explain input", card);
  let chosen = likeliest;
  const draw = async () => {
    for (const row of card.querySelectorAll("li")) row.setAttribute("aria-pressed", box.checked && row.dataset.class === chosen);
    const heat = at(".heat", card);
    if (box.checked) {
      const wanted = chosen;
      try {
        const answer = await ask(`predict?explain=${encodeURIComponent(wanted)}`, { method: "POST", body: file });
        if (wanted !== chosen || !box.checked) return;
        heat.src = answer.predictions[0].heat_map;
        heat.alt = `Heat map of ${wanted}`;
      } catch (error) {
        box.checked = false;
        tell(error);
      }
    }
    card.classList.toggle("mapped", box.checked);
    at(".legend span", card).textContent = `Where it looks for ${chosen}:`;
  };
  for (const row of card.querySelectorAll("li")) {
    row.setAttribute("role", "button");
    row.tabIndex = 0;
    const choose = () => { chosen = row.dataset.class; box.checked = true; draw(); };
    row.onclick = choose;
    row.onkeydown = (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(); } };
  }
  box.onchange = draw;
  at(".legend span", card).textContent = `Where it looks for ${likeliest}:`; // so that its space is kept
  at(".explain", card).hidden = at(".looks", card).hidden = false;
}

async function take(files) {
  if (model === null) return;
  at("#problem").hidden = true;
  const cards = files.map(newCard);
  at("#results").prepend(...cards);
  for (const [number, file] of files.entries()) await classify(file, cards[number]);
}

async function openCamera() {
  if (!navigator.mediaDevices?.getUserMedia) { // absent over plain http from another machine: use the phone's camera app
    at("#capture").click();
    return;
  }
  const finder = at("#viewfinder");
  const video = at("video", finder);
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 1920 } } });
  } catch {
    at("#capture").click();
    return;
  }
  finder.onclose = () => { for (const track of video.srcObject.getTracks()) track.stop(); };
  await video.play();
  finder.showModal();
}

function shoot() {
  const video = at("video");
  const canvas = Object.assign(document.createElement("canvas"), { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext("2d").drawImage(video, 0, 0);
  canvas.toBlob((blob) => take([new File([blob], "camera.jpg", { type: blob.type })]), "image/jpeg", 0.95);
  at("#viewfinder").close();
}

for (const input of [at("#files"), at("#capture")]) {
  input.onchange = () => { take([...input.files]); input.value = ""; };
}
at("#choose").onclick = () => at("#files").click();
at("#camera").onclick = openCamera;
at("#shoot").onclick = shoot;
at("#close").onclick = () => at("#viewfinder").close();
at("#token").onsubmit = (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", at("#secret").value);
  start();
};
document.ondragover = (event) => { event.preventDefault(); at("#drop").classList.toggle("over", model !== null); };
document.ondragleave = () => at("#drop").classList.remove("over");
document.ondrop = (event) => {
  event.preventDefault();
  at("#drop").classList.remove("over");
  take([...event.dataTransfer.files]);
};
document.onpaste = (event) => take([...event.clipboardData.files]);
start();
