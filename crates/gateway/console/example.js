// Documents to begin with.

const COLOURS = ["amber", "cobalt", "crimson", "jade", "slate"];
const THINGS = ["bench", "kettle", "lamp", "rug", "stool"];

function one(of) {
  return of[Math.floor(Math.random() * of.length)];
}

/** Returns a document that no one has published yet. */
export function exampleDocument() {
  const id = `console-${crypto.getRandomValues(new Uint32Array(1))[0].toString(36)}`;
  const price = 5 + Math.floor(Math.random() * 295);
  return { id, name: `${one(COLOURS)} ${one(THINGS)}`, price, stock: Math.floor(Math.random() * 50), labels: ["new"] };
}

/** Returns the document that a text is, or throws an error that says what is wrong and where. */
export function parsedDocument(text) {
  const document = JSON.parse(text);
  if (document === null || typeof document !== "object" || Array.isArray(document)) {
    throw new Error('it must be one JSON object, like {"id": "a"}');
  }
  if (typeof document.id !== "string" || document.id === "") {
    throw new Error('"id" must be a text that is not empty');
  }
  return document;
}
