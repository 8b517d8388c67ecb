/** Connections that stay open, by client: WebSockets and event streams count together. */
export class Connections {
  readonly #open = new Map<string, number>();
  readonly #most: number;

  constructor(most: number) {
    this.#most = most;
  }

  /** A place, to be given back once by calling what is returned; null when the client has as many as it may. */
  take(client: string): (() => void) | null {
    const open = this.#open.get(client) ?? 0;
    if (open >= this.#most) return null;
    this.#open.set(client, open + 1);
    let held = true;
    return () => {
      if (!held) return;
      held = false;
      const left = (this.#open.get(client) ?? 1) - 1;
      if (left > 0) this.#open.set(client, left);
      else this.#open.delete(client);
    };
  }
}
