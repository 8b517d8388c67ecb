import { service } from '../app.ts';
import { RateLimited } from '../errors.ts';
import { Counters } from './counters.ts';

/** How often something sensitive may be tried. */
export interface Throttle {
  /** `<domain>.<what>`, unique. */
  readonly name: string;
  /** What it counts, and for whom, for the reference. */
  readonly description: string;
  /** So many tries … */
  readonly points: number;
  /** … within so many seconds from the first. */
  readonly durationS: number;
  /** The verbs that it bounds, `<domain>.<verb>`. A route that it bounds names it in its `limits`. */
  readonly verbs?: readonly string[];
}

const throttles = new Map<string, Throttle>();

/** Declares a throttle. Its numbers may differ from process to process only while a release is rolled out. */
export function defineThrottle(rule: Throttle): Throttle {
  if (throttles.has(rule.name)) throw new Error(`Two throttles are named ${rule.name}`);
  throttles.set(rule.name, rule);
  return rule;
}

/** Every throttle declared so far, for the generated documentation. */
export const allThrottles = (): readonly Throttle[] => [...throttles.values()];

/** What is left of a key's tries. */
export interface Tries {
  readonly remaining: number;
  /** Null: nothing was tried lately. */
  readonly resetAt: Date | null;
}

/**
 * Limits on sensitive acts, held by all processes together: in Redis where that is configured, else in PostgreSQL. A
 * key is whom a rule counts: an address, an account, or both in one text. It is stored as an HMAC.
 */
export const Throttles = service('throttles', (app) => {
  const { throttles: counter, hash } = app.use(Counters);
  const keyOf = (rule: Throttle, key: string): string => hash(`${rule.name}\0${key}`);
  return {
    /**
     * Takes tries, before what they are for is done.
     * @throws {RateLimited} when there are not so many left; they count all the same
     */
    async consume(rule: Throttle, key: string, points = 1): Promise<Tries> {
      const { points: used, resetAt } = await counter.add(keyOf(rule, key), points, rule.durationS);
      if (used > rule.points) throw new RateLimited(resetAt, 'Too many tries.');
      return { remaining: rule.points - used, resetAt };
    },

    /** What is left, without taking any. */
    async peek(rule: Throttle, key: string): Promise<Tries> {
      const count = await counter.get(keyOf(rule, key));
      return { remaining: Math.max(rule.points - (count?.points ?? 0), 0), resetAt: count?.resetAt ?? null };
    },

    /** Forgets all tries: it was who it should be. */
    forgive: async (rule: Throttle, key: string): Promise<void> => counter.remove(keyOf(rule, key)),
  };
});
