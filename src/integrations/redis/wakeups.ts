import { randomUUID } from 'node:crypto';
import { Redis } from 'ioredis';
import type { Logger } from '#kernel/log.ts';
import { Coalescer, packKeys, unpackKeys, type WakeUps, type WakeUpSource } from '#kernel/live/wakeups.ts';

const channel = 'switchyard';

/** Wake-ups over Redis publish/subscribe, for many processes on one database. The data stays in the log. */
export class RedisWakeUps implements WakeUps {
  readonly #publisher: Redis;
  readonly #subscriber: Redis;
  readonly #log: Logger;
  readonly #coalescer: Coalescer;
  readonly #id = randomUUID();
  #onKey: (key: string, source: WakeUpSource) => void = () => undefined;
  #closed = false;

  constructor(options: { url: string; log: Logger }) {
    this.#log = options.log;
    const retryStrategy = (tries: number) => Math.min(tries * 100, 3000);
    // Without a queue a command fails at once while Redis is away: readers poll meanwhile.
    this.#publisher = new Redis(options.url, {
      lazyConnect: true,
      enableOfflineQueue: false,
      maxRetriesPerRequest: 1,
      // A server that hangs must not hold back the wake-ups that come after.
      commandTimeout: 3000,
      retryStrategy,
    });
    this.#subscriber = new Redis(options.url, {
      lazyConnect: true,
      autoResubscribe: true,
      maxRetriesPerRequest: null,
      retryStrategy,
    });
    for (const client of [this.#publisher, this.#subscriber]) {
      client.on('error', (error) => this.#log.warn({ err: error }, 'Redis connection'));
    }
    this.#coalescer = new Coalescer((keys) => this.#send(keys));
  }

  publish(key: string): void {
    this.#onKey(key, 'local');
    if (!this.#closed) this.#coalescer.add(key);
  }

  /** @throws when Redis cannot be reached at start */
  async start(onKey: (key: string, source: WakeUpSource) => void, onReset: () => void): Promise<void> {
    this.#onKey = onKey;
    this.#subscriber.on('message', (_channel, message) => {
      for (const key of unpackKeys(this.#id, message)) this.#onKey(key, 'redis');
    });
    try {
      await Promise.all([this.#publisher.connect(), this.#subscriber.connect()]);
      await this.#subscriber.subscribe(channel);
    } catch (error) {
      await this.close();
      throw error;
    }
    this.#subscriber.on('ready', onReset);
    onReset();
  }

  async close(): Promise<void> {
    await this.#coalescer.flush();
    this.#closed = true;
    this.#publisher.disconnect();
    this.#subscriber.disconnect();
  }

  async #send(keys: string[]): Promise<void> {
    try {
      await this.#publisher.publish(channel, packKeys(this.#id, keys));
    } catch (error) {
      this.#log.warn({ err: error }, 'wake-up not sent; readers find the change by polling');
    }
  }
}
