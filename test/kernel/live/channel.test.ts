import { expect, onTestFinished, test } from 'vitest';
import { Channel, type Followed, type LogHead, type LogSource } from '../../../src/kernel/live/channel.ts';
import { until } from '../../support/embedded.ts';
import { upTo } from '../../support/live.ts';

interface Entry {
  readonly seq: bigint;
}

/** A log in memory that counts how it is read. */
class Log implements LogSource<Entry> {
  entries: Entry[] = [];
  epoch = 1;
  prunedSeq = 0n;
  gone = false;
  failing = 0;
  pages: { after: bigint; limit: number }[] = [];
  heads = 0;

  grow(count: number): void {
    const from = this.seq;
    for (let n = 1; n <= count; n++) this.entries.push({ seq: from + BigInt(n) });
  }
  get seq(): bigint {
    return this.entries.at(-1)?.seq ?? this.prunedSeq;
  }
  prune(upToSeq: bigint): void {
    this.prunedSeq = upToSeq;
    this.entries = this.entries.filter(({ seq }) => seq > upToSeq);
  }
  get now(): LogHead {
    return { seq: this.seq, prunedSeq: this.prunedSeq, epoch: this.epoch };
  }
  async head(): Promise<LogHead | null> {
    this.heads++;
    return this.gone ? null : this.now;
  }
  async page(after: bigint, limit: number) {
    this.pages.push({ after, limit });
    if (this.failing-- > 0) throw new Error('the database is away');
    const entries = this.entries.filter(({ seq }) => seq > after).slice(0, limit);
    return { epoch: entries.length > 0 ? this.epoch : null, entries };
  }
  async fresh(after: bigint) {
    const page = await this.page(after, 8);
    return { ...page, more: page.entries.length >= 8 };
  }
}

function open(log: Log, size = { ring: 16, page: 8 }) {
  const errors: unknown[] = [];
  const fresh: bigint[] = [];
  const channel = new Channel<Entry>(log, log.now, {
    size,
    onError: (error) => errors.push(error),
    onFresh: (entries) => fresh.push(...entries.map(({ seq }) => seq)),
  });
  return { channel, errors, fresh };
}

/** Reads in the background what a follower is given. */
function reader(channel: Channel<Entry>, after: bigint, options: { epoch?: number; idleMs?: number } = {}) {
  const stop = new AbortController();
  const got: Followed<Entry>[] = [];
  let pause: Promise<void> = Promise.resolve();
  const done = (async () => {
    for await (const found of channel.follow(after, options.epoch ?? 1, options.idleMs ?? 60_000, stop.signal)) {
      got.push(found);
      await pause;
    }
  })();
  onTestFinished(() => stop.abort());
  return {
    got,
    done,
    stop: () => stop.abort(),
    /** Stops reading until the result is called. */
    pause(): () => void {
      const { promise, resolve } = Promise.withResolvers<void>();
      pause = promise;
      return resolve;
    },
    get seqs(): number[] {
      return got.flatMap((found) => (found.kind === 'entries' ? found.entries.map(({ seq }) => Number(seq)) : []));
    },
    get gap() {
      return got.find((found) => found.kind === 'gap');
    },
  };
}

test('what is new is read once for all followers', async () => {
  const log = new Log();
  const { channel, fresh } = open(log);
  const readers = upTo(5).map(() => reader(channel, 0n));
  for (const size of [1, 3, 7]) {
    log.grow(size);
    channel.wake();
    await until('all have it', async () => readers.every(({ seqs }) => seqs.length === Number(log.seq)));
  }
  for (const { seqs } of readers) expect(seqs).toEqual(upTo(11));
  expect(log.pages).toHaveLength(3);
  expect(fresh.map(Number)).toEqual(upTo(11));
});

test('a follower behind the ring reads the table, and comes back to the ring', async () => {
  const log = new Log();
  log.grow(30);
  const { channel } = open(log);
  const late = reader(channel, 0n);
  await until('it has caught up', async () => late.seqs.length === 30);
  const read = log.pages.length;
  log.grow(5);
  channel.wake();
  await until('it has the new ones', async () => late.seqs.length === 35);
  expect(late.seqs).toEqual(upTo(35));
  expect(log.pages.length).toBe(read + 1); // the channel's own
});

test('a page from the table that is newer than what the channel has read is no reason for a gap', async () => {
  const log = new Log();
  log.grow(10);
  const { channel } = open(log);
  log.grow(10); // committed, and nobody has told the channel yet
  const follower = reader(channel, 0n);
  await until('it has what the channel knows', async () => follower.seqs.length >= 10);
  channel.wake();
  await until('all came', async () => follower.seqs.length === 20);
  expect(follower.seqs).toEqual(upTo(20));
  expect(follower.gap).toBeUndefined();
});

test('a slow follower neither delays others nor is given more than a page at once', async () => {
  const log = new Log();
  const { channel } = open(log);
  const slow = reader(channel, 0n);
  const fast = reader(channel, 0n);
  log.grow(1);
  channel.wake();
  await until('both read', async () => slow.seqs.length === 1 && fast.seqs.length === 1);
  const goOn = slow.pause();
  for (const target of upTo(20).map((n) => 1 + n * 8)) {
    log.grow(8);
    channel.wake();
    await until('the fast one has it', async () => fast.seqs.length === target);
  }
  // One batch may have been handed over before it paused.
  expect(slow.seqs.length).toBeLessThanOrEqual(9);
  goOn();
  await until('the slow one has it', async () => slow.seqs.length === 161);
  expect(slow.seqs).toEqual(upTo(161));
  const sizes = slow.got.map((found) => (found.kind === 'entries' ? found.entries.length : 0));
  expect(Math.max(...sizes)).toBeLessThanOrEqual(8);
});

test('wake-ups while a read is on its way cause one more read, not one each', async () => {
  const log = new Log();
  const { channel } = open(log);
  const follower = reader(channel, 0n);
  log.grow(2);
  for (let n = 0; n < 50; n++) channel.wake();
  await until('they came', async () => follower.seqs.length === 2);
  // A turn of the loop later there is no further one.
  await new Promise(setImmediate);
  expect(log.pages).toHaveLength(2);
});

test('a failed read is reported, and the next wake-up makes up for it', async () => {
  const log = new Log();
  const { channel, errors } = open(log);
  const follower = reader(channel, 0n);
  log.grow(3);
  log.failing = 1;
  channel.wake();
  await until('it failed', async () => errors.length === 1);
  expect(follower.seqs).toEqual([]);
  channel.observe(await log.head(), channel.last); // what the poll does
  await until('they came', async () => follower.seqs.length === 3);
});

test('a follower that fails to read the table is told', async () => {
  const log = new Log();
  log.grow(3);
  const { channel } = open(log);
  log.failing = 1;
  await expect(reader(channel, 0n).done).rejects.toThrow('the database is away');
});

test('a cursor newer than this process has read is followed, one ahead of the log gets a gap', async () => {
  const log = new Log();
  const { channel } = open(log);
  log.grow(20); // nobody told the channel
  const newer = reader(channel, 15n);
  await until('the rest came', async () => newer.seqs.length === 5);
  expect(newer.seqs).toEqual(upTo(5, 16));
  const ahead = reader(channel, 21n);
  await ahead.done;
  expect(ahead.got).toEqual([{ kind: 'gap', reason: 'AHEAD', head: { seq: 20n, prunedSeq: 0n, epoch: 1 } }]);
});

test('pruned history is a gap, also when the mark was set after the head was read', async () => {
  const log = new Log();
  log.grow(30);
  const { channel } = open(log);
  log.prune(10n);
  const old = reader(channel, 5n);
  await old.done;
  expect(old.got).toEqual([{ kind: 'gap', reason: 'PRUNED', head: { seq: 30n, prunedSeq: 10n, epoch: 1 } }]);
  const atTheEdge = reader(channel, 10n);
  await until('all that is left came', async () => atTheEdge.seqs.length === 20);
});

test('a channel that was left behind by retention tells a gap and goes on, without reading in circles', async () => {
  const log = new Log();
  const { channel } = open(log);
  const follower = reader(channel, 0n);
  log.grow(30);
  log.prune(20n);
  channel.wake();
  await follower.done;
  expect(follower.gap).toMatchObject({ reason: 'PRUNED' });
  const next = reader(channel, 20n);
  await until('the rest came', async () => next.seqs.length === 10);
  log.grow(2);
  channel.wake();
  await until('new ones come', async () => next.seqs.length === 12);
  expect(log.pages.length).toBeLessThan(10);
});

test('a hole is an error for its followers, never silence', async () => {
  const log = new Log();
  log.grow(3);
  const { channel } = open(log);
  log.entries.splice(1, 1);
  const follower = reader(channel, 1n);
  await expect(follower.done).rejects.toThrow('The log has a hole after 1');
});

test('rows that are gone without a mark are an error too', async () => {
  const log = new Log();
  log.grow(3);
  const { channel } = open(log);
  const head = log.now;
  log.entries = [];
  log.head = async () => head;
  await expect(reader(channel, 1n).done).rejects.toThrow('The log has a hole after 1');
});

test('another epoch ends every follower of the old one with a gap', async () => {
  const log = new Log();
  log.grow(5);
  const { channel } = open(log);
  const waiting = reader(channel, 5n);
  log.epoch = 2;
  channel.observe(await log.head(), channel.last);
  await waiting.done;
  expect(waiting.gap).toEqual({ kind: 'gap', reason: 'EPOCH_CHANGED', head: { seq: 5n, prunedSeq: 0n, epoch: 2 } });
  const resumed = reader(channel, 5n, { epoch: 2 });
  log.grow(1);
  channel.wake();
  await until('it goes on', async () => resumed.seqs.length === 1);
});

test('a page of another history does not pass for the next one of this, even if its numbers fit', async () => {
  const log = new Log();
  log.grow(5);
  const { channel } = open(log);
  const follower = reader(channel, 5n);
  // Restored to 3, and written to again before anybody looked at the head.
  log.entries = log.entries.slice(0, 3);
  log.epoch = 2;
  log.grow(5);
  channel.wake();
  await follower.done;
  expect(follower.seqs).toEqual([]);
  expect(follower.gap).toMatchObject({ reason: 'EPOCH_CHANGED' });
});

test('a log that lost its end puts its followers ahead', async () => {
  const log = new Log();
  log.grow(5);
  const { channel } = open(log);
  const follower = reader(channel, 5n);
  log.entries = log.entries.slice(0, 3);
  channel.observe(await log.head(), channel.last);
  await follower.done;
  expect(follower.gap).toMatchObject({ reason: 'AHEAD', head: { seq: 3n } });
});

test('a log that is gone is told, and one that is back is followed', async () => {
  const log = new Log();
  log.grow(2);
  const { channel } = open(log);
  const follower = reader(channel, 2n);
  log.gone = true;
  channel.observe(await log.head(), channel.last);
  await follower.done;
  expect(follower.gap).toEqual({ kind: 'gap', reason: 'GONE', head: null });
  log.gone = false;
  channel.observe(await log.head(), channel.last);
  const next = reader(channel, 0n);
  await until('it is read', async () => next.seqs.length === 2);
});

test('a quiet log says where the follower stands, and an abort ends the wait at once', async () => {
  const log = new Log();
  log.grow(2);
  const { channel } = open(log);
  const follower = reader(channel, 2n, { idleMs: 5 });
  await until('it is idle', async () => follower.got.length >= 2);
  expect(follower.got[0]).toEqual({ kind: 'idle', last: 2n });
  follower.stop();
  await follower.done;
});
