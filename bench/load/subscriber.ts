import { randomBytes, randomUUID } from 'node:crypto';
import { connect, type Socket } from 'node:net';

// A process with many WebSocket clients that do as little as they can. It is told what to do by messages of its parent.

export interface Subscription {
  readonly query: string;
  readonly variables: { readonly id: string; readonly after?: string | undefined };
}

/** What one socket subscribes to. */
export interface Subscriber {
  readonly authorization: string | null;
  readonly subscriptions: readonly Subscription[];
}

export type Command =
  | { readonly do: 'open'; readonly url: string; readonly subscribers: readonly Subscriber[] }
  /** Forgets what was counted. */
  | { readonly do: 'reset' }
  | { readonly do: 'count' }
  | { readonly do: 'report' };

export interface Report {
  /** Messages that carried an event with a time of its making. */
  readonly timed: number;
  /** Messages of events at all. */
  readonly all: number;
  /** Sockets that are open. */
  readonly open: number;
  /** From the making of the event to its arrival, milliseconds. */
  readonly latencies: readonly number[];
  /** Of the monotonic clock, nanoseconds, as text: the first making and the last arrival. */
  readonly first: string;
  readonly last: string;
  /** A message of each of some subscriptions, by document and id. */
  readonly samples: readonly (readonly [subscription: string, message: string])[];
  readonly problems: readonly string[];
}

const stamp = Buffer.from('"ts":"');
const next = Buffer.from('"type":"next"');

const mostSamples = 500;
const nameOf = (one?: Subscription): string => `${one?.query} ${one?.variables.id}`;

let timed = 0;
let all = 0;
let latencies: number[] = [];
let first = 0n;
let last = 0n;
const samples = new Map<string, string>();
/** Name of a subscription by the operation's id, where a socket has several. */
const asked = new Map<string, string>();
const problems: string[] = [];
const open = new Set<Socket>();

/** A text frame as clients send it. @see https://www.rfc-editor.org/rfc/rfc6455#section-5.2 */
function masked(text: string, opcode = 1): Buffer {
  const payload = Buffer.from(text);
  const key = randomBytes(4);
  for (let i = 0; i < payload.length; i++) payload[i] = (payload[i] ?? 0) ^ (key[i & 3] ?? 0);
  const { length } = payload;
  const head = length < 126 ? [0x80 | opcode, 0x80 | length] : [0x80 | opcode, 0xfe, length >> 8, length & 255];
  return Buffer.concat([Buffer.from(head), key, payload]);
}

function note(payload: Buffer, now: bigint, asked: string): void {
  last = now;
  const at = payload.indexOf(stamp);
  all++;
  if (at < 0) return;
  const made = BigInt(payload.toString('latin1', at + 6, payload.indexOf(34, at + 6)));
  timed++;
  latencies.push(Number(now - made) / 1e6);
  if (first === 0n || made < first) first = made;
  if (samples.size < mostSamples && !samples.has(asked)) samples.set(asked, payload.toString());
}

function client(url: URL, { authorization, subscriptions }: Subscriber): Promise<void> {
  return new Promise((resolve, reject) => {
    const socket = connect(Number(url.port), url.hostname);
    let rest: Buffer = Buffer.alloc(0);
    let upgraded = false;
    const send = (message: object) => socket.write(masked(JSON.stringify(message)));
    socket.setNoDelay(true).on('error', reject);
    socket.on('close', () => {
      if (open.delete(socket)) problems.push('sockets were closed');
      else reject(new Error(`refused: ${rest.toString('latin1').slice(0, 200)}`));
    });
    socket.write(
      `GET /graphql HTTP/1.1\r\nHost: ${url.host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: ${randomBytes(16).toString('base64')}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: graphql-transport-ws\r\n\r\n`,
    );
    const own = nameOf(subscriptions[0]);
    const take = (payload: Buffer, now: bigint): void => {
      if (payload.subarray(0, 80).includes(next) || payload.includes(next)) {
        const id =
          subscriptions.length > 1 ? (/"id":"([^"]+)"/.exec(payload.toString('latin1', 0, 100))?.[1] ?? '') : '';
        return note(payload, now, asked.get(id) ?? own);
      }
      const { type } = JSON.parse(payload.toString()) as { type: string };
      if (type === 'ping') send({ type: 'pong' });
      else if (type === 'connection_ack') {
        for (const one of subscriptions) {
          const id = randomUUID();
          if (subscriptions.length > 1) asked.set(id, nameOf(one));
          send({ id, type: 'subscribe', payload: one });
        }
        open.add(socket);
        resolve();
      } else problems.push(payload.toString().slice(0, 300));
    };
    socket.on('data', (chunk: Buffer) => {
      const now = process.hrtime.bigint();
      rest = rest.length > 0 ? Buffer.concat([rest, chunk]) : chunk;
      if (!upgraded) {
        const end = rest.indexOf('\r\n\r\n');
        if (end < 0) return;
        if (!rest.toString('latin1', 0, 12).endsWith('101')) return reject(new Error(rest.toString('latin1', 0, 200)));
        upgraded = true;
        rest = rest.subarray(end + 4);
        send({ type: 'connection_init', payload: authorization === null ? {} : { authorization } });
      }
      while (rest.length >= 2) {
        const short = (rest[1] ?? 0) & 127;
        const head = short < 126 ? 2 : short === 126 ? 4 : 10;
        if (rest.length < head) return;
        const length = short < 126 ? short : short === 126 ? rest.readUInt16BE(2) : Number(rest.readBigUInt64BE(2));
        if (rest.length < head + length) return;
        const opcode = (rest[0] ?? 0) & 15;
        const payload = rest.subarray(head, head + length);
        rest = rest.subarray(head + length);
        if (opcode === 1) take(payload, now);
        else if (opcode === 9) socket.write(masked(payload.toString(), 10));
        else if (opcode === 8) problems.push(`closed: ${payload.toString('utf8', 2)}`);
      }
    });
  });
}

/** How many are on their way in at once. */
const atOnce = 50;

async function answer(command: Command): Promise<unknown> {
  switch (command.do) {
    case 'open': {
      const url = new URL(command.url);
      for (let from = 0; from < command.subscribers.length; from += atOnce) {
        await Promise.all(command.subscribers.slice(from, from + atOnce).map((one) => client(url, one)));
      }
      return open.size;
    }
    case 'reset':
      [timed, all, latencies, first, last] = [0, 0, [], 0n, 0n];
      return null;
    case 'count':
      return { timed, all, open: open.size };
    case 'report':
      return { timed, all, open: open.size, latencies, first: String(first), last: String(last), samples: [...samples], problems: [...new Set(problems)].slice(0, 5) } satisfies Report; // prettier-ignore
    default:
      return command satisfies never;
  }
}

process.on('message', (command: Command) => {
  answer(command).then(
    (value) => process.send?.({ value }),
    (error: unknown) => process.send?.({ error: String(error) }),
  );
});
process.once('disconnect', () => process.exit());
