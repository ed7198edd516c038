// Runs in a page of ours beside frames that hold the pages to measure; see test_browser.py.
const SCROLLS = ".scroll, pre, .drawn, [popover], textarea, select";

function rgb(text) {
  const found = (text.match(/[\d.]+/g) || []).map(Number);
  return { c: found.slice(0, 3), a: found.length > 3 ? found[3] : 1 };
}

function luminance(c) {
  const [r, g, b] = c.map(v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

function behind(element, view) {
  for (let e = element; e; e = e.parentElement) {
    const { c, a } = rgb(view.getComputedStyle(e).backgroundColor);
    if (a === 1) return c;
  }
  return [255, 255, 255];
}

function named(element) {
  const by = element.getAttribute("aria-labelledby");
  const label = element.getAttribute("aria-label") || (by && element.ownerDocument.getElementById(by)?.textContent);
  return (label || element.textContent || element.closest("label")?.textContent || "").trim();
}

function shown(element, view) {
  return element.checkVisibility({ checkOpacity: true, checkVisibilityCSS: true })
    && !element.closest(".skip") && view.getComputedStyle(element).display !== "none";
}

function inside(rect, box, slack) {
  return rect.left >= box.left - slack && rect.right <= box.right + slack
    && rect.top >= box.top - slack && rect.bottom <= box.bottom + slack;
}

// Words of a text that stand on more than one line, cut at a hyphen or anywhere else.
function broken(node) {
  const range = node.ownerDocument.createRange(), found = [];
  for (const { 0: word, index } of node.data.matchAll(/\S+/g)) {
    range.setStart(node, index);
    range.setEnd(node, index + word.length);
    if (new Set([...range.getClientRects()].filter(r => r.width > 0).map(r => Math.round(r.top))).size > 1) found.push(word);
  }
  return found;
}

function meet(a, b) {
  const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
  const up = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
  return across > 1 && up > 0.3 * Math.min(a.height, b.height);
}

// Labels of a drawing that lie on one another.
function overlaps(svg) {
  const texts = [...svg.querySelectorAll("text")].filter(t => t.textContent.trim()).map(t => [t, t.getBoundingClientRect()]);
  return texts.flatMap(([one, a], i) => texts.slice(i + 1).filter(([, b]) => meet(a, b)).map(([other]) => `${told(one)} on ${told(other)}`));
}

function told(element) {
  const text = (element.textContent || "").trim().replace(/\s+/g, " ").slice(0, 40);
  return `<${element.tagName.toLowerCase()} ${element.className?.baseVal ?? element.className}> ${text}`;
}

function measure(frame) {
  const doc = frame.contentDocument, view = frame.contentWindow, width = doc.documentElement.clientWidth;
  const wrong = [];
  for (const fold of doc.querySelectorAll("details")) fold.open = true;
  if (doc.documentElement.scrollWidth > width) wrong.push(`the page is ${doc.documentElement.scrollWidth} wide`);
  for (const e of doc.body.querySelectorAll("*")) {
    if (!shown(e, view) || e.closest("defs, script, style, title")) continue;
    const rect = e.getBoundingClientRect(), style = view.getComputedStyle(e);
    const outer = e.parentElement.closest(SCROLLS);
    if (!outer && !e.closest("svg") && (rect.right > width + 1 || rect.left < -1)) wrong.push(`wider than the page: ${told(e)}`);
    if (style.overflowX !== "visible" && !e.matches(SCROLLS) && !e.closest("svg") && e.scrollWidth > e.clientWidth + 1)
      wrong.push(`cut: ${told(e)}`);
    const svg = e.closest("svg");
    if (svg && e.tagName === "text" && !inside(rect, svg.getBoundingClientRect(), 2)) wrong.push(`outside of its figure: ${told(e)}`);
    const text = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (text && rect.width > 0 && !e.closest(".bar i")) {
      const ink = rgb(svg ? style.fill : style.color), paper = behind(svg ? svg.parentElement : e, view);
      const [low, high] = [luminance(ink.c), luminance(paper)].sort((a, b) => a - b);
      const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.6 && +style.fontWeight >= 700);
      const contrast = (high + 0.05) / (low + 0.05);
      if (ink.a === 1 && contrast < (large ? 3 : 4.5)) wrong.push(`contrast ${contrast.toFixed(2)}: ${told(e)}`);
    }
    if (e.closest("thead th")) for (const node of e.childNodes) if (node.nodeType === 3)
      for (const word of broken(node)) wrong.push(`a head is broken within ${word}: ${told(e.closest("th"))}`);
    if (e.tagName === "svg") for (const pair of overlaps(e)) wrong.push(`labels overlap: ${pair}`);
    if (e.matches("a[href], button, select, [role=img], [role=region], [role=dialog]") && !named(e)) wrong.push(`has no name: ${told(e)}`);
    if (e.matches("table") && !e.caption?.textContent.trim()) wrong.push(`has no caption: ${told(e)}`);
  }
  let scrolled = 0;
  for (const box of doc.querySelectorAll(".scroll, .drawn")) {
    if (!shown(box, view) || box.scrollWidth <= box.clientWidth + 1) continue;
    const hint = box.nextElementSibling;
    if (!hint?.matches(".hint") || !shown(hint, view)) wrong.push(`scrolls without a hint: ${box.getAttribute("aria-label")}`);
    scrolled += 1;
    if (box.matches(".drawn")) continue;
    box.scrollLeft = 10000;
    const lead = box.querySelector("tbody .lead") || box.querySelector(".lead");
    const off = lead.getBoundingClientRect().left - box.getBoundingClientRect().left;
    if (Math.abs(off) > 2) wrong.push(`its first column leaves by ${off}: ${box.getAttribute("aria-label")}`);
    if (lead.getBoundingClientRect().width > 0.6 * box.clientWidth) wrong.push(`its first column hides the rest: ${box.getAttribute("aria-label")}`);
    box.scrollLeft = 0;
  }
  const dark = luminance(behind(doc.body, view)) < 0.2;
  return { width, dark, scrolled, wrong, elements: doc.body.querySelectorAll("*").length };
}

async function axe(frame) {
  if (!window.AXE) return null;
  const script = frame.contentDocument.createElement("script");
  script.textContent = window.AXE;
  frame.contentDocument.head.append(script);
  const result = await frame.contentWindow.axe.run();
  return result.violations.map(v => `${v.id}: ${v.nodes.length}, ${v.nodes[0].html.slice(0, 120)}`);
}

addEventListener("load", async () => {
  const all = {};
  for (const [name, text] of Object.entries(window.PAGES)) {
    for (const width of window.WIDTHS) {
      const frame = document.createElement("iframe");
      frame.style.cssText = `width: ${width}px; height: 900px; border: 0`;
      const ready = new Promise(done => frame.addEventListener("load", done));
      frame.srcdoc = text;
      document.body.append(frame);
      await ready;
      await new Promise(done => setTimeout(done, 100));
      all[`${name} ${width}`] = { ...measure(frame), axe: width === window.WIDTHS[0] ? await axe(frame) : null };
      frame.remove();
    }
  }
  document.body.replaceChildren(Object.assign(document.createElement("pre"), { id: "told", textContent: JSON.stringify(all) }));
});
