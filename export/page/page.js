// The page of an exported model: it computes everything here, in the reader's browser.
//
// `about.json`, which the exporter wrote, tells what the model is and what its pictures look like.
// A picture is always an array of bytes, row by row, in the size and the channels of the model.

const parts = Object.fromEntries([...document.querySelectorAll("[id]")].map((x) => [x.id, x]));
const ARRAYS = {
  float32: Float32Array,
  float64: Float64Array,
  uint8: Uint8Array,
  int8: Int8Array,
  uint16: Uint16Array,
  int16: Int16Array,
  int32: Int32Array,
};
const FEW_CLASSES = 12; // So many bars stay in their places; of more, the largest are shown.
const SHOWN_CLASSES = 10;
const MOST_PIXELS = 89e6; // As in `export.predict`, a picture of more pixels is refused.
const COLOURS = [
  [255, 128, 64],
  [64, 190, 255],
]; // Of two classes in one picture.
const INK = 255;

let about; // What the exporter wrote about the model.
let ort; // The runtime, a module.
let network; // Session from an image to class values and poses.
let decoder = null; // Session from masked poses to images, of a model that has one.
let pictures; // The bytes of the test images, one after the other.

// What is on the page now.
let strokes = []; // Lists of points in pixels of the model; empty where a picture was chosen.
let chosen = null; // The bytes of a chosen picture, or null where the reader draws.
let found = null; // The outputs for what is on the page, or null for an empty drawing.
let followed = 0; // Which of the classes found has its capsule shown; null for a class of its own.
let pose = null; // The capsule that the sliders change, with its changes.

// ---- Loading ------------------------------------------------------------------------------------

// The page is ready once this promise is kept.
export const ready = start().catch((error) => {
  const status = parts.status;
  document.body.dataset.state = "failed";
  status.className = "bad";
  status.textContent = `The network cannot be shown: ${firstLine(error)}`;
  throw error;
});
ready.catch(() => {}); // The page tells it; nobody else needs to.

async function start() {
  about = JSON.parse(new TextDecoder().decode(await fetched("about.json")));
  const files = ["images.bin", "model.onnx", ...(about.has_decoder ? ["decoder.onnx"] : [])];
  const [runtime, images, ...models] = await Promise.all([loadedRuntime(), ...files.map(fetched)]);
  ort = runtime;
  pictures = new Uint8Array(images);
  network = await opened("model.onnx", models[0]);
  if (about.has_decoder) decoder = await opened("decoder.onnx", models[1]);
  setUp();
  document.body.dataset.state = "ready";
  parts.status.hidden = true;
  if (about.pictures.shown) choosePicture(0);
  else clear();
  await update();
  const seconds = (performance.now() / 1000).toFixed(2);
  parts.facts.append(...fact("First result", `${seconds} s after the page was opened`));
}

async function loadedRuntime() {
  try {
    const { module, wasm, integrity } = about.runtime;
    const found = await import(module);
    found.env.wasm.numThreads = 1; // More need headers that a plain server does not send.
    found.env.logLevel = "error";
    // A runtime of another host is taken only if it is what the exporter knows.
    if (wasm) found.env.wasm.wasmBinary = await (await fetch(wasm, { integrity })).arrayBuffer();
    return found;
  } catch (error) {
    throw new Error(`its runtime did not load (${firstLine(error)})`);
  }
}

async function fetched(name) {
  let answer;
  try {
    answer = await fetch(name);
  } catch (error) {
    throw new Error(`${name} could not be fetched (${firstLine(error)})`);
  }
  if (!answer.ok) throw new Error(`${name} could not be fetched (${answer.status})`);
  return answer.arrayBuffer();
}

async function opened(name, bytes) {
  try {
    return await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
  } catch (error) {
    throw new Error(`${name} does not load (${firstLine(error)})`);
  }
}

function firstLine(error) {
  return String(error?.message ?? error)
    .split("\n")[0]
    .slice(0, 300);
}

// ---- Computing ----------------------------------------------------------------------------------

// Returns the values of the classes and, of a network of capsules, their poses, for one picture.
async function compute(pixels) {
  const [low, high] = about.input_range;
  const isWhole = !about.input_dtype.startsWith("float");
  const scaled = Array.from(pixels, (x) => low + (x * (high - low)) / 255);
  const values = ARRAYS[about.input_dtype].from(isWhole ? scaled.map(Math.round) : scaled);
  const start = performance.now();
  const image = new ort.Tensor(about.input_dtype, values, [1, ...about.input_shape]);
  const outputs = await network.run({ image });
  const milliseconds = performance.now() - start;
  const classes = Array.from(outputs[about.class_output].data);
  const poses = about.pose_dim ? outputs.poses.data : null;
  return { classes, poses, milliseconds };
}

// Returns one value for each class: a single value from 0 to 1 tells two classes apart.
function columns(values) {
  if (values.length !== 1 || Math.abs(values[0] - 0.5) > 0.501) return values;
  return [1 - values[0], values[0]];
}

// Returns the numbers of the classes with the largest values, the largest first.
function largest(values, count) {
  const order = values.map((_, i) => i);
  order.sort((a, b) => values[b] - values[a] || a - b);
  return order.slice(0, count);
}

// Returns a copy of the components of one capsule.
function capsuleOf(poses, number) {
  return Float32Array.from(poses.slice(number * about.pose_dim, (number + 1) * about.pose_dim));
}

// Returns the values that the decoder makes of capsules, one picture for each pair of a class and
// its components, while all other capsules are zero.
async function rebuild(pairs) {
  const shape = [pairs.length, about.num_classes, about.pose_dim];
  const masked = new Float32Array(pairs.length * about.num_classes * about.pose_dim);
  pairs.forEach(([number, components], i) => {
    masked.set(components, (i * about.num_classes + number) * about.pose_dim);
  });
  const outputs = await decoder.run({ masked_poses: new ort.Tensor("float32", masked, shape) });
  const { data } = outputs.reconstruction;
  const size = data.length / pairs.length;
  return pairs.map((_, i) => data.slice(i * size, (i + 1) * size));
}

// Returns a picture of bytes for values in the unit of the model's input.
function bytesOf(values) {
  const [low, high] = about.input_range;
  return Uint8ClampedArray.from(values, (x) => ((x - low) * 255) / (high - low));
}

// Returns what the exporter compares with Keras: all outputs for a test image, as plain numbers.
export async function check(number) {
  await ready;
  const { classes, poses, milliseconds } = await compute(testImage(number));
  const winners = largest(columns(classes), about.objects);
  const rebuilt = decoder ? await rebuild(winners.map((i) => [i, capsuleOf(poses, i)])) : [];
  const outputs = { [about.class_output]: classes };
  if (poses) outputs.poses = Array.from(poses);
  rebuilt.forEach((x, i) => (outputs[`rebuilt_${i + 1}`] = Array.from(x)));
  return { outputs, milliseconds };
}

function testImage(number) {
  const size = sizeOf(about.input_shape);
  return pictures.slice(number * size, (number + 1) * size);
}

function sizeOf(shape) {
  return shape.reduce((a, b) => a * b, 1);
}

// ---- The result ---------------------------------------------------------------------------------

let isComputing = false;
let isStale = false;

// Computes and shows the result for what is on the page; while it does so, it is asked but once.
async function update() {
  isStale = true;
  if (isComputing) return;
  isComputing = true;
  document.body.ariaBusy = "true";
  try {
    while (isStale) {
      isStale = false;
      const pixels = chosen ?? drawn();
      showPixels(parts.seen, pixels ?? blank());
      found = pixels ? await compute(pixels) : null;
      showClasses();
      await showCapsule();
    }
  } catch (error) {
    tell(`The network cannot be computed: ${firstLine(error)}`);
  } finally {
    isComputing = false;
    document.body.ariaBusy = "false";
  }
}

let isAsked = false;

// Asks for a new result before the next frame, so that quick movements are not computed one by one.
function ask() {
  if (isAsked) return;
  isAsked = true;
  requestAnimationFrame(() => {
    isAsked = false;
    update();
  });
}

function showClasses() {
  const values = found ? columns(found.classes) : new Array(about.labels.length).fill(0);
  const winners = found ? largest(values, about.objects) : [];
  const isFew = values.length <= FEW_CLASSES;
  const shown = isFew ? values.map((_, i) => i) : largest(values, SHOWN_CLASSES);
  shown.forEach((number, i) => {
    const bar = parts.bars.children[i];
    const place = winners.indexOf(number);
    bar.className =
      place < 0 ? "" : `found ${about.objects > 1 ? (place ? "second" : "first") : ""}`;
    bar.querySelector(".name").textContent = about.labels[number];
    bar.querySelector(".name").title = about.labels[number];
    bar.querySelector(".value").textContent = values[number].toFixed(2);
    const share = Math.min(1, Math.max(0, values[number]));
    bar.querySelector(".fill").style.transform = `scaleX(${share})`;
  });
  showWinners(winners);
  showTime();
}

const times = []; // Milliseconds of the last inferences, the first of which is slow.

function showTime() {
  if (found) times.push(found.milliseconds);
  if (times.length > 15) times.shift();
  const middle = times.toSorted((a, b) => a - b)[Math.floor(times.length / 2)];
  parts.time.textContent = found ? `${middle.toFixed(1)} ms an inference` : "";
}

let shownWinners = "";

// Names the classes found. Screen readers read it out, so it changes only where a class does.
function showWinners(winners) {
  const key = winners.join();
  if (key === shownWinners && key) return;
  shownWinners = key;
  parts.result.replaceChildren();
  if (!winners.length) {
    parts.result.append(element("span", { className: "quiet", textContent: "Nothing yet." }));
  }
  winners.forEach((number, i) => {
    if (i) parts.result.append(" and ");
    const className = winners.length > 1 ? (i ? "second" : "first") : "";
    parts.result.append(element("strong", { className, textContent: about.labels[number] }));
  });
  showOptions(winners);
}

// ---- Capsules and what is rebuilt of them -------------------------------------------------------

// Fills the list of capsules: those of the classes found come first, and follow the picture.
function showOptions(winners) {
  const before = parts.capsule.value;
  const options = winners.map((number, i) =>
    element("option", { value: `found${i}`, textContent: `${about.labels[number]}, found` }),
  );
  about.labels.forEach((name, number) =>
    options.push(element("option", { value: `${number}`, textContent: name })),
  );
  parts.capsule.replaceChildren(...options);
  parts.capsule.value = followed === null ? before : `found${followed}`;
}

// Returns the number of the class whose capsule is shown.
function selected() {
  if (followed === null) return Number(parts.capsule.value);
  return largest(columns(found.classes), about.objects)[followed];
}

function select() {
  const { value } = parts.capsule;
  followed = value.startsWith("found") ? Number(value.slice(5)) : null;
  return showCapsule();
}

// Sets the sliders to the capsule that is selected, and shows what is rebuilt of it.
async function showCapsule() {
  if (!decoder) return;
  const isEmpty = !found;
  parts["capsule-box"].toggleAttribute("inert", isEmpty);
  if (isEmpty) {
    pose = null;
    showPixels(parts.together, blank());
    return;
  }
  const number = selected();
  pose = capsuleOf(found.poses, number);
  const { low, high } = about.spread;
  pose.forEach((value, i) => {
    const slider = parts.sliders.children[i].querySelector("input");
    slider.min = Math.min(low[number][i], value);
    slider.max = Math.max(high[number][i], value);
    slider.step = (slider.max - slider.min) / 200 || 0.001;
    slider.value = value;
    slider.setAttribute("aria-valuetext", value.toFixed(2));
  });
  await showRebuilt();
}

// Shows the picture that the decoder makes of the selected capsule; of several classes, of each.
async function showRebuilt() {
  const winners = largest(columns(found.classes), about.objects);
  const number = selected();
  const classes = winners.includes(number) ? winners : [number];
  const pairs = classes.map((i) => [i, i === number ? pose : capsuleOf(found.poses, i)]);
  const images = (await rebuild(pairs)).map(bytesOf);
  const names = classes.map((i) => about.labels[i]);
  parts.together.setAttribute(
    "aria-label",
    `The picture rebuilt from the capsule of ${names.join(" and ")}`,
  );
  parts["together-caption"].replaceChildren("rebuilt: ");
  names.forEach((name, i) => {
    if (i) parts["together-caption"].append(" and ");
    const className = names.length > 1 ? (i ? "second" : "first") : "";
    parts["together-caption"].append(element("span", { className, textContent: name }));
  });
  if (images.length === 1) showPixels(parts.together, images[0]);
  else showInColours(parts.together, images);
}

let isRebuilding = false;

// Follows a slider; movements before the next frame are taken together.
async function follow(number, slider) {
  if (!pose) return;
  pose[number] = Number(slider.value);
  slider.setAttribute("aria-valuetext", pose[number].toFixed(2));
  if (isRebuilding) return;
  isRebuilding = true;
  await new Promise(requestAnimationFrame);
  isRebuilding = false;
  if (found) await showRebuilt();
}

// ---- Pixels on the screen -----------------------------------------------------------------------

function blank() {
  return new Uint8ClampedArray(sizeOf(about.input_shape)).fill(about.drawing?.background ?? 0);
}

function showPixels(canvas, pixels) {
  const [height, width, channels] = about.input_shape;
  const image = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++)
      image.data[4 * i + c] = pixels[i * channels + (channels > 1 ? c : 0)];
    image.data[4 * i + 3] = 255;
  }
  show(canvas, image);
}

// Shows two pictures on top of each other, each in a colour of its own.
function showInColours(canvas, images) {
  const [height, width, channels] = about.input_shape;
  const image = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) {
      const source = i * channels + (channels > 1 ? c : 0);
      image.data[4 * i + c] = images.reduce(
        (sum, pixels, k) => sum + (pixels[source] * COLOURS[k % 2][c]) / 255,
        0,
      );
    }
    image.data[4 * i + 3] = 255;
  }
  show(canvas, image);
}

function show(canvas, image) {
  canvas.width = image.width;
  canvas.height = image.height;
  canvas.getContext("2d").putImageData(image, 0, 0);
}

// ---- Drawing ------------------------------------------------------------------------------------

// Returns the context of a canvas that is not on the page, filled with the background.
function paper(width, height, background = 0) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = `rgb(${background} ${background} ${background})`;
  context.fillRect(0, 0, width, height);
  return context;
}

// Draws strokes with a pen of so many pixels, after a map of their points.
function paint(context, pen, map) {
  const ink = INK - about.drawing.background;
  context.strokeStyle = context.fillStyle = `rgb(${ink} ${ink} ${ink})`;
  context.lineWidth = pen;
  context.lineCap = context.lineJoin = "round";
  for (const stroke of strokes) {
    context.beginPath();
    stroke.map(map).forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
    if (stroke.length === 1) context.lineTo(...map(stroke[0])); // A dot is a line of no length.
    context.stroke();
  }
}

function showStrokes() {
  const canvas = parts.drawing;
  const scale = canvas.width / about.input_shape[1];
  const context = canvas.getContext("2d");
  const { background, pen } = about.drawing;
  context.fillStyle = `rgb(${background} ${background} ${background})`;
  context.fillRect(0, 0, canvas.width, canvas.height);
  paint(context, pen * scale, ([x, y]) => [x * scale, y * scale]);
}

// Returns the drawing as the network takes it, or null if it is empty.
//
// Where the training images have their objects in a box of one size, the strokes are brought to
// that size and place first. They are painted anew, so that the pen keeps its width.
function drawn() {
  if (!strokes.length) return null;
  const { box, pen } = about.drawing;
  if (!box) return painted((point) => point);
  const xs = strokes.flat().map(([x]) => x);
  const ys = strokes.flat().map(([, y]) => y);
  const [left, right, top, bottom] = [
    Math.min(...xs),
    Math.max(...xs),
    Math.min(...ys),
    Math.max(...ys),
  ];
  const extent = Math.max(right - left, bottom - top);
  const room = Math.max(box - pen, 1);
  const scale = room / Math.max(extent, room / 3); // A dot stays small.
  const [middleY, middleX] = about.drawing.centre;
  const centred = ([x, y]) => [
    (x - (left + right) / 2) * scale + middleX,
    (y - (top + bottom) / 2) * scale + middleY,
  ];
  if (about.drawing.centred_by === "box") return painted(centred);
  const [massY, massX] = centreOfMass(painted(centred));
  return painted((point) => {
    const [x, y] = centred(point);
    return [x + middleX - massX, y + middleY - massY];
  });
}

// Returns the bytes of the strokes: each pixel is the mean of the finer ones that it covers.
function painted(map) {
  const [height, width] = about.input_shape;
  const finer = Math.max(2, Math.min(8, Math.floor(800 / Math.max(width, height))));
  const context = paper(width * finer, height * finer, about.drawing.background);
  paint(context, about.drawing.pen * finer, (point) => map(point).map((x) => x * finer));
  const { data } = context.getImageData(0, 0, width * finer, height * finer);
  const sums = new Float64Array(width * height);
  for (let y = 0; y < height * finer; y++) {
    const row = Math.floor(y / finer) * width;
    for (let x = 0; x < width * finer; x++) {
      sums[row + Math.floor(x / finer)] += data[4 * (y * width * finer + x)];
    }
  }
  return Uint8ClampedArray.from(sums, (sum) => sum / finer ** 2);
}

function centreOfMass(pixels) {
  const [height, width] = about.input_shape;
  let [mass, y, x] = [1e-9, 1e-9 * height, 1e-9 * width];
  pixels.forEach((value, i) => {
    const ink = Math.abs(value - about.drawing.background);
    mass += ink;
    y += ink * (Math.floor(i / width) + 0.5);
    x += ink * ((i % width) + 0.5);
  });
  return [y / mass, x / mass];
}

function pointOf(event) {
  const place = parts.drawing.getBoundingClientRect();
  const [height, width] = about.input_shape;
  return [
    ((event.clientX - place.left) / place.width) * width,
    ((event.clientY - place.top) / place.height) * height,
  ];
}

function beginStroke(event) {
  if (event.button > 0 || !event.isPrimary) return;
  event.preventDefault();
  if (chosen) clear();
  parts.hint.textContent = "";
  parts.drawing.setPointerCapture(event.pointerId);
  strokes.push([pointOf(event)]);
  showStrokes();
  ask();
}

function goOn(event) {
  if (!parts.drawing.hasPointerCapture(event.pointerId) || !strokes.length) return;
  const events = event.getCoalescedEvents?.() ?? [];
  strokes.at(-1).push(...(events.length ? events : [event]).map(pointOf));
  showStrokes();
  ask();
}

function clear() {
  [strokes, chosen] = [[], null];
  tell("");
  markPicture(-1);
  parts.invert.setAttribute("aria-pressed", "false");
  parts.invert.disabled = true;
  if (about.drawing) {
    openBoard();
    showStrokes();
    parts.hint.textContent = "Draw here";
  } else {
    showPixels(parts.drawing, blank());
    parts.hint.textContent = "Open a picture, or drop one here";
  }
  ask();
}

// Gives the board as many pixels as lines need; a chosen picture has those of the model.
function openBoard() {
  const [height, width] = about.input_shape;
  const scale = Math.max(1, Math.round(560 / Math.max(height, width)));
  parts.drawing.classList.add("is-drawn");
  parts.drawing.width = width * scale;
  parts.drawing.height = height * scale;
  parts.drawing.setAttribute(
    "aria-label",
    "Drawing area. By keyboard, choose a test image or open a picture instead.",
  );
}

// ---- Pictures -----------------------------------------------------------------------------------

// Shows a picture of bytes on the board and computes it.
function take(pixels, name) {
  tell("");
  strokes = [];
  chosen = pixels;
  parts.hint.textContent = "";
  parts.invert.disabled = false;
  parts.invert.setAttribute("aria-pressed", "false");
  parts.drawing.classList.remove("is-drawn");
  showPixels(parts.drawing, pixels);
  parts.drawing.setAttribute("aria-label", name);
  ask();
}

function choosePicture(number) {
  take(testImage(number), nameOf(number));
  markPicture(number);
}

function nameOf(number) {
  const label = about.pictures.labels?.[number];
  const names = label?.map((x) => about.labels[x]).join(" and ");
  return `Test image ${number + 1}${names ? `: ${names}` : ""}`;
}

function markPicture(number) {
  [...parts.gallery.children].forEach((x, i) =>
    x.setAttribute("aria-pressed", String(i === number)),
  );
}

function invert() {
  take(
    chosen.map((x) => 255 - x),
    "The inverted picture",
  );
  parts.invert.setAttribute("aria-pressed", "true");
}

// Reads a picture file as prediction in Python does: channels first, then the size of the model.
async function openFile(file) {
  if (!file) return;
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
  } catch {
    tell(`${file.name} is not a picture that this browser can read.`);
    return;
  }
  if (bitmap.width * bitmap.height > MOST_PIXELS) {
    tell(`${file.name} has too many pixels, ${bitmap.width} × ${bitmap.height}.`);
    return;
  }
  markPicture(-1);
  take(pixelsOf(bitmap), file.name);
}

export function pixelsOf(bitmap) {
  const { width, height } = bitmap;
  const context = paper(width, height);
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, width, height);
  const channels = about.input_shape[2];
  const pixels = new Uint8ClampedArray(width * height * channels);
  for (let i = 0; i < width * height; i++) {
    const [red, green, blue] = data.subarray(4 * i, 4 * i + 3);
    if (channels === 1) pixels[i] = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16;
    else pixels.set([red, green, blue], 3 * i);
  }
  return fitted({ pixels, width, height, channels });
}

// Fits a picture into the size of the model: stretched, its middle alone, or with black bars.
function fitted(picture) {
  const [height, width] = about.input_shape;
  const box = [0, 0, picture.width, picture.height];
  if (about.fit === "crop") {
    const w = Math.min(picture.width, Math.floor((picture.height * width) / height));
    const h = Math.min(picture.height, Math.floor((picture.width * height) / width));
    const [left, top] = [Math.floor((picture.width - w) / 2), Math.floor((picture.height - h) / 2)];
    return resized(picture, [left, top, left + w, top + h], width, height);
  }
  if (about.fit !== "pad") return resized(picture, box, width, height);
  let [w, h] = [width, height];
  if (picture.width * height > width * picture.height)
    h = Math.round((picture.height / picture.width) * width);
  else w = Math.round((picture.width / picture.height) * height);
  const inner = resized(picture, box, w, h);
  const pixels = new Uint8ClampedArray(width * height * picture.channels);
  const [left, top] = [Math.round((width - w) / 2), Math.round((height - h) / 2)];
  for (let y = 0; y < h; y++) {
    const row = inner.subarray(y * w * picture.channels, (y + 1) * w * picture.channels);
    pixels.set(row, ((y + top) * width + left) * picture.channels);
  }
  return pixels;
}

// Returns the pixels of a box in another size, bilinear with antialiasing: rows first, as Pillow.
function resized(
  { pixels, width, height, channels },
  [left, top, right, bottom],
  newWidth,
  newHeight,
) {
  const across = weights(width, left, right, newWidth);
  const down = weights(height, top, bottom, newHeight);
  const rows = new Uint8ClampedArray(height * newWidth * channels);
  for (let y = 0; y < height; y++) {
    blend(
      pixels,
      rows,
      across,
      channels,
      y * width * channels,
      channels,
      y * newWidth * channels,
      channels,
    );
  }
  const result = new Uint8ClampedArray(newHeight * newWidth * channels);
  const stride = newWidth * channels;
  for (let x = 0; x < newWidth; x++) {
    blend(rows, result, down, channels, x * channels, stride, x * channels, stride);
  }
  return result;
}

// Returns, for each new pixel along an axis, the first old pixel and the weights from there on.
function weights(size, start, end, count) {
  const scale = (end - start) / count;
  const support = Math.max(scale, 1);
  return Array.from({ length: count }, (_, i) => {
    const middle = start + (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(middle - support + 0.5));
    const last = Math.min(size, Math.trunc(middle + support + 0.5));
    const shares = Array.from({ length: last - first }, (_, k) =>
      Math.max(0, 1 - Math.abs((k + first - middle + 0.5) / support)),
    );
    const sum = shares.reduce((a, b) => a + b, 0);
    return [first, shares.map((x) => x / sum)];
  });
}

function blend(source, target, shares, channels, from, step, to, targetStep) {
  shares.forEach(([first, values], i) => {
    for (let c = 0; c < channels; c++) {
      let sum = 0.5; // Halves are rounded up.
      values.forEach((value, k) => (sum += value * source[from + (first + k) * step + c]));
      target[to + i * targetStep + c] = Math.floor(sum);
    }
  });
}

// ---- The elements of the page -------------------------------------------------------------------

function element(tag, properties = {}) {
  return Object.assign(document.createElement(tag), properties);
}

function tell(text) {
  parts.message.textContent = text;
}

function fact(name, value) {
  return [element("dt", { textContent: name }), element("dd", { textContent: value })];
}

function setUp() {
  parts.facts.append(...about.facts.flatMap(([name, value]) => fact(name, value)));
  setUpBars();
  setUpGallery();
  setUpCapsules();
  setUpInput();
}

function setUpBars() {
  const count = about.labels.length <= FEW_CLASSES ? about.labels.length : SHOWN_CLASSES;
  const isNamed = about.labels.some((name) => name.length > 2);
  for (const part of [parts.bars, parts.result]) part.classList.toggle("is-named", isNamed);
  parts.bars.setAttribute(
    "aria-label",
    about.pose_dim ? "Lengths of the classes" : "Values of the classes",
  );
  for (let i = 0; i < count; i++) {
    const bar = element("li");
    const track = element("span", { className: "track", ariaHidden: "true" });
    track.style.display = "block";
    track.append(element("span", { className: "fill" }));
    track.firstChild.style.display = "block";
    bar.append(
      element("span", { className: "name" }),
      track,
      element("span", { className: "value" }),
    );
    parts.bars.append(bar);
  }
}

function setUpGallery() {
  parts["gallery-box"].hidden = !about.pictures.shown;
  parts.gallery.classList.toggle("is-coloured", about.input_shape[2] > 1);
  for (let i = 0; i < (about.pictures.shown ? about.pictures.count : 0); i++) {
    const button = element("button", { type: "button", title: nameOf(i) });
    button.setAttribute("aria-label", nameOf(i));
    button.setAttribute("aria-pressed", "false");
    button.append(element("canvas"));
    showPixels(button.firstChild, testImage(i));
    button.addEventListener("click", () => choosePicture(i));
    parts.gallery.append(button);
  }
}

function setUpCapsules() {
  parts["capsule-box"].hidden = parts["together-figure"].hidden = !decoder;
  parts["no-decoder"].hidden = Boolean(decoder);
  if (!about.pose_dim) {
    parts.title.textContent = "See what a network finds";
    parts.intro.textContent = "This network, which has no capsules, gives a value for each class.";
    parts["rebuilt-title"].textContent = "What the network sees";
    return;
  }
  if (!decoder) {
    parts["no-decoder"].textContent =
      "This network was trained without a decoder, so nothing can be rebuilt from its capsules.";
    return;
  }
  for (let i = 0; i < about.pose_dim; i++) {
    const label = element("label");
    const slider = element("input", { type: "range" });
    slider.setAttribute("aria-label", `Component ${i + 1}`);
    slider.addEventListener("input", () => follow(i, slider));
    label.append(element("span", { textContent: i + 1 }), slider);
    parts.sliders.append(label);
  }
  parts.capsule.addEventListener("change", select);
  parts.reset.addEventListener("click", showCapsule);
}

function setUpInput() {
  const canvas = parts.drawing;
  parts.clear.addEventListener("click", clear);
  parts.choose.addEventListener("click", () => parts.file.click());
  parts.invert.addEventListener("click", invert);
  parts.file.addEventListener("change", () => {
    openFile(parts.file.files[0]);
    parts.file.value = ""; // The same file can be opened once more.
  });
  if (about.drawing) {
    canvas.classList.add("is-open");
    canvas.addEventListener("pointerdown", beginStroke);
    canvas.addEventListener("pointermove", goOn);
  }
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("is-dragged");
  });
  for (const name of ["dragleave", "drop", "dragend"]) {
    document.addEventListener(name, () => document.body.classList.remove("is-dragged"));
  }
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    const [file] = event.dataTransfer.files;
    if (file) openFile(file);
    else tell("What was dropped is not a file. Drop a picture.");
  });
}
