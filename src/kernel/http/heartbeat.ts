import type { WebSocket } from 'ws';

/**
 * Asks every socket once a period whether it is there, and ends those that have not answered by the next time. One timer
 * for all: each second the sockets of one slot are asked, those that came in that second of the period.
 */
export class Heartbeat {
  readonly #slots: readonly Set<WebSocket>[];
  readonly #silent = new WeakSet<WebSocket>();
  readonly #timer: NodeJS.Timeout;
  #now = 0;
  readonly #onPong: (this: WebSocket) => void;

  /** @param periodS seconds @param secondMs how long a second is, for tests */
  constructor(periodS: number, secondMs = 1000) {
    this.#slots = Array.from({ length: periodS }, () => new Set());
    const silent = this.#silent;
    this.#onPong = function pong() {
      silent.delete(this);
    };
    this.#timer = setInterval(() => this.#beat(), secondMs);
    this.#timer.unref();
  }

  /** Asks this socket too. */
  add(socket: WebSocket): void {
    this.#slots[this.#now]?.add(socket);
    socket.on('pong', this.#onPong);
  }

  /** When it has closed. */
  delete(socket: WebSocket): void {
    for (const slot of this.#slots) if (slot.delete(socket)) return;
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  #beat(): void {
    this.#now = (this.#now + 1) % this.#slots.length;
    for (const socket of this.#slots[this.#now] as Set<WebSocket>) {
      if (socket.readyState !== socket.OPEN) continue;
      if (this.#silent.has(socket)) socket.terminate();
      else {
        this.#silent.add(socket);
        socket.ping();
      }
    }
  }
}
