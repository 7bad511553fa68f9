// The model gateway on a real port: WebSocket by the package `ws`, and the requests over HTTP.

import { once } from "node:events";
import { createServer } from "node:http";
import { WebSocketServer } from "ws";
import { SUBPROTOCOL } from "../src/protocol.js";
import { ModelGateway } from "./model.js";

export class Server {
  model = new ModelGateway();
  /** Requests over HTTP, oldest first. */
  requests = [];
  /** Idempotency keys with the response to each. */
  published = new Map();
  /** Called before each request over HTTP: returns true if it has responded. */
  intercept = () => false;
  port = 0;

  async start() {
    this.http = createServer((request, response) => this.#onRequest(request, response));
    const sockets = new WebSocketServer({ server: this.http, path: "/realtime/ws", handleProtocols: () => SUBPROTOCOL });
    sockets.on("connection", (socket) => this.#onSocket(socket));
    this.sockets = sockets.clients;
    this.http.listen(this.port, "127.0.0.1");
    await once(this.http, "listening");
    // A restart keeps the port.
    this.port = this.http.address().port;
    this.pump = setInterval(() => this.model.pump(), 2);
    return this;
  }

  get url() {
    return `http://127.0.0.1:${this.port}`;
  }

  /** Drops every connection without a word. */
  cut() {
    for (const socket of this.sockets) socket.terminate();
  }

  async stop() {
    clearInterval(this.pump);
    this.cut();
    this.http.closeAllConnections();
    this.http.close();
    await once(this.http, "close");
    this.model.connections.clear();
  }

  #onSocket(socket) {
    const { start, onText, onGone } = this.model.connect({
      send: (text) => socket.send(text),
      close: (code, reason) => (code === 1006 ? socket.terminate() : socket.close(code, reason)),
    });
    socket.on("message", (data) => onText(String(data)));
    socket.on("close", onGone);
    start();
  }

  async #onRequest(request, response) {
    const body = (await request.toArray()).join("");
    const { method, url, headers } = request;
    this.requests.push({ method, url, headers, body });
    if (this.intercept(request, response)) return;
    const json = (status, value, more) => response.writeHead(status, { "content-type": "application/json", ...more }).end(JSON.stringify(value));
    const { tokens } = this.model;
    if (tokens && !tokens.includes(headers.authorization?.slice("Bearer ".length))) {
      return json(401, { error: { code: "unauthenticated", message: "the token is not valid" } });
    }
    const { searchParams } = new URL(url, this.url);
    if (method === "GET") {
      const documents = [...this.model.matching(searchParams.getAll("filter")).values()];
      return json(200, { documents }, { "steadfast-position": this.model.position(this.model.head) });
    }
    const key = headers["idempotency-key"];
    if (!this.published.has(key)) {
      const documents = [JSON.parse(body)].flat();
      for (const { id, ...data } of documents) this.model.publish(id, searchParams.get("op") === "delete" ? null : data);
      this.published.set(key, { published: documents.length, position: this.model.position(this.model.head) });
    }
    json(200, this.published.get(key));
  }
}
