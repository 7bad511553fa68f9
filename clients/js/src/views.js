// What a consumer sees of the items of a subscription. `apply` is called when an item is taken.

/** Creates the view of changes: every item as it is. */
export const createChanges = () => ({ apply: (item) => item });

/** Creates the documents that match, by id: always the state at one position, never half of a snapshot. */
export function createSet() {
  /** The documents of the snapshot in progress. */
  let incoming;
  const view = {
    documents: new Map(),
    isWhole: false,

    apply(item) {
      const { type, id, op, position } = item;
      switch (type) {
        case "snapshotBegin":
          incoming = new Map();
          return;
        case "snapshotEnd":
          view.documents = incoming ?? view.documents;
          incoming = undefined;
          view.isWhole = true;
          return { type: "whole", position };
        case "document":
        case "change":
        case "left":
          break;
        default: return item;
      }
      const documents = incoming ?? view.documents;
      const known = documents.has(id);
      // Also a document that was not held: whether it left is not always known.
      const gone = type === "left" || op === "delete";
      gone ? documents.delete(id) : documents.set(id, documentOf(item));
      if (incoming || (gone && !known)) return;
      return { ...item, type: gone ? "left" : known ? "changed" : "entered" };
    },
  };
  return view;
}

/** Creates the first documents of an order. */
export function createList() {
  /** The documents of a new list, until it is whole. */
  let incoming;
  const view = {
    documents: [],
    isWhole: false,

    apply(item) {
      const { type, index } = item;
      const documents = incoming ?? view.documents;
      switch (type) {
        case "restart":
          incoming = [];
          return;
        case "whole":
          view.documents = documents;
          incoming = undefined;
          view.isWhole = true;
          break;
        case "entered":
        case "changed":
        case "moved":
        case "left": {
          const added = type === "left" ? [] : [documentOf(item)];
          if (type !== "entered") documents.splice(type === "moved" ? item.from : index, 1);
          documents.splice(index, 0, ...added);
          if (incoming) return;
        }
      }
      return item;
    },
  };
  return view;
}

const documentOf = ({ id, data }) => ({ ...data, id });
