// Live documents of a Steadfast gateway. The types are in ../steadfast.d.ts.

export { connect } from "./client.js";
export { SteadfastError } from "./errors.js";
export { indexedDbStore } from "./indexed-db.js";
