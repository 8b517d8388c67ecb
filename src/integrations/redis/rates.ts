import { Redis } from 'ioredis';
import { RateLimiterRedis } from 'rate-limiter-flexible';
import type { Logger } from '#kernel/log.ts';
import { counterOf, type Counter } from '#kernel/rates/counters.ts';

/**
 * Counts in Redis, for all processes together. Fails at once while Redis is away, so that the caller counts elsewhere;
 * comes back by itself.
 */
export function redisCounter(options: { url: string; log: Logger }): Counter & { close(): void } {
  const client = new Redis(options.url, {
    enableOfflineQueue: false,
    maxRetriesPerRequest: 0,
    connectTimeout: 2000,
    // Every operation waits for it.
    commandTimeout: 500,
    retryStrategy: (tries) => Math.min(tries * 100, 3000),
  });
  client.on('error', (error) => options.log.warn({ err: error }, 'Redis connection'));
  const counter = counterOf(
    new RateLimiterRedis({
      storeClient: client,
      rejectIfRedisNotReady: true,
      points: 1,
      duration: 1,
      keyPrefix: 'switchyard:rates',
    }),
  );
  return { ...counter, close: () => client.disconnect() };
}
