// Elements of the page. Text is set as text only, never as markup.

/** Returns the element with an id. */
export function by(id) {
  return document.getElementById(id);
}

/** Returns a new element with attributes, and with children or a text. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** Writes a text, if it is another one: an equal text would only be laid out again. */
export function write(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

/** Writes a line about the state of a part of the page. */
export function say(id, text, kind = "") {
  write(by(id), text);
  // The line has a fixed height, and the whole text may be longer.
  by(id).title = text;
  by(id).dataset.kind = kind;
}

/** Keeps a list of names and figures. The elements are made once, so that nothing moves. */
export function counts(id, names) {
  const cells = new Map();
  for (const name of names) {
    const cell = element("dd", {}, "0");
    cell.dataset.name = name;
    by(id).append(element("div", {}, element("dt", {}, name), cell));
    cells.set(name, cell);
  }
  return (name, text, kind = "") => {
    write(cells.get(name), text);
    cells.get(name).dataset.kind = kind;
  };
}

/** Runs a function once before the next frame, however often it is asked for. */
export function eachFrame(draw) {
  let wanted = false;
  return () => {
    if (wanted) return;
    wanted = true;
    // A page in the background has no frames, and still wants its list to be true.
    const later = document.hidden ? (run) => setTimeout(run, 250) : requestAnimationFrame;
    later(() => {
      wanted = false;
      draw();
    });
  };
}

/** Writes the rows of a table with a heading; texts only. */
export function table(id, headings, rows, empty) {
  const target = by(id);
  if (!target.tHead) {
    // The last column has what is longest. Widths do not depend on the rows, so that columns stay.
    const cells = headings.map((text) => element("th", { scope: "col" }, text));
    cells.at(-1).className = "wide";
    target.append(element("thead", {}, element("tr", {}, ...cells)), element("tbody"));
  }
  const lines = rows.length > 0 ? rows : [[empty]];
  const made = lines.map((cells) => {
    const row = cells.map((text) => element("td", { title: text }, text));
    if (rows.length === 0) row[0].colSpan = headings.length;
    return element("tr", {}, ...row);
  });
  target.tBodies[0].replaceChildren(...made);
}
