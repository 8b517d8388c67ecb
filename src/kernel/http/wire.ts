import type { Duplex } from 'node:stream';
import { GraphQLError } from 'graphql';
import type { WebSocket } from 'ws';
import { bytesOf, type Follower, type Outlet } from '../live/outlet.ts';

/** What may lie unsent for a client before it is left to its own pace, bytes. */
const maxUnsent = 65_536;
/** Connections whose frames are written in one turn of the event loop. */
const perTurn = 512;
let waiting: Wire[] = [];
let scheduled = false;

/** Writes what all connections were given since: once for each, however many frames there are. */
function flushAll(): void {
  const now = waiting.splice(0, perTurn);
  scheduled = waiting.length > 0;
  if (scheduled) setImmediate(flushAll);
  for (const wire of now) wire.flush();
}

const none: readonly OperationOutlet[] = [];

/**
 * Frames of payloads that many connections share, on one of them, and the operations that send them. They go to the socket below `ws`, which writes its own
 * frames whole and at once, so the two do not mix; without compression, which frames would have to pass through.
 *
 * Bytes are held as text of one byte a character: Node writes short ones from the stack, where a buffer for each frame
 * would be most of the garbage of a delivery.
 * @see https://www.rfc-editor.org/rfc/rfc6455#section-5.2
 */
export class Wire {
  readonly #ws: WebSocket;
  readonly #socket: Duplex;
  #unsent = '';
  #listed = false;
  /** Operations that are followed; as small as it can be, as most connections have one. */
  #followed: readonly OperationOutlet[] = none;

  constructor(ws: WebSocket, socket: Duplex) {
    this.#ws = ws;
    this.#socket = socket;
  }

  /** @param id of the operation, as the client named it */
  outlet(id: string): Outlet {
    return new OperationOutlet(this, headOf(id));
  }

  /** How many operations are followed: the protocol itself does not know of them any more. */
  get following(): number {
    return this.#followed.length;
  }

  follows(id: string): boolean {
    return this.#find(id) !== undefined;
  }

  /** The client wants no more of an operation. @returns false when it is none that is followed */
  stop(id: string): boolean {
    const outlet = this.#find(id);
    outlet?.stop();
    return outlet !== undefined;
  }

  /** The connection is gone. */
  stopAll(): void {
    for (const outlet of this.#followed) outlet.stop();
  }

  add(outlet: OperationOutlet): void {
    this.#followed = this.#followed.concat(outlet); // exactly as long as it must be, unlike what is spread
  }

  delete(outlet: OperationOutlet): void {
    this.#followed = this.#followed.length === 1 ? none : this.#followed.filter((one) => one !== outlet);
  }

  #find(id: string): OperationOutlet | undefined {
    if (this.#followed.length === 0) return undefined;
    const head = headOf(id);
    return this.#followed.find((one) => one.head === head);
  }

  get behind(): boolean {
    return this.#unsent.length + this.#socket.writableLength > maxUnsent;
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

  /** Sends one text message of two parts. @param tail bytes, see `bytesOf` */
  send(head: string, tail: string): void {
    this.#unsent += headerOf(head.length + tail.length) + head + tail;
    if (this.#listed) return;
    this.#listed = true;
    waiting.push(this);
    if (scheduled) return;
    scheduled = true;
    process.nextTick(flushAll);
  }

  flush(): void {
    const unsent = this.#unsent;
    this.#listed = false;
    if (unsent === '') return;
    this.#unsent = '';
    // After the frame that closes a connection none may come.
    if (this.#ws.readyState === this.#ws.OPEN) this.#socket.write(unsent, 'latin1');
  }
}

/** The header of an unmasked text message that is one frame. @param length bytes */
function headerOf(length: number): string {
  if (length === knownLength) return knownHeader;
  knownLength = length;
  const header = Buffer.alloc(length < 126 ? 2 : length < 65_536 ? 4 : 10);
  header[0] = 0x81;
  if (header.length === 2) header[1] = length;
  else if (header.length === 4) {
    header[1] = 126;
    header.writeUInt16BE(length, 2);
  } else {
    header[1] = 127;
    header.writeUIntBE(length, 4, 6);
  }
  knownHeader = header.toString('latin1');
  return knownHeader;
}
/** Those of one event are alike. */
let knownLength = -1;
let knownHeader = '';

const rest = ',"type":"next","payload":';
/** The beginning of each message of an operation. @returns bytes, see `bytesOf` */
const headOf = (id: string): string => bytesOf(`{"id":${JSON.stringify(id)}${rest}`);

class OperationOutlet implements Outlet {
  readonly head: string;
  readonly #wire: Wire;
  #follower: Follower | null = null;

  constructor(wire: Wire, head: string) {
    this.#wire = wire;
    this.head = head;
  }
  get behind(): boolean {
    return this.#wire.behind;
  }
  drained(): Promise<void> {
    return this.#wire.drained();
  }
  send(payload: string): void {
    this.#wire.send(this.head, payload);
  }
  follow(follower: Follower): void {
    this.#follower = follower;
    this.#wire.add(this);
  }
  stop(): void {
    this.#wire.delete(this);
    this.#follower?.stop();
  }
  /** Messages as the protocol's own are. @see https://github.com/enisdenjo/graphql-ws/blob/master/PROTOCOL.md */
  end(error: GraphQLError | null): void {
    this.#wire.delete(this);
    const told =
      error === null
        ? ',"type":"complete"}'
        : `,"type":"error","payload":${JSON.stringify([new GraphQLError(error.message, { extensions: error.extensions })])}}`;
    this.#wire.send(this.head.slice(0, -rest.length), bytesOf(told));
    // Whoever closes the connection because of it does so after this.
    this.#wire.flush();
  }
}
