import { keysShare } from '../rates/address.ts';

/** How many connections somebody has. */
interface Client {
  readonly name: string;
  open: number;
}

/** Connections that stay open, by client: WebSockets and event streams count together. */
export class Connections {
  readonly #open = new Map<string, Client>();
  readonly #most: number;

  constructor(most: number) {
    this.#most = most;
  }

  /**
   * A place, to be given back once by calling what is returned; null when the client has as many as it may, or the keys
   * that it is one of have.
   */
  take(client: string, keys: string | null = null): (() => void) | null {
    if (this.#count(client) >= this.#most) return null;
    if (keys !== null && this.#count(keys) >= keysShare * this.#most) return null;
    let own: Client | null = this.#enter(client);
    const shared = keys === null ? null : this.#enter(keys);
    return () => {
      if (!own) return;
      this.#leave(own);
      if (shared) this.#leave(shared);
      own = null;
    };
  }

  #count(name: string): number {
    return this.#open.get(name)?.open ?? 0;
  }

  #enter(name: string): Client {
    let client = this.#open.get(name);
    if (!client) this.#open.set(name, (client = { name, open: 0 }));
    client.open++;
    return client;
  }

  #leave(client: Client): void {
    if (--client.open === 0) this.#open.delete(client.name);
  }
}
