import { WebSocket } from 'ws';
import { headersOf, type Auth } from './client.ts';
import { until } from './embedded.ts';

/** A client of graphql-transport-ws that keeps each message as it came, to compare bytes. */
export class RawSocket {
  readonly ws: WebSocket;
  /** Texts of the payloads of `next`, by operation. */
  readonly payloads = new Map<string, string[]>();
  readonly errors = new Map<string, string>();
  readonly completed = new Set<string>();
  closed: number | null = null;
  #ready = false;

  constructor(url: string, auth: Auth) {
    this.ws = new WebSocket(url.replace(/^http/, 'ws'), 'graphql-transport-ws');
    this.ws.on('open', () => this.#send({ type: 'connection_init', payload: headersOf(auth) }));
    this.ws.on('close', (code) => {
      this.closed = code;
    });
    this.ws.on('error', () => undefined); // `closed` tells
    this.ws.on('message', (message) => this.#hear((message as Buffer).toString()));
  }

  static async open(url: string, auth: Auth): Promise<RawSocket> {
    const socket = new RawSocket(url, auth);
    await until('the connection is acknowledged', async () => socket.#ready || socket.closed !== null);
    return socket;
  }

  subscribe(id: string, query: string, variables: object = {}): void {
    this.payloads.set(id, []);
    this.#send({ id, type: 'subscribe', payload: { query, variables } });
  }

  complete(id: string): void {
    this.#send({ id, type: 'complete' });
  }

  of(id: string): readonly string[] {
    return this.payloads.get(id) ?? [];
  }

  close(): void {
    this.ws.terminate();
  }

  #send(message: object): void {
    this.ws.send(JSON.stringify(message));
  }

  #hear(text: string): void {
    const next = /^\{"id":("(?:[^"\\]|\\.)*"),"type":"next","payload":(.*)\}$/s.exec(text);
    if (next) {
      this.payloads.get(JSON.parse(next[1] as string) as string)?.push(next[2] as string);
      return;
    }
    const message = JSON.parse(text) as { id: string; type: string; payload?: unknown };
    if (message.type === 'connection_ack') this.#ready = true;
    else if (message.type === 'error') this.errors.set(message.id, JSON.stringify(message.payload));
    else if (message.type === 'complete') this.completed.add(message.id);
  }
}
