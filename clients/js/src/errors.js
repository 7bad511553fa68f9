/** An error of the client, with a code to match on and a text for people. */
export class SteadfastError extends Error {
  name = "SteadfastError";

  constructor(code, message, more) {
    super(message);
    this.code = code;
    Object.assign(this, more);
  }
}

export const invalid = (message) => new SteadfastError("invalid", message);
