import { Redis } from 'ioredis';
import type { Logger } from '#kernel/log.ts';
import { Coalescer, type WakeUps } from '#kernel/live/wakeups.ts';

const channel = 'switchyard';

/** Wake-ups over Redis publish/subscribe, for many processes on one database. The data stays in the log. */
export class RedisWakeUps implements WakeUps {
  readonly #publisher: Redis;
  readonly #subscriber: Redis;
  readonly #log: Logger;
  readonly #coalescer: Coalescer;
  #onKey: (key: string) => void = () => undefined;
  #closed = false;

  constructor(options: { url: string; log: Logger }) {
    this.#log = options.log;
    const retryStrategy = (tries: number) => Math.min(tries * 100, 3000);
    // Without a queue a command fails at once while Redis is away: readers poll meanwhile.
    this.#publisher = new Redis(options.url, {
      lazyConnect: true,
      enableOfflineQueue: false,
      maxRetriesPerRequest: 1,
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
    this.#onKey(key);
    if (!this.#closed) this.#coalescer.add(key);
  }

  /** @throws when Redis cannot be reached at start */
  async start(onKey: (key: string) => void, onReset: () => void): Promise<void> {
    this.#onKey = onKey;
    this.#subscriber.on('message', (_channel, message) => {
      for (const key of message.split(',')) this.#onKey(key);
    });
    await Promise.all([this.#publisher.connect(), this.#subscriber.connect()]);
    await this.#subscriber.subscribe(channel);
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
      await this.#publisher.publish(channel, keys.join(','));
    } catch (error) {
      this.#log.warn({ err: error }, 'wake-up not sent; readers find the change by polling');
    }
  }
}
