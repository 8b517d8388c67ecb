import type { IncomingMessage } from 'node:http';
import { smallBytes } from './room.ts';

/** This much of a body that is too long is read and thrown away, so that the client gets to read the answer. */
const drainBytes = 1_048_576;

/** Bodies that have arrived and wait, for their rest or for room, bytes. More of them are refused; small ones pass. */
export const held = { bytes: 0, most: 134_217_728 };

/** Why there is no body; `full`: too much waits. */
export type Unread = 'large' | 'slow' | 'gone' | 'full';

/** Reads a body, whatever its headers say of its size: all of it, or why there is none. */
export const readRaw = (req: IncomingMessage, maxBytes: number, timeoutMs: number): Promise<Buffer | Unread> =>
  new Promise((resolve) => read(req, maxBytes, timeoutMs, resolve));

/** The same, told as soon as it is there. `done` is called once, in no particular asynchronous context. */
export function read(
  req: IncomingMessage,
  maxBytes: number,
  timeoutMs: number,
  done: (body: Buffer | Unread) => void,
): void {
  // Nearly always the first is all.
  let first: Buffer | null = null;
  let others: Buffer[] | null = null;
  let bytes = 0;
  let own = 0;
  const data = (chunk: Buffer): void => {
    bytes += chunk.length;
    if (bytes > smallBytes && held.bytes + chunk.length > held.most) return end('full');
    if (bytes <= maxBytes) {
      if (first === null) first = chunk;
      else (others ??= [first]).push(chunk);
      held.bytes += chunk.length;
      own += chunk.length;
    } else if (bytes > maxBytes + drainBytes) end('large');
  };
  const whole = () => end(bytes > maxBytes ? 'large' : others ? Buffer.concat(others) : (first ?? Buffer.alloc(0)));
  const gone = () => end('gone');
  const slow = () => end('slow');
  let ended = false;
  const end = (result: Buffer | Unread): void => {
    // What was read in full is told of once more, when it closes.
    if (ended) return;
    ended = true;
    deadlines.delete(slow);
    held.bytes -= own;
    if (typeof result === 'string') req.off('data', data).off('end', whole).resume();
    done(result);
  };
  const deadlines = deadlinesOf(timeoutMs);
  if (Number(req.headers['content-length'] ?? 0) > maxBytes + drainBytes) return end('large');
  deadlines.add(slow);
  req.on('data', data).on('end', whole).on('close', gone);
  // It ends with `close`; without a listener it would end the process.
  req.on('error', ignored);
}

const ignored = (): void => undefined;

/** Calls that are due after the same time: one timer for all, since nearly none of them comes to it. */
class Deadlines {
  readonly #ms: number;
  /** When each is due, the next one first; in the time of `performance.now`. */
  readonly #due = new Map<() => void, number>();
  #timer: NodeJS.Timeout | null = null;

  constructor(ms: number) {
    this.#ms = ms;
  }

  add(call: () => void): void {
    this.#due.set(call, performance.now() + this.#ms);
    if (this.#timer === null) this.#wait(this.#ms);
  }

  delete(call: () => void): void {
    this.#due.delete(call);
  }

  #wait(ms: number): void {
    // Timers are due at a whole millisecond, which may be early.
    this.#timer = setTimeout(() => this.#look(), Math.ceil(ms) + 1).unref();
  }

  #look(): void {
    this.#timer = null;
    const now = performance.now();
    for (const [call, at] of this.#due) {
      if (at > now) {
        if (this.#timer === null) this.#wait(at - now);
        return;
      }
      this.#due.delete(call);
      call();
    }
  }
}

const allDeadlines = new Map<number, Deadlines>();

/** There are as many as there are settings. */
function deadlinesOf(ms: number): Deadlines {
  let found = allDeadlines.get(ms);
  if (!found) allDeadlines.set(ms, (found = new Deadlines(ms)));
  return found;
}
