import type { PositionStore } from "./steadfast.js";

/** Creates a store in the memory of this process. */
export function memoryStore(): PositionStore;

/** Creates a store in a JSON file, which is replaced at each write. Two processes must not share it. */
export function fileStore(path: string): PositionStore;
