/** What is smaller than this takes no room: it always passes, bytes. */
export const smallBytes = 16_384;

/**
 * Memory for large requests: so many bytes of them are handled at once. Each takes several times its size while it is,
 * and nothing else bounds how many come together.
 */
export class Room {
  readonly #most: number;
  readonly #heldMs: number;
  readonly #waiting: { readonly bytes: number; readonly enter: () => void }[] = [];
  #used = 0;

  /**
   * @param most bytes
   * @param heldMs a place is given back after so long in any case: streams have small answers to large requests
   */
  constructor(most = 33_554_432, heldMs = 10_000) {
    this.#most = most;
    this.#heldMs = heldMs;
  }

  /** Waits for room, in turn; gives what is to be called when it is not needed any more. */
  async enter(bytes: number): Promise<() => void> {
    if (bytes <= smallBytes) return () => undefined;
    if (!this.#fits(bytes) || this.#waiting.length > 0) {
      await new Promise<void>((resolve) => this.#waiting.push({ bytes, enter: resolve }));
    } else this.#used += bytes;
    return this.#leave(bytes);
  }

  /** The same without waiting; false: there is no room, and nothing was taken. It is given back by time alone. */
  tryEnter(bytes: number): boolean {
    if (bytes <= smallBytes) return true;
    if (!this.#fits(bytes)) return false;
    this.#used += bytes;
    this.#leave(bytes);
    return true;
  }

  /** One that is larger than all the room has it to itself. */
  #fits(bytes: number): boolean {
    return this.#used === 0 || this.#used + bytes <= this.#most;
  }

  #leave(bytes: number): () => void {
    let held = true;
    const leave = () => {
      if (!held) return;
      held = false;
      clearTimeout(timer);
      this.#used -= bytes;
      for (let next = this.#waiting[0]; next && this.#fits(next.bytes); next = this.#waiting[0]) {
        this.#waiting.shift();
        this.#used += next.bytes;
        next.enter();
      }
    };
    const timer = setTimeout(leave, this.#heldMs).unref();
    return leave;
  }
}
