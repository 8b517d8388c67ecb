import type { Duplex } from 'node:stream';
import type { WebSocket } from 'ws';
import type { Outlet } from '../live/audiences.ts';

/** What may lie unsent for a client before it is left to its own pace, bytes. */
const maxUnsent = 65_536;
/** Connections whose frames are written in one turn of the event loop. */
const perTurn = 512;
/** Frames up to this size are one piece of memory, larger ones share their payload; bytes. */
const copied = 4096;

let waiting: Wire[] = [];
let scheduled = false;

/** Writes what all connections were given since: once for each, however many frames there are. */
function flushAll(): void {
  const now = waiting.splice(0, perTurn);
  scheduled = waiting.length > 0;
  if (scheduled) setImmediate(flushAll);
  for (const wire of now) wire.flush();
}

/**
 * Frames of payloads that many connections share, on one of them. They go to the socket below `ws`, which writes its own
 * frames whole and at once, so the two do not mix; without compression, which frames would have to pass through.
 * @see https://www.rfc-editor.org/rfc/rfc6455#section-5.2
 */
export class Wire {
  readonly #ws: WebSocket;
  readonly #socket: Duplex;
  #frames: Buffer[] = [];
  #bytes = 0;
  #listed = false;

  constructor(ws: WebSocket, socket: Duplex) {
    this.#ws = ws;
    this.#socket = socket;
  }

  /** @param id of the operation, as the client named it */
  outlet(id: string): Outlet {
    return new OperationOutlet(this, Buffer.from(`{"id":${JSON.stringify(id)},"type":"next","payload":`));
  }

  get behind(): boolean {
    return this.#bytes + this.#socket.writableLength > maxUnsent;
  }

  drained(): Promise<void> {
    this.flush();
    const socket = this.#socket;
    if (!socket.writableNeedDrain || socket.destroyed) return Promise.resolve();
    return new Promise((resolve) => {
      const done = () => {
        socket.off('drain', done);
        socket.off('close', done);
        resolve();
      };
      socket.on('drain', done);
      socket.on('close', done);
    });
  }

  /** Sends one text message of two parts. */
  send(head: Buffer, tail: Buffer): void {
    const length = head.length + tail.length;
    const begin = length < 126 ? 2 : length < 65_536 ? 4 : 10;
    const whole = length <= copied;
    const frame = Buffer.allocUnsafe(begin + (whole ? length : head.length));
    frame[0] = 0x81; // the only frame of a text message
    if (begin === 2) frame[1] = length;
    else if (begin === 4) {
      frame[1] = 126;
      frame.writeUInt16BE(length, 2);
    } else {
      frame[1] = 127;
      frame.writeUIntBE(0, 2, 2);
      frame.writeUIntBE(length, 4, 6);
    }
    head.copy(frame, begin);
    this.#frames.push(frame);
    if (whole) tail.copy(frame, begin + head.length);
    else this.#frames.push(tail);
    this.#bytes += begin + length;
    if (this.#listed) return;
    this.#listed = true;
    waiting.push(this);
    if (scheduled) return;
    scheduled = true;
    process.nextTick(flushAll);
  }

  flush(): void {
    const frames = this.#frames;
    this.#listed = false;
    if (frames.length === 0) return;
    this.#frames = [];
    this.#bytes = 0;
    // After the frame that closes a connection none may come.
    if (this.#ws.readyState !== this.#ws.OPEN) return;
    if (frames.length === 1) {
      this.#socket.write(frames[0]);
      return;
    }
    this.#socket.cork();
    for (const frame of frames) this.#socket.write(frame);
    this.#socket.uncork();
  }
}

class OperationOutlet implements Outlet {
  readonly #wire: Wire;
  readonly #head: Buffer;

  constructor(wire: Wire, head: Buffer) {
    this.#wire = wire;
    this.#head = head;
  }
  get behind(): boolean {
    return this.#wire.behind;
  }
  drained(): Promise<void> {
    return this.#wire.drained();
  }
  send(payload: Buffer): void {
    this.#wire.send(this.#head, payload);
  }
}
