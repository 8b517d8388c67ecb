import { WebSocket } from 'ws';

// A process with many subscribers, for tests of how many there can be. Told what to do by messages of its parent.

export interface Crowd {
  readonly url: string;
  readonly authorization: string;
  readonly query: string;
  readonly variables: Readonly<Record<string, unknown>>;
  readonly count: number;
}

export interface Seen {
  readonly open: number;
  /** How often the one that was asked the least was asked whether it is there. */
  readonly beats: number;
  /** Events that the one with the fewest was told, and the one with the most. */
  readonly least: number;
  readonly most: number;
  /** When the last event came, milliseconds since 1970. */
  readonly lastAt: number;
}

interface Message {
  readonly type: string;
  readonly payload?: { readonly data?: { readonly item: { readonly __typename: string } } };
}
interface One {
  beats: number;
  told: number;
}

const all = new Map<WebSocket, One>();
let lastAt = 0;

/** How many are on their way in at once; those who say nothing yet are bounded by network. */
const atOnce = 40;

function join({ url, authorization, query, variables }: Crowd): Promise<void> {
  return new Promise((resolve, reject) => {
    const ws = new WebSocket(url.replace(/^http/, 'ws'), 'graphql-transport-ws', { perMessageDeflate: false });
    const one: One = { beats: 0, told: 0 };
    const send = (message: object) => ws.send(JSON.stringify(message));
    ws.on('open', () => send({ type: 'connection_init', payload: { authorization } }));
    ws.on('ping', () => one.beats++);
    ws.on('error', reject);
    ws.on('close', (code) => {
      all.delete(ws);
      reject(new Error(`closed with ${code}`));
    });
    ws.on('message', (message: Buffer) => {
      const { type, payload } = JSON.parse(message.toString()) as Message;
      if (type === 'connection_ack') send({ id: '1', type: 'subscribe', payload: { query, variables } });
      else if (type !== 'next') reject(new Error(message.toString()));
      else {
        // The first one says where the stream begins.
        all.set(ws, one);
        resolve();
        if (payload?.data?.item.__typename !== 'Event') return;
        one.told++;
        lastAt = Date.now();
      }
    });
  });
}

async function open(crowd: Crowd): Promise<void> {
  for (let left = crowd.count; left > 0; left -= atOnce)
    await Promise.all(Array.from({ length: Math.min(left, atOnce) }, () => join(crowd)));
}

function seen(): Seen {
  let [beats, least, most] = [Infinity, Infinity, 0];
  for (const one of all.values()) {
    beats = Math.min(beats, one.beats);
    least = Math.min(least, one.told);
    most = Math.max(most, one.told);
  }
  return { open: all.size, beats, least, most, lastAt };
}

process.on('message', (crowd: Crowd | 'seen') => {
  if (crowd === 'seen') process.send?.(seen());
  else
    open(crowd).then(
      () => process.send?.(seen()),
      (error: unknown) => process.send?.({ error: String(error) }),
    );
});
process.once('disconnect', () => process.exit());
